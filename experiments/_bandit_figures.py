"""The figures of the bandit: regret as play goes on, and the policy over the disc."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _bandit_play import FIRST, Agent, play

from metacontrast.report import look
from metacontrast.tasks._wheel import ARMS, mean_rewards, uniform_regret
from metacontrast.train import is_first

FILE = "regrets.npz"
SIDE = 121  # points along each side of the square that policies are asked on


def save_regrets(folder: Path, deltas: Sequence[float], each: np.ndarray) -> None:
    """Of regrets (deltas, games, trials), the sums up to some 200 trials, evenly in logarithms."""
    total = np.cumsum(each, axis=2)
    trial = np.unique(np.geomspace(FIRST, each.shape[2], 200).astype(int))
    if is_first():
        np.savez(folder / FILE, trial=trial, total=total[:, :, trial - 1], deltas=deltas)


def saved_regrets(folder: Path, deltas: Sequence[float]) -> list[Any]:
    """Those of a method's seeds: of the longest games with these deltas; quick runs stay out."""
    runs = [np.load(path) for path in sorted(folder.glob(f"seed*/{FILE}"))]
    runs = [run for run in runs if np.array_equal(run.get("deltas"), deltas)]
    longest = max((run["trial"][-1] for run in runs), default=0)
    return [run for run in runs if run["trial"][-1] == longest]


def draw_regrets(root: Path, deltas: Sequence[float], methods: Iterable[str], axes: Any) -> None:
    """Mean cumulative regret of every finished method below `root`, in percent of uniform play."""
    for method in methods:
        runs = saved_regrets(root / method, deltas)
        if not runs:
            continue
        trial, total = runs[0]["trial"], np.concatenate([run["total"] for run in runs], axis=1)
        for ax, delta, rows in zip(axes.flat, deltas, total, strict=True):
            percent = 100 * rows / (uniform_regret(delta) * trial)
            style = look(method).line(label=method, markevery=0.12)
            ax.plot(trial, percent.mean(0), **style)
            band = dict(color=style["color"], alpha=0.15, lw=0)
            ax.fill_between(trial, percent.min(0), percent.max(0), **band)
    for ax, delta in zip(axes.flat, deltas, strict=True):
        ax.set(
            xscale="log", yscale="log", xlabel="trial", ylim=(1, 300), title=f"$\\delta$ = {delta}"
        )
    axes.flat[0].set_ylabel("regret so far, % of uniform's")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    axes.flat[0].figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))


def policies(
    agent: Agent, deltas: Sequence[float], key: jax.Array, trials: int
) -> dict[str, list[str]]:
    """The arm that the agent would pull at each point of the disc, after a game of each delta.

    Of a grid over the square, row by row from below, with runs of equal arms as "ARMxCOUNT".
    """
    x = _grid()
    learned = jax.jit(lambda delta: agent.act(play(agent, delta, key, trials)[0], x, key))
    rows = lambda delta: np.asarray(learned(delta)).reshape(SIDE, SIDE)
    return {str(delta): [_packed(row) for row in rows(delta)] for delta in deltas}


def draw_policies(policies: Mapping[str, Sequence[str]], axes: Any) -> None:
    """The arm chosen at each point: at best (upper row), and by the agent after a game (lower)."""
    x = _grid()
    is_outside = np.asarray(jnp.linalg.norm(x, axis=1) > 1).reshape(SIDE, SIDE)
    for (name, rows), column in zip(policies.items(), axes.T, strict=True):
        delta = float(name)
        best = np.asarray(jnp.argmax(mean_rewards(x, delta), axis=1)).reshape(SIDE, SIDE)
        for ax, arm in zip(column, (best, np.stack(list(map(_unpacked, rows)))), strict=True):
            _disc(ax, np.where(is_outside, np.nan, arm), delta)
        column[0].set_title(f"$\\delta$ = {delta}")
    axes[0, 0].set_ylabel("best arm")
    axes[1, 0].set_ylabel("arm chosen")


def _grid() -> jax.Array:
    side = jnp.linspace(-1, 1, SIDE)
    return jnp.stack(jnp.meshgrid(side, side), axis=-1).reshape(-1, 2)


def _packed(row: np.ndarray) -> str:
    return " ".join(f"{arm}x{len(list(same))}" for arm, same in groupby(row.tolist()))


def _unpacked(row: str) -> np.ndarray:
    runs = [part.split("x") for part in row.split()]
    return np.repeat([int(arm) for arm, _ in runs], [int(count) for _, count in runs])


def _disc(ax: Any, arms: np.ndarray, delta: float) -> None:
    from matplotlib.patches import Circle

    box = dict(origin="lower", extent=(-1, 1, -1, 1), interpolation="nearest")
    ax.imshow(arms, cmap="Set2", vmin=-0.5, vmax=ARMS + 2.5, **box)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.add_patch(Circle((0, 0), delta, fill=False, lw=0.6))
