"""Theta and tasks in narrow types: a contrast of a wide learner is rounded once, to theta's type.

Three weights with curvatures H, penalties exp(theta) and targets z: `phi = H z / (H + 1)` at
theta = 0, a number that every type holds, as it does z.
"""

import warnings
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import relative_error

import metacontrast as mc
from metacontrast.train import meta_train

H, T = np.array([1.0, 3.0, 10.0], np.float32), np.array([1.0, 2.0, -1.0], np.float32)
LEARNER = mc.descend(optax.sgd(0.125), 60)
PROBLEM = mc.Problem(
    init=lambda theta, z: jnp.zeros(3, jnp.float32),
    inner=lambda phi, theta, z: jnp.sum(H * (phi - z) ** 2 + jnp.exp(theta) * phi**2) / 2,
    outer=lambda phi, theta, z: jnp.sum((phi - 1.0) ** 2) / 2,
)
RULES = {
    "symmetric": mc.Contrastive(0.1, "symmetric"),
    "holomorphic": mc.Contrastive(0.1, "holomorphic"),
    "linear": mc.Contrastive(None, nudge="linear"),
    "no Hessian": mc.Implicit("cg", hessian_free=True),
}
CENTRE = mc.argmin(PROBLEM.inner, LEARNER, 0.1, init=PROBLEM.init)
EPS = float(jnp.finfo(jnp.bfloat16).eps)


class Found(NamedTuple):
    """Of a rule."""

    by_theta: jax.Array
    by_z: jax.Array
    flags: list[str]


@cache
def found(dtype):
    """By every rule, with theta and z of a type; compiled together, for what is left is small."""
    gradients = {name: mc.meta_gradient(PROBLEM, LEARNER, rule) for name, rule in RULES.items()}
    metas = jax.jit(lambda *at: {name: f(*at) for name, f in gradients.items()})(
        jnp.zeros(3, dtype), jnp.asarray(T, dtype)
    )
    return {
        name: Found(meta.by_theta, meta.by_z, meta.aux["flags"].raised())
        for name, meta in metas.items()
    }


@pytest.mark.parametrize("name", RULES)
def test_a_narrow_theta_and_task_cost_their_own_round_off(name):
    """One unit: what float32 loses over the nudge is far below it. More rules: test_scale.py."""
    narrow, wide = found(jnp.bfloat16)[name], found(jnp.float32)[name]
    assert narrow.by_theta.dtype == narrow.by_z.dtype == jnp.bfloat16
    assert relative_error(narrow.by_theta.astype(float), wide.by_theta) < EPS
    assert relative_error(narrow.by_z.astype(float), wide.by_z) < EPS
    assert narrow.flags == wide.flags == []


@pytest.mark.parametrize("rule", [mc.Contrastive(0.1, "symmetric"), mc.Evolution(0.1, 4)])
def test_a_narrow_theta_is_trained_as_it_is(rule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = meta_train(
            PROBLEM, LEARNER, rule, lambda key: jnp.asarray(T, jnp.bfloat16),
            jnp.zeros(3, jnp.bfloat16), optax.adam(1e-2), steps=2, tasks=1, seed=0, log_every=2,
            steps_per_dispatch=2, progress=False,
        )  # fmt: skip
    assert trained.theta.dtype == jnp.bfloat16
    # Adam's steps are at most of its rate.
    moved = jnp.abs(trained.theta).astype(float)
    assert jnp.all((moved > 0) & (moved <= 0.02 * (1 + 2 * EPS)))


def test_a_minimiser_of_a_narrow_theta():
    loss = jax.jit(jax.grad(lambda theta, z: jnp.sum((CENTRE(theta, z) - 1.0) ** 2) / 2, (0, 1)))
    narrow, wide = (loss(jnp.zeros(3, x), jnp.asarray(T, x)) for x in (jnp.bfloat16, jnp.float32))
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        assert relative_error(a.astype(float), b) < EPS


def test_a_theta_narrower_than_a_learner_in_float64():
    wide = replace(PROBLEM, init=lambda theta, z: jnp.zeros(3))
    rule = jax.jit(mc.meta_gradient(wide, LEARNER, mc.Contrastive(1e-4, "symmetric"), by_z=False))
    narrow, wide = (rule(jnp.zeros(3, x), jnp.asarray(T)).by_theta for x in (jnp.float32, float))
    assert relative_error(narrow, wide) < float(jnp.finfo(jnp.float32).eps)


def test_the_rule_of_a_narrow_synapse_in_closed_form():
    """Weights that share a strength are contrasted first and summed then, all in float32."""
    rng = np.random.default_rng(0)
    phi_0 = jnp.asarray(rng.normal(size=100), jnp.float32)
    phi_b = phi_0 + 1e-3 * jnp.asarray(rng.normal(size=100) + 1, jnp.float32)
    narrow, wide = (
        mc.Synapse(jnp.full(100, 0.5, x), jnp.zeros((), x)).contrast(
            phi_0.astype(w), phi_b.astype(w), 1e-3
        )
        for x, w in ((jnp.bfloat16, jnp.float32), (float, float))
    )
    for a, b in zip(narrow, wide, strict=True):
        assert a.dtype == jnp.bfloat16
        assert relative_error(a.astype(float), b) < EPS


# Losses that cannot be taken in a wider type


# As a convolution does, `lax.mul` asks for factors of one type.
STRICT = mc.Problem(
    init=lambda theta, z: jnp.zeros(3, jnp.float32),
    inner=lambda phi, theta, z: jnp.sum((phi - jax.lax.mul(theta, z)) ** 2) / 2,
    outer=PROBLEM.outer,
)


def test_what_cannot_be_widened_is_flagged():
    gradient = jax.jit(mc.meta_gradient(STRICT, LEARNER, RULES["symmetric"], by_z=False))
    flags = {
        dtype: gradient(jnp.ones(3, dtype), jnp.asarray(T, dtype)).aux["flags"].raised()
        for dtype in (jnp.bfloat16, jnp.float32)
    }
    assert flags == {jnp.bfloat16: ["rounded"], jnp.float32: []}
