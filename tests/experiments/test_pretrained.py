import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import sine

from metacontrast import pretrained

RESULTS = Path(__file__).parents[2] / "results"


def test_the_sine_theta_gives_its_tabled_figure():
    """On the very tasks of the table, by the experiment's own judge."""
    s = replace(sine.METHODS["cml-gn"], seed=1000)
    theta, result = pretrained.load("sine")
    with jax.enable_x64(False):
        tests = sine.held_out(s, "test", s.test_tasks)
        values = sine.scorer(s)(theta, tests)
    # What remains is the order of sums in float32, on processors that differ.
    np.testing.assert_allclose(np.mean(values), result["value"], rtol=1e-2)
    assert tabled("sine", result) == pytest.approx(result["value"], rel=1e-5)


def tabled(experiment, result):
    """The value of the same run in the results that tables are made of."""
    runs = json.loads((RESULTS / f"{experiment}.json").read_text(encoding="utf-8"))["runs"]
    (value,) = [
        run["value"]
        for run in runs
        if (run["method"], run["seeds"]) == (result["method"], result["seeds"])
    ]
    return value


def test_a_theta_that_does_not_come_with_the_package_is_refused():
    with pytest.raises(ValueError, match=r"name: no theta is called 'cosine'; choose of .*sine"):
        pretrained.load("cosine")
