"""The methods of few-shot classification, and their settings for each kind of task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import metacontrast as mc

from ._few_shot_head import fast_head
from ._few_shot_learners import Learner, Settings, fast_linear_head, fast_weights, nesterov

METHODS = ("cml-head", "cml-syn", "cml-mod", "maml", "anil", "fomaml", "reptile", "imaml-cg")

# Ours. Departures from the published settings: one task of 60 classes a meta-step, in four splits
# of its images, each distorted a little at random.
_HEAD = Settings(
    steps=48_000, tasks=1, queries=3, outer_rate=3e-3, train_way=60, beta=10.0, distort=1.0, views=8
)  # fmt: skip

# As published for the contrastive rule: beta and lambda (half of the published weight decay) of
# each kind of task. Departures: the learning rate of theta falls on a cosine, where the published
# one is fixed or halved in steps, and theta is not averaged.
_SYNAPSE = {
    (5, 1): (0.1, 0.25),
    (5, 5): (0.1, 0.05),
    (20, 1): (0.03, 0.25),
    (20, 5): (0.1, 0.125),
}

# Finn, Abbeel, Levine, 2017: (inner rate, inner steps, tasks) by way.
_MAML = {5: (0.4, 1, 32), 20: (0.1, 5, 16)}


def for_omniglot(name: str, way: int, shot: int, published: bool = False) -> Settings:
    """Settings of a method on tasks of this kind: ours, of a size for two CPU cores; or published.

    Raises:
        ValueError: an unknown method; one that was not published.
    """
    if name not in METHODS:
        raise ValueError(f"method: unknown {name!r}; choose one of {', '.join(METHODS)}.")
    if name == "cml-head":
        if published:
            raise ValueError("published: cml-head is ours alone; leave out --published.")
        # As many examples of a class as make whole splits.
        return _HEAD if shot == 1 else replace(_HEAD, steps=16_000, queries=shot, train_way=30)
    chosen = _published(name, way, shot)
    return chosen if published else _ours(name, chosen)


def _published(name: str, way: int, shot: int) -> Settings:
    tasks = 16 if way >= 20 else 32
    if name in ("cml-syn", "cml-mod"):
        beta, pull = _SYNAPSE.get((way, shot), _SYNAPSE[20, 1])
        return Settings(
            steps=3750, tasks=tasks, queries=15, outer_rate=0.01, inner_steps=200, nudged_steps=100,
            inner_rate=0.01, pull=pull, beta=beta,
        )  # fmt: skip
    rate, steps, tasks = _MAML[20 if way >= 20 else 5]
    # MAML's and first-order MAML's are published; so are, as far as we know, iMAML's lambda and its
    # steps of both loops. What else the other two are given is ours.
    chosen = Settings(
        steps=60_000, tasks=tasks, queries=15, outer_rate=1e-3, inner_steps=steps, inner_rate=rate
    )
    if name == "reptile":
        # Many small steps, or it would see the joint loss alone. Departure: theta by Adam.
        return replace(chosen, inner_steps=10, inner_rate=0.05)
    if name == "anil":
        return replace(chosen, inner_rate=2.0, inner_steps=5)
    if name == "imaml-cg":
        # lambda / 2 = 1 there is lambda = 1 here, which has no 1/2.
        return replace(chosen, inner_steps=16, inner_rate=0.05, pull=1.0)
    return chosen


def _ours(name: str, published: Settings) -> Settings:
    """Half the filters, fewer tasks, queries and steps; images distorted, in judging as well."""
    chosen = replace(
        published, filters=(32, 32, 32, 32), steps=24_000, tasks=4, queries=5, distort=1.0, views=8
    )
    if name in ("cml-syn", "cml-mod"):
        # The outer loss is looked at once: its gradients would cost more than all the learning.
        return replace(
            chosen, outer_rate=3e-3, inner_steps=30, nudged_steps=15, judged_steps=60,
            inner_rate=0.05, linear=True,
        )  # fmt: skip
    return chosen


def learner(name: str, way: int, shot: int, chosen: Settings) -> Learner:
    """The learner of a method."""
    if name == "cml-head":
        return fast_head(way, shot, chosen)
    if name == "anil":
        return fast_linear_head(way, chosen, mc.Unrolled())
    return fast_weights(way, chosen, _estimator(name, chosen), modulated=name == "cml-mod")


def _estimator(name: str, chosen: Settings) -> Any:
    if name in ("cml-syn", "cml-mod"):
        nudged = nesterov(chosen.inner_rate, chosen.nudged_steps)
        if chosen.linear:
            return mc.LinearNudge(chosen.beta, nudged=nudged)
        return mc.Contrastive(chosen.beta, "symmetric", nudged=nudged)
    if name == "imaml-cg":
        # The network's Hessian may be indefinite where so few steps end; 2 lambda holds it up, and
        # as much again is added.
        return mc.Implicit("cg", iterations=5, damping=2 * chosen.pull)
    return {"maml": mc.Unrolled(), "fomaml": mc.FirstOrder(), "reptile": mc.Reptile()}[name]
