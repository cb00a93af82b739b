"""The tutorials of the site run, each in a namespace of its own, and what they assert holds."""

import re
from pathlib import Path

import jax
import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "tutorials"
CELL = re.compile(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NEEDS = {"pytorch": "torch"}


# `make site` runs each of them.
FIRST = {"own-network", "pytorch"}
NAMES = [path.stem for path in sorted(FOLDER.glob("[!i]*.md"))]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in FIRST else pytest.mark.thorough) for n in NAMES],
)
def test_a_tutorial_runs(name, monkeypatch, tmp_path):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)  # for the files that it saves
    cells = CELL.findall((FOLDER / f"{name}.md").read_text())
    asserted = [cell for cell in cells if cell.startswith(":tags: [remove-cell]\n")]
    assert asserted and len(cells) > 3
    namespace = {"__name__": "__main__"}
    with jax.numpy_rank_promotion("allow"):  # as readers have it
        for cell in cells:
            exec(compile(re.sub(r"\A(:.*\n)+", "", cell), f"{name}.md", "exec"), namespace)
