"""Ridge and logistic regression of scikit-learn, nudged by weighing samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from jaxtyping import Float

from .._optional import optional
from .._problem import Task
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

    A task is `Task(train, test)` of NumPy arrays x (samples, features) and y (samples,). phi is
    {"coef", "intercept"}, of the features as given. `LogisticRegression` starts its nudged phases
    at `phi_0`; set its `tol` low (1e-10, with solver="newton-cholesky", which is quick to get
    there), since what it leaves unsolved is divided by beta. `Ridge` is solved in closed form.

    Args:
        estimator: it is copied, never fitted itself.

    Raises:
        TypeError: another estimator.
        ValueError: settings that minimise another loss than the one above; when run, a negative
            nudge of `Ridge`, test labels that were not trained on, a theta or shapes that do not
            fit.

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
    return Learner(fit.solve, fit.inner, fit.outer, fit.slope)


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
        lam, weight = self._strengths(theta, task)
        self.kind.check_labels(task)
        x, y = task.train
        if beta:
            x, y = (np.concatenate(pair) for pair in zip(*task, strict=True))
            weight = np.concatenate([weight, np.full(len(task.test.x), beta)])
        model = self.kind.with_unit_penalty(self.estimator)
        if start is not None and self.kind.warm_start:
            model.set_params(warm_start=True)
            model.coef_, model.intercept_ = start["coef"] * np.sqrt(lam), start["intercept"]
        model.fit(x / np.sqrt(lam), y, sample_weight=weight)
        return {
            "coef": np.array(model.coef_) / np.sqrt(lam),
            "intercept": np.array(model.intercept_, float),
        }

    def inner(self, phi: Phi, theta: PyTree, task: Task) -> float:
        lam, weight = self._strengths(theta, task)
        fitted = weight @ self.kind.losses(phi, task, task.train)
        return float(fitted + np.sum(lam * phi["coef"] ** 2))

    def outer(self, phi: Phi, theta: PyTree, task: Task) -> float:
        return float(np.sum(self.kind.losses(phi, task, task.test)))

    def slope(self, phi: Phi, theta: PyTree, task: Task, beta: float) -> PyTree:
        """The penalty's part by log lambda, the fit's by log weight; neither knows of beta."""
        lam, weight = self._strengths(theta, task)
        squares = np.sum(np.atleast_2d(phi["coef"]) ** 2, axis=0)
        parts = {
            "log_lam": lam * squares,
            "log_weight": weight * self.kind.losses(phi, task, task.train),
        }
        return {name: parts[name] for name in theta}

    def _strengths(self, theta: PyTree, task: Task) -> tuple[Vector, Vector]:
        """lambda, one a feature, and weights, one a training sample."""
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
