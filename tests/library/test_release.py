"""What is written in two places for other tools is what pyproject.toml and `_version.py` say."""

import re
import tomllib
from pathlib import Path

from metacontrast import __version__

ROOT = Path(__file__).parents[2]
RECIPE = (ROOT / "tools" / "release" / "recipe.yaml").read_text()


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^version: (\S+)$", citation, re.MULTILINE) == [__version__]
    assert re.findall(r'^  version: "(.+)"$', RECIPE, re.MULTILINE) == [__version__]


def test_the_recipe_asks_for_what_the_wheel_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    run = RECIPE.split("  run:\n")[1].split("\ntests:")[0]
    asked = re.findall(r"^    - (\S+) (\S+)$", run, re.MULTILINE)
    wanted = [
        re.split(r"(?=[<>=])", dependency, maxsplit=1) for dependency in project["dependencies"]
    ]
    assert asked == [("python", project["requires-python"]), *map(tuple, wanted)]
