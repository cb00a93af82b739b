"""The stencils: exact on polynomials up to their order, and no further."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import EPS

import metacontrast as mc

SCHEMES = st.one_of(
    st.tuples(st.just("forward"), st.integers(1, 6)),
    st.tuples(st.just("symmetric"), st.sampled_from([2, 4, 6])),
)
BETAS = st.floats(1e-3, 10.0) | st.floats(-10.0, -1e-3)


@given(SCHEMES, BETAS)
def test_moments_up_to_the_order_are_those_of_the_derivative(scheme, beta):
    nodes, weights = map(np.asarray, mc.stencil(*scheme, beta))
    for k in range(scheme[1] + 1):
        terms = weights * nodes**k
        # A few roundings a term, and a linear solve whose condition is below 1e5 at order 6.
        assert abs(terms.sum() - (k == 1)) <= 1e5 * EPS * np.abs(terms).sum()


@given(SCHEMES, BETAS)
def test_the_first_moment_beyond_the_order_is_not_zero(scheme, beta):
    order = scheme[1]
    nodes, weights = map(np.asarray, mc.stencil(*scheme, beta))
    # The leading error is this moment: p! b^p forward, ((p/2)!)^2 b^p symmetric; at least b^p.
    assert abs((weights * nodes ** (order + 1)).sum()) >= 0.9 * abs(beta) ** order


@pytest.mark.parametrize(
    ("scheme", "order", "nodes", "weights"),
    [
        ("forward", 1, [0, 1], [-1, 1]),
        ("forward", 2, [0, 1, 2], [-3 / 2, 2, -1 / 2]),
        ("symmetric", 2, [-1, 1], [-1 / 2, 1 / 2]),
        ("symmetric", 4, [-2, -1, 1, 2], [1 / 12, -2 / 3, 2 / 3, -1 / 12]),
    ],
)
def test_low_orders_are_the_textbook_ones(scheme, order, nodes, weights):
    found = mc.stencil(scheme, order, 1.0)
    np.testing.assert_array_equal(found[0], nodes)
    np.testing.assert_allclose(found[1], weights, rtol=0, atol=10 * EPS)


@pytest.mark.parametrize(("scheme", "order"), [("forward", 1), ("symmetric", 2)])
def test_default_order_is_the_lowest(scheme, order):
    assert mc.stencil(scheme, None, 0.1) == mc.stencil(scheme, order, 0.1)


def test_nodes_scale_with_beta_and_weights_against_it():
    nodes, weights = mc.stencil("forward", 2, 1.0)
    assert mc.stencil("forward", 2, -0.25) == (
        [-0.25 * b for b in nodes],
        [-4 * w for w in weights],
    )


def test_free_node_stays_a_plain_zero_under_a_traced_beta():
    seen = []

    @jax.jit
    def traced(beta):
        nodes, weights = mc.stencil("forward", 1, beta)
        seen.append(nodes[0])
        return weights[1]

    assert traced(0.5) == 2.0
    assert seen == [0.0] and isinstance(seen[0], float)


@pytest.mark.parametrize(
    "beta",
    [0.0, 0, -0.0, float("nan"), float("inf"), -float("inf"), np.float32("nan"), np.zeros(())],
)
def test_beta_that_is_no_nudge_is_refused(beta):
    with pytest.raises(ValueError, match=r"^beta"):
        mc.Contrastive(beta=beta)


@pytest.mark.parametrize("scheme", ["backward", "Forward", "", None])
def test_unknown_scheme_is_refused(scheme):
    with pytest.raises(ValueError, match=r"^scheme"):
        mc.Contrastive(beta=0.1, scheme=scheme)


@pytest.mark.parametrize(
    ("scheme", "order"),
    [("symmetric", 1), ("symmetric", 3), ("symmetric", 0), ("forward", 0), ("forward", 1.5)],
)
def test_order_that_the_scheme_lacks_is_refused(scheme, order):
    with pytest.raises(ValueError, match=r"^order"):
        mc.Contrastive(beta=0.1, scheme=scheme, order=order)
