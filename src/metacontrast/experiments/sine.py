"""The talk's sine table: regression from 10 points, network 1-40-40-1.

    metacontrast run sine --method cml-gn --seed 0
    metacontrast table sine

How the settings were chosen, the README says. Departures from the talk and the nearest
published settings are named where they are made.
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import metacontrast as mc

from ..nets import mlp
from ..report import figure, print_table
from ..tasks import sine
from ..train import evaluator, meta_train, open_folder, summarise, write_result
from ._common import (
    TEST_SEED,
    VALID_SEED,
    Out,
    Quick,
    Resume,
    Seed,
    Steps,
    folder,
    outer_optimizer,
    shortened,
    synapses,
)

NAME = "sine"
METRIC = "mean squared error on 1,000 held-out tasks"
# The talk's figures, with its spread.
REFERENCE = {
    "cml-gd": "0.305 +- 0.101",
    "cml-sgd": "0.258 +- 0.070",
    "cml-gn": "",
    "cml-mod": "",
    "maml": "0.435 +- 0.039",
    "fomaml": "",
    "scratch": "1.999 +- 3.500",
}
SHOTS, TEST_TASKS, TEST_QUERIES, VALID_TASKS = 10, 1000, 100, 200
NET = mlp(1, 40, 2, 1, jnp.tanh)


@dataclass(frozen=True)
class Settings:
    """What a run depends on besides its method and seed."""

    steps: int
    tasks: int
    queries: int
    outer_rate: float
    first_lambda: float = 1.0  # of every synapse; it is learned
    last_rate: float = 0.02  # of the outer rate, at the end of its cosine
    shots: int = SHOTS


def _all(slow: Any) -> Any:
    return slow


def _itself(phi: Any, theta: Any) -> Any:
    return phi


class Method(NamedTuple):
    """A learner, how its meta-gradient is found, and its settings."""

    problem: mc.Problem
    solve: Any
    estimator: Any
    settings: Settings
    fast: Any = _all  # what of the network's weights is learned, and pulled
    whole: Any = _itself  # the network's weights, once that is learned


def _errors(phi: Any, data: mc.Data) -> jax.Array:
    return jax.vmap(partial(NET.apply, phi))(data.x) - data.y


def _squares(phi: Any, data: mc.Data) -> jax.Array:
    return jnp.sum(_errors(phi, data) ** 2)


def _minibatch(size: int, task: mc.Task, key: jax.Array) -> mc.Task:
    """`size` of the support points; the inner loss makes their sum unbiased by its scale."""
    chosen = jax.random.choice(key, SHOTS, (size,), replace=False)
    return task._replace(train=jax.tree.map(lambda leaf: leaf[chosen], task.train))


def _synapse(batch: int = SHOTS) -> mc.Problem:
    """The complex synapse: omega and one lambda a weight are learned; learning starts at omega."""

    def inner(phi: Any, theta: Any, task: mc.Task) -> jax.Array:
        scale = SHOTS / task.train.x.shape[0]
        return scale * _squares(phi, task.train) + mc.attraction(phi, *theta)

    return mc.Problem(
        init=lambda theta, task: theta[0],
        inner=inner,
        outer=lambda phi, theta, task: _squares(phi, task.test),
        sample=partial(_minibatch, batch) if batch < SHOTS else None,
    )


def _least_squares(fast: Any = _all, whole: Any = _itself) -> mc.Problem:
    """What is fast, all weights or those of `_SYSTEMS`, is pulled; said for `gauss_newton`.

    Departure, of the two systems: the published ones are not pulled back; a thousand small steps
    keep them near.
    """

    def residual(phi: Any, theta: Any, example: mc.Data) -> jax.Array:
        return NET.apply(whole(phi, theta), example.x) - example.y

    return mc.Problem(
        init=lambda theta, task: fast(theta[0]),
        inner=mc.LeastSquares(
            residual, lambda task: task.train, lambda theta: (fast(theta[0]), theta[1])
        ),
        outer=mc.LeastSquares(residual, lambda task: task.test),
    )


def _initialisation() -> mc.Problem:
    """MAML's: where learning starts is learned, and nothing pulls it back."""
    return mc.Problem(
        init=lambda theta, task: theta[0],
        inner=lambda phi, theta, task: _squares(phi, task.train),
        outer=lambda phi, theta, task: _squares(phi, task.test),
    )


def nesterov(steps: int) -> Any:
    """Gradient descent with momentum, its rate falling to a hundredth on a cosine.

    Departure: the nearest published settings are 500 steps of Adam, 250 nudged ones, beta 3. Adam
    moves every weight by its rate at first, however small the nudge; plain momentum does not.
    """
    rate = optax.cosine_decay_schedule(1e-3, steps, 0.01)
    return mc.descend(optax.sgd(rate, 0.9, nesterov=True), steps)


# Departure: symmetric, where the talk's table is taken to be forward. Both phases take the same
# steps on the same mini-batches, so that what is not yet converged or noisy cancels.
_SYMMETRIC = mc.Contrastive(0.05, "symmetric", nudged=nesterov(50))

# A slow network, and fast gains, shifts and head.
_SYSTEMS = (mc.modulation, lambda phi, theta: mc.modulated(phi, theta[0]))

METHODS = {
    "cml-gd": Method(
        _synapse(),
        nesterov(100),
        _SYMMETRIC,
        Settings(steps=1000, tasks=25, queries=10, outer_rate=2e-2, first_lambda=5.0),
    ),
    "cml-sgd": Method(
        _synapse(batch=8),
        nesterov(100),
        _SYMMETRIC,
        Settings(steps=1000, tasks=25, queries=10, outer_rate=2e-2, first_lambda=5.0),
    ),
    "cml-gn": Method(
        _least_squares(),
        mc.gauss_newton(10),
        mc.Contrastive(0.05, nudged=mc.gauss_newton(4)),
        Settings(steps=1500, tasks=25, queries=20, outer_rate=2e-2, first_lambda=50.0),
    ),
    "cml-mod": Method(
        _least_squares(*_SYSTEMS),
        mc.gauss_newton(10),
        mc.Contrastive(0.05, nudged=mc.gauss_newton(4)),
        Settings(steps=400, tasks=25, queries=20, outer_rate=3e-3, first_lambda=50.0),
        *_SYSTEMS,
    ),
    "maml": Method(
        _initialisation(),
        mc.descend(optax.sgd(3e-3), 10),
        mc.Unrolled(),
        Settings(steps=10_000, tasks=25, queries=10, outer_rate=1e-2),
    ),
    "fomaml": Method(
        _initialisation(),
        mc.descend(optax.sgd(3e-3), 10),
        mc.FirstOrder(),
        Settings(steps=10_000, tasks=25, queries=10, outer_rate=1e-2),
    ),
    # No meta-learning: Adam from a random network (one a seed), as in the published free phase.
    "scratch": Method(
        _initialisation(),
        mc.descend(optax.adam(1e-2), 500),
        None,
        Settings(steps=0, tasks=0, queries=0, outer_rate=0.0),
    ),
}


first_theta = partial(synapses, NET.init)


def held_out(seed: int, n: int, queries: int = TEST_QUERIES) -> mc.Task:
    """`n` tasks, stacked, with many query points each."""
    keys = jax.random.split(jax.random.key(seed), n)
    parts = [_drawer(queries)(keys[i : i + VALID_TASKS]) for i in range(0, n, VALID_TASKS)]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


@cache  # to compile it once: most of a short run's time is compilation
def _drawer(queries: int) -> Any:
    return jax.jit(jax.vmap(partial(sine, shots=SHOTS, queries=queries)))


def scorer(method: Method) -> Any:
    """`(theta, tasks) -> mean squared error of each`, learned by the method's own free phase."""
    return evaluator(
        method.problem,
        method.solve,
        metric=lambda phi, theta, task: jnp.mean(_errors(method.whole(phi, theta), task.test) ** 2),
    )


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "cml-gn",
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
    quick: Quick = False,
) -> None:
    """Meta-learn to regress sines, and test on held-out tasks."""
    result = run(method, seed, steps, out, resume, quick)
    print(f"{method}, seed {seed}: {result['value']:.4f} +- {result['ci95']:.4f} ({METRIC})")


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
) -> dict[str, Any]:
    """One method, one seed: meta-train, test, write result.json and a figure into `out`."""
    out = folder(NAME, METHODS, name, seed, out)
    method = METHODS[name]
    settings = method.settings
    if method.estimator is not None:
        settings = shortened(settings, steps, quick)
    elif steps is not None:
        raise ValueError(f"steps: {name} takes no meta-steps; leave it out.")
    scores = scorer(method)
    theta, seconds = _meta_trained(name, method, settings, seed, out, resume, scores)
    values = scores(theta, held_out(TEST_SEED, TEST_TASKS))
    result = summarise(
        values,
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=settings.steps,
        seconds=seconds,
        reference=REFERENCE[name],
    )
    write_result(out, result)
    figure(out / "predictions", partial(_predictions, method, theta), 1, 4)
    return result


def _meta_trained(
    name: str, method: Method, settings: Settings, seed: int, out: Path, resume: bool, scores: Any
) -> tuple[Any, float]:
    """theta, and the seconds that meta-training took."""
    theta = first_theta(seed, settings.first_lambda, method.fast)
    # The outer rate's schedule depends on the number of steps: no other number resumes it.
    config = {"experiment": NAME, "method": name, "schedule": settings.steps} | asdict(settings)
    if method.estimator is None:
        open_folder(out, config | {"seed": seed}, resume)
        return theta, 0.0
    valid_tasks = held_out(VALID_SEED, VALID_TASKS)
    trained = meta_train(
        method.problem,
        method.solve,
        method.estimator,
        partial(sine, shots=settings.shots, queries=settings.queries),
        theta,
        outer_optimizer(settings.outer_rate, settings.steps, settings.last_rate),
        steps=settings.steps,
        tasks=settings.tasks,
        seed=seed,
        out=out,
        resume=resume,
        config=config,
        every=10 * max(1, settings.steps // 200 or settings.steps // 50),
        valid=lambda theta: {"loss": float(np.mean(scores(theta, valid_tasks)))},
    )
    return trained.theta, trained.seconds


def _predictions(method: Method, theta: Any, axes: Any) -> None:
    """For a few test tasks: truth, points, and predictions before and after learning."""
    tasks = jax.tree.map(lambda leaf: leaf[: axes.size], held_out(TEST_SEED, TEST_TASKS))
    x: Any = np.linspace(-5, 5, 200)[:, None]

    @jax.jit
    @jax.vmap
    def curves(task: mc.Task) -> tuple[jax.Array, jax.Array]:
        start = method.problem.init(theta, task)
        learned = mc.learn(method.problem, method.solve, theta, task, jax.random.key(0)).phi
        curve = lambda phi: jax.vmap(partial(NET.apply, method.whole(phi, theta)))(x)
        return curve(start), curve(learned)

    (points, truth), (before, after) = tasks, curves(tasks)
    for i, ax in enumerate(axes.flat):
        order = np.argsort(truth.x[i, :, 0])
        ax.plot(truth.x[i, order], truth.y[i, order], color="0.7", lw=4, label="truth")
        ax.plot(x, before[i], "C0:", label="before learning")
        ax.plot(x, after[i], "C3-", label="after learning")
        ax.plot(points.x[i], points.y[i], "ko", ms=4, label="the 10 points")
        ax.set_xlabel("x")
    axes.flat[0].set_ylabel("y")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def demo(out: Path) -> None:
    """The talk's table from a few seeds, in minutes; `run` each method over more for the rest."""
    for name, seed in (("scratch", 0), ("maml", 0), ("cml-gn", 0), ("cml-gn", 1)):
        run(name, seed, out=out / name / f"seed{seed}", resume=True)
    print_table(sys.modules[__name__], out)
    print(f"Figure: {out / 'cml-gn' / 'seed0' / 'predictions.png'}")
