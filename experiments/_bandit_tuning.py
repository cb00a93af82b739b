"""The grids on which the players of `bandit.py` were tuned.

    python experiments/_bandit_tuning.py --out results/bandit-tuning.json
    python experiments/_bandit_tuning.py --players RUNS --out results/bandit-players.json

Each setting plays the same games: of other keys than any that is reported, on fewer deltas and with
fewer trials.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import _quiet
import _tried
import bandit
import frame
import jax
import jax.numpy as jnp
import numpy as np
from _bandit_play import play_all

BS, PULLS, RATES = (30.0, 3.0, 0.3, 0.03), (23.0, 1.0), (0.01, 0.003, 0.001)
GAMES, DELTAS, TRIALS = 2, (0.7, 0.95), 2000


# Of the meta-learned: meta-steps, then pulls of an update, its inner steps, and the damping.
PLAYERS = {
    "cml-mod": [
        (200, 128, 2, 0.1), (200, 512, 2, 0.1), (200, 1024, 2, 1.0), (200, 1024, 1, 1.0),
        (200, 2048, 2, 0.1), (200, 2048, 2, 1.0), (200, 2048, 2, 4.0), (200, 2048, 5, 0.1),
        (1000, 128, 2, 0.1), (1000, 512, 2, 0.1), (1000, 2048, 2, 0.1), (1000, 2048, 2, 1.0),
    ],
    "cml-syn": [(200, 128, 2, 0.1), (200, 512, 2, 0.1), (200, 512, 2, 1.0)],
    "maml": [(600, 512, 100, 0.1), (600, 2048, 100, 0.1), (600, 512, 300, 0.1)],
}  # fmt: skip
SEED = 100  # of their meta-training

START = replace(bandit.METHODS["neural-linear-tuned"], deltas=DELTAS)


@jax.jit
def regrets(b: jax.Array, pull: jax.Array, rate: jax.Array) -> jax.Array:
    """Of each trial (deltas, games, trials), compiled once for all settings."""
    s = START
    tried = replace(s, noise=(s.noise[0], b), pull=pull, rate=rate)  # type: ignore[arg-type]
    keys = jax.random.split(frame.held_out("valid"), GAMES)
    return play_all(bandit.baseline(tried), jnp.array(DELTAS), keys, TRIALS)


def row(b: float, pull: float, rate: float) -> dict[str, Any]:
    """A setting, and its mean relative regret on each delta."""
    by_delta = bandit.relative(START, np.asarray(regrets(b, pull, rate), np.float64)).mean(axis=1)
    own: dict[str, Any] = dict(noise=[START.noise[0], b], pull=pull, rate=rate, unit=START.unit)
    rounded = [round(float(x), 2) for x in (*by_delta, by_delta.mean())]
    return own | dict(by_delta=rounded[:-1], value=rounded[-1])


def played(method: str, setting: tuple[int, int, int, float], runs: Path) -> dict[str, Any]:
    """A meta-learned player with this setting, and its mean relative regret on each delta."""
    steps, batch, updates, damping = setting
    usual = replace(bandit.METHODS[method], seed=SEED, steps=steps, deltas=DELTAS, resume=True)
    s = replace(usual, out=runs / f"{method}-{steps}")  # what they learn from is no part of it
    theta, _ = bandit.meta_learned(s)
    tried = replace(s, batch=batch, updates=updates, damping=damping)
    keys = jax.random.split(frame.held_out("valid"), GAMES)
    each = play_all(bandit.greedy(tried, theta), jnp.array(DELTAS), keys, TRIALS)
    by_delta = bandit.relative(s, np.asarray(each, np.float64)).mean(axis=1)
    rounded = [round(float(x), 2) for x in (*by_delta, by_delta.mean())]
    own = dict(method=method, steps=steps, batch=batch, updates=updates, damping=damping)
    return own | dict(by_delta=rounded[:-1], value=rounded[-1])


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """All that was tried, the best first."""
    best_first = sorted(rows, key=lambda row: row["value"])
    _tried.write(out, best_first, played=dict(games=GAMES, deltas=DELTAS, trials=TRIALS))


def main() -> None:
    """Try all that the file does not have yet."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--players", type=Path, help="folder of the meta-learned's meta-training")
    given = ask.parse_args()
    out = given.out
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    known: list[tuple[Any, ...]]
    tries: list[tuple[Callable[[], dict[str, Any]], tuple[Any, ...]]]
    if given.players is None:
        tries = [(partial(row, *x), x) for x in product(BS, PULLS, RATES)]
        known = [(x["noise"][1], x["pull"], x["rate"]) for x in rows]
    else:
        pairs = [(method, setting) for method, several in PLAYERS.items() for setting in several]
        tries = [(partial(played, pair[0], pair[1], given.players), pair) for pair in pairs]
        named = ("steps", "batch", "updates", "damping")
        known = [(x["method"], tuple(x[name] for name in named)) for x in rows]
    for play, setting in tries:
        if setting not in known:
            rows.append(play())
            print(json.dumps(rows[-1]), flush=True)
            write(out, rows)


if __name__ == "__main__":
    _quiet.over()
    jax.config.update("jax_default_matmul_precision", "highest")
    main()
