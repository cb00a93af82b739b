"""A penalty a feature, or a weight an example, for scikit-learn's linear models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, MetaEstimatorMixin, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils import get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._check import check_folds, check_settings
from ._course import Descent, chosen_step, course, shared_penalty
from ._folds import Folds, Per, Theta
from ._model import Model, check_model


def _has(name: str) -> Callable[[Any], bool]:
    return lambda self: hasattr(getattr(self, "best_estimator_", self.estimator), name)


class ContrastiveSearchCV(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Tune a penalty for each feature, or a weight for each example, by cross-validation.

    The model minimises `sum_i w_i loss_i + sum_j lambda_j |coef_j|^2` (an intercept is free), with
    the squared error (`Ridge`) or the negative log-likelihood (`LogisticRegression`) as loss. What
    a grid cannot search, one number for each of hundreds of features, is learned by the contrastive
    rule: each fit is done again, nudged a little towards the loss of the fold that it left out, and
    the difference says how the cross-validated loss changes with every lambda or w.

    As many numbers overfit the folds that they are tuned on. So each fold is also kept apart from
    all tuning once: with `cv` folds there are as many searches, each on the others, and the losses
    on the folds apart say where to stop. The search starts at the one penalty for all that is best
    on a grid, and leaves it only as far as the losses apart tell by more than `caution` standard
    errors; where they do not, the result is that of `GridSearchCV`. The logarithms that the
    searches come to are averaged, and the model is fitted with them to all data.

    Args:
        estimator: a `Ridge` or a `LogisticRegression` (l2, no class weights); its own `alpha`, `C`,
            `solver` and `tol` are not used. Scale features before, in a pipeline.
        per: "feature", a penalty for each; or "example", a weight for each training example, with
            one penalty for all features, which finds wrong labels and targets.
        cv: folds, at least 3, which part the data; a whole number, a splitter, or splits.
        max_steps: meta-steps at most.
        learning_rate: of Adam, in natural logarithms of a penalty or weight.
        patience: how many steps without a lower loss on the folds apart end the search.
        caution: standard errors that a gain on the folds apart must be, for a step to be taken for
            it; 0 takes the best step.
        penalties: penalties for all features alike, of which the search starts at the best.
            Default: 28 of them, up to 100 times the mean sum of squares of a feature, from 1e-7
            times that, or for classes from a hundredth of the mean variance.

    Attributes:
        best_estimator_: a fitted copy of `estimator`, whose coefficients are those of the features
            as given.
        penalties_: lambda, one a feature; `alpha` of a `Ridge`, `1 / (2 C)` of a
            `LogisticRegression`.
        weights_: w, one a training example.
        shared_penalty_: where the search started.
        best_step_: how many meta-steps were taken in the end; 0 if penalties stayed shared.
        history_: the mean loss on the folds apart, before the first step and after each.
        classes_: of a classifier.

    Raises:
        TypeError: another estimator; a pipeline, at whose end the search belongs.
        ValueError: bad input; fewer than 3 folds, or a class in fewer than 3 of them; more than
            10,000 coefficients.

    Example: 2 of 20 features matter.
        >>> from sklearn.linear_model import Ridge
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(100, 20))
        >>> y = x[:, 3] - x[:, 6] + rng.normal(size=100)
        >>> search = ContrastiveSearchCV(Ridge()).fit(x, y)
        >>> sorted(np.argsort(search.penalties_)[:2].tolist())
        [3, 6]
        >>> bool(search.history_[search.best_step_] < search.history_[0])
        True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        per: Per = "feature",
        *,
        cv: Any = 5,
        max_steps: int = 30,
        learning_rate: float = 0.3,
        patience: int = 6,
        caution: float = 1.5,
        penalties: Sequence[float] | None = None,
    ) -> None:
        self.estimator = estimator
        self.per = per
        self.cv = cv
        self.max_steps = max_steps
        self.learning_rate = learning_rate
        self.patience = patience
        self.caution = caution
        self.penalties = penalties

    def fit(self, X: Any, y: Any) -> Self:
        """Tune, and fit the model to all data.

        Args:
            X: (n, features), an array, a data frame of numbers or a sparse matrix.
            y: (n,), targets or labels.
        """
        check_settings(self)
        check_model(self.estimator)
        model, folds = self._prepared(X, y)
        n, features = model.x.shape
        start = Theta(np.zeros(features), np.zeros(n))
        grid = model.penalties() if self.penalties is None else self.penalties
        self.shared_penalty_ = shared_penalty(folds, grid, start)
        start = start._replace(log_lam=np.full(features, np.log(self.shared_penalty_)))
        found = course(folds, Descent(start, self.learning_rate, self.max_steps, self.patience))
        self.history_ = np.mean(found.losses, axis=1)
        self.best_step_ = chosen_step(found.losses, self.caution)
        best = self._mean(found.thetas[self.best_step_], folds)
        at = {"log_lam" if self.per == "feature" else "log_weight": best}
        theta = start._replace(**at)
        self.penalties_, self.weights_ = np.exp(theta.log_lam), np.exp(theta.log_weight)
        self.best_estimator_ = model.fitted(theta)
        return self

    def _prepared(self, X: Any, y: Any) -> tuple[Model, Folds]:
        """The data, checked, and their folds."""
        classifies = is_classifier(self.estimator)
        x, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=np.float64, y_numeric=not classifies
        )
        classes = None
        if classifies:
            check_classification_targets(y)
            classes, y = np.unique(y, return_inverse=True)
        index = [test for _, test in check_cv(self.cv, y, classifier=classifies).split(x, y)]
        check_folds(index, y, classes)
        model = Model(self.estimator, x, y, classes)
        return model, model.folds(index, self.per)

    def _mean(self, thetas: np.ndarray, folds: Folds) -> np.ndarray:
        """Over the searches; of an example's weight, over those that have seen the example."""
        if self.per == "feature":
            return np.mean(thetas, axis=0)
        seen = np.ones_like(thetas)
        for k, index in enumerate(folds.index):
            seen[k, index] = 0
        return np.sum(seen * thetas, axis=0) / np.sum(seen, axis=0)

    def _input(self, X: Any) -> Any:
        check_is_fitted(self, "best_estimator_")
        return validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)

    def predict(self, X: Any) -> np.ndarray:
        """Targets, or classes."""
        x = self._input(X)
        return self.best_estimator_.predict(x)

    @available_if(_has("predict_proba"))  # type: ignore[untyped-decorator]
    def predict_proba(self, X: Any) -> np.ndarray:
        """Of each class, (n, classes)."""
        x = self._input(X)
        return self.best_estimator_.predict_proba(x)

    @available_if(_has("predict_log_proba"))  # type: ignore[untyped-decorator]
    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Its logarithm."""
        x = self._input(X)
        return self.best_estimator_.predict_log_proba(x)

    @available_if(_has("decision_function"))  # type: ignore[untyped-decorator]
    def decision_function(self, X: Any) -> np.ndarray:
        """The scores."""
        x = self._input(X)
        return self.best_estimator_.decision_function(x)

    def score(self, X: Any, y: Any) -> float:
        """R^2, or the accuracy."""
        x = self._input(X)
        return float(self.best_estimator_.score(x, y))

    @property
    def classes_(self) -> np.ndarray:
        """Of a classifier."""
        check_is_fitted(self, "best_estimator_")
        return self.best_estimator_.classes_

    def __sklearn_tags__(self) -> Any:
        tags, own = super().__sklearn_tags__(), get_tags(self.estimator)
        tags.estimator_type = own.estimator_type
        tags.classifier_tags, tags.regressor_tags = own.classifier_tags, own.regressor_tags
        tags.target_tags.required = True
        tags.input_tags.sparse = True
        return tags
