"""The figures of the bandit: regret as play goes on, and the policy over the disc."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..tasks._wheel import ARMS, mean_rewards, uniform_regret
from ._bandit_online import Agent, played


def draw_regrets(root: Path, deltas: Sequence[float], methods: Iterable[str], axes: Any) -> None:
    """Mean cumulative regret of every finished method below `root`, in percent of uniform play."""
    for i, method in enumerate(methods):
        found = [np.load(path) for path in sorted((root / method).glob("seed*/regrets.npz"))]
        longest = max((run["trial"][-1] for run in found), default=0)
        found = [run for run in found if run["trial"][-1] == longest]  # quick runs stay out
        if not found:
            continue
        for ax, delta, rows in zip(
            axes.flat, deltas, np.concatenate([run["total"] for run in found], axis=1), strict=True
        ):
            percent = 100 * rows / (uniform_regret(delta) * found[0]["trial"])
            ax.plot(found[0]["trial"], percent.mean(0), f"C{i}", label=method)
            ax.fill_between(
                found[0]["trial"], percent.min(0), percent.max(0), color=f"C{i}", alpha=0.15, lw=0
            )
    for ax, delta in zip(axes.flat, deltas, strict=True):
        ax.set(
            xscale="log", yscale="log", xlabel="trial", ylim=(1, 300), title=f"$\\delta$ = {delta}"
        )
    axes.flat[0].set_ylabel("regret so far, % of uniform's")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def draw_policies(
    agent: Agent, deltas: Sequence[float], key: jax.Array, trials: int, axes: Any
) -> None:
    """The arm chosen at each point: at best (upper row), and by the agent after a game (lower)."""
    side = jnp.linspace(-1, 1, 241)
    x = jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)
    outside = np.asarray(jnp.linalg.norm(x, axis=1) > 1)
    learned = jax.jit(lambda delta: played(agent, delta, key, trials)[0])
    for delta, column in zip(deltas, axes.T, strict=True):
        state = learned(delta)
        best = jnp.argmax(mean_rewards(x, delta), axis=1)
        for ax, arm in zip(column, (best, agent.act(state, x, key)), strict=True):
            shown = np.where(outside, np.nan, arm).reshape(len(side), -1)
            ax.imshow(
                shown, origin="lower", extent=(-1, 1, -1, 1), cmap="Set2", vmin=-0.5,
                vmax=ARMS + 2.5, interpolation="nearest",
            )  # fmt: skip
            ax.set(xticks=[], yticks=[])
            ax.add_patch(_circle(delta))
        column[0].set_title(f"$\\delta$ = {delta}")
    axes[0, 0].set_ylabel("best arm")
    axes[1, 0].set_ylabel("arm chosen")


def _circle(radius: float) -> Any:
    from matplotlib.patches import Circle

    return Circle((0, 0), radius, fill=False, lw=0.6)
