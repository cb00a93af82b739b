"""PyTorch: every phase draws the same random numbers, and the same batches."""

from functools import partial

import numpy as np
import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import gradients, noisy, noting, regression_task  # noqa: E402

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
    assert log[-1] == free[0][0]  # and so do the losses in between


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
