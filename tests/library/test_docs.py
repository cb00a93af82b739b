"""The documentation leans on tests and figures that exist."""

import json
import re
from pathlib import Path

import pytest

from benchmarks import gpu_report
from benchmarks._malformed_report import table as malformed_table
from benchmarks.influence import table as influence_table
from benchmarks.noisy import table
from benchmarks.noisy_labels import table as labels_table
from benchmarks.search_cv import RIVALS
from benchmarks.search_cv import table as search_table
from benchmarks.secant import report as secant_report
from benchmarks.storage import report as storage_report
from benchmarks.trajectory import table as trajectory_table
from benchmarks.trust import report, summary

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Drawn by commands of minutes, and committed.
LINKS = [
    (page, link)
    for page in PAGES
    for link in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", page.read_text())
]
NAMED = [
    name for page in PAGES for name in re.findall(r"(test_\w+\.py)::(test_\w+)", page.read_text())
]


@pytest.mark.parametrize(("page", "link"), LINKS, ids=str)
def test_what_is_linked_is_there(page, link):
    assert (page.parent / link).is_file()


def test_every_figure_is_in_the_gallery():
    shown = re.findall(r"figures/(\S+)", (ROOT / "docs" / "gallery.md").read_text())
    assert sorted(shown) == sorted(path.name for path in (ROOT / "docs/figures").glob("*.png"))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_claim_has_its_test(file, name):
    (path,) = (ROOT / "tests").glob(f"*/{file}")
    assert f"def {name}(" in path.read_text()


def test_every_number_in_the_table_is_explained():
    page = (ROOT / "docs" / "choosing.md").read_text()
    table, notes = page.split("## What holds it")
    used = {int(n) for n in re.findall(r"\[(\d+)\]", table)}
    assert used == {int(n) for n in re.findall(r"^(\d+)\. ", notes, re.MULTILINE)}


def blocks(page):
    """The tables that a program printed."""
    return re.findall(r"```text\n(.*?)\n```", (ROOT / "docs" / page).read_text(), re.DOTALL)


def test_the_tables_of_the_page_on_trust_are_those_of_the_results():
    trust, noisy, labels = (
        json.loads((ROOT / "results" / f"{name}.json").read_text())
        for name in ("trust", "noisy", "noisy-labels")
    )
    assert blocks("trust.md") == [
        report(summary(trust["rows"])), table(noisy["cosines"]), labels_table(labels["rows"]),
    ]  # fmt: skip
    assert trust["configurations"] >= 200
    assert trust["trust_is_right"] >= 0.97
    assert trust["do_not_trust_is_right"] >= 0.9


def test_the_table_of_the_page_on_runs_is_that_of_the_result():
    facts = json.loads((ROOT / "results" / "storage.json").read_text())
    assert blocks("runs.md") == [storage_report(facts)]
    assert all(
        facts[kind]["right"] == facts[kind]["of"] for kind in ("kills", "signals", "damages")
    )
    assert facts["kills"]["of"] >= 40 and facts["damages"]["of"] >= 60


def test_the_table_of_the_page_on_errors_is_that_of_the_results():
    found = json.loads((ROOT / "results" / "malformed.json").read_text())
    assert blocks("errors.md") == [malformed_table(found["rates"])]
    assert found["rates"]["all"]["calls"] >= 2000
    assert found["rates"]["all"]["share_named"] >= 0.95


def test_the_tables_of_the_page_on_devices_are_those_of_the_results():
    assert blocks("devices.md") + blocks("results/collapse.md") == [
        table() for table in gpu_report.TABLES
    ]


def test_the_tables_of_secants_and_trajectories_are_those_of_the_results():
    secant, steps = (
        json.loads((ROOT / "results" / f"{name}.json").read_text())
        for name in ("secant", "trajectory")
    )
    assert blocks("speed.md") == [secant_report(secant), trajectory_table(steps["cases"])]


def test_the_table_of_the_page_on_influence_is_that_of_the_results():
    results = json.loads((ROOT / "results" / "influence.json").read_text())
    assert blocks("influence.md") == [influence_table(results["rows"])]
    assert results["seeds"] == [0, 1, 2]
    for row in results["rows"]:
        same = row["same"]
        assert abs(same["trajectory"] - same["unrolled, exact"]) < 0.001
        assert same["trajectory"] > max(same["EK-FAC"], same["TRAK"])


def test_the_table_of_the_page_on_scikit_learn_is_that_of_the_result():
    results = json.loads((ROOT / "results" / "search-cv.json").read_text())
    assert blocks("sklearn.md") == [search_table(results["rows"])]
    assert len(results["summary"]) >= 6
    for facts in results["summary"]:  # never worse by more than chance
        assert all(facts[rival]["gain"] > -facts[rival]["half_width"] for rival in RIVALS)
