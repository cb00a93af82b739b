"""The sine experiment with every estimator: a toy-sized run of the cheapest."""

import json

import pytest

from metacontrast.experiments import estimators


@pytest.fixture
def one_method(monkeypatch):
    monkeypatch.setattr(estimators, "METHODS", {"first-order": estimators.METHODS["first-order"]})
    monkeypatch.setattr(estimators, "RATES", (1e-2, 1e9))


def test_a_rate_is_chosen_by_validation_and_a_diverging_one_is_not(one_method, tmp_path):
    speeds = estimators.measured_speeds(tmp_path)
    assert speeds == json.loads((tmp_path / "speeds.json").read_text())
    assert speeds["first-order"] > 0
    result = estimators.run("first-order", 2.0, 5.0, 0, tmp_path / "run")
    assert (result["outer_rate"], result["meta_steps"]) == (0.01, 10)
    assert result["validation"]["1000000000.0"] is None or (
        result["validation"]["1000000000.0"] > result["validation"]["0.01"]
    )
    assert json.loads((tmp_path / "run" / "result.json").read_text())["value"] == result["value"]


def test_speeds_are_measured_once(tmp_path, monkeypatch):
    (tmp_path / "speeds.json").write_text('{"reptile": 3.0}')
    monkeypatch.setattr(estimators, "_seconds", None)  # would fail if it were called
    assert estimators.measured_speeds(tmp_path) == {"reptile": 3.0}
