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
LARGEST_HESSIAN = 2000  # rows


class Kind(NamedTuple):
    """One of scikit-learn's estimators.

    Attributes:
        losses: `(phi, task, data) -> loss` of each sample.
        errors: `(phi, task, data) -> (samples, outputs)`, the derivative of each loss by the
            model's outputs.
        penalty: `estimator -> lambda` of its own.
        exact: `(estimator, unknowns) ->` a copy whose lambda is 1 and whose solver reaches the
            minimum to round-off, since what it left would be divided by beta.
        check: raises where the estimator minimises another loss.
        check_labels: raises where test samples cannot join the fit.
        negative: whether samples may weigh less than nothing.
        warm_start: whether a fit can start at given coefficients.
    """

    losses: Callable[[Phi, Task, Data], Losses]
    errors: Callable[[Phi, Task, Data], np.ndarray]
    penalty: Callable[[BaseEstimator], float]
    exact: Callable[[BaseEstimator, int], BaseEstimator]
    check: Callable[[BaseEstimator], None]
    check_labels: Callable[[Task], None]
    negative: bool
    warm_start: bool


def _squared(phi: Phi, task: Task, data: Data) -> Losses:
    return _misses(phi, task, data)[:, 0] ** 2


def _misses(phi: Phi, task: Task, data: Data) -> np.ndarray:
    return (data.x @ phi["coef"] + phi["intercept"] - data.y)[:, None]


def _two_misses(phi: Phi, task: Task, data: Data) -> np.ndarray:
    return 2 * _misses(phi, task, data)


def _log_loss(phi: Phi, task: Task, data: Data) -> Losses:
    scores, chosen = _scores(phi, task, data)
    return np.logaddexp.reduce(scores, axis=1) - scores[np.arange(len(scores)), chosen]


def _scores(phi: Phi, task: Task, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The logarithm of each class's weight, and the classes that the samples are of."""
    scores = data.x @ phi["coef"].T + phi["intercept"]
    if scores.shape[1] == 1:  # two classes have one score between them
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    return scores, np.searchsorted(np.unique(task.train.y), data.y)


def _surprises(phi: Phi, task: Task, data: Data) -> np.ndarray:
    """The probability of each class, less 1 for that of the sample."""
    scores, chosen = _scores(phi, task, data)
    total = np.logaddexp.reduce(scores, axis=1)
    errors = np.exp(scores - total[:, None])
    errors[np.arange(len(scores)), chosen] -= 1
    return errors[:, 1:] if len(phi["coef"]) == 1 else errors


def _check_labels(task: Task) -> None:
    if strange := np.setdiff1d(task.test.y, task.train.y).tolist():
        raise ValueError(
            f"task.test.y: labels {strange} do not occur in task.train.y, so that the two phases "
            "would learn different classes; put each class into the training samples."
        )


def _copy(estimator: BaseEstimator, **settings: float | str) -> BaseEstimator:
    return optional("sklearn.base", extra="sklearn").clone(estimator).set_params(**settings)


def _exact_ridge(estimator: BaseEstimator, unknowns: int) -> BaseEstimator:
    direct = estimator.solver in ("auto", "svd", "cholesky")
    return _copy(estimator, alpha=1.0, solver=estimator.solver if direct else "cholesky")


def _exact_logistic(estimator: BaseEstimator, unknowns: int) -> BaseEstimator:
    large = unknowns > LARGEST_HESSIAN or hasattr(estimator, "multi_class")
    return _copy(
        estimator,
        C=0.5,
        # Newton's steps: with the whole Hessian or, where that is too large (and in versions that
        # would take one class after the other with it), with products.
        solver="newton-cg" if large else "newton-cholesky",
        tol=min(estimator.tol, 1e-12),
        max_iter=max(estimator.max_iter, 1000),
    )


def _check_ridge(estimator: BaseEstimator) -> None:
    if np.ndim(estimator.alpha) or not estimator.alpha > 0 or estimator.positive:
        raise ValueError(
            "estimator: Ridge must have one positive alpha and positive=False; strengths of "
            "single features belong in theta."
        )


def _check_logistic(estimator: BaseEstimator) -> None:
    wanted = {
        "class_weight": (None,),
        "l1_ratio": (None, 0.0),
        "penalty": ("l2", "deprecated"),
        "multi_class": ("auto", "deprecated"),  # of older versions
    }
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
    errors=_two_misses,
    penalty=lambda estimator: float(estimator.alpha),
    exact=_exact_ridge,
    check=_check_ridge,
    check_labels=lambda task: None,
    negative=False,
    warm_start=False,
)
# It minimises C sum_i loss_i + |coef|^2 / 2: lambda is 1 / (2 C).
LOGISTIC = Kind(
    losses=_log_loss,
    errors=_surprises,
    penalty=lambda estimator: 0.5 / float(estimator.C),
    exact=_exact_logistic,
    check=_check_logistic,
    check_labels=_check_labels,
    negative=True,
    warm_start=True,
)
