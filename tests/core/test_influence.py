"""The effect of training examples: against closed forms, retraining and backpropagation."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc

N, LAM = 12, 0.3
X = jax.random.normal(jax.random.key(1), (N, 3))
Y = jnp.sin(X.sum(1)) + 0.3 * X[:, 0]
ASKED = jax.random.normal(jax.random.key(2), (2, 2, 3))  # queries in an array of their own shape
KEY = jax.random.key(7)
Z = {"x": X, "y": Y, "w": jnp.linspace(0.5, 2.0, N), "names": jnp.arange(N)}
pick = lambda z: z["w"]

# Ridge regression, weighed: phi = A^-1 X' W y.
ridge = mc.Problem(
    init=lambda theta, z: jnp.zeros(3),
    inner=lambda phi, theta, z: (
        jnp.sum(z["w"] * (z["x"] @ phi - z["y"]) ** 2) / 2 + LAM / 2 * jnp.sum(phi**2)
    ),
    outer=lambda phi, theta, z: jnp.zeros(()),
)
linear = lambda phi, theta, z: ASKED @ phi
squared = lambda phi, theta, z: (ASKED @ phi - 1.0) ** 2


def solved(w):
    matrix = (X.T * w[None]) @ X + LAM * jnp.eye(3)
    return jnp.linalg.solve(matrix, X.T @ (w * Y)), matrix


RULES = {  # a method, a solver that goes with it, and the relative error that theory leaves
    "trajectory": ("trajectory", mc.descend(optax.sgd(0.03), 1500), 1e-7),
    "equilibrium": ("equilibrium", mc.closed_form(), 1e-6),
    "cg": (mc.Implicit("cg"), mc.closed_form(), 1e-9),
}


@pytest.mark.parametrize("name", RULES)
def test_it_is_the_influence_function_of_ridge_regression(name):
    method, solver, tolerance = RULES[name]
    found = mc.influence(ridge, solver, None, Z, squared, weights=pick, method=method)
    phi, matrix = solved(Z["w"])
    by_weight = jnp.linalg.solve(matrix, X.T * (Y - X @ phi)[None])  # dphi/dw_i, a column each
    expected = 2 * (ASKED @ phi - 1.0)[..., None] * (ASKED @ by_weight)
    np.testing.assert_allclose(found.losses, (ASKED @ phi - 1.0) ** 2, rtol=1e-9)
    assert found.scores.shape == (2, 2, N)
    np.testing.assert_allclose(
        found.scores, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )
    assert found.aux["flags"].idle.shape == (4,)


@pytest.mark.thorough
def test_leaving_one_out_is_it_but_for_the_leverage():
    found = mc.influence(
        ridge, mc.closed_form(), None, Z, linear, weights=pick, method=mc.Implicit("cg")
    )
    some = mc.influence(
        ridge, mc.closed_form(), None, Z, linear, weights=pick, method=mc.Implicit("cg"),
        query_batch_size=3,
    )  # fmt: skip
    np.testing.assert_allclose(some.scores, found.scores, rtol=1e-12)  # and one that is left
    phi, matrix = solved(Z["w"])
    leverage = Z["w"] * jnp.sum(X * jnp.linalg.solve(matrix, X.T).T, 1)
    for i in range(3):
        left = ASKED @ (solved(Z["w"].at[i].set(0.0))[0] - phi)
        # Sherman and Morrison: exact for what is linear in phi, where the first order is divided.
        first_order = -Z["w"][i] * found.scores[..., i]
        np.testing.assert_allclose(left, first_order / (1 - leverage[i]), rtol=1e-8)


# A network in mini-batches through Adam, which stops early.
def network(phi, x, activation=jnp.tanh):
    return activation(x @ phi["a"] + phi["b"][None]) @ phi["c"]


def errors(phi, theta, z, activation=jnp.tanh):
    return jnp.mean(z["w"] * (network(phi, z["x"], activation) - z["y"]) ** 2)


def first(theta, z):
    draw = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)
    return {"a": draw(2, 3, 4), "b": draw(4, 4), "c": draw(3, 4)}


def views(z, key):
    return jax.tree.map(lambda a: a[jax.random.randint(key, (5,), 0, N)], z)


batches = mc.Problem(first, errors, lambda phi, theta, z: jnp.zeros(()), sample=views)
judge = lambda phi, theta, z: (network(phi, ASKED.reshape(4, 3)) - 1.0) ** 2
THETA = {"rate": jnp.array(0.03)}  # which no loss sees
ADAM = mc.descend(lambda theta: optax.adam(theta["rate"], eps_root=1e-6), 20)
ask = partial(mc.influence, batches, ADAM, THETA, weights=pick, key=KEY)


@pytest.mark.thorough
def test_it_is_backpropagation_through_the_same_batches():
    exact = ask(Z, judge, method=mc.Unrolled())
    found = ask(Z, judge, method=mc.Trajectory("exact"))
    np.testing.assert_allclose(found.scores, exact.scores, atol=1e-10 * np.abs(exact.scores).max())
    secant = ask(Z, judge)
    np.testing.assert_allclose(secant.scores, exact.scores, atol=1e-6 * np.abs(exact.scores).max())
    assert not np.any(jax.tree.leaves(secant.aux["flags"]))
    assert secant.aux["growth"].shape == (4,)


def test_it_is_the_difference_of_retraining():
    found, h = ask(Z, judge, method=mc.Trajectory("exact")), 1e-5

    @jax.jit
    def losses(w):
        phi = mc.solve_inner(batches, ADAM, THETA, Z | {"w": w}, KEY).phi
        return judge(phi, THETA, Z)

    np.testing.assert_allclose(found.losses, losses(Z["w"]), rtol=1e-12)
    for i in (0, 5):
        step = h * jnp.eye(N)[i]
        slope = (losses(Z["w"] + step) - losses(Z["w"] - step)) / (2 * h)
        np.testing.assert_allclose(found.scores[:, i], slope, rtol=1e-6, atol=1e-8)


def test_learning_is_run_once_for_all_queries():
    program = str(jax.make_jaxpr(lambda z: ask(z, judge, method=mc.Unrolled()).scores)(Z))
    assert "f64[5,4] = tanh" in program  # of a batch and the hidden units,
    assert "f64[4,5,4] = tanh" not in program  # not for each of the queries


@pytest.mark.parametrize("method", ["trajectory", "equilibrium"])
def test_nothing_is_differentiated_by_the_examples(method):
    @jax.custom_jvp
    def seen(x):
        return x

    @seen.defjvp
    def refuse(primals, tangents):
        raise AssertionError("a derivative by the examples was asked for")

    inner = lambda phi, theta, z: ridge.inner(phi, theta, z | {"x": seen(z["x"])})
    task = mc.Problem(ridge.init, inner, ridge.outer)
    solver = mc.descend(optax.sgd(0.03), 3) if method == "trajectory" else mc.lbfgs(1e-6)
    narrow = Z | {"y": Y.astype(jnp.bfloat16)}
    found = mc.influence(task, solver, None, narrow, linear, weights=pick, method=method)
    plain = mc.influence(ridge, solver, None, narrow, linear, weights=pick, method=method)
    np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-6)


def test_solvers_get_the_residuals_that_the_loss_offers():
    row = lambda phi, theta, e: jnp.sqrt(e["w"] / 2) * (e["x"] @ phi - e["y"])
    prior = lambda theta: mc.Synapse(jnp.zeros(3), jnp.log(LAM / 2))
    squares = mc.Problem(ridge.init, mc.LeastSquares(row, lambda z: z, prior), ridge.outer)
    rule = mc.Contrastive(0.1, "symmetric", nudge="linear")
    found, exact = (
        mc.influence(problem, solver, None, Z, linear, weights=pick, method=method)
        for problem, solver, method in (
            (squares, mc.gauss_newton(8), rule), (ridge, mc.closed_form(), mc.Implicit("cg")),
        )
    )  # fmt: skip
    np.testing.assert_allclose(found.scores, exact.scores, rtol=1e-6, atol=1e-9)


def test_models_with_a_state_and_groups_of_examples():
    def inner(phi, theta, z, mean):
        hidden, weights = jnp.tanh(X @ phi), z["groups"][jnp.arange(N) % 3]
        return jnp.mean(weights * (hidden - mean - Y) ** 2), 0.9 * mean + 0.1 * hidden

    task = mc.Problem(
        lambda theta, z: jnp.ones(3), inner, lambda phi, theta, z, mean: jnp.zeros(()),
        state=lambda theta, z: jnp.zeros(N),
    )  # fmt: skip
    query = lambda phi, theta, z, mean: (jnp.sum(mean) ** 2 + phi @ phi, mean)
    solver, z = mc.descend(optax.sgd(0.3), 5), {"groups": jnp.array([1.0, 0.5, 2.0])}
    run = lambda g, method: mc.influence(
        task, solver, None, {"groups": g}, query, weights=lambda z: z["groups"], method=method
    )
    found = run(z["groups"], "trajectory")
    assert found.losses.shape == () and found.scores.shape == (3,)
    exact = run(z["groups"], mc.Unrolled()).scores
    np.testing.assert_allclose(found.scores, exact, rtol=1e-6)
    traced = jax.jit(lambda g: run(g, "trajectory").scores)(z["groups"])
    np.testing.assert_allclose(traced, found.scores, rtol=1e-6)


def test_what_is_flagged_for_one_query_is_said():
    with pytest.warns(RuntimeWarning, match="inexact: .*product='exact'"):
        found = ask(Z, judge, method=mc.Trajectory(h=10.0))
    assert found.aux["flags"].inexact.shape == (4,)
    with pytest.warns(RuntimeWarning, match="unconverged"):
        mc.influence(
            ridge, mc.descend(optax.sgd(1e-3), 2), None, Z, linear, weights=pick,
            method=mc.Implicit("cg"),
        )  # fmt: skip


KINDS = {
    "names": (
        ValueError,
        "method: must be 'trajectory', 'equil.* or an Estimator",
        {"method": "x"},
    ),
    "rules": (TypeError, "method: FirstOrder.* gives no gradient", {"method": mc.FirstOrder()}),
    "queries": (ValueError, "query_batch_size: ", {"query_batch_size": 0}),
    "floats": (ValueError, r"weights: must be floating.*ones", {"weights": lambda z: z["names"]}),
    "leaves": (ValueError, "weights: must pick one leaf", {"weights": lambda z: 2 * z["w"]}),
    "unseen": (ValueError, "weights: the inner loss does not", {"weights": lambda z: z["unseen"]}),
    "key": (ValueError, r"key: this problem samples.*give key=", {"key": None}),
}


@pytest.mark.parametrize(
    "kind", [pytest.param("names", marks=pytest.mark.wrong_types), *list(KINDS)[1:]]
)
def test_bad_arguments_are_named(kind):
    error, match, more = KINDS[kind]
    with pytest.raises(error, match=f"^{match}"):
        ask(Z | {"unseen": jnp.ones(N)}, judge, **more)


def test_weights_that_a_view_does_not_hand_on_are_named():
    forgets = mc.Problem(first, errors, batches.outer, sample=lambda z, key: z | {"w": jnp.ones(N)})
    with pytest.raises(ValueError, match=r"^weights: .*problem.sample"):
        mc.influence(forgets, ADAM, THETA, Z, judge, weights=pick, key=KEY)


@pytest.mark.parametrize(
    ("query", "match"),
    [
        (lambda phi, theta, z: jnp.arange(3), "query: must return losses"),
        (lambda phi, theta, z: jnp.zeros(0), "query: must return losses"),
        (lambda phi, z: jnp.zeros(()), r"query: is called with \(phi, theta, z\)"),
        (lambda phi, theta, z: jnp.nan * phi["a"], "query: the loss is nan where learning starts"),
    ],
)
def test_bad_queries_are_named(query, match):
    with pytest.raises((TypeError, ValueError), match=f"^{match}"):
        ask(Z, query)
