import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc


def inner(phi, theta, task):
    return jnp.sum((jnp.tanh(phi) - task) ** 2) + mc.Synapse(theta).pull(phi)


PROBLEM = mc.Problem(
    init=lambda theta, task: theta,
    inner=inner,
    outer=lambda phi, theta, task: jnp.sum(jnp.cosh(phi - 1)),
)
THETA, TASK = jnp.array([0.3, -0.2]), jnp.array([0.5, 0.1])
CONVERGED = mc.descend(optax.sgd(0.2), 150)


def grad(estimator, solve=CONVERGED, problem=PROBLEM):
    return jax.jit(jax.grad(mc.meta_loss(problem, solve, estimator)))(THETA, TASK)


def error(order, beta, solve=CONVERGED, scheme="holomorphic"):
    return float(
        jnp.linalg.norm(grad(mc.Contrastive(beta, scheme, order), solve) - grad(mc.Unrolled()))
    )


def test_nodes_are_the_upper_half_of_the_circle_and_real_where_they_can_be():
    for p in range(2, 10):
        nodes, weights, free = mc.stencil("holomorphic", p, 0.5)
        assert free is None
        assert len(nodes) == p // 2 + 1 == len(weights)
        assert all(abs(abs(b) - 0.5) < 1e-15 and np.imag(b) >= 0 for b in nodes)
        assert isinstance(nodes[0], float) and isinstance(nodes[-1], complex if p % 2 else float)
        for k in range(p + 1):  # exact on the powers 0 ... p but for the constant's alias, p + 1
            moment = sum(w * b**k for w, b in zip(weights, nodes, strict=True))
            np.testing.assert_allclose(np.real(moment), k == 1, atol=1e-12)


def test_weakly_typed_weights_keep_their_digits():
    # jnp.array(0.3) is one, and in complex64 phases would stop 1e-8 away from where they should.
    rule = mc.Contrastive(0.1, "holomorphic", 4)
    gradient = mc.meta_gradient(PROBLEM, CONVERGED, rule)
    weak, strong = (gradient(theta, TASK[0]) for theta in (jnp.array(0.3), THETA[0]))
    assert weak.phases.nudged[1].phi.dtype == strong.phases.nudged[1].phi.dtype
    np.testing.assert_allclose(weak.by_theta, strong.by_theta, rtol=1e-12)


def test_two_points_are_the_symmetric_scheme():
    assert mc.stencil("holomorphic", 2, 0.1)[0][::-1] == mc.stencil("symmetric", 2, 0.1)[0]
    np.testing.assert_allclose(error(2, 0.1), error(2, 0.1, scheme="symmetric"), rtol=1e-10)


@pytest.mark.parametrize("order", [3, 4, 6])
def test_order(order):
    ratio = error(order, 0.2) / error(order, 0.1)
    assert 0.7 * 2**order < ratio < 1.5 * 2**order


@pytest.mark.parametrize("optimizer", [optax.sgd(0.1), optax.sgd(0.05, 0.6, nesterov=True)])
def test_runs_of_sgd_and_momentum_that_stop_early_are_analytic_in_beta(optimizer):
    # The bias of stopping early does not depend on beta; what does falls as beta^order.
    few = mc.descend(optimizer, 12)
    at = lambda beta, order=4: grad(mc.Contrastive(beta, "holomorphic", order), few)
    limit = at(0.05, 8)
    coarse, fine = (float(jnp.linalg.norm(at(beta) - limit)) for beta in (0.4, 0.2))
    assert 0.7 * 2**4 < coarse / fine < 1.5 * 2**4


def test_adam_stopped_early_is_not():
    few = mc.descend(optax.adam(0.02), 12)
    at = lambda beta, order=4: grad(mc.Contrastive(beta, "holomorphic", order), few)
    limit = at(0.05, 8)
    coarse, fine = (float(jnp.linalg.norm(at(beta) - limit)) for beta in (0.4, 0.2))
    assert coarse / fine < 0.5 * 2**4


def test_until_converged_and_a_real_solver_for_the_free_phase():
    nudged = mc.until_converged(optax.sgd(0.2), 1e-13)
    rule = mc.Contrastive(0.1, "holomorphic", 6, nudged=nudged)
    found = grad(rule, mc.newton_cg(1e-12))
    np.testing.assert_allclose(found, grad(mc.Unrolled()), rtol=1e-6)


def test_a_schedule_can_trace_beta():
    traced = jax.jit(lambda beta: grad(mc.Contrastive(beta, "holomorphic", 4)))(0.1)
    np.testing.assert_allclose(traced, grad(mc.Contrastive(0.1, "holomorphic", 4)), rtol=1e-9)


def test_diagnostics_are_real():
    rule = mc.Contrastive(0.1, "holomorphic", 4)
    meta = mc.meta_gradient(PROBLEM, CONVERGED, rule)(THETA, TASK)
    assert len(meta.aux["distance"]) == 3
    assert all(jnp.isrealobj(leaf) for leaf in jax.tree.leaves((meta.aux, meta.by_theta)))


NOT_ANALYTIC = {
    "max": jax.nn.relu,
    "abs": jnp.abs,
    "conj": lambda phi: phi * jnp.conj(phi),
    "convert_element_type": lambda phi: jax.lax.convert_element_type(phi, float),
    "reduce_max": jnp.max,
    "real": lambda phi: jnp.where(phi > 0, phi, 0.1 * phi),
}


@pytest.mark.filterwarnings("ignore:Casting complex values to real")
@pytest.mark.parametrize("primitive", NOT_ANALYTIC)
@pytest.mark.parametrize("side", ["inner", "outer"])
def test_losses_that_are_not_analytic_are_named(primitive, side):
    kink = lambda phi, theta, task: jnp.sum(NOT_ANALYTIC[primitive](phi)) + theta @ phi
    losses = {"inner": inner, "outer": PROBLEM.outer} | {side: kink}
    with pytest.raises(ValueError, match=rf"problem\.{side}: .*analytic.*`{primitive}`"):
        grad(mc.Contrastive(0.1, "holomorphic"), problem=mc.Problem(PROBLEM.init, **losses))


def test_losses_that_refuse_complex_numbers_are_explained():
    huber = lambda phi, theta, task: jnp.sum(optax.huber_loss(phi)) + theta @ phi
    with pytest.raises(ValueError, match=r"problem\.inner: .*complex phi, which it does not take"):
        problem = mc.Problem(PROBLEM.init, huber, PROBLEM.outer)
        grad(mc.Contrastive(0.1, "holomorphic"), problem=problem)


@pytest.mark.parametrize(
    "function",
    [jnp.tanh, jax.nn.softplus, jax.nn.logsumexp, lambda phi: phi - jax.nn.logsumexp(phi)],
)
def test_analytic_functions_that_look_otherwise_are_taken(function):
    smooth = lambda phi, theta, task: inner(phi, theta, task) + jnp.sum(function(phi) ** 2)
    problem = mc.Problem(PROBLEM.init, smooth, PROBLEM.outer)
    solve = mc.descend(optax.sgd(0.1), 250)
    found = grad(mc.Contrastive(0.1, "holomorphic", 8), solve, problem)
    np.testing.assert_allclose(found, grad(mc.Unrolled(), solve, problem), rtol=1e-7)


@pytest.mark.parametrize(
    "solve", [mc.lbfgs(1e-6), mc.evolve(optax.sgd(0.1), 5, 0.1), lambda loss, phi0: phi0]
)
def test_solvers_that_do_not_say_they_can_are_refused(solve):
    with pytest.raises(TypeError, match="solver: the holomorphic scheme"):
        grad(mc.Contrastive(0.1, "holomorphic"), solve)


def test_order_one_is_refused():
    with pytest.raises(ValueError, match="order: the holomorphic scheme needs a whole number"):
        mc.Contrastive(0.1, "holomorphic", order=1)


def test_softmax_works_or_is_explained():
    # Which of the two depends on the version of JAX: newer ones do not compare complex numbers.
    smooth = lambda phi, theta, task: inner(phi, theta, task) + jax.nn.log_softmax(phi)[0] ** 2
    problem = mc.Problem(PROBLEM.init, smooth, PROBLEM.outer)
    solve = mc.descend(optax.sgd(0.1), 250)
    try:
        found = grad(mc.Contrastive(0.1, "holomorphic", 8), solve, problem)
    except ValueError as error:
        assert "logsumexp" in str(error)
    else:
        np.testing.assert_allclose(found, grad(mc.Unrolled(), solve, problem), rtol=1e-7)
