"""The picture of the README: learn, learn once more, nudged, and the difference is the gradient.

    python examples/two_phases.py [FILE]

A network learns a sine from 4 points, freely and nudged towards 40 others; the difference of the
slow weights' gradients, over beta, is drawn against backpropagation through all of learning.
"""

from __future__ import annotations

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.axes import Axes

import metacontrast as mc
from metacontrast.nets import mlp

jax.config.update("jax_enable_x64", True)
OUT = Path(__file__).parents[1] / "docs" / "figures" / "two-phases.png"
FREE, NUDGED, TEST = "#1f5fa8", "#c2410c", "#767676"
SHOWN, BETA = 0.3, 0.01  # the nudge that is drawn, so that it is seen, and that of the gradient

net = mlp(1, 20, 2, 1)
sse = lambda phi, data: jnp.sum((jax.vmap(net.apply, (None, 0))(phi, data.x) - data.y) ** 2)
problem = mc.Problem(
    init=lambda theta, task: theta.omega,
    inner=lambda phi, theta, task: sse(phi, task.train) + theta.pull(phi),
    outer=lambda phi, theta, task: sse(phi, task.test) / 4,
)
solver = mc.descend(optax.sgd(4e-3, momentum=0.95, nesterov=True), steps=3000)


def main() -> None:
    """Runs the phases and draws them."""
    x = jnp.linspace(-5, 5, 40)[:, None]
    seen = x[jnp.array([9, 14, 22, 30])]
    task = mc.Task(mc.Data(seen, jnp.sin(seen)), mc.Data(x, jnp.sin(x)))
    theta = mc.Synapse(net.init(jax.random.key(1)), jnp.log(0.3))
    draw(task, theta)
    plt.savefig(Path(sys.argv[1]) if sys.argv[1:] else OUT, dpi=160)


def draw(task: mc.Task, theta: mc.Synapse) -> None:
    """The two phases, and their difference."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    _, (phases, difference) = plt.subplots(
        1, 2, figsize=(9, 3.6), width_ratios=(1.5, 1), layout="constrained"
    )
    draw_phases(phases, task, theta)
    draw_difference(difference, task, theta)


def learn(task: mc.Task, theta: mc.Synapse, beta: float) -> np.ndarray:
    """The curve that was learned with this nudge."""
    nudged = mc.Problem(
        problem.init,
        lambda *at: problem.inner(*at) + beta * problem.outer(*at),
        problem.outer,
    )
    phi = mc.solve_inner(nudged, solver, theta, task).phi
    return np.asarray(jax.vmap(net.apply, (None, 0))(phi, task.test.x))


def draw_phases(axes: Axes, task: mc.Task, theta: mc.Synapse) -> None:
    """Curves over x."""
    x = task.test.x[:, 0]
    axes.plot(x, task.test.y, ":", color=TEST, label="the sine, which the test loss sees")
    axes.plot(*(np.ravel(a) for a in task.train), "o", color="black", label="what it learns from")
    axes.plot(x, learn(task, theta, 0.0), color=FREE, lw=2, label="learned freely")
    axes.plot(x, learn(task, theta, SHOWN), "--", color=NUDGED, lw=2, label="learned nudged")
    axes.set(title="Learn. Learn once more, nudged.", xlabel="x", ylabel="y", ylim=(-1.6, 2.4))
    axes.legend(frameon=False, fontsize=9, loc="upper center", ncols=2)


def draw_difference(axes: Axes, task: mc.Task, theta: mc.Synapse) -> None:
    """The contrast against backpropagation through learning, a point a weight."""
    rules = (mc.Unrolled(), mc.Contrastive(BETA, "symmetric"))
    gradient = lambda rule: jax.jit(jax.grad(mc.meta_loss(problem, solver, rule)))(theta, task)
    exact, rule = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradient(rule).omega)])
        for rule in rules
    )
    cosine = exact @ rule / np.linalg.norm(exact) / np.linalg.norm(rule)
    print(f"cosine {cosine:.6f}")
    ends = np.array([exact.min(), exact.max()])
    axes.plot(ends, ends, color=TEST, lw=1)
    axes.plot(exact, rule, "o", color=FREE, ms=3.5, alpha=0.6)
    axes.set(
        title="The difference is the gradient.",
        xlabel="backpropagation through training",
        ylabel="nudged minus free, over beta",
    )
    axes.text(0.04, 0.9, f"a point a weight; cosine {cosine:.4f}", transform=axes.transAxes)


if __name__ == "__main__":
    main()
