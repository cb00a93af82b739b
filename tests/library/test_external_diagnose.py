"""Learners outside JAX: the verdict is that of the true error."""

import numpy as np
import pytest

import metacontrast as mc
from metacontrast.external import Learner, diagnose
from metacontrast.external import meta_gradient as gradient_of

PULL, TASK = np.array([1.0, 50.0]), np.array([3.0, 0.0])
THETA = {"b": np.array([0.5]), "a": 2.0}  # the first leaf is the second in order


def rows(theta):
    return np.append(theta["a"], theta["b"])


def inner(phi, theta, task):
    return float(np.sum((phi - task) ** 2) + PULL @ (phi - rows(theta)) ** 2)


def outer(phi, theta, task):
    return float(np.sum((phi - 1.0) ** 2))


def solve(theta, task, beta, start):
    return (task + PULL * rows(theta) + beta) / (1 + PULL + beta)


def roughly(theta, task, beta, start):
    """To four digits, as an optimiser of its own would."""
    return np.round(solve(theta, task, beta, start), 4)


@pytest.mark.parametrize("beta", [1e-3, 1.0, 100.0])
def test_the_error_is_the_true_one(beta):
    learner, rule = Learner(solve, inner, outer), mc.Contrastive(beta)
    found = diagnose(learner, THETA, TASK, rule)
    exact = 2 * (solve(THETA, TASK, 0, None) - 1) * PULL / (1 + PULL)
    error = np.linalg.norm(rows(gradient_of(learner, THETA, TASK, rule).by_theta) - exact)
    assert found.error == pytest.approx(error / np.linalg.norm(exact), rel=0.01, abs=1e-6)
    assert (found.verdict == "trust") == (beta < 10)
    assert found.keys is None and found.linear_residual is None


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
@pytest.mark.parametrize("beta, verdict", [(1e-5, "do not trust"), (0.1, "trust")])
def test_a_learner_with_a_tolerance_of_its_own(beta, verdict):
    assert diagnose(Learner(roughly, inner, outer), THETA, TASK, mc.Contrastive(beta)).verdict == (
        verdict
    )


def test_what_meta_gradient_refuses_is_refused():
    learner = Learner(solve, inner, outer)
    with pytest.raises(ValueError, match=r"^theta: no loss depends on"):
        diagnose(learner, THETA | {"c": 1.0}, TASK, mc.Contrastive(0.1))
