"""The demonstration: sines from 10 points by three methods, in minutes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from . import (
    Contrastive,
    Data,
    LeastSquares,
    Problem,
    Synapse,
    Task,
    Unrolled,
    descend,
    gauss_newton,
    solve_inner,
)
from ._predictions import draw_predictions
from .nets import mlp
from .report import figure, print_report
from .tasks import sine
from .train import evaluator, meta_train, open_folder, summarise, validation, write_result

NET = mlp(1, 40, 2, 1, jnp.tanh)
VALID_SEED, TEST_SEED = 2**31 - 2, 2**31 - 1
QUERIES, VALID_TASKS, TEST_TASKS = 100, 200, 1000
# By Sacramento's talk on the paper (Zucchet et al., 2022).
PUBLISHED = {"cml-gn": "", "maml": "0.435 +- 0.039", "scratch": "1.999 +- 3.500"}


class Method(NamedTuple):
    """How sines are learned, and how that is meta-learned: the settings of the README's table."""

    problem: Problem
    solver: Any
    estimator: Any = None  # none for a network that always learns from scratch
    steps: int = 0
    queries: int = 10
    outer_rate: float = 0.0
    first_lambda: float = 1.0


def _errors(phi: Any, data: Data) -> jax.Array:
    return jax.vmap(partial(NET.apply, phi))(data.x) - data.y


def _least_squares() -> Problem:
    """Theta are a resting point and the strength of the pull to it, for every weight."""
    residual = lambda phi, theta, example: NET.apply(phi, example.x) - example.y
    return Problem(
        init=lambda theta, task: theta.omega,
        inner=LeastSquares(residual, lambda task: task.train, lambda theta: theta),
        outer=LeastSquares(residual, lambda task: task.test),
    )


def _initialisation() -> Problem:
    """Theta is where learning starts."""
    return Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: jnp.sum(_errors(phi, task.train) ** 2),
        outer=lambda phi, theta, task: jnp.sum(_errors(phi, task.test) ** 2),
    )


def methods() -> dict[str, Method]:
    """Adam from a random network; MAML; the contrastive rule around Gauss-Newton."""
    rule = Contrastive(0.05, nudged=gauss_newton(4))
    return {
        "scratch": Method(_initialisation(), descend(optax.adam(1e-2), 500)),
        "maml": Method(
            _initialisation(), descend(optax.sgd(3e-3), 10), Unrolled(), 10_000, 10, 1e-2
        ),
        "cml-gn": Method(_least_squares(), gauss_newton(10), rule, 1500, 20, 2e-2, 50.0),
    }


def demo(out: Path) -> None:
    """Meta-learn to regress sines, and print how well new ones are learned from 10 points.

    Args:
        out: folder of the runs, which are continued where they stopped.
    """
    for name, seed in (("scratch", 0), ("maml", 0), ("cml-gn", 0), ("cml-gn", 1)):
        run(name, methods()[name], seed, out / name / f"seed{seed}")
    print_report(out)
    print(f"Figure: {out / 'cml-gn' / 'seed0' / 'predictions.png'}")


def run(name: str, method: Method, seed: int, out: Path) -> dict[str, Any]:
    """Meta-train, test, write result.json and a figure into `out`."""
    scores = evaluator(
        method.problem,
        method.solver,
        metric=lambda phi, theta, task: jnp.mean(_errors(phi, task.test) ** 2),
    )
    theta, seconds = _meta_trained(name, method, seed, out, scores)
    tests = _held_out(TEST_SEED, TEST_TASKS)
    result = summarise(
        scores(theta, tests),
        experiment="sine",
        method=name,
        metric="mean squared error on held-out tasks",
        seeds=[seed],
        meta_steps=method.steps,
        seconds=seconds,
        reference=PUBLISHED[name],
        rows=PUBLISHED,
    )
    write_result(out, result)
    figure(out / "predictions", partial(draw_predictions, _curves(method, theta), tests), 2, 2)
    return result


def _meta_trained(
    name: str, method: Method, seed: int, out: Path, scores: Callable[..., np.ndarray]
) -> tuple[Any, float]:
    """theta, and the seconds that meta-training took."""
    omega = jax.jit(NET.init)(jax.random.fold_in(jax.random.key(seed), 2**31))
    log_lam = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.log(method.first_lambda)), omega)
    theta = Synapse(omega, log_lam)
    config = {"experiment": "demo", "method": name}
    if method.estimator is None:
        open_folder(out, config | {"seed": seed}, resume=True)
        return theta, 0.0
    rate = optax.cosine_decay_schedule(method.outer_rate, method.steps, 0.02)
    valid_tasks = _held_out(VALID_SEED, VALID_TASKS)
    trained = meta_train(
        method.problem,
        method.solver,
        method.estimator,
        partial(sine, queries=method.queries),
        theta,
        optax.chain(optax.clip_by_global_norm(10.0), optax.adam(rate)),
        steps=method.steps,
        tasks=25,
        seed=seed,
        out=out,
        resume=True,
        config=config,
        log_every=max(1, method.steps // 200) * 10,
        validate=lambda theta: validation(scores(theta, valid_tasks)),
    )
    return trained.theta, trained.seconds


def _held_out(seed: int, n: int) -> Task:
    draw = jax.jit(jax.vmap(partial(sine, queries=QUERIES)))
    return draw(jax.random.split(jax.random.key(seed), n))


def _curves(method: Method, theta: Any) -> Callable[..., list[jax.Array]]:
    """`(x, task)`: what the network says at x before and after learning the task."""

    def of(x: jax.Array, task: Task) -> list[jax.Array]:
        solution = solve_inner(method.problem, method.solver, theta, task, jax.random.key(0))
        ends = method.problem.init(theta, task), solution.phi
        return [jax.vmap(partial(NET.apply, phi))(x) for phi in ends]

    return of
