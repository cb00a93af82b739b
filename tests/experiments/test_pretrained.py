"""Trained thetas that come with the package are judged again, on the tasks of their figures."""

import json
import os
from dataclasses import fields
from itertools import islice
from pathlib import Path

import _few_shot
import cifar10_overfit as overfit
import jax
import jax.numpy as jnp
import numpy as np
import omniglot
import pytest
import sine
from _few_shot_learners import Reference, Theta, learner

import metacontrast as mc
from metacontrast import pretrained

RESULTS = Path(__file__).parents[2] / "results"
DATA = Path(os.environ.get("METACONTRAST_DATA", "/nowhere"))
FEW = 40  # test tasks of characters, of which all take minutes


def settings(kind, result):
    """Those of the run."""
    named = {f.name for f in fields(kind)}
    given = {k: v for k, v in result["settings"].items() if k in named}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})


@pytest.mark.thorough
def test_the_sine_theta_gives_its_tabled_figure():
    theta, result = pretrained.load("sine")
    s = settings(sine.Settings, result)
    with jax.enable_x64(False):
        values = sine.scorer(s)(theta, sine.held_out(s, "test", s.test_tasks))
    # What remains is the order of sums in float32, on processors that differ.
    np.testing.assert_allclose(np.mean(values), result["value"], rtol=1e-2)
    runs = json.loads((RESULTS / "sine.json").read_text(encoding="utf-8"))["runs"]
    mine = lambda run: (run["method"], run["seeds"]) == (result["method"], result["seeds"])
    (tabled,) = [run["value"] for run in runs if mine(run)]
    assert tabled == pytest.approx(result["value"], rel=1e-5)


def of_characters(s, theta, name):
    """The learner that made it, with a theta that needs no training images any more."""
    kind = type(learner(s, channels=1))
    prepared = type("Prepared", (kind,), {"prepare": lambda self, theta, references: theta})
    if name == "omniglot-head":
        theta = Theta(theta["body"], theta["head"], Reference(**theta["reference"]))
    return prepared(s, 1), theta


@pytest.mark.thorough
@pytest.mark.parametrize("name", [name for name in pretrained.NAMES if name[0] == "o"])
@pytest.mark.skipif(not (DATA / "omniglot.npz").exists(), reason="METACONTRAST_DATA lacks Omniglot")
def test_a_theta_of_characters_gives_its_figure(name):
    theta, result = pretrained.load(name)
    s = settings(omniglot.Settings, result)
    with jax.enable_x64(False):
        one, theta = of_characters(s, theta, name)
        stacks = omniglot.classes(s).held_out("test", s, s.test_tasks, s.test_queries)()
        values = _few_shot.scorer(one, jnp.zeros(0))(theta, islice(stacks, FEW // _few_shot.BATCH))
    # The mean of some of the tasks, within 5 standard errors (false alarm: 6e-7).
    assert abs(np.mean(values) - result["value"]) < 5 * result["std"] / np.sqrt(FEW)


@pytest.mark.thorough
@pytest.mark.skipif(not (DATA / "cifar10_train.npz").exists(), reason="METACONTRAST_DATA lacks it")
def test_the_learned_regulariser_gives_its_figure():
    theta, result = pretrained.load("cifar10-overfit")
    s = settings(overfit.Settings, result)
    with jax.enable_x64(False):
        task, problem = overfit.halves(s), overfit.problem(overfit.start(s.seed), s.clipped)
        phi = mc.solve_inner(problem, overfit.learning(s), theta, task).phi
        value = float(problem.outer(phi, theta, task))
    np.testing.assert_allclose(value, result["value"], rtol=1e-2)  # as above


def test_a_theta_that_does_not_come_with_the_package_is_refused():
    with pytest.raises(ValueError, match=r"name: no theta is called 'cosine'; choose of .*sine"):
        pretrained.load("cosine")
