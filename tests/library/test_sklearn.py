"""`ContrastiveSearchCV` is one of scikit-learn's, and goes along the gradient of its folds."""

import warnings
from contextlib import suppress
from unittest import SkipTest

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import make_classification, make_regression
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import estimator_checks_generator

from metacontrast.sklearn import ContrastiveSearchCV
from metacontrast.sklearn._course import chosen_step
from metacontrast.sklearn._folds import Fit, Folds, Theta
from metacontrast.sklearn._likelihood import BINARY, SOFTMAX, SQUARES
from metacontrast.sklearn._newton import Part, Penalised, Rows, minimiser

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(24, 4)), rng.normal(size=24)
THIRDS = [np.arange(24)[i::3] for i in range(3)]
THETA = Theta(rng.normal(size=4), 0.3 * rng.normal(size=24))
FIT = Fit((0, 1), 2)
SHORT = {"cv": 3, "max_steps": 0, "penalties": [1.0]}


def folds(likelihood, per, outputs=1):
    y = {1: Y > 0, 3: np.arange(24) // 2 % 3}[outputs] if likelihood is not SQUARES else Y
    ones = np.hstack([X, np.ones((24, 1))])
    rows = [Rows(ones[at], np.asarray(y, float if outputs == 1 else int)[at]) for at in THIRDS]
    return Folds(likelihood, outputs, True, rows, THIRDS, per)


def test_the_gradient_by_each_penalty_of_a_ridge_is_that_of_the_closed_form():
    data = folds(SQUARES, "feature")
    x, y = (np.concatenate([getattr(data.rows[f], name) for f in (0, 1)]) for name in "xy")
    held = data.rows[2]
    curvature = x.T @ x + np.diag(np.append(np.exp(THETA.log_lam), 0))
    phi = np.linalg.solve(curvature, x.T @ y)
    # d phi / d log lam_j = -curvature^-1 e_j lam_j phi_j
    slope = 2 * held.x.T @ (held.x @ phi - held.y)
    expected = -np.linalg.solve(curvature, slope)[:4] * np.exp(THETA.log_lam) * phi[:4]
    found = data.fit(THETA, FIT)
    np.testing.assert_allclose(found[0], phi, rtol=1e-12)
    # beta^2 of the second-order scheme, and the precision of a fit over beta
    np.testing.assert_allclose(data.gradient(THETA, FIT, found), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("per", ["feature", "example"])
@pytest.mark.parametrize(("likelihood", "outputs"), [(SQUARES, 1), (BINARY, 1), (SOFTMAX, 3)])
def test_the_gradient_is_that_of_differences_of_fits(likelihood, outputs, per):
    data, way = folds(likelihood, per, outputs), np.random.default_rng(1)
    moved = way.normal(size=4 if per == "feature" else 24)

    def judged(e):
        name = "log_lam" if per == "feature" else "log_weight"
        theta = THETA._replace(**{name: getattr(THETA, name) + e * moved})
        return np.sum(data.losses(data.fit(theta, FIT), FIT.held))

    expected = (judged(1e-4) - judged(-1e-4)) / 2e-4
    found = data.gradient(THETA, FIT, data.fit(THETA, FIT)) @ moved
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_fits_are_those_of_scikit_learn(classes):
    x, y = make_classification(60, 5, n_informative=4, n_redundant=0, n_classes=classes)
    model = LogisticRegression(C=0.5 / 0.7, tol=1e-12, solver="newton-cholesky").fit(x, y)
    likelihood, outputs = (BINARY, 1) if classes == 2 else (SOFTMAX, 3)
    for design in (
        np.hstack([x, np.ones((60, 1))]),
        sparse.csr_array(np.hstack([x, x[:, :1] ** 0])),
    ):
        loss = Penalised(likelihood, [Part(Rows(design, y))], np.append(np.full(5, 0.7), 0))
        phi = minimiser(loss, np.zeros((outputs, 6)))
        np.testing.assert_allclose(phi[:, :5], model.coef_, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(phi[:, 5], model.intercept_, rtol=1e-7, atol=1e-9)


CLASSIFIER = pytest.param(LogisticRegression(), marks=pytest.mark.thorough)


@pytest.mark.parametrize("estimator", [Ridge(), CLASSIFIER], ids=str)
def test_scikit_learns_own_checks_pass(estimator):
    search = ContrastiveSearchCV(estimator, **SHORT)
    for instance, check in estimator_checks_generator(search):
        with warnings.catch_warnings(), suppress(SkipTest):  # what needs pandas, or the array API
            warnings.simplefilter("ignore")
            check(instance)


def test_without_a_step_it_is_the_grid_search():
    x, y = make_regression(40, 3, noise=20.0, random_state=0)
    grid = np.geomspace(0.01, 100, 7)
    cv = KFold(4, shuffle=True, random_state=0)
    ours = ContrastiveSearchCV(Ridge(), cv=cv, max_steps=0, penalties=grid).fit(x, y)
    theirs = GridSearchCV(Ridge(), {"alpha": grid}, cv=cv, scoring="neg_mean_squared_error")
    theirs.fit(x, y)
    assert ours.shared_penalty_ == theirs.best_params_["alpha"]
    assert ours.best_step_ == 0
    np.testing.assert_allclose(ours.predict(x), theirs.predict(x), rtol=1e-9)
    assert ours.score(x, y) == pytest.approx(theirs.best_estimator_.score(x, y))


def test_features_that_matter_are_penalised_less_in_a_pipeline_and_a_copy():
    random = np.random.default_rng(0)
    x = random.normal(size=(60, 10))
    y = x[:, 3] - x[:, 6] + random.normal(size=60)
    pipe = make_pipeline(StandardScaler(), ContrastiveSearchCV(Ridge(), cv=3, max_steps=8))
    found = clone(pipe).fit(100 * x, y)[-1]
    assert {*found.penalties_.argsort()[:2]} == {3, 6}
    assert found.history_[found.best_step_] < found.history_[0]


def test_sparse_features_are_fitted_as_dense_ones_are():
    x, y = make_regression(40, 4, noise=30.0, random_state=1)
    search = ContrastiveSearchCV(Ridge(), cv=3, max_steps=3, penalties=[1.0], caution=0.0)
    thick, thin = (clone(search).fit(kind(x), y) for kind in (np.asarray, sparse.csr_matrix))
    assert thick.best_step_ > 0
    np.testing.assert_allclose(thin.penalties_, thick.penalties_, rtol=1e-6)
    np.testing.assert_allclose(thin.predict(sparse.csc_array(x)), thick.predict(x), rtol=1e-6)


def test_examples_with_wrong_labels_weigh_less():
    random = np.random.default_rng(0)
    x = random.normal(size=(90, 3))
    right = (x @ [1.0, -1.0, 0.5] > 0).astype(int)
    is_wrong = random.random(90) < 0.2
    labels = np.array(["no", "yes"])[np.where(is_wrong, 1 - right, right)]
    found = ContrastiveSearchCV(LogisticRegression(), "example", cv=3, max_steps=8, caution=0.0)
    found.fit(x, labels)
    assert found.best_step_ > 0
    assert found.weights_[is_wrong].mean() < 0.7 * found.weights_[~is_wrong].mean()
    assert {*found.predict(x)} == {*found.classes_} == {"no", "yes"}
    np.testing.assert_allclose(found.predict_proba(x).sum(axis=1), 1.0)


def test_the_start_is_left_for_what_is_told_alone():
    noise = np.random.default_rng(0).normal(size=400)
    losses = np.array([np.ones(400), 0.99 + noise, 0.5 + 0.1 * noise, 0.495 + 0.1 * noise[::-1]])
    assert chosen_step(losses[:2], 1.5) == 0  # a hundredth less, with an error of a twentieth
    assert chosen_step(losses, 1.5) == 2  # told from the start, and not from the best
    assert chosen_step(losses, 0.0) == 3


@pytest.mark.parametrize(
    ("search", "y", "said"),
    [
        (ContrastiveSearchCV(RandomForestRegressor()), Y, "estimator: must .* of your own"),
        (ContrastiveSearchCV(make_pipeline(Ridge())), Y, "estimator: must .* at the end"),
        (ContrastiveSearchCV(Ridge(positive=True)), Y, "estimator: Ridge must have"),
        (ContrastiveSearchCV(Ridge(), "row"), Y, "per: must be 'feature' or 'example', not 'row'"),
        (ContrastiveSearchCV(Ridge(), caution=-1), Y, "caution: must be a number of at least 0"),
        (ContrastiveSearchCV(Ridge(), penalties=[0.0]), Y, "penalties: must be None, or some pos"),
        (ContrastiveSearchCV(Ridge(), cv=2), Y, "cv: must make at least 3 folds, not 2"),
        (ContrastiveSearchCV(Ridge(), cv=[([0], [1])]), Y, "cv: its held-out sets must hold each"),
        (ContrastiveSearchCV(LogisticRegression(), cv=3), [0, 0, 1] + 21 * [2], "y: class "),
    ],
)
@pytest.mark.filterwarnings("ignore:The least populated class")
def test_what_it_cannot_work_with_is_named(search, y, said):
    with pytest.raises((TypeError, ValueError), match=f"^{said}"):
        search.fit(X, y)
    with pytest.raises(NotFittedError):
        search.predict(X)
