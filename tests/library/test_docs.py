"""The documentation leans on tests and figures that exist."""

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import search_cv
from tools import tables
from tools.tables import (
    _bandit,
    _complementary,
    _hypercleaning,
    _l2,
    _omniglot,
    _overfit,
    _reweight,
    _spiking,
    _talk,
    _theory,
    load,
)
from tools.tables._sine import flagged, summary, tuning

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


@pytest.mark.parametrize("path", tables.PAGES, ids=lambda path: path.name)
def test_tables_are_those_of_the_results(path):
    page = path.read_text()
    assert tables.written(page, tables.TABLES) == page, "run python -m tools.tables"
    assert tables.loose_numbers(page) == [], "measured? put it into results/, and a marker here"


def test_every_table_that_is_made_is_shown():
    shown = [
        n for path in tables.PAGES for n in re.findall(r"<!-- table: (.*) -->", path.read_text())
    ]
    assert set(shown) == set(tables.TABLES)


def test_the_table_of_games_tells_the_spread_of_seeds_from_that_of_games():
    played = [[[1.0, 3.0], [5.0, 5.0]], [[3.0, 5.0], [5.0, 7.0]]]  # (seeds, deltas, games)
    run = dict(method="cml", by_delta={"0.5": [], "0.9": []}, meta_steps=2000)
    runs = [run | dict(games={"1000": each}) for each in played]
    runs.append(
        run | dict(method="uniform", meta_steps=0, games={"1000": [[2.0, 4.0], [1.0, 1.0]]})
    )
    columns, rows = _bandit.games({"methods": {"cml": {}, "uniform": {}}, "runs": runs})
    assert columns == ("method", "trials", "0.5", "0.9", "meta-steps", "seeds")
    assert rows == [
        ["`cml`", "1,000", "3.0 (1.4; 1.4)", "5.5 (0.7; 0.7)", "2,000", "2"],
        ["`uniform`", "1,000", "3.0 (-; 1.4)", "1.0 (-; 0.0)", "", "1"],
    ]


def test_the_table_of_tuned_players_has_the_best_of_each_first():
    row = dict(
        method="maml", steps=1000, batch=8, updates=2, damping=0.1, by_delta=[1.0], value=1.0
    )
    rows = [row, row | dict(method="cml", by_delta=[2.0], value=2.0)]
    columns, table = _bandit.players({"played": {"deltas": [0.7]}, "rows": rows})
    assert columns[-2:] == ("0.7", "mean")
    assert table[0] == ["`cml`", "1,000", "`8`", "`2`", "`0.1`", "2.0", "2.0"]
    assert table[1][0] == "`maml`"


def test_the_table_of_matrices_has_every_run_and_part():
    run = dict(method="long", seeds=[3], meta_steps=400, value=0.25, ci95=0.125)
    run |= dict(fast={"all": 0.5, "W_out": 0.75})
    columns, rows = _spiking.fast({"runs": [run, run | dict(value=None)]})
    assert columns[-2:] == ("all", "W_out alone")
    assert rows[0] == ["`long`", "3", "400", "0.2500 +- 0.1250", "0.500", "0.750"]
    assert rows[1][3] == "diverged"


def test_the_table_of_spiking_errors_has_what_diverged_last():
    run = dict(meta_steps=1, value=0.5, ci95=0.25)
    runs = [run | dict(method="lost", seeds=[0], value=None), run | dict(method="kept", seeds=[1])]
    columns, rows = _spiking.errors({"methods": {"lost": {}, "kept": {}}, "runs": runs})
    assert columns == ("method", "seed 0", "seed 1")
    assert rows == [["`kept`", "", "0.5000 +- 0.2500"], ["`lost`", "diverged", ""]]


def test_the_table_of_exponents_spans_all_seeds_that_measured_one():
    of = lambda measured: [{"quantity": "slope", "measured": measured, "expected": 1 / 3}]
    whole = {"problems": {"a": {"quantities": of(0.3)}, "b": {"quantities": of(None)}}}
    quick = {"runs": [{"method": "a", "quantities": of(x)} for x in (-0.004, None)]}
    columns, rows = _theory.exponents(whole, quick)
    assert columns == ("quantity", "expected", "a", "b")
    assert rows == [["slope", "0.333", "-4e-03 ... 0.30", ""]]


def test_the_table_of_a_tuning_has_what_diverged_last_and_no_beta_of_maml():
    row = dict(outer_rate=0.1, last_rate=1.0, rate=0.003, beta=3.0)
    tried = [row | dict(method="paper-maml", value=x) for x in (None, 2.0, None, 0.5)]
    _, rows = tuning({"rows": tried})
    assert [x[-1] for x in rows] == ["0.500", "2.000", "diverged", "diverged"]
    assert rows[0][1:5] == ["`0.1`", "`1`", "`0.003`", ""]


def test_the_table_of_wrong_labels_has_the_worst_first_and_its_betas():
    run = lambda method, value, beta, auc: {
        "method": method, "value": value, "beta": beta, "auc": auc, "with_valid": 0.95
    }  # fmt: skip
    runs = [run("cml", 0.9, 0.5, 0.97), run("cml", 0.92, 0.0625, 0.95)]
    runs += [run("valid", 0.8, 0.5, None), run("valid", 0.8, 0.5, None)]
    _, rows = _hypercleaning.table({"methods": {"cml": {}, "valid": {}}, "runs": runs})
    # 12.71 times the root of 2e-4, over that of 2.
    assert rows[1] == ["`cml`", "0.5, 0.062", "0.9100 +- 0.1271", "0.9500", "0.9600"]
    assert rows[0] == ["`valid`", "", "0.8000 +- 0.0000", "", ""]


def test_what_is_spoiled_is_compared_within_a_seed():
    run = lambda method, seed, value, own: {
        "method": method, "seeds": [seed], "value": value, "own_memory": own
    }  # fmt: skip
    runs = [run("online", 0, 0.5, 0.5), run("online", 1, 1.0, 1.0)]
    runs += [run("capacity-2", 0, 0.75, 2.0), run("capacity-2", 1, 1.25, 4.0)]
    _, rows = _complementary.table({"methods": {"online": {}, "capacity-2": {}}, "runs": runs})
    # 12.71 times the root of 1/8, over that of 2; and of 312.5, the variance of 50 and 25.
    assert rows[0] == ["`online`", "0.7500 +- 3.1766", "", "0.5000, 1.0000", ""]
    assert rows[1][1:] == ["1.0000 +- 3.1766", "+38 +- 159", "0.7500, 1.2500", "3.0000"]


def test_the_table_of_the_overfit_has_the_lowest_first_and_compares_within_a_seed():
    run = lambda method, seed, value, meta_steps=30: {
        "method": method, "seeds": [seed], "value": value, "last": 2.5, "accuracy": 0.25,
        "seconds": 9.6, "meta_steps": meta_steps,
    }  # fmt: skip
    runs = [run("none", 0, 2.0, 0), run("none", 1, 4.0, 0), run("cg", 0, 1.0), run("cg", 1, 1.5)]
    _, rows = _overfit.table({"methods": {"none": {}, "cg": {}}, "runs": runs})
    # 12.71 times the root of 1/8, over that of 2.
    each, mean = "1.000, 1.500", "1.250 +- 3.177"
    assert rows[0] == ["`cg`", "30", each, mean, "2.500", "0.250", "", "10"]
    assert rows[1][0] == "`none`" and rows[1][6] == "1.750 +- 9.530" and rows[1][-1] == ""


def test_a_cell_of_the_talk_is_met_or_within_its_interval_or_missed():
    assert [_talk.verdict(x, "94.16 +- 0.12") for x in (94.2, 94.1, 94.0)] == [
        "met", "within its +-", "**missed**",
    ]  # fmt: skip
    assert [_talk.verdict(-x, "0.258 +- 0.070", -1) for x in (0.2, 0.3, 0.4)] == [
        "met", "within its +-", "**missed**",
    ]  # fmt: skip
    sine = {"methods": {row.published: {"published": "0.5 +- 0.25"} for row in _talk.SINES}}
    sine["runs"] = [{"method": "paper-gd-tuned", "value": x} for x in (0.75, 0.625, 0.25)]
    characters = {"rows": [[f"`{row.method}`", "95.0", "not run", ""] for row in _talk.CHARACTERS]}
    characters["rows"] = list({row[0]: row for row in characters["rows"]}.values())
    run = dict(method="20w1s maml vinyals", value=95.75, ci95=0.25, std=4.04, seeds=[0], seconds=90)
    settings = dict(inner_steps=5, tasks=4, queries=5, steps=24_000, filters=[32, 32])
    kind = {"published": "95.8 +- 0.3", "settings": settings}
    published = {"methods": {run["method"]: kind}, "runs": [run]}
    _, rows = _talk.table(sine, characters, published)
    cells = {row[0]: (row[2], row[-1]) for row in rows}
    like = "95.75 +- 0.25 (one seed, over tasks): within its +-"
    assert cells["Omniglot, 1-shot: MAML"] == (like, _talk.SMALLER)
    assert cells["Omniglot, 5-shot: MAML"] == ("", _talk.NOT_RUN)
    _, (row,) = _omniglot.table(published)
    assert row == [
        "`maml`, 20w1s, vinyals", "95.75 +- 0.25 (one seed, over tasks)", "4.0", "95.8 +- 0.3", "5",
        "4, 5 queries a class", "24,000", "32", "2",
    ]  # fmt: skip
    several = [run | {"value": x, "seeds": [seed]} for seed, x in enumerate((95.0, 97.0))]
    assert _omniglot.accuracy(several) == "96.00 +- 12.71"
    assert rows[0][2:5] == ["", "median 0.6250 (0.2500 to 0.7500): within its +-", ""]
    assert rows[len(_talk.SINES)][4] == "`cml-syn`: 95.0: met" and rows[-1][4].endswith("not run")


def test_the_table_of_sources_tells_the_weights_that_count():
    run = dict(method="cml", value=0.5, ci95=0.25, seconds=60.2, final_seconds=20.0)
    runs = [run | dict(seeds=[0], weights={"typos": 0.3, "clean": 0.69, "random": 0.01})]
    runs.append(run | dict(seeds=[1], weights={"clean": 1.0}, seconds=71.0))
    columns, rows = _reweight.table({"methods": {"cml": {}}, "runs": runs})
    assert columns[1:3] == ("seed 0", "seed 1")
    weights = "clean 0.69, typos 0.30; clean 1.00"
    assert rows == [["`cml`", *2 * ["0.5000 +- 0.2500"], weights, "60 to 71", "20"]]


PAGE = """| method | error |
|---|---|
| `ours`, at `beta=0.05` | 0.12 |
<!-- table: made -->
| x | 0.34 |
<!-- end -->
| rounds of 10 | 1e-3 |
| `1.5` | {} |
"""


def test_a_number_that_no_result_holds_is_seen():
    """What stands in code quotes is no measurement, and whole numbers may be settings."""
    rows = ["| `ours`, at `beta=0.05` | 0.12 |", "| rounds of 10 | 1e-3 |"]
    assert tables.loose_numbers(PAGE) == rows
    assert tables.loose_numbers(PAGE.format("7.5")) == [*rows, "| `1.5` | 7.5 |"]


def test_a_table_with_another_number_is_made_anew():
    made = {"made": lambda: tables.markdown(("method", "error"), [("`ours`", "0.56"), ("", "")])}
    page = tables.written(PAGE, made)
    assert "| method | error |\n|---|---|\n| `ours` | 0.56 |\n| | |\n<!-- end -->" in page
    assert "0.34" not in page
    with pytest.raises(ValueError, match="table: made is not in"):
        tables.written(PAGE, {})


def test_seeds_that_differ_much_have_a_median_and_a_range():
    # Student's t with two degrees of freedom: 4.303 times 0.1, over the root of 3.
    assert summary([1.0, 1.1, 1.2]) == "1.1000 +- 0.2484"
    assert summary([1.0, 1.1, 5221.3]) == "median 1.1000 (1.0000 to 5,221)"
    assert summary([0.1, 0.1, 0.1, 0.1, 0.1, 12.34]) == "median 0.1000 (0.1000 to 12.3)"


def test_flags_are_shares_of_all_seeds():
    of = [{"flags": {"idle": 0.25}}, {"flags": {"idle": 0.5, "rounded": 1e-4}}]
    assert flagged(of) == "idle 37.5%"


def test_regularisers_are_compared_with_the_best_number_of_their_own_seed():
    run = lambda method, seed, new: {
        "method": method, "seeds": [seed], "meta_steps": 5 * (method == "cg"), "value": 50.0 + seed,
        "new_accuracy": new, "both_accuracy": 53.0, "valid_accuracy": 51.0,
        "learned_accuracy": 62.04, "log10_lambda": {"w": [-9.0, np.log10(3e-3), 0.0]},
    }  # fmt: skip
    runs = [run("grid", 1, 41.0), run("grid", 0, 40.0), run("cg", 0, 42.0), run("cg", 1, 44.0)]
    _, (first, second) = _l2.table({"methods": {"grid": {}, "cg": {}}, "runs": runs})
    # The differences are 2 and 3, each mean of two: 12.71 times the root of 1/2, over that of 2.
    assert first[:4] == ["`cg`", "5", "50.50 +- 6.35", "50.00, 51.00"]
    assert first[4:] == ["43.00 +- 12.71", "2.50 +- 6.35", "53.00 +- 0.00", "51.0", "62.0"]
    assert second[0] == "`grid` (best: 0.003)" and second[5] == ""


def test_what_the_first_edition_measured_has_its_command_and_its_note():
    first = load("first-edition")
    assert "were not kept" in first["note"]
    for table in first["tables"].values():
        assert table["command"] and table["note"]
        assert {len(row) for row in table["rows"]} == {len(table["columns"])}


def test_results_are_worth_what_the_pages_say():
    trust, storage, malformed, influence = map(load, ("trust", "storage", "malformed", "influence"))
    assert trust["configurations"] >= 200
    assert trust["trust_is_right"] >= 0.97
    assert trust["do_not_trust_is_right"] >= 0.9
    kinds = [storage[kind] for kind in ("kills", "signals", "damages")]
    assert all(kind["right"] == kind["of"] for kind in kinds)
    assert storage["kills"]["of"] >= 40 and storage["damages"]["of"] >= 60
    assert malformed["rates"]["all"]["calls"] >= 2000
    assert malformed["rates"]["all"]["share_named"] >= 0.95
    found = load("search-cv")["summary"]
    assert len(found) >= 6  # never worse by more than chance
    assert all(one[r]["gain"] > -one[r]["half_width"] for one in found for r in search_cv.RIVALS)
    assert influence["seeds"] == [0, 1, 2]
    for row in influence["rows"]:
        same = row["same"]
        assert abs(same["trajectory"] - same["unrolled, exact"]) < 0.001
        assert same["trajectory"] > max(same["EK-FAC"], same["TRAK"])
