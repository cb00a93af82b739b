"""The figure of the spiking experiment: two sines, the spikes at a point, the learning curve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..nets import Spiking
from ..tasks import population


def draw_panels(
    net: Spiking, learned: Callable[[int], tuple[Any, Any, Any]], trained: Any, axes: Any
) -> None:
    """Test tasks 0 and 1, the spikes at x = 0 after learning task 0, the validation losses."""
    tasks = [learned(i) for i in (0, 1)]
    for task, ax in zip(tasks, axes.flat[:2], strict=True):
        _curves(net, *task, ax)
    _raster(net, tasks[0][1], axes.flat[2])
    ax = axes.flat[3]
    ax.plot(
        [line["step"] for line in trained.metrics],
        [line["valid_loss"] for line in trained.metrics],
        "C3-",
    )
    ax.set(xlabel="meta-steps", ylabel="validation MSE", ylim=(0, None))
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def _curves(net: Spiking, before: Any, after: Any, task: Any, ax: Any) -> None:
    order = jnp.argsort(task.test.x[:, 0])
    ax.plot(task.test.x[order, 0], task.test.y[order, 0], color="0.7", lw=4, label="truth")
    x = jnp.linspace(-5, 5, 100)[:, None]
    spikes = population(jax.random.key(0), x, -5.0, 5.0)
    for phi, style, label in (
        (before, "C0:", "before learning"),
        (after, "C3-", "after learning"),
    ):
        y = jnp.mean(net.apply(phi, spikes).readout, -2)
        ax.plot(x, y, style, label=label)
    ax.plot(task.train.x, task.train.y, "ko", ms=4, label="the 10 points")
    ax.set(xlabel="x", ylabel="y")


def _raster(net: Spiking, phi: Any, ax: Any) -> None:
    z = net.run(phi, population(jax.random.key(0), jnp.zeros((1, 1)), -5.0, 5.0))[1][0]
    t, neuron = jnp.nonzero(z)
    ax.plot(t + 1, neuron, "k|", ms=2.5)
    ax.set(xlabel="t (ms)", ylabel="neuron", title="spikes at x = 0", xlim=(0, len(z) + 1))
