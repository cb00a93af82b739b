"""scikit-learn's linear models as likelihoods, data in folds, and fitted models again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline

from ..external._sklearn_losses import LOGISTIC, RIDGE
from ._folds import Folds, Per, Theta
from ._likelihood import BINARY, SOFTMAX, SQUARES, Likelihood
from ._newton import Matrix, Part, Penalised, Phi, Rows, minimiser

MOST_UNKNOWNS = 10_000  # of a model: its curvature is kept, a matrix of so many rows


def check_model(estimator: BaseEstimator) -> None:
    """Raise unless it is a model whose penalties or weights can be tuned."""
    kind = {Ridge: RIDGE, LogisticRegression: LOGISTIC}.get(type(estimator))
    if kind is None:
        hint = (
            "put the search at the end of a pipeline, "
            "make_pipeline(StandardScaler(), ContrastiveSearchCV(Ridge()))"
            if isinstance(estimator, Pipeline)
            else "for losses of your own there are metacontrast.external and metacontrast.tune"
        )
        raise TypeError(
            "estimator: must be a Ridge or a LogisticRegression, not "
            f"{type(estimator).__name__}; {hint}."
        )
    kind.check(estimator)


@dataclass(frozen=True, eq=False)
class Model:
    """A linear model of scikit-learn on its data.

    Args:
        estimator: which; it is copied, never fitted itself.
        x: (n, features), an array or a sparse matrix.
        y: targets, or the classes' numbers.
        classes: of a classifier, else None.
    """

    estimator: BaseEstimator
    x: Matrix
    y: np.ndarray
    classes: np.ndarray | None

    def __post_init__(self) -> None:
        if (n := self.outputs * (self.x.shape[1] + 1)) > MOST_UNKNOWNS:
            raise ValueError(
                f"X: {self.x.shape[1]} features make {n:,} coefficients, and the matrix of their "
                f"curvature is kept, of at most {MOST_UNKNOWNS:,}; select features before, "
                "with SelectKBest say."
            )

    @property
    def outputs(self) -> int:
        """How many scores it has: two classes have one between them."""
        return 1 if self.classes is None or len(self.classes) == 2 else len(self.classes)

    @property
    def likelihood(self) -> Likelihood:
        """Its loss."""
        return SQUARES if self.classes is None else BINARY if self.outputs == 1 else SOFTMAX

    @property
    def intercept(self) -> bool:
        """Whether it has one."""
        return bool(self.estimator.fit_intercept)

    @property
    def centre(self) -> np.ndarray:
        """What is taken from every feature, for conditioning; sparse ones stay sparse."""
        is_moved = self.intercept and not sparse.issparse(self.x)
        return np.mean(self.x, axis=0) if is_moved else np.zeros(self.x.shape[1])

    def penalties(self) -> np.ndarray:
        """Those to start from, from the mean curvature of the squares of a feature.

        Where classes can be told apart without fail, the fit of a classifier is the surer of itself
        the smaller its penalty is, and a lucky cross-validation asks for the smallest: the least
        one lets a score change by some 7 with the spread of a feature, as weak priors do (Gelman,
        Jakulin, Pittau, Su, 2008).
        """
        moved = self.x if sparse.issparse(self.x) else self.x - self.centre
        squares = moved.multiply(moved) if sparse.issparse(self.x) else moved**2
        size = float(squares.sum() / self.x.shape[1]) or 1.0
        least = 1e-7 * size if self.classes is None else 0.01 * size / len(self.y)
        return np.geomspace(least, 100 * size, 28)

    def design(self) -> Matrix:
        """x, and a column of ones for the intercept."""
        if not self.intercept:
            return self.x
        ones = np.ones((self.x.shape[0], 1))
        if sparse.issparse(self.x):
            return sparse.csr_array(sparse.hstack([self.x, ones]))
        return np.hstack([self.x - self.centre, ones])

    def folds(self, index: Sequence[np.ndarray], per: Per) -> Folds:
        """The data of each fold."""
        x = self.design()
        rows = [Rows(x[at], self.y[at]) for at in index]
        return Folds(self.likelihood, self.outputs, self.intercept, rows, index, per)

    def fitted(self, theta: Theta) -> Any:
        """A copy of the estimator, with the coefficients that minimise its loss under theta."""
        x, lam = self.design(), np.exp(theta.log_lam)
        part = Part(Rows(x, self.y), np.exp(theta.log_weight))
        loss = Penalised(self.likelihood, [part], np.append(lam, 0.0) if self.intercept else lam)
        return self._with_coefficients(minimiser(loss, np.zeros((self.outputs, x.shape[1]))))

    def _with_coefficients(self, phi: Phi) -> Any:
        model, features = clone(self.estimator), self.x.shape[1]
        coef = phi[:, :features]
        intercept = phi[:, features] - coef @ self.centre if self.intercept else np.zeros(len(phi))
        model.n_features_in_, model.n_iter_ = features, None
        if is_classifier(model):
            model.coef_, model.intercept_, model.classes_ = coef, intercept, self.classes
        else:
            model.coef_, model.intercept_ = coef[0], float(intercept[0])
        return model
