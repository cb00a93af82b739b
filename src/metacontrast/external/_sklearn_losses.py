"""What `Ridge` and `LogisticRegression` minimise, written out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

from .._optional import optional
from .._problem import Data, Task

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Phi: TypeAlias = dict[str, np.ndarray]
Losses: TypeAlias = Float[np.ndarray, " samples"]


class Kind(NamedTuple):
    """One of scikit-learn's estimators.

    Attributes:
        losses: `(phi, task, data) -> loss` of each sample.
        penalty: `estimator -> lambda` of its own.
        with_unit_penalty: `estimator ->` a copy whose lambda is 1.
        check: raises where the estimator minimises another loss.
        check_labels: raises where test samples cannot join the fit.
        negative: whether samples may weigh less than nothing.
        warm_start: whether a fit can start at given coefficients.
    """

    losses: Callable[[Phi, Task, Data], Losses]
    penalty: Callable[[BaseEstimator], float]
    with_unit_penalty: Callable[[BaseEstimator], BaseEstimator]
    check: Callable[[BaseEstimator], None]
    check_labels: Callable[[Task], None]
    negative: bool
    warm_start: bool


def _squared(phi: Phi, task: Task, data: Data) -> Losses:
    return (data.x @ phi["coef"] + phi["intercept"] - data.y) ** 2


def _log_loss(phi: Phi, task: Task, data: Data) -> Losses:
    scores = data.x @ phi["coef"].T + phi["intercept"]
    if scores.shape[1] == 1:  # two classes have one score between them
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    chosen = np.searchsorted(np.unique(task.train.y), data.y)
    total = np.logaddexp.reduce(scores, axis=1)
    return total - scores[np.arange(len(scores)), chosen]


def _check_labels(task: Task) -> None:
    if strange := np.setdiff1d(task.test.y, task.train.y).tolist():
        raise ValueError(
            f"task.test.y: labels {strange} do not occur in task.train.y, so that the two phases "
            "would learn different classes; put each class into the training samples."
        )


def _copy(estimator: BaseEstimator, **settings: float) -> BaseEstimator:
    return optional("sklearn.base", extra="sklearn").clone(estimator).set_params(**settings)


def _check_ridge(estimator: BaseEstimator) -> None:
    if np.ndim(estimator.alpha) or not estimator.alpha > 0 or estimator.positive:
        raise ValueError(
            "estimator: Ridge must have one positive alpha and positive=False; strengths of "
            "single features belong in theta."
        )


def _check_logistic(estimator: BaseEstimator) -> None:
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
    with_unit_penalty=lambda estimator: _copy(estimator, alpha=1.0),
    check=_check_ridge,
    check_labels=lambda task: None,
    negative=False,
    warm_start=False,
)
# It minimises C sum_i loss_i + |coef|^2 / 2: lambda is 1 / (2 C).
LOGISTIC = Kind(
    losses=_log_loss,
    penalty=lambda estimator: 0.5 / float(estimator.C),
    with_unit_penalty=lambda estimator: _copy(estimator, C=0.5),
    check=_check_logistic,
    check_labels=_check_labels,
    negative=True,
    warm_start=True,
)
