"""Plain PyTorch: the rule of JAX, closed forms, finite differences, tasks that diverge."""

import json
import runpy
import sys
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
from torch_problems import (  # noqa: E402
    exact_gradients,
    gradients,
    misfit,
    one_newton_step,
    regression,
    regression_task,
    squares,
)

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


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")  # few steps
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


def test_gradients_add_up_as_those_of_a_loss():
    problem, rule, task = regression(), mc.Contrastive(0.1), regression_task()
    once = gradients(problem, one_newton_step, rule, task)
    mct.backward(problem, one_newton_step, rule, [task, task])
    twice = torch.cat([p.grad for p in problem.slow.values()]).numpy()
    np.testing.assert_allclose(twice, 2 * once, rtol=10 * EPS)


# Tasks that diverge.


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")  # few steps
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


# The example.


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")  # few steps
def test_the_example_learns(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "examples" / "torch_sine.py"
    errors = []
    for steps in ("1", "5"):
        arguments = ["--steps", steps, "--tasks", "2", "--test-tasks", "4", "--seed", "1"]
        monkeypatch.setattr(sys, "argv", ["torch_sine.py", *arguments])
        runpy.run_path(str(script), run_name="__main__")
        errors.append(json.loads(capsys.readouterr().out.splitlines()[-1])["mse"])
    assert errors[1] < errors[0]
