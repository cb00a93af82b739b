"""Few-shot miniImageNet: photographs of 5 classes told apart from 1 or 5 of each.

    python experiments/miniimagenet.py --way 5 --shot 1 --method cml-head --seed 0
    metacontrast report runs/miniimagenet

Meta-learns to tell photographs apart, and tests on other classes, once, a theta that validation
classes chose. Sacramento's talk gives no figures for it.

Departure: stride 2 in place of pooling, here as on Omniglot.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import _few_shot
from _few_shot_learners import learner

from metacontrast.tasks import miniimagenet


@dataclass(frozen=True, kw_only=True)
class Settings(_few_shot.Settings):
    """What a run depends on."""

    way: int = 5  # Classes a task.
    tasks: int = 4  # Tasks a meta-step.
    outer_rate: float = 1e-3  # Of theta.
    # Default: runs/miniimagenet/TASK/METHOD/seedSEED.
    out: Path | None = field(default=None, compare=False)

    def shorten(self) -> Self:
        """A twentieth of the meta-steps, no further views, few tests."""
        return replace(super().shorten(), steps=self.steps // 20)


# Published for miniImageNet (those of MAML by Finn, Abbeel, Levine, 2017, tested after twice the
# steps), or else for Omniglot. Of the contrastive rule the 1-shot settings are published alone, and
# serve for 5 shots too.
_SYNAPSE = Settings(
    method="cml-syn", steps=25_000, queries=15, size=84, filters=(32, 32, 32, 32), inner_rate=0.01,
    inner_steps=100, nudged_steps=75, beta=0.01, pull=0.25,
)  # fmt: skip
_MAML = Settings(
    method="maml", steps=60_000, queries=15, size=84, filters=(32, 32, 32, 32), inner_rate=0.01,
    inner_steps=5, test_steps=10,
)  # fmt: skip
_PUBLISHED = {
    "cml-syn": _SYNAPSE,
    "cml-mod": replace(_SYNAPSE, method="cml-mod"),
    "maml": _MAML,
    "anil": replace(_MAML, method="anil", inner_rate=2.0, test_steps=None),
    "fomaml": replace(_MAML, method="fomaml"),
    # Many small steps, or it would see the joint loss alone. Departure: theta by Adam.
    "reptile": replace(_MAML, method="reptile", inner_rate=0.05, inner_steps=10, test_steps=50),
    # lambda / 2 = 1 there is lambda = 1 here, which has no 1/2.
    "imaml-cg": replace(
        _MAML, method="imaml-cg", inner_rate=0.05, inner_steps=16, test_steps=None, pull=1.0
    ),
}

# Ours, but for those of `_small`. As on Omniglot, one task of many classes a meta-step.
_HEAD = Settings(
    method="cml-head", steps=4500, tasks=1, queries=3, train_way=64, outer_rate=3e-3, beta=10.0,
    unit=True,
)  # fmt: skip


def for_kind(method: str, way: int = 5, shot: int = 1, published: bool = False) -> Settings:
    """A method's settings for tasks of this kind: ours, of a size for CPU cores; or published."""
    if method == "cml-head":
        # As many examples of a class as make whole splits.
        s = _HEAD if shot == 1 else replace(_HEAD, steps=4000, queries=shot, train_way=32)
    else:
        s = _PUBLISHED[method]
    return replace(s if published else _small(s), way=way, shot=shot)


def _small(s: Settings) -> Settings:
    """For twenty minutes of a CPU core, whatever the method: as many meta-steps as fit.

    Photographs have half the width and height, mirrored and distorted at random in training.
    """
    s = replace(s, size=42, filters=(32, 32, 64, 64), mirror=True, distort=1.0, views=8)
    if s.method == "cml-head":
        return s
    s = replace(s, steps={"anil": 12_000, "fomaml": 8000}.get(s.method, 4500), queries=5)
    if s.method in ("cml-syn", "cml-mod"):
        return replace(
            s, inner_rate=0.05, inner_steps=30, nudged_steps=15, test_steps=60, nudge="linear"
        )
    return s


METHODS = {method: for_kind(method) for method in ("cml-head", *_PUBLISHED)}
EXPERIMENT = _few_shot.Experiment(
    "miniimagenet",
    metric="accuracy in percent on tasks of test classes",
    methods=METHODS,
    default="cml-head",
    rows={f"{task} {method}": "" for task in ("5w1s", "5w5s") for method in METHODS},
    for_kind=for_kind,
)


def run(s: Settings) -> dict[str, Any]:
    """One method, one kind of task, one seed."""
    classes = _few_shot.Classes(partial(miniimagenet, size=s.size))
    return _few_shot.run(EXPERIMENT, s, learner(s, channels=3), classes)


if __name__ == "__main__":
    EXPERIMENT.main(run)
