"""The wheel bandit: meta-train offline on random pulls, then play.

    metacontrast run bandit --method cml-mod --seed 0
    metacontrast table bandit

Cumulative regret in percent of that of uniformly random arms. Tasks and seeds on which settings
were chosen are not those of results. Departures from the published settings are named where they
are made; of the protocol: 1,000 trials by each player rather than 80,000, 5 games a delta rather
than 50, and one number of trials between two updates.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
import typer

from ..report import figure
from ..tasks import wheel
from ..tasks._wheel import ARMS, uniform_regret
from ..train import (
    evaluator,
    half_width,
    is_first,
    meta_train,
    open_folder,
    summarise,
    write_result,
)
from ._bandit_figures import draw_policies, draw_regrets
from ._bandit_learners import GAMES, TRIALS, Learner, Settings, greedy, initialised, pulled_back
from ._bandit_neural_linear import neural_linear
from ._bandit_online import FIRST, Agent, plays
from ._common import (
    TEST_SEED,
    VALID_SEED,
    Out,
    Quick,
    Resume,
    Seed,
    Steps,
    first_key,
    folder,
    outer_optimizer,
    shortened,
)

NAME = "bandit"
METRIC = "cumulative regret, percent of the uniform player's, mean of all deltas"
DELTAS = (0.5, 0.7, 0.9, 0.95, 0.99)
VALID_TASKS = 50
_PLAYS_ONLY = Settings(steps=0, tasks=0, pulls=0, queries=0, fewest=None, outer_rate=0.0)

_PULLED_BACK = Settings(
    steps=200, tasks=8, pulls=64, queries=32, fewest=10, outer_rate=5e-3, first_lambda=50.0,
    batch=128,
)  # fmt: skip

METHODS = {
    "cml-mod": _PULLED_BACK,
    "cml-syn": _PULLED_BACK,
    "maml": Settings(
        steps=600, tasks=16, pulls=64, queries=32, fewest=10, outer_rate=1e-3, rate=0.03,
        batch=512, updates=100,
    ),
    "neural-linear": _PLAYS_ONLY,
    "uniform": _PLAYS_ONLY,
}  # fmt: skip
REFERENCE = dict.fromkeys(METHODS, "")


def learner(name: str, chosen: Settings) -> Learner:
    """What a method meta-trains."""
    if name == "maml":
        return initialised(chosen)
    return pulled_back(chosen, modulated=name == "cml-mod")


def uniform(every: int) -> Agent:
    """The player that takes any arm, whatever it has seen."""
    return Agent(
        start=lambda key: jnp.zeros(()),
        act=lambda state, x, key: jax.random.randint(key, (len(x),), 0, ARMS),
        learn=lambda state, buffer, key: state,
        every=every,
    )


def games(seed: int, n: int) -> jax.Array:
    """The keys of `n` games, the same for every player and every delta."""
    return jax.random.split(jax.random.key(seed), n)


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}.")] = "cml-mod",
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
    quick: Quick = False,
    trials: Annotated[int, typer.Option(help="Of each game; published: 80000.")] = TRIALS,
    online_seeds: Annotated[int, typer.Option(help="Games a delta; published: 50.")] = GAMES,
) -> None:
    """Meta-learn the wheel bandit offline, and play it."""
    result = run(method, seed, steps, out, resume, quick, trials, online_seeds)
    print(f"{method}, seed {seed}: {result['value']:.2f} +- {result['ci95']:.2f} ({METRIC})")
    for delta, (value, half) in result["by_delta"].items():
        print(f"  delta {delta}: {value:.2f} +- {half:.2f}")


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    trials: int = TRIALS,
    online_seeds: int = GAMES,
) -> dict[str, Any]:
    """One method, one seed: meta-train, play, write result.json, regrets and figures into `out`."""
    out = folder(NAME, METHODS, name, seed, out)
    chosen = replace(_chosen(name, steps, quick), trials=trials, online_seeds=online_seeds)
    if trials < 1 or trials % chosen.block:
        raise ValueError(
            f"trials: must be a multiple of {chosen.block}, the trials between two updates, not "
            f"{trials}."
        )
    player, seconds = _player(name, chosen, seed, out, resume)
    each = regret(player, TEST_SEED, chosen.online_seeds, chosen.trials)
    _save(out, each)
    percent = relative(each)
    result = summarise(
        percent.mean(axis=0),  # a game's deltas share their contexts: its mean is one value
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=chosen.steps,
        seconds=seconds,
        reference=REFERENCE[name],
        trials=chosen.trials,
        by_delta={
            str(delta): (float(row.mean()), half_width(row))
            for delta, row in zip(DELTAS, percent, strict=True)
        },
    )
    write_result(out, result)
    figure(out / "regret", partial(draw_regrets, out.parent.parent, DELTAS, METHODS), 1, 5)
    key = games(TEST_SEED, 1)[0]
    figure(out / "policy", partial(draw_policies, player, DELTAS, key, chosen.trials), 2, 5, (2, 2))
    return result


def regret(player: Agent, seed: int, n: int, trials: int) -> np.ndarray:
    """The expected regret of each trial of `n` games of each delta (deltas, n, trials)."""
    keys = games(seed, n)
    return np.asarray(plays(player, jnp.array(DELTAS), keys, trials), np.float64)


def relative(each: np.ndarray) -> np.ndarray:
    """Cumulative regret in percent of the uniform player's expected one (deltas, games)."""
    chance = np.array([uniform_regret(delta) for delta in DELTAS]) * each.shape[2]
    return 100 * each.sum(axis=2) / chance[:, None]


def _save(out: Path, each: np.ndarray) -> None:
    """Regret up to some 200 trials, spread evenly over the logarithm of their number."""
    total = np.cumsum(each, axis=2)
    trial = np.unique(np.geomspace(FIRST, each.shape[2], 200).astype(int))
    if is_first():
        np.savez(out / "regrets.npz", trial=trial, total=total[:, :, trial - 1])


def _chosen(name: str, steps: int | None, quick: bool) -> Settings:
    chosen = METHODS[name]
    if steps is not None and not chosen.steps:
        raise ValueError(f"steps: {name} takes no meta-steps; leave it out.")
    return shortened(chosen, steps, quick)


def _player(name: str, chosen: Settings, seed: int, out: Path, resume: bool) -> tuple[Agent, float]:
    """The player, and the seconds that meta-training took."""
    # The outer rate's schedule depends on the number of steps: no other number resumes it.
    config = {"experiment": NAME, "method": name, "schedule": chosen.steps} | asdict(chosen)
    if not chosen.steps:
        open_folder(out, config | {"seed": seed}, resume)
        return (uniform if name == "uniform" else neural_linear)(chosen.block), 0.0
    made = learner(name, chosen)
    scores = evaluator(made.problem, made.solve)
    draw = partial(wheel, pulls=chosen.pulls, queries=chosen.queries, fewest=chosen.fewest)
    tasks = jax.vmap(draw)(jax.random.split(jax.random.key(VALID_SEED), VALID_TASKS))
    trained = meta_train(
        made.problem,
        made.solve,
        made.estimator,
        draw,
        made.first(first_key(seed)),
        outer_optimizer(chosen.outer_rate, chosen.steps, chosen.last_rate),
        steps=chosen.steps,
        tasks=chosen.tasks,
        seed=seed,
        out=out,
        resume=resume,
        config=config,
        every=max(10, chosen.steps // 100 * 10),
        valid=lambda theta: {"loss": float(np.mean(scores(theta, tasks)))},
    )
    return greedy(made, trained.theta, chosen), trained.seconds
