"""Plain PyTorch: the rule of JAX, closed forms, equal random numbers, and no trace left behind."""

import json
import runpy
import sys
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, slope

import metacontrast as mc
from metacontrast.train import DivergedError

torch = pytest.importorskip("torch")
mct = pytest.importorskip("metacontrast.torch", exc_type=ImportError)

torch.set_num_threads(1)  # what is this small takes longer with more

EPS32 = float(np.finfo(np.float32).eps)
OPTIMISERS = {
    "sgd": (
        optax.sgd(1e-3, 0.9, nesterov=True),
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9, nesterov=True),
    ),
    "adam": (optax.adam(1e-2), partial(torch.optim.Adam, lr=1e-2)),
}


# Against JAX: the sine network 1-40-40-1, from the same weights, on the same task.


def first_layers():
    keys = jax.random.split(jax.random.key(0), 6)
    sizes = [(40, 1), (40, 40), (1, 40)]
    draw = lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1)
    return [
        (draw(keys[2 * i], (n, m)) / m**0.5, draw(keys[2 * i + 1], (n,)) / m**0.5)
        for i, (n, m) in enumerate(sizes)
    ]


def sine_task():
    x = jax.random.uniform(jax.random.key(1), (2, 10, 1), minval=-5, maxval=5)
    return mc.Task(*(mc.Data(part, 3 * jnp.sin(part + 1)) for part in x))


def predicted(layers, x):
    for w, b in layers[:-1]:
        x = jnp.tanh(x @ w.T + b[None])
    w, b = layers[-1]
    return x @ w.T + b[None]


def squares(predict, data):
    return ((predict(data.x) - data.y) ** 2).sum()


JAX_PROBLEMS = {
    "synapse": mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: (
            squares(partial(predicted, phi), task.train) + theta.pull(phi)
        ),
        outer=lambda phi, theta, task: squares(partial(predicted, phi), task.test),
    ),
    "slow body": mc.Problem(
        init=lambda theta, task: first_layers()[-1:],
        inner=lambda phi, theta, task: squares(partial(predicted, theta + phi), task.train),
        outer=lambda phi, theta, task: squares(partial(predicted, theta + phi), task.test),
    ),
}


def by_jax(name, rule, optimiser, dtype):
    cast = partial(jax.tree.map, lambda leaf: jnp.asarray(leaf, dtype))
    layers, task = cast((first_layers(), sine_task()))
    spread = jax.tree.map(lambda leaf: jnp.full_like(leaf, np.log(0.5)), layers)
    theta = mc.Synapse(layers, spread) if name == "synapse" else layers[:-1]
    init = JAX_PROBLEMS[name].init
    problem = replace(JAX_PROBLEMS[name], init=lambda theta, task: cast(init(theta, task)))
    rule = mc.Contrastive(**rule, nudged=mc.descend(optimiser, 15))
    loss = mc.meta_loss(problem, mc.descend(optimiser, 30), rule)
    value, grads = jax.jit(jax.value_and_grad(loss))(theta, task)  # without diagnostics
    return float(value), np.concatenate([np.ravel(g) for g in jax.tree.leaves(grads)])


def by_torch(name, rule, optimiser, dtype):
    tensor = lambda leaf: torch.tensor(np.asarray(leaf), dtype=dtype)
    task = jax.tree.map(tensor, sine_task())
    parts = []
    for w, b in first_layers():
        linear = torch.nn.Linear(w.shape[1], w.shape[0], dtype=dtype)
        linear.load_state_dict({"weight": tensor(w), "bias": tensor(b)})
        parts += [linear, torch.nn.Tanh()]
    net = torch.nn.Sequential(*parts[:-1])
    pull = 0.0 if name == "slow body" else 1.0
    problem = mct.Problem(
        mct.Synapse(net, lam=0.5) if pull else net,
        inner=lambda m, task: squares(m, task.train) + (m.pull() if pull else 0.0),
        outer=lambda m, task: squares(m, task.test),
        meta=["omega.*", "log_lam.*"] if pull else ["0.*", "2.*"],
        init=mct.Synapse.reset if pull else None,
    )
    rule, nudged = mc.Contrastive(**rule), mct.descend(optimiser, 15)
    step = mct.backward(problem, mct.descend(optimiser, 30), rule, task, nudged)
    grads = [p.grad.numpy().ravel() for p in problem.slow.values()]
    return step.value, np.concatenate(grads)


@pytest.mark.parametrize(
    ("name", "scheme", "optimiser"),
    [
        ("synapse", "forward", "sgd"),
        ("slow body", "symmetric", "adam"),
    ],
)
def test_it_is_the_rule_of_jax(name, scheme, optimiser):
    rule = {"beta": 0.1, "scheme": scheme}
    in_jax, in_torch = OPTIMISERS[optimiser]
    value, exact = by_jax(name, rule, in_jax, jnp.float64)
    off = lambda outcome: np.linalg.norm(outcome[1] - exact) / np.linalg.norm(exact)
    # How much this problem amplifies round-off, JAX says itself: its error in float32. Another
    # order of the same sums errs as much, to within a factor of ten for its chance signs.
    amplified = max(1.0, off(by_jax(name, rule, in_jax, jnp.float32)) / EPS32)
    assert amplified * EPS32 < 1e-3
    single = by_torch(name, rule, in_torch, torch.float32)
    double = by_torch(name, rule, in_torch, torch.float64)
    assert off(single) < 10 * amplified * EPS32
    assert off(double) < 10 * amplified * EPS
    assert single[0] == pytest.approx(value, rel=10 * amplified * EPS32)
    assert double[0] == pytest.approx(value, rel=10 * amplified * EPS)


# Against the closed form: linear regression of complex synapses.


class Regression(torch.nn.Module):
    """Weights phi, a resting point and strengths for them."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(0)
        parameter = lambda *shape: torch.nn.Parameter(torch.tensor(rng.normal(size=shape)))
        self.phi, self.omega, self.log_lam = parameter(3), parameter(3), parameter(3)

    def pull(self):
        return (self.log_lam.exp() * (self.phi - self.omega) ** 2).sum()


def misfit(phi, data):
    return ((data.x @ phi - data.y) ** 2).sum()


def regression(**changes):
    settings = {
        "module": Regression(),
        "inner": lambda m, task: misfit(m.phi, task.train) + m.pull(),
        "outer": lambda m, task: misfit(m.phi, task.test),
        "meta": ["omega", "log_lam"],
    }
    return mct.Problem(**settings | changes)


def regression_task(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: torch.tensor(rng.normal(size=shape))
    return mc.Task(mc.Data(draw(4, 3), draw(4)), mc.Data(draw(5, 3), draw(5)))


def one_newton_step(loss, params):
    """Exact for quadratic losses."""
    (phi,) = params
    (g,) = torch.autograd.grad(loss(), phi, create_graph=True)
    rows = [torch.autograd.grad(x, phi, retain_graph=True)[0] for x in g]
    with torch.no_grad():
        phi -= torch.linalg.solve(torch.stack(rows), g)


def exact_gradients(problem, task):
    """By going back through the solution of the normal equations."""
    omega, log_lam = problem.module.omega, problem.module.log_lam
    x, y = task.train
    curvature = x.T @ x + torch.diag(log_lam.exp())
    phi = torch.linalg.solve(curvature, x.T @ y + log_lam.exp() * omega)
    grads = torch.autograd.grad(misfit(phi, task.test), [omega, log_lam])
    return torch.cat(grads).numpy()


def gradients(problem, solver, rule, task):
    for p in problem.slow.values():
        p.grad = None
    mct.backward(problem, solver, rule, task)
    return torch.cat([p.grad for p in problem.slow.values()]).numpy()


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("forward", 2), ("symmetric", 2)])
def test_the_error_is_of_the_order_of_the_scheme(scheme, order):
    problem, task = regression(), regression_task()
    exact = exact_gradients(problem, task)
    betas, errors = [0.02, 0.01, 0.005], []
    for beta in betas:
        rule = mc.Contrastive(beta, scheme, order)
        errors.append(np.abs(gradients(problem, one_newton_step, rule, task) - exact).max())
    # The next term of the error is smaller by a factor of beta times the ratio of curvatures, ~10.
    assert slope(betas, errors) == pytest.approx(order, abs=0.2)
    assert errors[-1] < 0.1 * np.abs(exact).max()


def test_finite_differences_of_what_descent_reaches():
    problem, task = regression(), regression_task()
    curvature = 2 * torch.linalg.eigvalsh(task.train.x.T @ task.train.x).max()
    rate = 1 / (float(curvature) + 2 * float(problem.module.log_lam.detach().exp().max()))
    solver = mct.descend(partial(torch.optim.SGD, lr=rate, momentum=0.9), 600)  # 0.9^(600/2): 1e-14
    estimate = gradients(problem, solver, mc.Contrastive(0.003, "symmetric", 4), task)
    expected, h = [], EPS ** (1 / 3)
    for p in problem.slow.values():
        for i in range(3):
            values = []
            for sign in (h, -h):
                with torch.no_grad():
                    p[i] += sign
                with mct.solve_inner(problem, solver, task) as m:
                    values.append(misfit(m.phi, task.test).item())
                with torch.no_grad():
                    p[i] -= sign
            expected.append((values[0] - values[1]) / (2 * h))
    # Central differences err by some h^2 = 4e-11 of the loss' scale; the scheme by beta^4 = 8e-11
    # times the ratio of curvatures to the fifth, here below 1e3.
    np.testing.assert_allclose(estimate, expected, atol=1e-6 * np.abs(estimate).max())


# Random numbers.


def noisy(log, **changes):
    """The regression, whose two losses drop weights out, and which notes what it drew."""

    def inner(m, task):
        mask = torch.nn.functional.dropout(torch.ones(3, dtype=torch.float64), 0.3)
        log.append(mask.tolist())
        return misfit(m.phi * mask, task.train) + m.pull()

    def outer(m, task):
        return misfit(torch.nn.functional.dropout(m.phi, 0.3), task.test)

    return regression(inner=inner, outer=outer, **changes)


def noting(log, solver):
    """The solver, which notes in `phases` what was drawn in each."""
    phases = []

    def noted(loss, params):
        begins = len(log)
        solver(loss, params)
        phases.append(log[begins:])

    return noted, phases


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


# Nothing is left behind.


class Normalised(torch.nn.Module):
    """A fast head on slow, batch-normalised features."""

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
        self.head = torch.nn.Linear(4, 1)
        self.fixed = torch.nn.Parameter(torch.ones(()), requires_grad=False)
        self.double()

    def forward(self, x):
        return self.head(self.body(x))[:, 0] * self.fixed


def normalised(module):
    return mct.Problem(
        module, lambda m, t: squares(m, t.train), lambda m, t: squares(m, t.test), ["body.*"]
    )


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


def test_gradients_add_up_as_those_of_a_loss():
    problem, rule, task = regression(), mc.Contrastive(0.1), regression_task()
    once = gradients(problem, one_newton_step, rule, task)
    mct.backward(problem, one_newton_step, rule, [task, task])
    twice = torch.cat([p.grad for p in problem.slow.values()]).numpy()
    np.testing.assert_allclose(twice, 2 * once, rtol=10 * EPS)


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


# Tasks that diverge.


def test_diverged_tasks_are_left_out_and_counted():
    good, nan, other = (regression_task(seed) for seed in range(3))
    nan.train.y[0] = float("nan")
    steep = mc.Task(mc.Data(good.train.x * 100, good.train.y), good.test)
    problem, rule = regression(), mc.Contrastive(0.01)
    solver = mct.descend(partial(torch.optim.SGD, lr=1e-3), 20)
    each = [gradients(problem, solver, rule, task) for task in (good, other)]
    for p in problem.slow.values():
        p.grad = None
    step = mct.backward(problem, solver, rule, [good, nan, steep, other])
    assert [i for i, _ in step.failed] == [1, 2]
    assert "not finite" in step.failed[0][1] and "its inner loss grew from" in step.failed[1][1]
    assert len(step.aux) == 2 and step.value == np.mean([aux["outer"] for aux in step.aux])
    grads = torch.cat([p.grad for p in problem.slow.values()]).numpy()
    np.testing.assert_allclose(grads, np.mean(each, axis=0), rtol=10 * EPS)
    with pytest.raises(DivergedError, match="every one diverged, the first because"):
        mct.backward(problem, solver, rule, [nan, steep])
    np.testing.assert_array_equal(grads, torch.cat([p.grad for p in problem.slow.values()]))


# Errors.


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
        mct.Problem(module, None, None, ["fixed", "body.*"])
    assert "fixed" not in normalised(module).fast


@pytest.mark.parametrize(
    ("changes", "rule", "message"),
    [
        ({"inner": lambda m, t: m.phi + m.omega}, {}, r"inner: must return.*float64\[3\]"),
        ({"outer": lambda m, t: 1.0}, {}, "outer: must return a tensor.*not 1.0"),
        ({"inner": lambda m, t: misfit(m.phi, t.train)}, {}, "meta: neither loss depends on omega"),
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


# The example.


def test_the_example_learns(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "torch_sine.py"
    errors = []
    for steps in ("1", "5"):
        arguments = ["--steps", steps, "--tasks", "2", "--test-tasks", "4", "--seed", "1"]
        monkeypatch.setattr(sys, "argv", ["torch_sine.py", *arguments])
        runpy.run_path(str(script), run_name="__main__")
        errors.append(json.loads(capsys.readouterr().out.splitlines()[-1])["mse"])
    assert errors[1] < errors[0]
