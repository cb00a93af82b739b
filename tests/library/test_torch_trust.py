"""PyTorch: slow parameters that no loss sees, flags, and what a call says of them."""

import warnings
from functools import partial

import numpy as np
import pytest

import metacontrast as mc
from metacontrast._flags import Flags

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)
from torch_problems import (  # noqa: E402
    Regression,
    exact_gradients,
    gradients,
    misfit,
    one_newton_step,
    regression,
    regression_task,
)

RULE = mc.Contrastive(1e-3, "symmetric")
UNTOUCHED = lambda loss, params: pytest.fail("nothing may be learned before it is checked")


def widened(**values):
    """The regression's module, with further parameters."""
    module = Regression()
    for name, value in values.items():
        value = torch.tensor(value, dtype=torch.float64)
        module.register_parameter(name, torch.nn.Parameter(value))
    return {"module": module, "meta": ["omega", "log_lam", *values]}


# Slow parameters that no loss sees.


def test_a_start_without_a_pull_is_refused():
    """MAML's case: the gradient would be 0."""
    net = torch.nn.ParameterDict({"phi": torch.zeros(3), "start": torch.ones(3)})

    def init(net, task):
        net["phi"].copy_(net["start"])

    problem = mct.Problem(
        net.double(),
        lambda net, task: misfit(net["phi"], task.train),
        lambda net, task: misfit(net["phi"], task.test),
        ["start"],
        init,
    )
    with pytest.raises(ValueError, match=r"^theta: no loss depends on start, so .*Unrolled.*Evol"):
        mct.backward(problem, UNTOUCHED, RULE, regression_task())


def test_each_parameter_that_no_loss_sees_is_named():
    problem = regression(**widened(rate=0.1, other=[1.0, 2.0]))
    with pytest.raises(ValueError, match="no loss depends on rate, other, so that"):
        mct.backward(problem, UNTOUCHED, RULE, regression_task())
    assert all(p.grad is None for p in problem.module.parameters())


def test_a_derivative_that_is_zero_makes_nothing_unseen():
    inner = lambda m, t: misfit(m.phi, t.train) + m.pull() + torch.relu(m.dead)
    problem = regression(inner=inner, **widened(dead=-1.0))
    step = mct.backward(problem, one_newton_step, RULE, regression_task())
    assert step.by_theta["dead"] == 0 and step.flagged == {}


@pytest.mark.parametrize("draw", ["depth", "task"])
def test_a_parameter_of_some_draws_or_tasks_is_seen(draw):
    """Layers that are dropped at random, and one for each kind of task."""
    seen = []

    def sometimes(m, task):
        skip = torch.rand(()) > 0.5 if draw == "depth" else len(task.train.y) == 4
        seen.append(not skip)
        loss = misfit(m.phi, task.train) + m.pull()
        return loss if skip else loss + m.extra * (m.phi**2).sum() * 0.1

    problem = regression(inner=sometimes, **widened(extra=1.0))
    short, long = regression_task(), regression_task(1)
    long = long._replace(train=mc.Data(*(torch.cat([part, part]) for part in long.train)))
    tasks = [short, short, long] if draw == "task" else [short]
    torch.manual_seed(next(s for s in range(9) if torch.manual_seed(s) and torch.rand(()) > 0.5))
    step = mct.backward(problem, one_newton_step, RULE, tasks)
    assert not seen[0] and any(seen)
    if draw == "task":
        alone = mct.backward(problem, one_newton_step, RULE, [long])
        torch.testing.assert_close(step.by_theta["extra"], alone.by_theta["extra"] / 3)
        with pytest.raises(ValueError, match="no loss depends on extra, so that"):
            mct.backward(problem, UNTOUCHED, RULE, [short, short])


def test_looking_for_what_is_seen_leaves_no_trace():
    """Nor does it draw a random number more from the generators."""
    problem, after = regression(init=lambda m, task: m.phi.normal_()), []
    for tasks in ([regression_task()] * 2, [regression_task(1), regression_task(2)]):
        torch.manual_seed(0)
        mct.backward(problem, one_newton_step, RULE, tasks)
        after.append(torch.rand(()).item())
    torch.manual_seed(0)
    torch.randn(3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert after == [torch.rand(()).item()] * 2


# Flags.


def flags_of(solver, nudged=None, problem=None, rule=RULE):
    with pytest.warns(RuntimeWarning) as said:
        step = mct.backward(
            regression() if problem is None else problem, solver, rule, regression_task(), nudged
        )
    assert len(said) == 1 and said[0].filename == __file__
    (aux,) = step.aux
    assert all(type(flag) is bool for flag in aux["flags"])
    assert set(step.flagged) == set(aux["flags"].raised())
    return aux, str(said[0].message)


def test_no_flag_is_up_where_the_gradient_is_right():
    problem, task = regression(), regression_task()
    grads = gradients(problem, one_newton_step, RULE, task)
    exact = exact_gradients(problem, task)
    np.testing.assert_allclose(grads, exact, atol=1e-3 * np.abs(exact).max())
    (aux,) = mct.backward(problem, one_newton_step, RULE, task).aux
    assert aux["flags"] == Flags() and aux["linear_residual"] < 1e-9


def part_of(share):
    """A solver that goes a share of the way."""

    def solver(loss, params):
        before = [p.detach().clone() for p in params]
        one_newton_step(loss, params)
        with torch.no_grad():
            for p, start in zip(params, before, strict=True):
                p.copy_(start + share * (p - start))

    return solver


@pytest.mark.parametrize("control", [False, True])
def test_linear_residual_is_the_share_that_was_not_gone(control):
    rule = mc.Contrastive(1e-4, control=control)
    step = mct.backward(regression(), one_newton_step, rule, regression_task(), part_of(0.7))
    (aux,) = step.aux
    assert aux["linear_residual"] == pytest.approx(0.3, rel=1e-2) and step.flagged == {}
    aux, said = flags_of(one_newton_step, part_of(0.2), rule=rule)
    assert aux["linear_residual"] == pytest.approx(0.8, rel=1e-2)
    assert aux["flags"] == Flags(unconverged=True)
    assert "unconverged in 1 of 1 tasks" in said and "take more inner steps" in said


def test_a_free_phase_that_stopped_early_is_noticed():
    aux, _ = flags_of(part_of(0.5), one_newton_step, rule=mc.Contrastive(1e-3))
    assert aux["flags"].unconverged and aux["linear_residual"] > 100


def test_a_phase_that_stands_still_is_idle():
    aux, said = flags_of(one_newton_step, lambda loss, params: None)
    assert aux["flags"] == Flags(idle=True, unconverged=True)
    assert aux["linear_residual"] == pytest.approx(1.0, rel=1e-9) and "idle" in said


def test_without_a_slope_nothing_needs_to_move():
    problem = regression(outer=lambda m, task: (m.omega**2).sum())
    step = mct.backward(problem, one_newton_step, RULE, regression_task(), UNTOUCHED_BUT)
    assert step.flagged == {} and step.aux[0]["linear_residual"] < 1e-6
    torch.testing.assert_close(step.by_theta["omega"], 2 * problem.module.omega.detach())


UNTOUCHED_BUT = lambda loss, params: None


def test_a_nudge_without_a_minimum_is_unbounded():
    """More weights than examples, and hardly a pull: L_in - beta L_out falls for ever."""
    problem = regression()
    with torch.no_grad():
        problem.module.log_lam.fill_(-6.0)
    task = regression_task()
    task = task._replace(train=mc.Data(*(part[:1] for part in task.train)))
    solver = mct.descend(partial(torch.optim.SGD, lr=0.03), 300)
    with pytest.warns(RuntimeWarning, match="unbounded in 1 of 1 tasks"):
        (aux,) = mct.backward(problem, solver, mc.Contrastive(0.1, "symmetric"), task).aux
    assert aux["flags"].unbounded and aux["flags"].unconverged


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_phases_that_differ_by_the_last_bit_are_rounded(dtype):
    """That of a number in float32, which in float64 is a long way."""
    problem, task = regression(), regression_task()
    problem.module.to(dtype)
    task = mc.Task(*(mc.Data(*(part.to(dtype) for part in half)) for half in task))

    def nudged(loss, params):
        (phi,) = params
        with torch.no_grad():
            last_bit = 2.0**-23 * phi[0].abs()
            phi[0] += last_bit

    with pytest.warns(RuntimeWarning, match="unconverged in 1 of 1 tasks"):
        (aux,) = mct.backward(problem, one_newton_step, mc.Contrastive(0.1), task, nudged).aux
    assert aux["flags"] == Flags(unconverged=True, rounded=dtype == torch.float32)
    assert 0 < aux["distance"][0] < 1e-6


def test_what_is_not_finite_is_flagged():
    """Where the nudged losses alone are lost, the gradient may yet be a number."""
    starts = []

    def nudged(loss, params):
        starts.append(params[0].detach().clone())
        one_newton_step(loss, params)

    def outer(m, task):
        lost = starts and not torch.is_grad_enabled() and not torch.equal(m.phi, starts[0])
        return misfit(m.phi, task.test) * (float("nan") if lost else 1.0)

    problem = regression(outer=outer)
    aux, said = flags_of(one_newton_step, nudged, problem, mc.Contrastive(1e-3))
    assert aux["flags"].nonfinite and aux["flags"].unbounded and "nonfinite in 1 of 1" in said


def test_flags_are_counted_and_diverged_tasks_are_not_among_them():
    tasks = [regression_task(seed) for seed in range(4)]
    tasks[1].train.y[0] = float("nan")
    still = iter([True, False, True])

    def nudged(loss, params):
        if not next(still):
            one_newton_step(loss, params)

    problem = regression()
    with pytest.warns(RuntimeWarning, match="idle in 2 of 3 tasks") as said:
        step = mct.backward(
            problem,
            one_newton_step,
            mc.Contrastive(1e-3),
            tasks,
            lambda loss, params: nudged(loss, params) if torch.isfinite(params[0]).all() else None,
        )
    assert len(said) == 1 and [i for i, _ in step.failed] == [1]
    assert step.flagged == {"idle": 2, "unconverged": 2}


# Slow parameters of 16 bits


def narrow_regression(dtype, predict=None):
    """Learned in float32, with slow parameters of a type, of numbers that bfloat16 holds."""
    problem, task = regression(), regression_task()
    single = lambda x: x.to(torch.float32)
    task = mc.Task(*(mc.Data(single(x), single(y)) for x, y in task))
    module = problem.module.to(torch.float32)
    for p in problem.slow.values():
        p.data = p.data.to(torch.bfloat16).to(dtype)
    if predict is not None:
        pull = lambda m: (m.log_lam.float().exp() * (m.phi - predict(m)) ** 2).sum()
        inner = lambda m, task: misfit(m.phi, task.train) + pull(m)
        problem = regression(module=module, inner=inner)
    return problem, task


@pytest.mark.parametrize("scheme", ["forward", "symmetric"])
def test_narrow_slow_parameters_cost_their_own_round_off(scheme):
    found = []
    for dtype in (torch.bfloat16, torch.float32):
        problem, task = narrow_regression(dtype)
        step = mct.backward(problem, one_newton_step, mc.Contrastive(0.1, scheme), task)
        assert not any(step.aux[0]["flags"])
        assert {(p.dtype, p.grad.dtype) for p in problem.slow.values()} == {(dtype, dtype)}
        found.append(torch.cat([p.grad.double() for p in problem.slow.values()]))
    assert torch.linalg.norm(found[0] - found[1]) < 2.0**-7 * torch.linalg.norm(found[1])


def test_narrow_slow_parameters_that_cannot_be_widened_are_flagged():
    """A product asks for factors of one type."""
    raised = {}
    for dtype in (torch.bfloat16, torch.float32):
        turn = torch.eye(3, dtype=dtype)
        problem, task = narrow_regression(dtype, lambda m, turn=turn: (turn @ m.omega).float())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            step = mct.backward(problem, one_newton_step, mc.Contrastive(0.001), task)
        raised[dtype] = step.aux[0]["flags"].rounded
        assert problem.slow["omega"].dtype == dtype
    assert raised == {torch.bfloat16: True, torch.float32: False}
