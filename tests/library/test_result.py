"""What a run leaves behind: result.json."""

import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import metacontrast as mc
from metacontrast.train import half_width, read_result, summarise, write_json, write_result

FACTS = dict(
    experiment="sine", method="maml", metric="mse", seeds=[0], meta_steps=6, seconds=1.0,
    reference=None,
)  # fmt: skip


def test_a_summary_leaves_out_what_is_not_finite_and_counts_it():
    result = summarise([[1.0, 2.0, np.nan], [4.0, 5.0, -np.inf]], **FACTS)
    assert result["value"] == 3.0
    # Squared distances from 3: 4, 1, 1, 4.
    assert result["std"] == pytest.approx(np.sqrt(10 / 3), rel=1e-15)
    # Student's t of three degrees of freedom, from a table.
    assert result["ci95"] == pytest.approx(3.182446 * np.sqrt(10 / 3) / 2, rel=1e-6)
    assert (result["n_tasks"], result["diverged"]) == (6, 2)
    assert result["versions"]["jax"] == jax.__version__
    assert result["versions"]["python"] == sys.version.split()[0]


def test_half_the_interval_of_three_numbers_is_known_in_closed_form():
    # With two degrees of freedom the quantile at p is (2p - 1) / sqrt(2 p (1 - p)).
    quantile = 0.95 / np.sqrt(2 * 0.975 * 0.025)
    found = half_width(np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx(quantile / np.sqrt(3), rel=1e-12)


def test_figures_that_too_few_tasks_give_are_none():
    assert summarise([2.0])["value"] == 2.0
    assert [summarise([2.0])[name] for name in ("std", "ci95")] == [None, None]
    assert summarise([np.nan])["value"] is None
    assert summarise([])["value"] is None


def test_the_mean_of_fewer_than_half_of_the_tasks_is_refused():
    assert summarise([1.0, 3.0, np.nan, np.inf])["value"] == 2.0
    result = summarise([1.0, 3.0, np.nan, np.inf, -np.inf])
    assert [result[name] for name in ("value", "std", "ci95")] == [None, None, None]
    assert (result["n_tasks"], result["diverged"]) == (5, 3)


def test_the_revision_is_that_of_the_checkout():
    here = Path(mc.__file__).parent
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the package does not lie in a git checkout")
    revision = summarise([1.0])["revision"]
    assert revision is None or revision.removesuffix("-dirty") == done.stdout.strip()


def test_of_several_processes_the_first_writes(tmp_path, monkeypatch):
    for index in (1, 0):
        monkeypatch.setattr(jax, "process_index", lambda i=index: i)
        write_json(tmp_path / f"{index}.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["0.json"]


def test_a_result_is_written_whole_and_read_back(tmp_path):
    result = summarise([1.0, 2.0], **FACTS)
    path = write_result(tmp_path / "run", result)
    assert path.name == "result.json"
    assert read_result(tmp_path / "run") == result
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]
    del result["reference"], result["seeds"]
    with pytest.raises(ValueError, match=r"^result: lacks seeds, reference;"):
        write_result(tmp_path, result)
    with pytest.raises(FileNotFoundError, match=r"^out: .*result.json"):
        read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"value": ')
    with pytest.raises(ValueError, match=r"^out: .*result.json is damaged .*delete it, and resume"):
        read_result(tmp_path)


def test_what_is_not_finite_is_null_however_deep_and_costs_no_run_its_result(tmp_path):
    facts = {"cosine": np.nan, "curve": [[5, np.inf], (10, np.float64(-np.inf))], "by": {"a": 1.5}}
    write_result(tmp_path, summarise([1.0, 2.0], **FACTS, **facts))
    read = read_result(tmp_path)
    assert read["cosine"] is None and read["by"] == {"a": 1.5}
    assert read["curve"] == [[5, None], [10, None]]
