"""Code outside JAX that makes data of the task: it has no derivative, and none is asked for."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc


def squared(x):
    """In NumPy, once a task; JAX refuses to differentiate it."""
    shape = jax.ShapeDtypeStruct((), x.dtype)
    return jax.pure_callback(np.square, shape, x, vmap_method="sequential")


problem = mc.Problem(
    init=lambda theta, z: theta + 0 * squared(z),
    inner=lambda phi, theta, z: (phi - squared(z)) ** 2 + (phi - theta) ** 2,
    outer=lambda phi, theta, z: (phi - squared(z) / 2) ** 2,
    sample=lambda z, key: z + 0 * squared(z),
)
SOLVER = mc.descend(optax.sgd(0.25), 1)  # one step is exact: phi = (z^2 + theta) / 2


@pytest.mark.parametrize(
    "estimator",
    [
        mc.Contrastive(1e-3, "symmetric"),
        mc.Contrastive(0.1, "symmetric", nudge="linear"),
        mc.Implicit("cg"),
        mc.Unrolled(),
        mc.FirstOrder(),
    ],
    ids=repr,
)
def test_theta_is_learned_though_the_task_goes_through_code_without_derivatives(estimator):
    value, grad = jax.value_and_grad(mc.meta_loss(problem, SOLVER, estimator))(
        0.5, jnp.array(2.0), jax.random.key(0)
    )
    # phi - z^2 / 2 = theta / 2, whose derivative is 1/2; first order takes it for 1.
    factor = 2 if estimator == mc.FirstOrder() else 1
    np.testing.assert_allclose([value, grad], [0.25**2, 0.25 * factor], rtol=1e-5)


def test_least_squares_keep_what_they_offer():
    """Gauss-Newton needs the residuals, of which the loss must still tell."""
    data = lambda z: z[None]
    learned = mc.Problem(
        init=lambda theta, z: theta,
        inner=mc.LeastSquares(
            lambda phi, theta, x: phi - squared(x), data, lambda theta: mc.Synapse(theta)
        ),
        outer=mc.LeastSquares(lambda phi, theta, x: phi - squared(x) / 2, data),
    )
    rule = mc.Contrastive(1e-3, "symmetric")
    meta = mc.meta_gradient(learned, mc.gauss_newton(20), rule, by_z=False)
    gradient = meta(jnp.array(0.5), jnp.array(2.0))
    assert gradient.by_z is None
    np.testing.assert_allclose([gradient.value, gradient.by_theta], [0.25**2, 0.25], rtol=1e-5)
