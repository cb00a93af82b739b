"""What a run of the sine experiment depends on, and the settings of every method."""

from __future__ import annotations

from dataclasses import dataclass, replace

import frame

from metacontrast._precision import Precision


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    tasks: int = 25  # Tasks a meta-step.
    shots: int = 10  # Points to learn a task from.
    queries: int = 10  # Points of its outer loss.
    outer_rate: float = 2e-2  # Of theta.
    last_rate: float = 0.02  # Of the outer rate, at the end of its cosine.
    first_lambda: float = 1.0  # Of every synapse; it is learned, but for the published methods.
    rate: float = 1e-3  # Of descent on a task.
    free: int = 100  # Inner steps.
    nudged: int = 50  # Inner steps of a nudged phase.
    # The strength of the nudge; None: what `suggest_beta` says where meta-training starts.
    beta: float | None = 0.05
    precision: Precision = "highest"  # Of the network's products; the others are faster on a GPU.
    batch: int = 10  # Points of an inner step; as many as there are: all, but for paper-sgd.
    test_tasks: int = 1000  # On which theta is judged, once.
    test_queries: int = 100  # Points on which a held-out task is judged.
    valid_tasks: int = 200  # Which say on the way how theta does.


_GD = Settings(method="cml-gd", steps=1000, first_lambda=5.0)
_GN = Settings(method="cml-gn", steps=1500, queries=20, first_lambda=50.0, free=10, nudged=4)
_MAML = Settings(method="maml", steps=10_000, outer_rate=1e-2, rate=3e-3, free=10)
_PAPER = Settings(
    method="paper-gd",
    steps=1000,
    outer_rate=3e-2,
    last_rate=1.0,
    first_lambda=10 / 1761,
    rate=1e-2,
    free=500,
    nudged=250,
    beta=3.0,
)
_PAPER_MAML = replace(_PAPER, method="paper-maml", outer_rate=1e-3, rate=1e-3, free=10)
# Departure: the published rates belong to amplitudes a tenth of the talk's. The outer one falls.
_TUNED = replace(_PAPER, method="paper-gd-tuned", outer_rate=0.1, last_rate=0.02, rate=3e-3)
METHODS = {
    "paper-gd": _PAPER,
    "paper-sgd": replace(_PAPER, method="paper-sgd"),
    "paper-maml": _PAPER_MAML,
    "paper-gd-tuned": _TUNED,
    "paper-sgd-tuned": replace(_TUNED, method="paper-sgd-tuned"),
    "paper-maml-tuned": replace(
        _PAPER_MAML, method="paper-maml-tuned", outer_rate=1e-2, last_rate=0.02
    ),
    "paper-scratch": replace(_PAPER, method="paper-scratch", steps=0),
    "cml-gd": _GD,
    "cml-gd-suggested": replace(_GD, method="cml-gd-suggested", beta=None),
    "cml-sgd": replace(_GD, method="cml-sgd", batch=8),
    "cml-gn": _GN,
    "cml-mod": replace(_GN, method="cml-mod", steps=400, outer_rate=3e-3),
    "maml": _MAML,
    "maml-trajectory": replace(_MAML, method="maml-trajectory"),
    # One rate of learning for the weights, and one for the biases, of every layer; learned.
    "maml-rates": replace(_MAML, method="maml-rates"),
    "fomaml": replace(_MAML, method="fomaml"),
    # No meta-learning: Adam from a random network (one a seed), as in the published free phase.
    "scratch": Settings(method="scratch", rate=1e-2, free=500),
}
TALK = {
    "gd": "0.305 +- 0.101",
    "sgd": "0.258 +- 0.070",
    "maml": "0.435 +- 0.039",
    "scratch": "1.999 +- 3.500",
}
