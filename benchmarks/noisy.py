"""A learner with batch norm, dropout and momentum: which contrast comes nearest to its gradient.

    python -m benchmarks.noisy [--seeds N] [--result FILE]

Data weights of a network of equinox (Linear, BatchNorm, ReLU, Dropout, Linear), 200 examples of
which 30% are labelled wrongly, 150 steps of SGD with momentum: cosine with exact differentiation
of the same run, mean and range over seeds. Some minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc
from benchmarks._kept import keep
from metacontrast._directional import cosine

FEATURES, HIDDEN, EXAMPLES, STEPS, DROPPED = 8, 32, 200, 150, 0.3
RULES = {
    "forward, 0.1": mc.Contrastive(0.1),
    "control, 0.1": mc.Contrastive(0.1, control=True),
    "control, 0.5": mc.Contrastive(0.5, control=True),
    "linear, 0.02": mc.Contrastive(0.02, "symmetric", nudge="linear"),
    "linear damped 0.1, 0.03": mc.Contrastive(0.03, "symmetric", nudge="linear", damping=0.1),
}
# Of the steps that were taken, so that views that were not are not asked for.
TRAJECTORIES = {
    "Trajectory, secant": mc.Trajectory(),
    "Trajectory, secant, h = 0.1": mc.Trajectory(h=0.1),
    "Trajectory, exact": mc.Trajectory("exact"),
}
VIEWS = (None, 32)


class Net(eqx.Module):
    """One hidden layer."""

    first: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    drop: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        first, last = jax.random.split(key)
        self.first = eqx.nn.Linear(FEATURES, HIDDEN, key=first)
        self.norm = eqx.nn.BatchNorm(HIDDEN, "batch", mode="batch")
        self.drop = eqx.nn.Dropout(DROPPED)
        self.last = eqx.nn.Linear(HIDDEN, 1, key=last)

    def __call__(self, x: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        """The score of one example of a batch."""
        h, state = self.norm(self.first(x), state)
        return self.last(self.drop(jax.nn.relu(h), key=key))[0], state


def scores(net: Any, x: jax.Array, state: Any, key: jax.Array, used: bool) -> tuple[Any, Any]:
    """What a network of one example of a batch gives for all of them, and its state after them."""
    net = eqx.nn.inference_mode(net, used)
    apply = jax.vmap(net, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    output: tuple[Any, Any] = apply(x, state, jax.random.split(key, len(x)))
    return output


def problem(seed: int, views: int | None) -> tuple[mc.Problem, Any]:
    """Weights of the examples are learned; a task is their numbers and a key."""
    keys = jax.random.split(jax.random.key(seed), 5)
    x = jax.random.normal(keys[0], (2 * EXAMPLES, FEATURES))
    noise = 0.5 * jax.random.normal(keys[1], (2 * EXAMPLES,))
    y = jnp.sign(x @ jax.random.normal(keys[2], (FEATURES,)) + noise)
    y = y.at[:EXAMPLES].multiply(jnp.where(jax.random.bernoulli(keys[3], 0.3, (EXAMPLES,)), -1, 1))
    net, first_state = eqx.nn.make_with_state(Net)(keys[4])
    (phi, fixed), (state, rest) = (
        eqx.partition(tree, eqx.is_inexact_array) for tree in (net, first_state)
    )

    def score(phi: Any, x: jax.Array, state: Any, key: jax.Array, used: bool) -> tuple[Any, Any]:
        output, state = scores(eqx.combine(phi, fixed), x, eqx.combine(state, rest), key, used)
        return output, eqx.filter(state, eqx.is_inexact_array)

    def inner(phi: Any, theta: jax.Array, z: Any, state: Any) -> tuple[jax.Array, Any]:
        output, state = score(phi, x[:EXAMPLES], state, z, used=False)
        losses = jnp.logaddexp(0.0, -y[:EXAMPLES] * output)
        return jnp.mean(jax.nn.sigmoid(theta) * losses), state

    def outer(phi: Any, theta: jax.Array, z: Any, state: Any) -> jax.Array:
        output, _ = score(phi, x[EXAMPLES:], state, z, used=True)
        return jnp.mean(jnp.logaddexp(0.0, -y[EXAMPLES:] * output))

    learned = mc.Problem(
        init=lambda theta, z: phi,
        inner=inner,
        outer=outer,
        sample=lambda z, key: key,
        views=views,
        state=lambda theta, z: state,
    )
    return learned, jax.random.key(9)


def cosines(seed: int) -> dict[str, float]:
    """Of every rule, with and without views."""
    solver, theta = mc.descend(optax.sgd(0.1, 0.9), STEPS), jnp.zeros(EXAMPLES)
    key = jax.random.key(seed + 3)

    def gradient(rule: mc.Estimator, views: int | None) -> np.ndarray:
        learned, task = problem(seed, views)
        run: Callable[..., Any] = jax.jit(mc.meta_gradient(learned, solver, rule, by_z=False))
        return np.asarray(run(theta, task, key).by_theta, np.float64)

    exact = gradient(mc.Unrolled(), None)
    found = {}
    for views in VIEWS:
        for name, rule in (RULES | TRAJECTORIES if views is None else RULES).items():
            g = gradient(rule, views)
            found[name if views is None else f"{name}, {views} views"] = cosine(g, exact)
    return found


def table(rows: dict[str, list[float]]) -> str:
    """A line a rule: mean and range."""
    return "\n".join(
        f"{name:36}{np.mean(values):6.3f}  ({min(values):.3f} to {max(values):.3f})"
        for name, values in rows.items()
    )


def main() -> None:
    """Print a line a rule."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--result", type=Path, help="write all cosines there")
    options = parser.parse_args()
    each = [cosines(seed) for seed in range(options.seeds)]
    rows = {name: [one[name] for one in each] for name in each[0]}
    print(table(rows))
    seeds = list(range(options.seeds))
    keep(options.result, "python -m benchmarks.noisy", seeds=seeds, cosines=rows)


if __name__ == "__main__":
    main()
