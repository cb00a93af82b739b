"""The documentation leans on tests and figures that exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))
# Drawn by commands of minutes, and committed.
LINKS = [
    (page, link) for page in PAGES for link in re.findall(r"\]\((?!http)(.*?)\)", page.read_text())
]
NAMED = [
    name for page in PAGES for name in re.findall(r"(test_\w+\.py)::(test_\w+)", page.read_text())
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_what_is_linked_is_there(page, link):
    assert (page.parent / link).is_file()


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_claim_has_its_test(file, name):
    (path,) = (ROOT / "tests").glob(f"*/{file}")
    assert f"def {name}(" in path.read_text()


def test_every_number_in_the_table_is_explained():
    page = (ROOT / "docs" / "choosing.md").read_text()
    table, notes = page.split("## What holds it")
    used = {int(n) for n in re.findall(r"\[(\d+)\]", table)}
    assert used == {int(n) for n in re.findall(r"^(\d+)\. ", notes, re.MULTILINE)}
