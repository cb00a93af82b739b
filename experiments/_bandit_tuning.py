"""The grid on which the baseline of `bandit.py` was tuned.

    python experiments/_bandit_tuning.py --out results/bandit-tuning.json

Each setting plays the same games: of other keys than any that is reported, on fewer deltas and with
fewer trials.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import _quiet
import bandit
import frame
import jax
import jax.numpy as jnp
import numpy as np
from _bandit_play import play_all

BS, PULLS, RATES = (30.0, 3.0, 0.3, 0.03), (23.0, 1.0), (0.01, 0.003, 0.001)
GAMES, DELTAS, TRIALS = 2, (0.7, 0.95), 2000


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


def write(out: Path, rows: list[dict[str, Any]]) -> None:
    """All that was tried, the best first."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in sorted(rows, key=lambda row: row["value"]))
    played = json.dumps(dict(games=GAMES, deltas=DELTAS, trials=TRIALS))
    out.write_text(f'{{\n "played": {played},\n "rows": [\n{lines}\n ]\n}}\n', encoding="utf-8")


def main() -> None:
    """Try all that the file does not have yet."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--out", type=Path, required=True)
    out = ask.parse_args().out
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.is_file() else []
    for b, pull, rate in product(BS, PULLS, RATES):
        if any((b, pull, rate) == (x["noise"][1], x["pull"], x["rate"]) for x in rows):
            continue
        rows.append(row(b, pull, rate))
        print(json.dumps(rows[-1]), flush=True)
        write(out, rows)


if __name__ == "__main__":
    _quiet.over()
    jax.config.update("jax_default_matmul_precision", "highest")
    main()
