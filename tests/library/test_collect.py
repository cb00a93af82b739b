"""Results of many runs in one small file, which says nothing of the machine."""

import json
import re

import pytest

from metacontrast import cli
from metacontrast.report import collect
from metacontrast.train import summarise, write_result


def run(folder, method, seed, values=(0.1, 0.3), steps=10, **facts):
    settings = {"method": method, "seed": seed, "steps": steps, "rate": 0.1}
    fields = dict(experiment="toy", method=method, metric="error", seeds=[seed], meta_steps=steps)
    fields |= dict(seconds=1.23456789, reference="0.5", rows={"a": "0.5"}, settings=settings)
    fields["command"] = f"python experiments/toy.py --method {method} --seed {seed}"
    write_result(folder / method / f"seed{seed}", summarise(values, **(fields | facts)))


def test_a_file_holds_each_run_and_once_what_they_share(tmp_path):
    for method, seed in (("b", 0), ("a", 2), ("a", 10)):
        run(tmp_path / "runs", method, seed, flags={"idle": 0.25})
    (path,) = collect(tmp_path / "runs", tmp_path / "results")
    assert path == tmp_path / "results" / "toy.json"
    text = path.read_text()
    found = json.loads(text)
    assert [(r["method"], r["seeds"]) for r in found["runs"]] == [
        ("a", [2]), ("a", [10]), ("b", [0]),
    ]  # fmt: skip
    assert found["methods"]["a"] == {
        "command": "python experiments/toy.py --method a --seed SEED",
        "published": "0.5",
        "settings": {"method": "a", "steps": 10, "rate": 0.1},
    }
    one = found["runs"][0]
    assert (one["value"], one["n_tasks"], one["seconds"]) == (0.2, 2, 1.23457)
    assert one["flags"] == {"idle": 0.25} and "revision" in one and "settings" not in one
    assert found["versions"][0]["python"] and str(tmp_path) not in text
    assert len(re.findall(r"^  \{", text, re.MULTILINE)) == 4  # a line a run, and one of versions


def test_runs_are_added_and_replaced(tmp_path):
    run(tmp_path / "first", "a", 0)
    run(tmp_path / "first", "a", 1)
    run(tmp_path / "second", "a", 1, values=(2.0, 4.0))
    run(tmp_path / "second", "b", 1)
    for part in ("first", "second"):
        (path,) = collect(tmp_path / part, tmp_path)
    found = json.loads(path.read_text())
    assert [(r["method"], r["seeds"][0], r["value"]) for r in found["runs"]] == [
        ("a", 0, 0.2), ("a", 1, 3.0), ("b", 1, 0.2),
    ]  # fmt: skip


def test_runs_of_two_settings_are_not_one_method(tmp_path):
    run(tmp_path, "a", 0)
    run(tmp_path, "a", 1, steps=20)
    said = r"runs: a with seeds \[1\] has steps=20, where others have 10"
    with pytest.raises(ValueError, match=said):
        collect(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_a_result_there_is_nothing_to_collect(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"runs: no result\.json is below"):
        collect(tmp_path, tmp_path / "out")


def test_the_command_collects_what_it_prints(tmp_path, capsys, monkeypatch):
    run(tmp_path / "runs", "a", 0)
    words = ["report", str(tmp_path / "runs"), "--collect", str(tmp_path / "results")]
    monkeypatch.setattr("sys.argv", ["metacontrast", *words])
    cli.main()
    shown = capsys.readouterr().out
    assert "toy: error" in shown and f"Collected: {tmp_path / 'results' / 'toy.json'}" in shown
    assert json.loads((tmp_path / "results" / "toy.json").read_text())["runs"][0]["value"] == 0.2
