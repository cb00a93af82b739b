"""The README's Python runs as it stands."""

import re
from pathlib import Path

import equinox as eqx

from metacontrast.train import load_theta

README = Path(__file__).parents[2] / "README.md"


def test_the_readmes_example_improves_and_saves_theta(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names = {}
    exec(code, names)
    assert names["after"] < 0.5 * names["before"]
    trained = names["trained"].theta
    assert eqx.tree_equal(load_theta("theta.npz", like=trained), trained)
