"""Ridge and logistic regression of scikit-learn, nudged by weighing samples."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

from .._must import shown
from .._optional import optional
from .._problem import Data, Task
from .._types import PyTree
from ._rule import Learner
from ._sklearn_losses import LOGISTIC, RIDGE, Kind, Phi

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

Vector: TypeAlias = Float[np.ndarray, " n"]


def reweighted(estimator: BaseEstimator) -> Learner:
    """A `Ridge` or a `LogisticRegression` as a learner, whose nudge is a weight on test samples.

        L = sum_i w_i loss_i + sum_j lambda_j |coef_j|^2 + beta sum_test loss_i,

    with the squared error or the negative log-likelihood as loss, is what the estimator minimises
    when test samples join the fit with `sample_weight` beta, and feature j is divided by
    `sqrt(lambda_j)`: its coefficient then comes out multiplied by that, and a penalty of 1 on it
    is one of `lambda_j` on `coef_j`. The intercept is not penalised.

    theta is a dict with one or both of

        "log_lam": (features,), the logarithms of lambda; default: the estimator's own penalty
            (`alpha`, or `1 / (2 C)`) for every feature;
        "log_weight": (training samples,), the logarithms of w; default: 0.

    A task is `Task(train, test)` of arrays x (samples, features) and y (samples,), or y in one
    column; x is not sparse. phi is {"coef", "intercept"}, of the features as given.

    What a solver leaves unsolved is divided by beta. So the copy that is fitted is not fitted by
    the estimator's own `solver` and `tol` where these stop early or draw at random, but to
    round-off: `Ridge` in closed form, `LogisticRegression` by Newton's method, which starts its
    nudged phases at `phi_0`. The minimum is the same one.

    Args:
        estimator: it is copied, never fitted itself.

    Raises:
        TypeError: another estimator; a theta that is no dict.
        ValueError: settings that minimise another loss than the one above; when run, a negative
            nudge of `Ridge`, test labels that were not trained on, sparse or otherwise unfit data,
            a theta that does not fit.

    Example: which of two features to trust, of which the second is noise.
        >>> import metacontrast as mc
        >>> from sklearn.linear_model import Ridge
        >>> from metacontrast.external import meta_gradient
        >>> x = np.random.default_rng(0).normal(size=(40, 2))
        >>> y = x[:, 0] + np.random.default_rng(1).normal(size=40)
        >>> task = mc.Task(mc.Data(x[:10], y[:10]), mc.Data(x[10:], y[10:]))
        >>> learner, rule = reweighted(Ridge(alpha=10.0)), mc.Contrastive(beta=1e-3, order=2)
        >>> theta = {"log_lam": np.full(2, np.log(10.0))}
        >>> meta = meta_gradient(learner, theta, task, rule)
        >>> (meta.by_theta["log_lam"] > 0).tolist()  # penalise the first less, the second more
        [True, False]
    """
    model = optional("sklearn.linear_model", extra="sklearn")
    kind = {model.Ridge: RIDGE, model.LogisticRegression: LOGISTIC}.get(type(estimator))
    if kind is None:
        raise TypeError(
            f"estimator: must be a Ridge or a LogisticRegression, not {type(estimator).__name__}; "
            "write a Learner(solve, inner, outer) for others."
        )
    kind.check(estimator)
    fit = _Reweighted(estimator, kind)
    return Learner(fit.solve, fit.inner, fit.outer, fit.slope, phi_slope=fit.phi_slope)


@dataclass(frozen=True)
class _Reweighted:
    estimator: BaseEstimator
    kind: Kind

    def solve(self, theta: PyTree, task: Task, beta: float, start: Phi | None) -> Phi:
        if beta < 0 and not self.kind.negative:
            raise ValueError(
                f"beta: Ridge takes the square root of weights, so a nudge of {beta:.3g} cannot "
                "join its fit; use scheme='forward' with a positive beta (order=2 is as accurate "
                "as symmetric)."
            )
        task = _checked(task)
        lam, weight = self._strengths(theta, task)
        self.kind.check_labels(task)
        x, y = task.train
        if beta:
            x, y = (np.concatenate(pair) for pair in zip(*task, strict=True))
            weight = np.concatenate([weight, np.full(len(task.test.x), beta)])
        outputs = len(np.unique(task.train.y)) if self.kind.warm_start else 1
        unknowns = (x.shape[1] + 1) * (1 if outputs == 2 else outputs)
        model = self.kind.exact(self.estimator, unknowns)
        if start is not None and self.kind.warm_start:
            model.set_params(warm_start=True)
            model.coef_, model.intercept_ = start["coef"] * np.sqrt(lam), start["intercept"]
        with warnings.catch_warnings():
            # Newton's method says so where round-off ends its descent: there is the minimum. Where
            # it ended elsewhere, `linear_residual` and the flags tell.
            for kind in (_convergence_warning(), RuntimeWarning):
                warnings.simplefilter("ignore", kind)
            model.fit(x / np.sqrt(lam), y, sample_weight=weight)
        return {
            "coef": np.array(model.coef_) / np.sqrt(lam),
            "intercept": np.array(model.intercept_, float),
        }

    def inner(self, phi: Phi, theta: PyTree, task: Task) -> float:
        task = _checked(task)
        lam, weight = self._strengths(theta, task)
        fitted = weight @ self.kind.losses(phi, task, task.train)
        return float(fitted + np.sum(lam * phi["coef"] ** 2))

    def outer(self, phi: Phi, theta: PyTree, task: Task) -> float:
        task = _checked(task)
        return float(np.sum(self.kind.losses(phi, task, task.test)))

    def slope(self, phi: Phi, theta: PyTree, task: Task, beta: float) -> PyTree:
        """The penalty's part by log lambda, the fit's by log weight; neither knows of beta."""
        task = _checked(task)
        lam, weight = self._strengths(theta, task)
        squares = np.sum(np.atleast_2d(phi["coef"]) ** 2, axis=0)
        parts = {
            "log_lam": lam * squares,
            "log_weight": weight * self.kind.losses(phi, task, task.train),
        }
        return {name: parts[name] for name in theta}

    def phi_slope(self, phi: Phi, theta: PyTree, task: Task, beta: float) -> Phi:
        """`dL/dphi`: errors times features, and the penalty's; 0 for an intercept not fitted."""
        task = _checked(task)
        lam, weight = self._strengths(theta, task)
        weights = weight, np.full(task.test.y.shape, beta)
        coef, intercept = 2 * lam * np.atleast_2d(phi["coef"]), np.zeros(1)
        for w, data in zip(weights, task, strict=True):
            errors = w[:, None] * self.kind.errors(phi, task, data)
            coef, intercept = coef + errors.T @ data.x, intercept + errors.sum(axis=0)
        fitted = float(self.estimator.fit_intercept)
        return {"coef": coef.reshape(phi["coef"].shape), "intercept": fitted * intercept}

    def _strengths(self, theta: PyTree, task: Task) -> tuple[Vector, Vector]:
        """lambda, one a feature, and weights, one a training sample."""
        if not isinstance(theta, Mapping):
            raise TypeError(
                f"theta: must be a dict of log_lam, log_weight or both, not "
                f"{type(theta).__name__}; see reweighted."
            )
        samples, features = task.train.x.shape
        own = np.full(features, np.log(self.kind.penalty(self.estimator)))
        given = {"log_lam": own, "log_weight": np.zeros(samples)}
        if not theta or set(theta) - set(given):
            raise ValueError(
                f"theta: must hold log_lam, log_weight or both, not {sorted(theta)}; see "
                "reweighted."
            )
        for name, default in given.items():
            if np.shape(theta.get(name, default)) != default.shape:
                raise ValueError(
                    f"theta: {name} has shape {np.shape(theta[name])}; give one number for each "
                    f"of the {len(default)} training {'features' if default is own else 'samples'}."
                )
        log_lam, log_weight = ({**given, **theta}[name] for name in given)
        return np.exp(log_lam), np.exp(log_weight)


def _checked(task: Task) -> Task:
    """The task as arrays that fit each other."""
    if not (isinstance(task, tuple) and [len(half) for half in task if _is_pair(half)] == [2, 2]):
        raise TypeError(f"task: must be a Task(train, test), each Data(x, y), not {shown(task)}.")
    train, test = (_data(name, *half) for name, half in zip(Task._fields, task, strict=True))
    if train.x.shape[1] != test.x.shape[1]:
        raise ValueError(
            f"task: train.x has {train.x.shape[1]} features and test.x {test.x.shape[1]}; give "
            "both the same."
        )
    return Task(train, test)


def _is_pair(half: PyTree) -> bool:
    return isinstance(half, tuple) and len(half) == 2


def _data(name: str, x: PyTree, y: PyTree) -> Data:
    for part, values in {"x": x, "y": y}.items():
        if hasattr(values, "toarray"):
            raise ValueError(
                f"task.{name}.{part}: is sparse, which the exact solvers do not take; give "
                f"{part}.toarray()."
            )
    x, y = np.asarray(x), np.asarray(y)
    if x.ndim != 2 or x.dtype.kind not in "biuf":
        raise ValueError(
            f"task.{name}.x: must be numbers of shape (samples, features), not {x.dtype} of shape "
            f"{x.shape}."
        )
    # A column is one target, as scikit-learn takes it.
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if y.shape != x.shape[:1]:
        raise ValueError(
            f"task.{name}.y: must be of shape ({len(x)},), one target for each sample, not "
            f"{y.shape}; learn one target at a time."
        )
    return Data(x, y)


def _convergence_warning() -> type[Warning]:
    return optional("sklearn.exceptions", extra="sklearn").ConvergenceWarning
