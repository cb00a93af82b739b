"""The stencils: exact on polynomials up to their order, and no further."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import EPS

import metacontrast as mc

REAL = st.one_of(
    st.tuples(st.just("forward"), st.integers(1, 6)),
    st.tuples(st.just("symmetric"), st.sampled_from([2, 4, 6])),
)
SCHEMES = REAL | st.tuples(st.just("holomorphic"), st.integers(2, 9))
BETAS = st.floats(1e-3, 10.0) | st.floats(-10.0, -1e-3)


def terms(stencil, k):
    """What the stencil makes of `b^k`: its terms, of which the real part of the sum counts."""
    free = [] if stencil.free is None else [stencil.free * (k == 0)]
    nodes = zip(stencil.nodes, stencil.weights, strict=True)
    return np.array([*free, *(w * b**k for b, w in nodes)])


@given(SCHEMES, BETAS)
def test_moments_up_to_the_order_are_those_of_the_derivative(scheme, beta):
    stencil = mc.stencil(*scheme, beta)
    for k in range(scheme[1] + 1):
        found = terms(stencil, k)
        # A few roundings a term, and a linear solve whose condition is below 1e5 at order 6.
        assert abs(found.sum().real - (k == 1)) <= 1e5 * EPS * np.abs(found).sum()


@given(SCHEMES, BETAS)
def test_the_first_moment_beyond_the_order_is_not_zero(scheme, beta):
    order = scheme[1]
    found = terms(mc.stencil(*scheme, beta), order + 1).sum().real
    # The leading error is this moment: p! b^p forward, ((p/2)!)^2 b^p symmetric, b^p on the circle.
    factor = {
        "forward": math.factorial(order),
        "symmetric": math.factorial(order // 2) ** 2,
        "holomorphic": 1,
    }[scheme[0]]
    assert abs(found) == pytest.approx(factor * abs(beta) ** order, rel=1e-9)


@given(SCHEMES, BETAS, st.floats(0.1, 10))
def test_scaled_is_the_same_derivative_times_a_number(scheme, beta, size):
    plain = mc.stencil(*scheme, beta)
    found = plain.scaled(size)
    assert found.nodes == plain.nodes and (found.free is None) == (plain.free is None)
    np.testing.assert_allclose(terms(found, 1).sum(), size * terms(plain, 1).sum(), rtol=1e-12)
    np.testing.assert_allclose(terms(found, 0), size * terms(plain, 0), rtol=1e-12)


@given(SCHEMES, BETAS)
def test_no_phase_is_run_twice_or_at_zero(scheme, beta):
    nodes = mc.stencil(*scheme, beta).nodes
    assert 0 not in nodes and len(set(nodes)) == len(nodes)
    # A real phase where one is enough, and one of each pair of conjugates.
    assert all(isinstance(b, complex) == (abs(np.imag(b)) > 0) for b in nodes)
    conjugate = [np.conj(b) for b in nodes if isinstance(b, complex)]
    assert not set(conjugate) & set(nodes)


@given(st.integers(2, 9), BETAS)
def test_the_circle_costs_half_of_its_points(order, beta):
    nodes = mc.stencil("holomorphic", order, beta).nodes
    assert len(nodes) == order // 2 + 1
    np.testing.assert_allclose(np.abs(nodes), abs(beta), rtol=4 * EPS)


@pytest.mark.parametrize(
    ("scheme", "order", "free", "nodes", "weights"),
    [
        ("forward", 1, -1, [1], [1]),
        ("forward", 2, -3 / 2, [1, 2], [2, -1 / 2]),
        ("symmetric", 2, None, [-1, 1], [-1 / 2, 1 / 2]),
        ("symmetric", 4, None, [-2, -1, 1, 2], [1 / 12, -2 / 3, 2 / 3, -1 / 12]),
        ("holomorphic", 2, None, [1, -1], [1 / 2, -1 / 2]),
    ],
)
def test_low_orders_are_the_textbook_ones(scheme, order, free, nodes, weights):
    found = mc.stencil(scheme, order, 1.0)
    np.testing.assert_array_equal(found.nodes, nodes)
    np.testing.assert_allclose(found.weights, weights, rtol=0, atol=10 * EPS)
    assert found.free == (None if free is None else pytest.approx(free, abs=10 * EPS))


@pytest.mark.parametrize(
    ("scheme", "order"), [("forward", 1), ("symmetric", 2), ("holomorphic", 4)]
)
def test_default_orders(scheme, order):
    assert mc.stencil(scheme, None, 0.1) == mc.stencil(scheme, order, 0.1)


@given(SCHEMES, BETAS)
def test_nodes_scale_with_beta_and_weights_against_it(scheme, beta):
    unit, found = mc.stencil(*scheme, 1.0), mc.stencil(*scheme, beta)
    np.testing.assert_allclose(found.nodes, beta * np.array(unit.nodes), rtol=4 * EPS)
    np.testing.assert_allclose(found.weights, np.array(unit.weights) / beta, rtol=4 * EPS)


def test_a_traced_beta_gives_the_same_numbers():
    for scheme in ("forward", "symmetric", "holomorphic"):
        traced = jax.jit(lambda beta, s=scheme: mc.stencil(s, None, beta))(0.5)
        jax.tree.map(np.testing.assert_array_equal, traced, mc.stencil(scheme, None, 0.5))


@pytest.mark.parametrize(
    "beta",
    [0.0, 0, -0.0, float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.zeros(())],
)
@pytest.mark.wrong_types
def test_beta_that_is_no_nudge_is_refused(beta):
    with pytest.raises(ValueError, match=r"^beta"):
        mc.Contrastive(beta=beta)


@pytest.mark.parametrize("scheme", ["backward", "Forward", "", None])
@pytest.mark.wrong_types
def test_unknown_scheme_is_refused(scheme):
    with pytest.raises((TypeError, ValueError), match=r"^scheme: must be 'forward', 's"):
        mc.Contrastive(beta=0.1, scheme=scheme)


@pytest.mark.parametrize(
    ("scheme", "order"),
    [
        ("symmetric", 1),
        ("symmetric", 3),
        ("symmetric", 0),
        ("forward", 0),
        ("forward", 1.5),
        ("holomorphic", 1),
    ],
)
@pytest.mark.wrong_types
def test_order_that_the_scheme_lacks_is_refused(scheme, order):
    kind = "an even" if scheme == "symmetric" else "a"
    said = rf"^order: (the {scheme} scheme needs {kind}|must be a) whole number"
    with pytest.raises(ValueError, match=said):
        mc.Contrastive(beta=0.1, scheme=scheme, order=order)
