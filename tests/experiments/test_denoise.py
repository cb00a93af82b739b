"""A denoiser learned through its minimiser: what the energy is, and what its certificate says."""

from dataclasses import replace

import denoise
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("sklearn")
SMALL = replace(
    denoise.METHODS["strengths"], patches=1, side=6, tol=1e-9, free=200, nudged=40, steps=2,
    valid_patches=1, test_patches=2,
)  # fmt: skip


@pytest.fixture
def patch():
    x, y = jax.random.uniform(jax.random.key(0), (2, 6, 6))
    return x, y


def test_the_filters_are_orthonormal_and_see_no_constant():
    flat = denoise.cosines().reshape(25, 24)
    assert np.allclose(flat.T @ flat, np.eye(24))
    assert np.allclose(flat.sum(0), 0)
    assert np.allclose(denoise.differences().sum((0, 1, 2)), 0)


def test_the_energy_curves_by_one_at_least(patch):
    x, noisy = patch
    theta = denoise.first_theta(SMALL)
    hessian = jax.jit(jax.hessian(denoise.energy))(x, theta, noisy).reshape(36, 36)
    assert np.linalg.eigvalsh(hessian).min() >= 1 - 1e-9


def test_the_certificate_holds_wherever_the_solver_stops(patch):
    _, noisy = patch
    theta = denoise.first_theta(SMALL)._replace(log_lam=jnp.full(24, jnp.log(0.1)))
    run = lambda tol: denoise.denoiser(replace(SMALL, tol=tol))(theta, noisy)
    exact = run(1e-10)
    for tol in (0.3, 1e-2):
        x = run(tol)
        bound = denoise.certificate(x, theta, noisy)
        assert 0 < bound <= tol / 6  # of 36 pixels
        assert jnp.sqrt(jnp.mean((x - exact) ** 2)) <= bound


def test_the_gradient_is_the_finite_difference_of_the_minimiser(patch):
    truth, noisy = patch
    theta = denoise.first_theta(SMALL)
    minimise = denoise.denoiser(SMALL)
    loss = jax.jit(lambda theta: jnp.sum((minimise(theta, noisy) - truth) ** 2))
    grads = jax.grad(loss)(theta)
    way = jax.tree.map(lambda x: jax.random.normal(jax.random.key(1), x.shape), theta)
    h = 1e-5  # steps are not to be felt by rho, which bends within 0.01
    at = lambda a: loss(jax.tree.map(lambda x, w: x + a * w, theta, way))
    along = sum(jnp.vdot(g, w) for g, w in zip(grads, way, strict=True))
    assert float(along) == pytest.approx(float(at(h) - at(-h)) / (2 * h), rel=1e-4)


@pytest.mark.thorough
def test_a_run_says_what_it_found(tmp_path, monkeypatch):
    picture = jax.random.uniform(jax.random.key(0), (8, 8), jnp.float32)
    monkeypatch.setattr(denoise, "photograph", lambda part: picture)
    monkeypatch.setattr(denoise, "figure", lambda *args: None)
    result = denoise.run(replace(SMALL, tol=0.03, free=20, nudged=3, out=tmp_path))
    assert result["noisy"] == pytest.approx(20.2, abs=1.5)  # -20 log10(25 / 255), of 72 pixels
    assert 0 < result["certified"] <= 0.03 / 6 and len(result["strengths"]) == 24
    assert [line["step"] for line in result["validation"]] == [0, 2]
    assert result["filters"] is None
