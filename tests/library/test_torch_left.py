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


# What the losses use besides.


def teaching(**changes):
    """The regression, with a teacher in both losses that neither learns nor is frozen."""
    teacher = torch.nn.Linear(3, 1, bias=False, dtype=torch.float64)

    def inner(m, task):
        taught = ((task.train.x @ m.phi - teacher(task.train.x)[:, 0]) ** 2).sum()
        return misfit(m.phi, task.train) + taught + m.pull()

    def outer(m, task):
        return misfit(m.phi + 0.1 * teacher.weight[0], task.test)

    return teacher, regression(inner=inner, outer=outer, **changes)


def by_backward(loss, params):
    """A solver of one's own, which goes about it the usual way."""
    for _ in range(20):
        for p in params:
            p.grad = None
        (2 * loss()).backward()
        with torch.no_grad():
            for p in params:
                p -= 5e-3 * p.grad


@pytest.mark.parametrize("solver", ["descend", "lbfgs", "own"])
@pytest.mark.parametrize("filled", [False, True])
def test_grads_of_all_else_are_left_alone(solver, filled):
    teacher, problem = teaching()
    others = [teacher.weight, problem.module.phi]
    for p in others:
        p.grad = torch.full_like(p, 7.0) if filled else None
    before = [p.grad for p in others]
    solve = {
        "descend": mct.descend(partial(torch.optim.SGD, lr=1e-2), 20),
        "lbfgs": mct.descend(partial(torch.optim.LBFGS, max_iter=5), 4),
        "own": by_backward,
    }[solver]
    mct.backward(problem, solve, mc.Contrastive(0.01, "symmetric"), regression_task())
    with mct.solve_inner(problem, solve, regression_task()):
        pass
    assert all(p.grad is grad for p, grad in zip(others, before, strict=True))
    assert not filled or all(torch.equal(p.grad, torch.full_like(p, 7.0)) for p in others)
    assert teacher.weight.requires_grad
    assert all(p.grad.abs().max() > 0 for p in problem.slow.values())


def test_a_solver_of_ones_own_finds_what_descent_finds():
    _, problem = teaching()
    rule, found = mc.Contrastive(0.01, "symmetric"), []
    for solve in (by_backward, mct.descend(partial(torch.optim.SGD, lr=1e-2), 20)):
        for p in problem.slow.values():
            p.grad = None
        mct.backward(problem, solve, rule, regression_task())
        found.append(torch.cat([p.grad for p in problem.slow.values()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-9, atol=1e-9)


def test_each_part_is_in_its_mode_again():
    module = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(), torch.nn.Linear(3, 1))
    module.double()[1].eval()
    modes = lambda: [part.training for part in module.modules()]
    before, seen = modes(), {"inner": [], "outer": []}

    def loss(name, m, data):
        seen[name].append(modes())
        m.train()  # what a loss changes is put back
        return ((m(data.x)[:, 0] - data.y) ** 2).mean()

    for outer_mode in ("eval", "inner"):
        problem = mct.Problem(
            module,
            lambda m, task: loss("inner", m, task.train),
            lambda m, task: loss("outer", m, task.test),
            ["0.*"],
            outer_mode=outer_mode,
        )
        solver = mct.descend(partial(torch.optim.SGD, lr=1e-2), 3)
        mct.backward(problem, solver, mc.Contrastive(0.1), regression_task())
        with mct.solve_inner(problem, solver, regression_task()) as trained:
            assert modes() == ([False] * 4 if outer_mode == "eval" else before)
            trained.train()
        assert modes() == before == [True, True, False, True]
        expected = [False] * 4 if outer_mode == "eval" else before
        assert seen["outer"] and all(each == expected for each in seen["outer"])
        assert all(each == before for each in seen["inner"])
        seen["outer"].clear()
