"""The faults that a person wrote for `make mutation` are of the sources as they are."""

import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WRITTEN = tomllib.loads((ROOT / "tools/mutation/mutants.toml").read_text())["mutant"]


@pytest.mark.parametrize("name", WRITTEN)
def test_what_a_fault_replaces_occurs_once(name):
    file = WRITTEN[name]["file"]
    folder = ROOT if file.startswith("experiments/") else ROOT / "src/metacontrast"
    assert (folder / file).read_text().count(WRITTEN[name]["old"]) == 1
