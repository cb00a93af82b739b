"""Units of the losses, and narrow types: the relative gradient is the same, to the type's digits.

Three weights with curvatures H and penalties exp(theta): `phi = H t / (H + 1)` at theta = 0.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import metacontrast as mc

pytestmark = pytest.mark.thorough

H, T = np.array([1.0, 3.0, 10.0]), np.array([1.0, 2.0, -1.0])
PHI = H * T / (H + 1)
EXACT = -(PHI - 1) * PHI / (H + 1)

# By the unit of the outer loss: an outer nudge is measured in its inverse.
RULES = {
    "forward": lambda unit: mc.Contrastive(0.1 / unit),
    "symmetric": lambda unit: mc.Contrastive(0.1 / unit, "symmetric"),
    "holomorphic": lambda unit: mc.Contrastive(0.1 / unit, "holomorphic"),
    "linear": lambda unit: mc.Contrastive(0.1, "symmetric", nudge="linear"),
    "damped": lambda unit: mc.Contrastive(0.1, "symmetric", nudge="linear", damping=0.1),
    "cg": lambda unit: mc.Implicit("cg"),
    "exact": lambda unit: mc.Implicit("exact"),
    "neumann": lambda unit: mc.Implicit("neumann", 200, rate=0.125),
    "identity": lambda unit: mc.Implicit("identity"),
    "no Hessian": lambda unit: mc.Implicit("cg", hessian_free=True),
    "unrolled": lambda unit: mc.Unrolled(),
    "evolution": lambda unit: mc.Evolution(0.1, 20),
}


def gradient(name, dtype, outer_unit=1.0, inner_unit=1.0, theta_type=None):
    """Its relative gradient, in the unit of the outer loss, and its flags."""
    number = lambda x: jnp.asarray(x, dtype)
    pull = lambda phi, theta: jnp.exp(theta.astype(dtype)) * phi**2 / 2
    problem = mc.Problem(
        init=lambda theta, t: jnp.zeros(3, dtype),
        inner=lambda phi, theta, t: jnp.sum(
            number(inner_unit) * (number(H / 2) * (phi - t) ** 2 + pull(phi, theta))
        ),
        outer=lambda phi, theta, t: jnp.sum(number(outer_unit / 2) * (phi - 1) ** 2),
    )
    free = mc.descend(optax.sgd(0.125), 120) if inner_unit == 1 else mc.closed_form()
    rule = RULES[name](outer_unit / inner_unit)
    if name == "linear":  # whose nudge is measured in slopes of the inner loss
        rule = mc.Contrastive(0.1 * inner_unit, "symmetric", nudge="linear")
    theta = jnp.zeros(3, theta_type or dtype)
    run = jax.jit(mc.meta_gradient(problem, free, rule, by_z=False))
    meta = run(theta, number(T), jax.random.key(0))
    assert meta.by_theta.dtype == theta.dtype
    return np.asarray(meta.by_theta, float) / outer_unit, meta.aux["flags"].raised()


@cache
def reference(name):
    return gradient(name, jnp.float64)[0]


def error(found, expected):
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


# What rounding to eps costs: a difference over a nudge of 0.1 that moves phi by about 0.03 has lost
# a factor of 30 to 100, one by a central difference two thirds of its digits, all else a few units.
def allowed(name, dtype):
    eps = float(jnp.finfo(dtype).eps)
    if name == "no Hessian":
        return 20 * eps ** (2 / 3)
    losses = {"cg": 20, "exact": 20, "neumann": 20, "identity": 20, "unrolled": 20}
    return losses.get(name, 500) * eps


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", RULES)
def test_units_of_the_outer_loss_over_sixteen_decades(name, dtype):
    # Perturbations of another type are other ones.
    expected = gradient(name, dtype)[0] if name == "evolution" else reference(name)
    for unit in (1e-8, 1.0, 1e8):
        found, flags = gradient(name, dtype, unit)
        assert error(found, expected) < allowed(name, dtype)
        assert flags == [] or name == "identity"


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
@pytest.mark.parametrize("name", ["linear", "symmetric", "cg", "exact"])
def test_units_of_the_inner_loss_over_sixteen_decades(name, dtype):
    for unit in (1e-8, 1e8):
        found, flags = gradient(name, dtype, inner_unit=unit)
        assert error(found, reference(name)) < allowed(name, dtype) and flags == []


def test_the_references_are_the_closed_form():
    for name in ("cg", "exact", "neumann", "unrolled", "linear"):
        assert error(reference(name), EXACT) < 1e-10
    assert error(reference("symmetric"), EXACT) < 0.1**2


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["cg", "exact", "neumann", "unrolled"])
def test_half_precision_in_any_unit_that_it_holds(name, dtype):
    for unit in (2.0**-10, 1.0, 2.0**8):
        found, _ = gradient(name, dtype, unit)
        assert error(found, EXACT) < 20 * float(jnp.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["symmetric", "linear", "holomorphic"])
def test_what_half_precision_cannot_tell_apart_is_flagged(name):
    """A bfloat16 phi of size 2 moves in steps of 0.008, and by the nudge about 0.03."""
    _, flags = gradient(name, jnp.bfloat16)
    assert "rounded" in flags


@pytest.mark.parametrize("theta_type", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", [name for name in RULES if name != "evolution"])
def test_a_narrow_theta_of_a_wide_learner_loses_its_own_digits_alone(name, theta_type):
    found, _ = gradient(name, jnp.float32, theta_type=theta_type)
    assert error(found, reference(name)) < 2 * float(jnp.finfo(theta_type).eps)
