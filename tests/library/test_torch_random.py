"""PyTorch: every phase draws the same random numbers, and the same batches."""

import copy
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import metacontrast as mc
from metacontrast.train import DivergedError

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import (  # noqa: E402
    Normalised,
    exact_gradients,
    gradients,
    misfit,
    noisy,
    normalised,
    noting,
    one_newton_step,
    regression,
    regression_task,
    squares,
)

# Learners with random numbers, and of a few steps, do not converge.
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_every_phase_draws_the_same_numbers(scheme):
    log = []
    draw_init = lambda m, task: torch.nn.init.normal_(m.phi)
    sgd = partial(torch.optim.SGD, lr=1e-3)
    solver, free = noting(log, mct.descend(sgd, 20))
    nudged, others = noting(log, mct.descend(sgd, 12))
    problem, task = noisy(log, init=draw_init), regression_task()
    mct.backward(problem, solver, mc.Contrastive(0.1, scheme), task, nudged)
    assert len(free[0]) == 20 and len({str(mask) for mask in free[0]}) > 2
    assert others == [free[0][:12]] * (1 if scheme == "forward" else 2)
    assert log[-8:] == free[0][:8]  # and so do the slopes in between


def test_the_generator_ends_where_the_free_phase_leaves_it():
    sgd, task = partial(torch.optim.SGD, lr=1e-3), regression_task()
    solver, problem, next_numbers = mct.descend(sgd, 20), noisy([]), []
    rule = mc.Contrastive(0.1, "symmetric")
    for steps in (5, 40):
        torch.manual_seed(0)
        mct.backward(problem, solver, rule, task, mct.descend(sgd, steps))
        next_numbers.append(torch.rand(1))
    torch.manual_seed(0)
    with mct.solve_inner(problem, solver, task):
        pass
    assert len({x.item() for x in (*next_numbers, torch.rand(1))}) == 1
    torch.manual_seed(0)
    assert torch.rand(1) != next_numbers[0]  # so that the next meta-step draws others


def test_noise_is_not_divided_by_beta():
    problem, task = noisy([]), regression_task()
    solver = mct.descend(partial(torch.optim.SGD, lr=1e-2), 50)
    grads = []
    for beta in (1e-2, 1e-4, 1e-6):
        torch.manual_seed(0)
        rule = mc.Contrastive(beta, control=True)
        grads.append(gradients(problem, solver, rule, task))
    coarse, fine = (np.abs(grad - grads[2]).max() for grad in grads[:2])
    # First order in beta; other numbers in each phase would leave a difference of 1 / beta.
    assert fine < 2 * coarse / 100 and coarse < 0.2 * np.abs(grads[2]).max()


# NumPy's and Python's random numbers.

DRAWS = {
    "torch": lambda: torch.randperm(4)[:2].tolist(),
    "numpy": lambda: np.random.permutation(4)[:2].tolist(),
    "python": lambda: random.sample(range(4), 2),
}


def batched(draw, log):
    """The regression, which learns from two of its four examples a step, and is judged by two."""

    def inner(m, task):
        rows = draw()
        log.append(rows)
        return misfit(m.phi, mc.Data(*(part[rows] for part in task.train))) + m.pull()

    def outer(m, task):
        rows = draw()
        return misfit(m.phi, mc.Data(*(part[rows] for part in task.test)))

    return regression(inner=inner, outer=outer)


def seed():
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


@pytest.mark.parametrize("draw", DRAWS)
def test_mini_batches_of_any_default_generator_are_the_same_in_each_phase(draw):
    log = []
    problem, task = batched(DRAWS[draw], log), regression_task()
    sgd = partial(torch.optim.SGD, lr=5e-3)
    solver, free = noting(log, mct.descend(sgd, 30))
    nudged, others = noting(log, mct.descend(sgd, 20))
    seed()
    mct.backward(problem, solver, mc.Contrastive(0.01, "symmetric"), [task, task], nudged)
    after = DRAWS[draw]()
    assert len({str(rows) for rows in free[0]}) > 5
    assert others == [phase[:20] for phase in (free[0], free[0], free[1], free[1])]
    # The next task goes on with the numbers that follow the free phase, and so does what follows.
    seed()
    assert [DRAWS[draw]() for _ in range(61)] == [*free[0], *free[1], after]


@pytest.mark.parametrize("draw", DRAWS)
def test_mini_batch_noise_is_not_divided_by_beta(draw):
    problem, task = batched(DRAWS[draw], []), regression_task()
    solver, grads = mct.descend(partial(torch.optim.SGD, lr=5e-3), 50), []
    for beta in (1e-2, 1e-3, 1e-6):
        seed()
        rule = mc.Contrastive(beta, "symmetric")
        grads.append(gradients(problem, solver, rule, task))
    coarse, fine = (np.abs(grad - grads[2]).max() for grad in grads[:2])
    # Second order in beta; other batches in each phase would leave a difference of 1 / beta.
    assert fine < 2 * coarse / 100 and coarse < 0.2 * np.abs(grads[2]).max()


@pytest.mark.parametrize("name", ["inner", "outer"])
def test_numbers_that_are_not_watched_are_refused(name):
    mine = np.random.default_rng(0)

    def loss(m, task):
        return misfit(m.phi * float(mine.uniform(1, 2)), task.train) + m.pull()

    untouched = lambda loss, params: pytest.fail("nothing may be learned before it is checked")
    with pytest.raises(ValueError, match=rf"{name}: is .* and then .* Batches\(loader\).*default"):
        mct.backward(regression(**{name: loss}), untouched, mc.Contrastive(0.1), regression_task())


def test_a_loss_that_is_nan_differs_from_itself_no_more_than_it_must():
    """It diverges, and is counted as that."""
    problem = regression(inner=lambda m, task: misfit(m.phi, task.train) * float("nan"))
    with pytest.raises(DivergedError, match="value or gradient is not finite"):
        mct.backward(
            regression(inner=lambda m, t: problem.inner(m, t) + m.pull()),
            mct.descend(partial(torch.optim.SGD, lr=1e-3), 2),
            mc.Contrastive(0.1),
            regression_task(),
        )


# Dropout and batch norm while the outer loss is taken.


@pytest.mark.parametrize("mode", ["eval", "inner"])
def test_the_mode_of_the_outer_loss(mode):
    dropout = torch.nn.Dropout(0.3)
    log = []

    def outer(m, task):
        mask = m.dropout(torch.ones(3, dtype=torch.float64))
        log.append(mask.tolist())
        return misfit(m.phi * mask, task.test)

    problem = regression(outer=outer, outer_mode=mode)
    problem.module.dropout = dropout
    task = regression_task()
    rule = mc.Contrastive(1e-3, "symmetric", 4)
    grads = gradients(problem, one_newton_step, rule, task)
    dropped = any(0 in mask for mask in log)
    assert dropped == (mode == "inner") and len(log) > 5
    if mode == "eval":  # the plain regression, to the error of the scheme
        exact = exact_gradients(problem, task)
        np.testing.assert_allclose(grads, exact, atol=1e-5 * np.abs(exact).max())


def test_batch_norm_is_judged_by_its_running_statistics():
    module, task = Normalised(), regression_task()
    problem, steps = normalised(module), 30
    solver = mct.descend(partial(torch.optim.SGD, lr=1e-2), steps)
    twin = copy.deepcopy(module)
    descent = torch.optim.SGD(twin.head.parameters(), lr=1e-2)
    for _ in range(steps):
        descent.zero_grad()
        squares(twin, task.train).backward()
        descent.step()
    in_training = squares(copy.deepcopy(twin), task.test).item()
    judged = squares(twin.eval(), task.test).item()
    value = lambda problem: mct.backward(problem, solver, mc.Contrastive(0.1), task).value
    assert value(problem) == pytest.approx(judged, rel=1e-12)
    assert value(replace(problem, outer_mode="inner")) == pytest.approx(in_training, rel=1e-12)
    assert abs(judged - in_training) > 0.01 * judged
