"""A trained theta outside JAX: NumPy alone loads one of `experiments/sine.py`, and learns a sine.

    python experiments/sine.py --method cml-gn --seed 0
    python examples/numpy_sine.py runs/sine/cml-gn/seed0/theta.npz

A run leaves its theta as `theta.npz`: `numpy.load` gives each array by the path of its leaf. Here
they are where every weight of a network 1-40-40-1 is pulled to, and the logarithm of how strongly.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

STEPS = 10
NAMES = [f"layers/{i}/{part}" for i in range(3) for part in ("weight", "bias")]


def load(path: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[int, ...]]]:
    """omega and lambda as vectors, and the shapes of the network's arrays."""
    with np.load(path) as theta:
        omega, log_lam = ([theta[f"{of}/{x}"] for x in NAMES] for of in ("omega", "log_lam"))
    flat = lambda arrays: np.concatenate([x.ravel() for x in arrays]).astype(float)
    return flat(omega), np.exp(flat(log_lam)), [x.shape for x in omega]


def network(
    phi: np.ndarray, shapes: list[tuple[int, ...]], x: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The outputs for a column of inputs, and their derivatives by phi, a row each."""
    sizes = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])[:-1]
    arrays = [part.reshape(s) for part, s in zip(np.split(phi, sizes), shapes, strict=True)]
    weights, biases = arrays[::2], arrays[1::2]
    values = [x]
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        values.append(np.tanh(values[-1] @ w.T + b))
    y = values[-1] @ weights[-1].T + biases[-1]
    rows, slope = [], np.ones_like(y)
    for w, value in zip(weights[::-1], values[::-1], strict=True):
        by_weight = slope[:, :, None] * value[:, None, :]
        rows = [by_weight.reshape(len(x), -1), slope, *rows]
        slope = (slope @ w) * (1 - value**2)
    return y[:, 0], np.concatenate(rows, axis=1)


def learn(path: Path, x: np.ndarray, y: np.ndarray, steps: int = STEPS) -> np.ndarray:
    """The network's weights that fit the points, near omega: Levenberg-Marquardt, as `cml-gn`."""
    omega, lam, shapes = load(path)
    phi, mu = omega, 1.0
    loss = lambda phi: np.sum((network(phi, shapes, x)[0] - y) ** 2) + lam @ (phi - omega) ** 2
    for _ in range(steps):
        predicted, jac = network(phi, shapes, x)
        off, pull, d = predicted - y, lam * (phi - omega), lam * (1 + mu)
        share = np.linalg.solve(np.eye(len(x)) + (jac / d) @ jac.T, off - jac @ (pull / d))
        new = phi - (pull + jac.T @ share) / d
        phi, mu = (new, mu / 3) if loss(new) <= loss(phi) else (phi, mu * 4)
    return phi


def main() -> None:
    """Learn one sine from 10 points, and print how well it is learned beside how well it was."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("theta", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = np.random.default_rng(options.seed)
    amplitude, phase = draw.uniform(0.1, 5), draw.uniform(0, np.pi)
    sine = lambda x: amplitude * np.sin(x[:, 0] + phase)
    x, test = draw.uniform(-5, 5, (10, 1)), np.linspace(-5, 5, 100)[:, None]
    omega, _, shapes = load(options.theta)
    for name, phi in (("before", omega), ("after", learn(options.theta, x, sine(x)))):
        error = np.mean((network(phi, shapes, test)[0] - sine(test)) ** 2)
        print(f"mean squared error {name} learning 10 points: {error:.4g}")


if __name__ == "__main__":
    main()
