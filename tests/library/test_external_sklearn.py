"""Ridge and logistic regression of scikit-learn against finite differences of refits."""

import numpy as np
import pytest
from problems import EPS
from sklearn.linear_model import ElasticNet, LogisticRegression, Ridge

import metacontrast as mc
from metacontrast import external

SOLVER = {"solver": "newton-cholesky", "tol": 1e-12, "max_iter": 100}
MODELS = {
    "ridge": Ridge(alpha=0.7),
    "ridge without intercept": Ridge(alpha=0.7, fit_intercept=False),
    "logistic": LogisticRegression(C=0.6, **SOLVER),
    "three classes": LogisticRegression(C=0.6, **SOLVER),
}


def example(name, seed=0, train=15, test=12, features=3):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(train + test, features))
    y = x @ rng.normal(size=features) + rng.normal(size=train + test)
    if name == "logistic":
        y = np.where(y > 0, "yes", "no")
    if name == "three classes":
        y = np.digitize(y, [-0.7, 0.7]) * 10
    task = mc.Task(mc.Data(x[:train], y[:train]), mc.Data(x[train:], y[train:]))
    theta = {"log_lam": rng.normal(size=features), "log_weight": 0.3 * rng.normal(size=train)}
    return task, theta


def refits(learner, theta, task, h):
    """The meta-gradient by central differences of the outer loss of refits."""
    slopes = {name: np.zeros_like(leaf) for name, leaf in theta.items()}
    for name, leaf in theta.items():
        for i in range(leaf.size):
            values = []
            for sign in (1, -1):
                there = dict(theta) | {name: leaf + sign * h * np.eye(leaf.size)[i]}
                phi = learner.solve(there, task, 0.0, None)
                values.append(learner.outer(phi, there, task))
            slopes[name][i] = (values[0] - values[1]) / (2 * h)
    return slopes


def rule(name, beta):
    """Symmetric where the estimator takes negative weights; else forward of the same order."""
    return mc.Contrastive(beta, order=2) if "ridge" in name else mc.Contrastive(beta, "symmetric")


@pytest.mark.parametrize("name", MODELS)
def test_meta_gradient_is_that_of_refits(name):
    task, theta = example(name)
    learner, beta, h = external.reweighted(MODELS[name]), 1e-3, 1e-3
    meta = external.meta_gradient(learner, theta, task, rule(name, beta))
    grad = meta.by_theta
    half = external.meta_gradient(learner, theta, task, rule(name, beta / 2)).by_theta
    fd, fd_half = refits(learner, theta, task, h), refits(learner, theta, task, h / 2)
    for part in theta:
        # Both are of second order, in beta and in h: Richardson gives each error as 4/3 of the
        # change when it is halved, to leading order; hence the factor 2. Round-off of the fits,
        # 1e-12 or so (the square of a Newton decrement below tol), over the halved beta and h.
        error = 2 * 4 / 3 * (np.abs(grad[part] - half[part]) + np.abs(fd[part] - fd_half[part]))
        tol = error.max() + 1e-12 * max(1.0, meta.aux["inner"], meta.value) / (beta / 2)
        assert tol < 1e-3 * np.abs(fd[part]).max()
        np.testing.assert_allclose(grad[part], fd[part], atol=tol, err_msg=part)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_fitted_is_the_minimum_of_the_losses(name):
    task, theta = example(name, seed=1)
    learner, beta = external.reweighted(MODELS[name]), 0.3
    phi = learner.solve(theta, task, beta, None)
    least = learner.loss(phi, theta, task, beta)
    rng = np.random.default_rng(2)
    # At a minimum the loss grows with the square of a step, whichever way it goes: by a factor of
    # 4 when the step doubles. Off it, by about 2.
    for _ in range(5):
        way = {k: rng.normal(size=v.shape) for k, v in phi.items()}
        if "without" in name:
            way["intercept"] *= 0
        at = lambda t, way=way: learner.loss(
            {k: phi[k] + t * way[k] for k in phi}, theta, task, beta
        )
        rises = [at(t) - least for t in (1e-3, 2e-3)]
        assert rises[0] > 0
        assert rises[1] / rises[0] == pytest.approx(4, rel=0.02)


def test_without_log_lam_the_penalty_is_the_estimators():
    for name in ("ridge", "logistic"):
        task, _ = example(name)
        model, learner = MODELS[name], external.reweighted(MODELS[name])
        phi = learner.solve({"log_weight": np.zeros(15)}, task, 0.0, None)
        # Two ways to the same minimum: round-off, times the condition of a few tens.
        np.testing.assert_allclose(phi["coef"], model.fit(*task.train).coef_, rtol=1e-9)


@pytest.mark.parametrize("name", ["logistic", "three classes"])
def test_logistic_regression_starts_at_the_given_coefficients(name, monkeypatch):
    task, theta = example(name)
    learner = external.reweighted(LogisticRegression())
    phi = learner.solve(theta, task, 0.0, None)
    starts = []
    fit = LogisticRegression.fit

    def noting(self, *args, **kwargs):
        starts.append((self.warm_start, self.coef_ / np.exp(theta["log_lam"] / 2), self.intercept_))
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(LogisticRegression, "fit", noting)
    again = learner.solve(theta, task, 0.0, phi)
    ((warm, coef, intercept),) = starts
    assert warm
    # coef is multiplied and divided by the root of lambda.
    np.testing.assert_allclose(coef, phi["coef"], rtol=4 * EPS)
    np.testing.assert_array_equal(intercept, phi["intercept"])
    np.testing.assert_allclose(again["coef"], phi["coef"], rtol=1e-9)


def test_ridge_refuses_a_negative_nudge():
    task, theta = example("ridge")
    learner = external.reweighted(MODELS["ridge"])
    with pytest.raises(ValueError, match=r"beta: Ridge takes the square root .* scheme='forward'"):
        external.meta_gradient(learner, theta, task, mc.Contrastive(0.1, "symmetric"))


def test_new_labels_in_the_test_data_are_refused():
    task, theta = example("logistic")
    task = task._replace(test=task.test._replace(y=np.full(12, "maybe")))
    with pytest.raises(ValueError, match=r"task.test.y: labels \['maybe'\]"):
        external.meta_gradient(
            external.reweighted(MODELS["logistic"]), theta, task, mc.Contrastive(0.1)
        )


@pytest.mark.parametrize(
    ("theta", "message"),
    [
        ({}, "theta: must hold log_lam"),
        ({"lam": np.ones(3)}, "theta: must hold log_lam"),
        ({"log_lam": np.ones(2)}, "theta: log_lam has shape .* 3 training features"),
        ({"log_weight": np.ones(3)}, "theta: log_weight has shape .* 15 training samples"),
    ],
)
def test_a_theta_that_does_not_fit_is_refused(theta, message):
    task, _ = example("ridge")
    with pytest.raises(ValueError, match=message):
        external.reweighted(Ridge()).solve(theta, task, 0.0, None)


@pytest.mark.parametrize(
    ("estimator", "error", "message"),
    [
        (ElasticNet(), TypeError, "estimator: must be a Ridge"),
        (Ridge(positive=True), ValueError, "estimator: Ridge must have"),
        (LogisticRegression(class_weight="balanced"), ValueError, "reset class_weight"),
        (LogisticRegression(solver="liblinear"), ValueError, "reset solver"),
        (LogisticRegression(l1_ratio=0.5, solver="saga"), ValueError, "reset l1_ratio"),
    ],
)
def test_another_loss_is_refused(estimator, error, message):
    with pytest.raises(error, match=message):
        external.reweighted(estimator)
