"""Convolutions agree in all their forms; networks are what was published."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS, relative_error

from metacontrast.nets import conv, conv4, lenet5
from metacontrast.nets._conv import normalise, normalise_once, over, statistics


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def by_hand(x, w, stride, padding):
    """The definition, one output pixel at a time."""
    x = np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    k, side = w.shape[0], (x.shape[1] - w.shape[0]) // stride + 1
    out = np.zeros((len(x), side, side, w.shape[-1]))
    for i in range(side):
        for j in range(side):
            patch = x[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.einsum("nijc,ijcf->nf", patch, w)
    return out


SHAPES = [(3, 1, 1, 8), (3, 2, 1, 7), (3, 2, 1, 8), (5, 1, 0, 9)]


@pytest.mark.parametrize(("k", "stride", "padding", "side"), SHAPES)
def test_both_lowerings_are_the_definition_in_values_and_gradients(k, stride, padding, side):
    x, w = normal(0, 2, side, side, 3), normal(1, k, k, 3, 4)
    expected = by_hand(x, w, stride, padding)
    v = normal(2, *expected.shape)

    @jax.jit
    def run(x, w):
        convolve = lambda lowering: partial(conv, stride=stride, padding=padding, lowering=lowering)
        pairs = [jax.vjp(convolve(lowering), x, w) for lowering in ("patches", "lax")]
        return [y for y, _ in pairs], [pull(v) for _, pull in pairs]

    outputs, gradients = run(x, w)
    for y in outputs:
        # Sums of k k 3 products of order one.
        np.testing.assert_allclose(y, expected, atol=1e3 * EPS)
    # The gradient's longest sum is over all output pixels of both images, 128 terms at most.
    for one, other in zip(*gradients, strict=True):
        assert relative_error(one, other) < 1e3 * EPS


@pytest.mark.parametrize("filters", [12, 4])  # more and fewer than the 9 numbers of a patch
def test_the_lowering_for_reverse_mode_has_the_same_derivatives(filters):
    x, w = normal(0, 2, 7, 7, 1), normal(1, 3, 3, 1, filters)

    def results(lowering):
        y = lambda x, w: conv(x, w, stride=2, padding=1, lowering=lowering)
        loss = lambda x, w: jnp.sum(jnp.tanh(y(x, w)) ** 2)
        slopes = jax.grad(loss, (0, 1))
        length = lambda x, w: sum(jnp.sum(g**2) for g in slopes(x, w))
        forward_over_reverse = jax.jvp(slopes, (x, w), (x, w))[1]
        return y(x, w), slopes(x, w), jax.grad(length, (0, 1))(x, w), forward_over_reverse

    run = jax.jit(lambda: [results(lowering) for lowering in ("reverse", "patches")])
    one, other = map(jax.tree.leaves, run())
    for a, b in zip(one, other, strict=True):
        assert relative_error(a, b) < 1e3 * EPS  # sums of at most 32 terms, twice


def test_the_lowering_for_reverse_mode_keeps_types():
    x, w = normal(0, 2, 7, 7, 1).astype(jnp.float32), normal(1, 3, 3, 1, 12).astype(jnp.float32)
    loss = lambda x, w: jnp.sum(conv(x, w, precision="bfloat16", lowering="reverse") ** 2)
    grads = jax.eval_shape(jax.grad(loss, (0, 1)), x, w)
    assert [g.dtype for g in grads] == [jnp.float32] * 2
    with pytest.raises(TypeError, match="jvp"):
        jax.jvp(lambda w: conv(x, w, lowering="reverse"), (w,), (w,))


def test_an_unknown_lowering_is_refused():
    with pytest.raises(ValueError, match="lowering: must be 'patches', 'reverse'"):
        conv(normal(0, 1, 4, 4, 1), normal(0, 3, 3, 1, 1), lowering="fft")


def count(phi):
    return sum(leaf.size for leaf in jax.tree.leaves(phi))


@pytest.mark.parametrize(
    ("net", "weights"),
    [
        (lenet5(batch_norm=True), 62_458),
        (lenet5(), 62_458 - 2 * (6 + 16 + 120 + 84)),
        # 9 c f + f, and gain and shift, of four layers; the head on 2 2 64 or 64 features.
        (conv4(strided=True, classes=20), 640 + 3 * 36_928 + 512 + 20 * 257),
        (conv4(classes=20), 640 + 3 * 36_928 + 512 + 20 * 65),
        (conv4(32, channels=3, size=84, norm=None), 896 + 3 * 9_248),
    ],
)
def test_networks_have_the_published_number_of_weights(net, weights):
    assert count(jax.eval_shape(net.init, jax.random.key(0))) == weights


def test_weights_start_kaiming_uniform_and_biases_at_zero():
    layers = jax.jit(conv4(16, classes=5).init)(jax.random.key(0))
    for layer in layers:
        fan_in = np.prod(layer["w"].shape[:-1])
        bound = np.sqrt(6 / fan_in)
        w = np.asarray(layer["w"])
        assert np.abs(w).max() <= bound
        # The variance of n uniform draws is that of one up to sqrt(0.8 / n), relatively.
        assert abs(np.var(w) * 3 / bound**2 - 1) < 5 * np.sqrt(0.8 / w.size)
        assert not layer["b"].any()


IMAGES = normal(3, 6, 16, 16, 2)


@pytest.mark.parametrize(("strided", "side"), [(True, 1), (False, 1)])
def test_features_have_one_row_an_image(strided, side):
    net = conv4(4, strided=strided, channels=2, size=16)
    outputs = jax.eval_shape(lambda key: net.apply(net.init(key), IMAGES), jax.random.key(0))
    assert outputs.shape == (6, side * side * 4)


@pytest.mark.parametrize("make", [conv4, lenet5])
def test_images_too_small_are_refused(make):
    with pytest.raises(ValueError, match="size: must be at least 16 pixels, not 12; enlarge"):
        make(size=12)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="norm: must be 'batch' or None, not 'layer'"):
        conv4(norm="layer")


SMALL = conv4(4, strided=True, channels=2, size=16)
PHI = jax.jit(SMALL.init)(jax.random.key(1))
APPLY = jax.jit(SMALL.apply)


def test_by_its_own_statistics_an_image_is_judged_with_the_others():
    alone = APPLY(PHI, IMAGES[:2])
    assert relative_error(APPLY(PHI, IMAGES)[:2], alone) > 0.01


def test_by_given_statistics_each_image_is_judged_by_itself():
    stats = jax.jit(SMALL.statistics)(PHI, IMAGES)
    alone = APPLY(PHI, IMAGES[:2], stats)
    assert relative_error(APPLY(PHI, IMAGES, stats)[:2], alone) < 100 * EPS
    assert relative_error(APPLY(PHI, IMAGES, stats), APPLY(PHI, IMAGES)) < 100 * EPS


def test_normalised_layers_do_not_see_scale_or_offset():
    x = IMAGES - 1.0
    phi = [layer | {"w": 3 * layer["w"]} for layer in PHI]
    # The added 1e-5 stands beside variances of about 0.1 and more.
    assert relative_error(APPLY(phi, x), APPLY(PHI, x)) < 1e-3


def test_bfloat16_products_give_what_float32_gives_to_their_precision():
    phi = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), PHI)
    x = IMAGES.astype(jnp.float32)
    coarse = conv4(4, strided=True, channels=2, size=16, precision="bfloat16")
    loss = lambda net, phi: jnp.mean(net.apply(phi, x) ** 3)
    run = jax.jit(lambda phi: [jax.value_and_grad(partial(loss, n))(phi) for n in (SMALL, coarse)])
    (exact, exact_grad), (value, grad) = run(phi)
    assert {leaf.dtype for leaf in jax.tree.leaves((value, grad))} == {jnp.dtype("float32")}
    # Factors are rounded to 2^-8 of themselves, in four layers forwards and four backwards.
    assert 0 < abs(value / exact - 1) < 16 * 2.0**-8
    weights = lambda tree: [layer["w"] for layer in tree]
    assert 0 < relative_error(weights(grad), weights(exact_grad)) < 16 * 2.0**-8


def test_batch_normalisation_for_reverse_mode_has_the_same_derivatives():
    x = normal(0, 3, 5, 5, 4) + 2
    weights = normal(1, 4), 1 + normal(2, 4), normal(3, 4)

    def results(once):
        def y(x, bias, gain, shift):
            if once:
                return normalise_once(x, bias, gain, shift)
            moved = x + over(bias, x)
            return normalise(moved, statistics(moved), gain, shift)

        loss = lambda *all: jnp.sum(jnp.tanh(y(*all)) ** 3)
        slopes = jax.grad(loss, (0, 1, 2, 3))
        length = lambda *all: sum(jnp.sum(g**2) for g in slopes(*all))
        forward_over_reverse = jax.jvp(slopes, (x, *weights), (x, *weights))[1]
        every = (x, *weights)
        return (
            y(*every),
            slopes(*every),
            jax.grad(length, (0, 1, 2, 3))(*every),
            forward_over_reverse,
        )

    one, other = jax.jit(lambda: (results(True), results(False)))()
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        # Sums of 75 terms, twice; the bias has none, and the other way round-off about 0.
        np.testing.assert_allclose(a, b, atol=1e4 * EPS * (1 + float(jnp.max(jnp.abs(b)))))


def test_a_network_for_reverse_mode_is_the_same_network():
    x = normal(0, 6, 16, 16, 1)
    nets = [conv4(5, strided=True, size=16, lowering=low) for low in ("reverse", "patches")]
    phi = jax.tree.map(lambda p: p + 0.1, nets[0].init(jax.random.key(0)))
    loss = lambda net, p: jnp.sum(net.apply(p, x) ** 3)
    one, other = (jax.jit(jax.value_and_grad(partial(loss, net)))(phi) for net in nets)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e5 * EPS * (1 + float(jnp.max(jnp.abs(b)))))
