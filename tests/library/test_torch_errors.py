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
        ({"module": 3}, TypeError, "module: must be a Module, not 3; put several"),
        ({"meta": "omega"}, TypeError, r"meta: must be a list.*write \['omega\.\*'\]"),
        ({"meta": ["omga"]}, ValueError, "meta: 'omga' fits no parameter.*phi, omega, log_lam"),
        ({"meta": ["*"]}, ValueError, "leaves 3 slow and 0 fast"),
        ({"meta": []}, ValueError, "leaves 0 slow and 3 fast"),
        ({"inner": None}, TypeError, "inner: must be a function of 2 arguments, not None"),
        ({"init": 3}, TypeError, "init: must be a function"),
        ({"outer_mode": "train"}, ValueError, "outer_mode: must be 'eval' or 'inner', not 'train'"),
        ({"module": torch.nn.LazyLinear(1)}, ValueError, "module: weight, bias is not initialised"),
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
        (
            {"inner": lambda m, t: m.pull().detach()},
            {},
            "inner: depends on none of .* phi, so that",
        ),
        (
            {"outer": lambda m, t: misfit(m.phi, t.test).detach()},
            {},
            "outer: depends on none of the parameters, .* no torch.no_grad",
        ),
        (
            {"inner": lambda m, t: misfit(m.phi, t.train) + (m.omega.detach() * m.phi**2).sum()},
            {},
            r"on omega, log_lam, so that.*itself and not its \.data",
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


# What is handed over is of another kind.

UNTOUCHED = lambda loss, params: pytest.fail("nothing may be learned before it is checked")


@pytest.mark.parametrize("rule", [mc.FirstOrder(), mc.Unrolled(), mc.Implicit("exact"), 0.1])
def test_only_contrasts_are_rules(rule):
    with pytest.raises(TypeError, match=r"rule: .*give Contrastive\(beta\)"):
        mct.backward(regression(), UNTOUCHED, rule, regression_task())


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (
            torch.utils.data.DataLoader([1, 2]),
            r"tasks: a DataLoader may.*list\(loader\).*\[Batches",
        ),
        (iter([1, 2]), r"tasks: must be a list, or one task, not list_iterator; write list\(...\)"),
        ((task for task in [1, 2]), r"tasks: must be a list, or one task, not generator"),
        (iter(torch.utils.data.DataLoader([1])), "tasks: must be a list, or one task, not _Single"),
    ],
)
def test_tasks_that_may_mean_two_things(tasks, message):
    with pytest.raises(TypeError, match=message):
        mct.backward(regression(), UNTOUCHED, mc.Contrastive(0.1), tasks)


def test_a_tuple_of_tasks_is_many_and_any_other_is_one():
    problem, rule = regression(), mc.Contrastive(0.1)
    one, two = regression_task(0), regression_task(1)
    many = mct.backward(problem, one_newton_step, rule, (one, two))
    assert many.value == mct.backward(problem, one_newton_step, rule, [one, two]).value
    assert len(many.aux) == 2
    (train, test), losses = one, {}
    losses["inner"] = lambda m, task: misfit(m.phi, task[0]) + m.pull()
    losses["outer"] = lambda m, task: misfit(m.phi, task[1])
    pair = mct.backward(regression(**losses), one_newton_step, rule, (train, test))
    assert pair.value == mct.backward(problem, one_newton_step, rule, one).value


@pytest.mark.parametrize("context", [torch.inference_mode, partial(torch.inference_mode, True)])
def test_inference_mode_is_refused_first(context):
    problem = regression()
    with context():
        with pytest.raises(RuntimeError, match=r"torch.inference_mode\(\).*no_grad"):
            mct.backward(problem, UNTOUCHED, mc.Contrastive(0.1), regression_task())
        with (
            pytest.raises(RuntimeError, match=r"torch.inference_mode\(\)"),
            mct.solve_inner(problem, UNTOUCHED, regression_task()),
        ):
            pass


def test_what_is_made_for_each_phase_comes_from_a_function():
    phi = torch.nn.Parameter(torch.zeros(()))
    made = torch.optim.SGD([phi], lr=0.1)
    for shown, given in {"of type SGD": made, "0.1": 0.1}.items():
        said = rf"optimizer: must be a function of 1 .*not {shown}; .*one of its own, try part"
        with pytest.raises(TypeError, match=said):
            mct.descend(given, 3)
    with pytest.raises(TypeError, match=r"scheduler: must be a function.*not of type StepLR"):
        schedule = torch.optim.lr_scheduler.StepLR(made, 1)
        mct.descend(partial(torch.optim.SGD, lr=0.1), 3, schedule)
    with pytest.raises(TypeError, match=r"optimizer: must return an optimiser.*not list"):
        mct.descend(lambda params: list(params), 3)(lambda: phi**2, [phi])


def test_a_plateau_is_one_of_the_loss():
    """Which falls no more after the first step, since the rate is 1 for phi^2 / 2."""
    phi, made = torch.nn.Parameter(torch.tensor(3.0)), []

    def plateau(optimiser):
        made.append(
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, factor=0.5, patience=2, eps=0.0)
        )
        return made[-1]

    mct.descend(partial(torch.optim.SGD, lr=1.0), 5, plateau)(lambda: phi**2 / 2, [phi])
    # Losses 4.5, 0, 0, 0, 0: the second is the best, and the third after it is one too many.
    assert phi.item() == 0.0 and made[0].best == 0.0
    assert [group["lr"] for group in made[0].optimizer.param_groups] == [0.5]


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")  # few steps
@pytest.mark.parametrize("slow", ["e.*", "h.*"])
def test_sparse_gradients_are_those_of_a_dense_embedding(slow):
    grads = []
    for sparse in (False, True):
        torch.manual_seed(0)
        embedding = torch.nn.Embedding(6, 2, sparse=sparse)  # of which the last row is not used
        net = torch.nn.ModuleDict({"e": embedding, "h": torch.nn.Linear(2, 1)}).double()
        ids, y = torch.arange(20) % 5, torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]

        def loss(net, rows, ids=ids, y=y):
            misses = net["h"](net["e"](ids[rows])) - y[rows]
            return (misses**2).mean() + 0.1 * (net["h"].weight ** 2).sum() + net["h"].bias[0] ** 2

        problem = mct.Problem(
            net, lambda n, t: loss(n, slice(10)), lambda n, t: loss(n, slice(10, 20)), [slow]
        )
        solver = mct.descend(partial(torch.optim.SGD, lr=0.2), 50)
        rule = mc.Contrastive(0.01, "symmetric")
        for _ in range(2):  # which add up
            mct.backward(problem, solver, rule, None)
        grads.append([p.grad for p in problem.slow.values()])
        assert all(p.grad.layout == torch.strided for p in problem.slow.values())
    for dense, sparse in zip(*grads, strict=True):
        torch.testing.assert_close(dense, sparse, rtol=1e-9, atol=1e-12)
        assert dense.abs().max() > 0


@pytest.mark.parametrize(
    ("solver", "message"),
    [
        (mc.closed_form(), "solver: is a solver of learners in JAX; take descend"),
        (torch.optim.SGD, "solver: is the optimiser of a solver; take descend"),
    ],
)
def test_what_is_called_like_a_solver_and_is_none(solver, message):
    with pytest.raises(TypeError, match=message):
        mct.backward(regression(), solver, mc.Contrastive(0.1), regression_task())


def test_two_types_of_one_name_are_told_apart():
    with pytest.raises(TypeError, match=r"must be a Problem, not metacontrast\.torch\.Problem"):
        mc.meta_loss(regression(), mc.closed_form(), mc.Contrastive(0.1))


def test_a_plain_tensor_is_no_slow_parameter():
    module = Normalised()
    module.theta = torch.zeros(30)
    with pytest.raises(ValueError, match=r"'theta' fits no .* make it a torch\.nn\.Parameter"):
        mct.Problem(module, squares, squares, ["theta"])
    with pytest.raises(ValueError, match=r"each is text, not a list with an array torch\.float32"):
        mct.Problem(module, squares, squares, [module.theta])
