"""Wrong labels found through the training of a network with batch norm, dropout and max-pooling.

    python -m benchmarks.noisy_labels [--seeds N] [--result FILE]

600 digits of scikit-learn, of which 30% are labelled wrongly; one weight an image is learned on 400
others, through 100 steps of SGD with momentum on mini-batches, by `Trajectory` and by the best
contrast of phases for such learners. Then a network learns with these weights, from another start
and other batches, and is tested on the 797 that are left. Mean and range over seeds. Five minutes.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

import metacontrast as mc
from benchmarks._kept import keep
from benchmarks.noisy import scores

LEARNED, JUDGED, WRONG = 600, 400, 0.3
BATCH, STEPS, RATE, DROPPED = 100, 100, 0.05, 0.3
META_STEPS, OUTER_RATE = 40, 0.3  # of Adam on the logits of the weights
# The contrast is the best of benchmarks.noisy.
RULES = {
    "Trajectory": mc.Trajectory(),
    "linear, damped": mc.Contrastive(0.03, "symmetric", nudge="linear", damping=0.1),
}
CERTAIN = 30.0  # the logit of a weight of 1


class Net(eqx.Module):
    """A convolution, and one hidden layer."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    pool: eqx.nn.MaxPool2d
    hidden: eqx.nn.Linear
    drop: eqx.nn.Dropout
    last: eqx.nn.Linear

    def __init__(self, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.conv = eqx.nn.Conv2d(1, 8, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.BatchNorm(8, "batch", mode="batch")
        self.pool = eqx.nn.MaxPool2d(2, 2)
        self.hidden = eqx.nn.Linear(128, 32, key=keys[1])
        self.drop = eqx.nn.Dropout(DROPPED)
        self.last = eqx.nn.Linear(32, 10, key=keys[2])

    def __call__(self, x: jax.Array, state: Any, key: jax.Array) -> tuple[jax.Array, Any]:
        """The logits of one image of a batch."""
        h, state = self.norm(self.conv(x[None]), state)
        h = jax.nn.relu(self.hidden(self.pool(jax.nn.relu(h)).ravel()))
        return self.last(self.drop(h, key=key)), state


class Digits(NamedTuple):
    """Images and labels to learn from, to judge by and to test on; and which labels are wrong."""

    train: mc.Data
    valid: mc.Data
    test: mc.Data
    is_wrong: np.ndarray


def draw(seed: int) -> Digits:
    """The images of one seed; a wrong label is one of the nine others."""
    x, y = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    order = random.permutation(len(x))
    x, y = (x[order] / 16.0 - 0.3).reshape(-1, 8, 8).astype(np.float32), y[order]
    is_wrong = random.random(LEARNED) < WRONG
    y[:LEARNED] = (y[:LEARNED] + is_wrong * random.integers(1, 10, LEARNED)) % 10
    ends = [LEARNED, LEARNED + JUDGED]
    train, valid, test = map(mc.Data, np.split(x, ends), np.split(y, ends))
    return Digits(train, valid, test, is_wrong)


def problem(digits: Digits) -> tuple[mc.Problem, Any]:
    """theta are the logits of the images' weights; z is the key of where learning starts."""
    _, fixed, first = start(jax.random.key(0))

    def losses(phi: Any, data: mc.Data, state: Any, key: jax.Array, used: bool) -> tuple[Any, Any]:
        output, state = scores(eqx.combine(phi, fixed), data.x, state, key, used)
        return optax.softmax_cross_entropy_with_integer_labels(output, data.y), state

    def inner(phi: Any, theta: jax.Array, z: Any, state: Any) -> tuple[jax.Array, Any]:
        i, key = z
        data = jax.tree.map(lambda a: jnp.asarray(a)[i], digits.train)
        found, state = losses(phi, data, state, key, used=False)
        return jnp.mean(jax.nn.sigmoid(theta)[i] * found), state

    def outer(phi: Any, theta: jax.Array, z: Any, state: Any) -> jax.Array:
        return jnp.mean(losses(phi, digits.valid, state, z[1], used=True)[0])

    def sample(z: Any, key: jax.Array) -> Any:
        at, drop = jax.random.split(key)
        return jax.random.choice(at, LEARNED, (BATCH,), replace=False), drop

    learned = mc.Problem(
        init=lambda theta, z: start(z[1])[0],
        inner=inner,
        outer=outer,
        sample=sample,
        state=lambda theta, z: first,
    )
    return learned, jnp.arange(LEARNED)


def start(key: jax.Array) -> tuple[Any, Any, Any]:
    """Weights, what is fixed of the network, and the first statistics."""
    net, state = eqx.nn.make_with_state(Net)(key)
    return *eqx.partition(net, eqx.is_inexact_array), state


def learn_weights(digits: Digits, rule: mc.Estimator, seed: int) -> jax.Array:
    """The logits of the weights, from zero; every meta-step learns from another start."""
    learned, rows = problem(digits)
    solver = mc.descend(optax.sgd(RATE, 0.9), STEPS)
    gradient = mc.meta_gradient(learned, solver, rule, by_z=False)
    descent = optax.adam(optax.cosine_decay_schedule(OUTER_RATE, META_STEPS))

    @jax.jit
    def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
        theta, moments = state
        begin, views = jax.random.split(key)
        meta = gradient(theta, (rows, begin), views)
        updates, moments = descent.update(meta.by_theta, moments)
        return (optax.apply_updates(theta, updates), moments), meta.aux["flags"]

    theta = jnp.zeros(LEARNED)
    state = theta, descent.init(theta)
    for key in jax.random.split(jax.random.key(seed), META_STEPS):
        state, _ = step(state, key)
    return state[0]


def accuracy(digits: Digits, theta: jax.Array, seed: int) -> float:
    """Of a network that learns with these weights, four times as long, on the test images."""
    learned, rows = problem(digits)
    begin, views = jax.random.split(jax.random.key(seed + 2**20))
    solver = mc.descend(optax.sgd(RATE, 0.9), 4 * STEPS)
    end = jax.jit(partial(mc.solve_inner, learned, solver))(theta, (rows, begin), views)
    _, fixed, _ = start(begin)
    output, _ = scores(eqx.combine(end.phi, fixed), digits.test.x, end.model, begin, used=True)
    return float(jnp.mean(jnp.argmax(output, 1) == digits.test.y))


def found(seed: int) -> dict[str, dict[str, float]]:
    """Of every way of weighing: accuracy, and how well the wrong labels are told."""
    digits = draw(seed)
    right = CERTAIN * (1 - 2 * jnp.asarray(digits.is_wrong))
    given = {"all alike": jnp.zeros(LEARNED), "right ones alone": right}
    rows = {name: {"accuracy": accuracy(digits, theta, seed)} for name, theta in given.items()}
    for name, rule in RULES.items():
        theta = learn_weights(digits, rule, seed)
        auc = float(roc_auc_score(digits.is_wrong, -np.asarray(theta)))
        rows[name] = {"accuracy": accuracy(digits, theta, seed), "auc": auc}
    return rows


def table(rows: list[dict[str, dict[str, float]]]) -> str:
    """A line a way of weighing: means and ranges."""
    lines = [f"{'':20}{'test accuracy':>24}{'wrong labels told (AUC)':>28}"]
    for name in rows[0]:
        cells = []
        for key in ("accuracy", "auc"):
            each = [row[name][key] for row in rows if key in row[name]]
            cells.append(f"{np.mean(each):.3f} ({min(each):.3f}-{max(each):.3f})" if each else "")
        lines.append(f"{name:20}{cells[0]:>24}{cells[1]:>28}".rstrip())
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--result", type=Path, help="write all figures there")
    options = parser.parse_args()
    seeds = list(range(options.first, options.first + options.seeds))
    rows = [found(seed) for seed in seeds]
    print(table(rows))
    keep(options.result, "python -m benchmarks.noisy_labels", seeds=seeds, rows=rows)


if __name__ == "__main__":
    main()
