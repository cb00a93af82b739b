"""The figure of learned sines, of the demonstration and of the experiment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ._problem import Task


def draw_predictions(curves: Callable[..., list[jax.Array]], tests: Task, axes: Any) -> None:
    """For a few test tasks: truth, points, and predictions before and after learning.

    Args:
        curves: `(x, task)`: the two predictions.
        tests: stacked tasks.
        axes: one for each of the first of them.
    """
    x = jnp.linspace(-5, 5, 200)[:, None]
    tasks = jax.tree.map(lambda leaf: leaf[: axes.size], tests)
    (points, truth), (before, after) = tasks, jax.jit(jax.vmap(partial(curves, x)))(tasks)
    for i, ax in enumerate(axes.flat):
        order = np.argsort(truth.x[i, :, 0])
        ax.plot(truth.x[i, order], truth.y[i, order], color="0.7", lw=4, label="truth")
        ax.plot(x, before[i], "C0:", label="before learning")
        ax.plot(x, after[i], "C3-", label="after learning")
        ax.plot(points.x[i], points.y[i], "ko", ms=4, label="the 10 points")
    for ax in axes[-1]:
        ax.set_xlabel("x")
    for ax in axes[:, 0]:
        ax.set_ylabel("y")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
