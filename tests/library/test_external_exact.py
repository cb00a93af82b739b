"""scikit-learn's estimators as they come: any solver, any tolerance, any shape of data."""

from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp
from problems import EPS
from sklearn.linear_model import LogisticRegression, Ridge

import metacontrast as mc
from metacontrast import external
from metacontrast.external import _sklearn_losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = X @ [1.0, -2.0, 0.5] + 0.3 * RNG.normal(size=30)
THETA = {"log_lam": np.zeros(3)}


def halves(x, y):
    return mc.Task(mc.Data(x[:12], y[:12]), mc.Data(x[12:], y[12:]))


def grad(estimator, y, beta=1e-4, x=X):
    learner, rule = external.reweighted(estimator), mc.Contrastive(beta, order=2)
    return external.meta_gradient(learner, THETA, halves(x, y), rule)


def ridge_by_hand():
    """d/d log lambda of the squared error of the test samples, at lambda 1, with an intercept."""
    train, test = halves(np.column_stack([X, np.ones(30)]), Y)
    penalty = np.diag([1.0, 1.0, 1.0, 0.0])
    curvature = train.x.T @ train.x + penalty
    phi = np.linalg.solve(curvature, train.x.T @ train.y)
    errors = test.x @ phi - test.y
    back = np.linalg.solve(curvature, 2 * test.x.T @ errors)
    return float(errors @ errors), -(phi * back)[:3]


@pytest.mark.parametrize("solver", ["auto", "svd", "cholesky", "lsqr", "sparse_cg", "sag", "saga"])
def test_ridge_is_exact_whatever_its_solver(solver):
    value, exact = ridge_by_hand()
    meta = grad(Ridge(solver=solver, tol=0.1), Y)
    assert meta.value == pytest.approx(value, rel=1e-10)
    # Of second order: beta^2 times the square of the ratio of curvatures, below ten.
    np.testing.assert_allclose(meta.by_theta["log_lam"], exact, rtol=1e-5)
    assert not any(meta.aux["flags"]) and meta.aux["linear_residual"] < 1e-6


@pytest.mark.parametrize(
    ("solver", "tol"),
    [("lbfgs", 1e-4), ("lbfgs", 1.0), ("newton-cg", 1e-4), ("sag", 1e-4), ("saga", 0.1)],
)
def test_logistic_regression_is_exact_as_it_comes(solver, tol):
    labels = Y > 0
    exact = grad(LogisticRegression(C=0.5, tol=1e-14, solver="newton-cholesky"), labels, 1e-3)
    exact = exact.by_theta["log_lam"]
    for beta in (1e-2, 1e-3, 1e-4):
        meta = grad(LogisticRegression(C=0.5, solver=solver, tol=tol), labels, beta)
        # Round-off of the fits over beta, and beta^2 times the ratio of curvatures, about 30.
        error = np.abs(meta.by_theta["log_lam"] - exact).max() / np.abs(exact).max()
        assert error < 1e-12 / beta + 30 * beta**2 + 30 * 1e-6
        assert not any(meta.aux["flags"]) and min(meta.aux["distance"]) > 0


@pytest.mark.parametrize("labels", [Y > 0, np.digitize(Y, [-1.0, 1.0])])
def test_a_hessian_that_is_too_large_is_only_multiplied(labels, monkeypatch):
    exact = grad(LogisticRegression(), labels, 1e-3).by_theta["log_lam"]
    monkeypatch.setattr(_sklearn_losses, "LARGEST_HESSIAN", 1)
    meta = grad(LogisticRegression(), labels, 1e-3)
    np.testing.assert_allclose(meta.by_theta["log_lam"], exact, rtol=1e-6)
    assert meta.aux["linear_residual"] < 1e-6


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
def test_features_of_any_scale(scale):
    """With lambda scaled along, the problem is the same one."""
    theta, labels = {"log_lam": np.full(3, 2 * np.log(scale))}, Y > 0
    learner, rule = external.reweighted(LogisticRegression()), mc.Contrastive(1e-3, order=2)
    meta = external.meta_gradient(learner, theta, halves(scale * X, labels), rule)
    one = external.meta_gradient(learner, THETA, halves(X, labels), rule)
    np.testing.assert_allclose(meta.by_theta["log_lam"], one.by_theta["log_lam"], rtol=1e-8)


@pytest.mark.parametrize(
    ("estimator", "y"),
    [
        (Ridge(), Y),
        (Ridge(fit_intercept=False), Y),
        (LogisticRegression(), Y > 0),
        (LogisticRegression(fit_intercept=False), np.digitize(Y, [-1.0, 1.0])),
    ],
)
def test_slopes_by_phi(estimator, y):
    learner, task, beta = external.reweighted(estimator), halves(X, y), 0.3
    theta = {"log_lam": np.array([0.1, 0.5, -1.0]), "log_weight": 0.1 * np.arange(12.0)}
    phi = learner.solve(theta, task, 0.0, None)
    phi = {name: leaf + 0.2 for name, leaf in phi.items()}
    slopes, h = learner.phi_slope(phi, theta, task, beta), EPS ** (1 / 3)
    assert {k: v.shape for k, v in slopes.items()} == {k: v.shape for k, v in phi.items()} or (
        phi["intercept"].shape == () and slopes["intercept"].shape == (1,)
    )
    for name, leaf in phi.items():
        if name == "intercept" and not estimator.fit_intercept:
            assert not slopes[name].any()
            continue
        for i in np.ndindex(leaf.shape):
            values = []
            for sign in (h, -h):
                there = {k: np.array(v) for k, v in phi.items()}
                there[name][i] += sign
                values.append(learner.loss(there, theta, task, beta))
            numerical = (values[0] - values[1]) / (2 * h)
            slope = slopes[name].reshape(leaf.shape)[i]
            # Central differences: some 4e-11 of the loss' scale, about 100.
            assert slope == pytest.approx(numerical, abs=1e-7)


# Data.


def test_what_means_the_same_gives_the_same():
    plain, logistic = grad(Ridge(), Y), grad(LogisticRegression(), Y > 0)
    same = partial(np.testing.assert_allclose, rtol=1e-9)
    for meta in (grad(Ridge(), Y[:, None]), grad(Ridge(), Y.tolist(), x=X.tolist())):
        assert meta.value == plain.value
        same(meta.by_theta["log_lam"], plain.by_theta["log_lam"])
    words, column = np.where(Y > 0, "dog", "cat"), (Y > 0).astype(int)[:, None]
    for labels in (words, column, words.astype(object), column.astype(np.uint8)):
        same(grad(LogisticRegression(), labels).by_theta["log_lam"], logistic.by_theta["log_lam"])
    x, y = (10 * X).astype(int), (10 * Y).astype(int)
    whole, real = grad(Ridge(), y, x=x), grad(Ridge(), y.astype(float), x=x.astype(float))
    assert whole.value == real.value
    same(whole.by_theta["log_lam"], real.by_theta["log_lam"])
    small, large = (grad(Ridge(), np.abs(y).astype(t), x=x) for t in (np.uint8, float))
    same(small.by_theta["log_lam"], large.by_theta["log_lam"])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X, np.stack([Y, -Y, 2 * Y], 1), r"^task.train.y: must be of shape \(12,\).*\(12, 3\)"),
        (sp.csr_matrix(X), Y, r"^task.train.x: is sparse.* x.toarray\(\)"),
        (sp.csr_array(X), Y, r"^task.train.x: is sparse"),
        (X[:, 0], Y, r"^task.train.x: must be numbers of shape \(samples, features\)"),
        (X.astype(str), Y, r"^task.train.x: must be numbers"),
        (X.astype(complex), Y, r"^task.train.x: must be numbers"),
        (X[:, None], Y, r"^task.train.x: must be numbers.*\(12, 1, 3\)"),
    ],
)
def test_data_that_do_not_fit(x, y, message):
    with pytest.raises(ValueError, match=message):
        grad(Ridge(), y, x=x)


def test_halves_that_do_not_fit_each_other():
    train, test = halves(X, Y)
    learner, rule = external.reweighted(Ridge()), mc.Contrastive(0.1)
    with pytest.raises(ValueError, match=r"task.test.y: must be of shape \(18,\)"):
        external.meta_gradient(learner, THETA, mc.Task(train, (test.x, test.y[:-1])), rule)
    with pytest.raises(ValueError, match=r"task: train.x has 3 features and test.x 2"):
        external.meta_gradient(learner, THETA, mc.Task(train, (test.x[:, :2], test.y)), rule)
    with pytest.raises(TypeError, match=r"theta: must be a dict of log_lam.*not ndarray"):
        external.meta_gradient(learner, np.zeros(3), mc.Task(train, test), rule)
