"""What `Ridge` and `LogisticRegression` minimise, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from .._problem import Data, Task
from .._optional import optional


class Kind(NamedTuple):
    """One of scikit-learn's estimators.

    Attributes:
        losses: `(phi, task, data) -> loss` of each sample.
        penalty: `estimator -> lambda` of its own.
        prepared: `estimator ->` a copy whose lambda is 1.
        check: raises where the estimator minimises another loss.
        labels: raises where test samples cannot join the fit.
        negative: whether samples may weigh less than nothing.
    """

    losses: Callable[[Any, Task, Data], np.ndarray]
    penalty: Callable[[Any], float]
    prepared: Callable[[Any], Any]
    check: Callable[[Any], None]
    labels: Callable[[Task], None]
    negative: bool


def _squared(phi: Any, task: Task, data: Data) -> np.ndarray:
    return (data.x @ phi["coef"] + phi["intercept"] - data.y) ** 2


def _log_loss(phi: Any, task: Task, data: Data) -> np.ndarray:
    scores = data.x @ phi["coef"].T + phi["intercept"]
    if scores.shape[1] == 1:  # two classes have one score between them
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    chosen = np.searchsorted(np.unique(task.train.y), data.y)
    total = np.logaddexp.reduce(scores, axis=1)
    return total - scores[np.arange(len(scores)), chosen]


def _labels(task: Task) -> None:
    if strange := np.setdiff1d(task.test.y, task.train.y).tolist():
        raise ValueError(
            f"task.test.y: labels {strange} do not occur in task.train.y, so that the two phases "
            "would learn different classes; put each class into the training samples."
        )


def _copy(estimator: Any, **settings: Any) -> Any:
    return optional("sklearn.base", extra="sklearn").clone(estimator).set_params(**settings)


def _check_ridge(estimator: Any) -> None:
    if np.ndim(estimator.alpha) or not estimator.alpha > 0 or estimator.positive:
        raise ValueError(
            "estimator: Ridge must have one positive alpha and positive=False; strengths of "
            "single features belong in theta."
        )


def _check_logistic(estimator: Any) -> None:
    wanted = {"class_weight": (None,), "l1_ratio": (None, 0.0), "penalty": ("l2", "deprecated")}
    strange = [k for k, v in wanted.items() if getattr(estimator, k, v[0]) not in v]
    strange += ["solver"] if estimator.solver == "liblinear" else []  # penalises the intercept
    strange += [] if 0 < estimator.C < np.inf else ["C"]
    if strange:
        raise ValueError(
            f"estimator: LogisticRegression must have the l2 penalty alone, with a finite C, no "
            f"class weights and not solver='liblinear'; reset {', '.join(strange)}."
        )


RIDGE = Kind(
    losses=_squared,
    penalty=lambda estimator: float(estimator.alpha),
    prepared=lambda estimator: _copy(estimator, alpha=1.0),
    check=_check_ridge,
    labels=lambda task: None,
    negative=False,
)
# It minimises C sum_i loss_i + |coef|^2 / 2: lambda is 1 / (2 C).
LOGISTIC = Kind(
    losses=_log_loss,
    penalty=lambda estimator: 0.5 / float(estimator.C),
    prepared=lambda estimator: _copy(estimator, C=0.5),
    check=_check_logistic,
    labels=_labels,
    negative=True,
)
