"""PyTorch: a call leaves all as it was but the `.grad` of the slow parameters."""

import weakref
from functools import partial

import pytest

import metacontrast as mc

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import (  # noqa: E402
    Normalised,
    misfit,
    normalised,
    regression,
    regression_task,
)

# Ten steps do not converge.
pytestmark = pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")


def test_fast_weights_buffers_and_flags_are_put_back():
    module = Normalised()
    problem, task = normalised(module), regression_task()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    flags = [p.requires_grad for p in module.parameters()]
    solver = mct.descend(partial(torch.optim.SGD, lr=1e-2), 10)
    with torch.no_grad():  # even here
        mct.backward(problem, solver, mc.Contrastive(0.1), task)
    with mct.solve_inner(problem, solver, task):
        after = module.state_dict()
        assert after["body.1.num_batches_tracked"] == 10
        changed = {name for name in before if not torch.equal(before[name], after[name])}
    running = ("running_mean", "running_var", "num_batches_tracked")
    assert changed == {"head.weight", "head.bias", *(f"body.1.{name}" for name in running)}
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert [p.requires_grad for p in module.parameters()] == flags
    assert all(p.grad is None for p in problem.fast.values())
    assert all(p.grad.abs().max() > 0 for p in list(problem.slow.values())[-2:])


def test_an_error_in_a_loss_leaves_nothing_either():
    def failing(m, task):
        if m.phi.requires_grad and not torch.equal(m.phi, first):
            raise RuntimeError("a mistake")
        return misfit(m.phi, task.train) + m.pull()

    problem = regression(inner=failing)
    first = problem.module.phi.detach().clone()
    with pytest.raises(RuntimeError, match="a mistake"):
        solver = mct.descend(partial(torch.optim.SGD, lr=0.01), 3)
        mct.backward(problem, solver, mc.Contrastive(0.1), regression_task())
    assert torch.equal(problem.module.phi, first)
    assert all(p.requires_grad and p.grad is None for p in problem.module.parameters())


def test_no_graph_outlives_its_step():
    alive, losses = [], []

    def inner(m, task):
        alive.append(sum(loss() is not None for loss in losses))
        value = misfit(m.phi, task.train) + m.pull()
        losses.append(weakref.ref(value))
        return value

    solver = mct.descend(partial(torch.optim.SGD, lr=1e-3), 50)
    mct.backward(regression(inner=inner), solver, mc.Contrastive(0.1), regression_task())
    assert len(alive) > 100 and max(alive) <= 1
