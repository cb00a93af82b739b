"""PyTorch: what cannot be learned is refused, with what to do instead."""

from functools import partial

import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import (  # noqa: E402
    Normalised,
    misfit,
    normalised,
    one_newton_step,
    regression,
    regression_task,
    squares,
)


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"module": 3}, TypeError, "module: must be a torch.nn.Module, not int"),
        ({"meta": "omega"}, ValueError, r"meta: must be a list.*write \['omega'\]"),
        ({"meta": ["omga"]}, ValueError, "meta: 'omga' fits no parameter.*phi, omega, log_lam"),
        ({"meta": ["*"]}, ValueError, "leaves 3 slow and 0 fast"),
        ({"meta": []}, ValueError, "leaves 0 slow and 3 fast"),
    ],
)
def test_problems_that_are_none(changes, kind, message):
    with pytest.raises(kind, match=message):
        regression(**changes)


def test_a_frozen_parameter_is_not_slow():
    module = Normalised()
    with pytest.raises(ValueError, match="meta: fixed has requires_grad=False"):
        mct.Problem(module, squares, squares, ["fixed", "body.*"])
    assert "fixed" not in normalised(module).fast


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"inner": lambda m, t: m.phi + m.omega}, {}, r"inner: must return.*float64\[3\]"),
        ({"outer": lambda m, t: 1.0}, {}, "outer: must return a tensor.*not 1.0"),
        (
            {"inner": lambda m, t: misfit(m.phi, t.train)},
            {},
            "on omega, log_lam, so that",
        ),
        ({}, {"scheme": "holomorphic"}, "scheme: learners outside JAX"),
        ({}, {"nudge": "linear"}, "nudge: learners outside JAX"),
        ({}, {"nudged": mc.closed_form()}, r"backward\(nudged=...\)"),
    ],
)
def test_meta_steps_that_are_none(changes, rule, message):
    with pytest.raises(ValueError, match=message):
        mct.backward(
            regression(**changes),
            lambda loss, params: pytest.fail("nothing may be learned before it is checked"),
            mc.Contrastive(**{"beta": 0.1} | rule),
            regression_task(),
        )


def test_no_tasks_no_steps_no_strength():
    with pytest.raises(ValueError, match="tasks: there is none"):
        mct.backward(regression(), one_newton_step, mc.Contrastive(0.1), [])
    with pytest.raises(ValueError, match="steps: must be a whole number"):
        mct.descend(torch.optim.SGD, 0)
    with pytest.raises(ValueError, match="lam: must be positive"):
        mct.Synapse(torch.nn.Linear(1, 1), lam=0.0)


def test_a_scheduler_follows_each_step():
    rates = []

    def solve_by(optimiser):
        return torch.optim.lr_scheduler.LambdaLR(optimiser, lambda t: rates.append(t) or 0.5**t)

    phi = torch.nn.Parameter(torch.tensor(0.0))
    mct.descend(partial(torch.optim.SGD, lr=1.0), 4, solve_by)(lambda: phi.sum(), [phi])
    assert rates == [0, 1, 2, 3, 4]
    assert phi.item() == -(1 + 0.5 + 0.25 + 0.125)
