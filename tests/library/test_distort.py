"""Distorted images are affine maps of what they were, within the bounds that are said."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS

from metacontrast.tasks import Images, episodes
from metacontrast.tasks._distort import SHIFT, STRETCH, TURN, distorted

N, SIDE = 200, 21
CENTRE = (SIDE - 1) / 2
ROWS, COLUMNS = np.meshgrid(*2 * [np.arange(SIDE) - CENTRE], indexing="ij")


def ramps():
    """Images whose two channels are their own coordinates, which any affine map only mixes."""
    x = np.stack([ROWS, COLUMNS], -1) + 100.0  # far from the zeros outside
    return jnp.asarray(np.broadcast_to(x, (N, SIDE, SIDE, 2)))


def test_no_strength_is_no_change():
    x = ramps()
    same = jax.jit(distorted)(jax.random.key(0), x, 0.0)
    np.testing.assert_array_equal(same, x)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_an_affine_map_within_its_bounds(strength):
    warped = np.asarray(jax.jit(distorted)(jax.random.key(1), ramps(), strength)) - 100
    inside = np.abs(ROWS) + np.abs(COLUMNS) <= 3  # far enough from the edge for any map
    design = np.stack([np.ones(inside.sum()), ROWS[inside], COLUMNS[inside]], -1)
    offsets, maps = [], []
    for image in warped:
        fit, *_ = np.linalg.lstsq(design, image[inside], rcond=None)
        # Linear interpolation of a linear ramp is exact: what is left is round-off.
        np.testing.assert_allclose(design @ fit, image[inside], atol=1e3 * EPS * 100, rtol=0)
        offsets.append(fit[0])
        maps.append(fit[1:].T - np.eye(2))
    offsets, maps = np.array(offsets), np.array(maps)
    slack = 1 + 1e-9
    assert np.abs(offsets).max() <= strength * SHIFT * SIDE * slack
    assert np.abs(np.diagonal(maps, axis1=1, axis2=2)).max() <= strength * STRETCH * slack
    turns = (maps[:, 1, 0] - maps[:, 0, 1]) / 2  # with half the shear's two numbers
    assert np.abs(turns).max() <= strength * (TURN + STRETCH) * slack
    # Of 200 uniform draws all but one in e^20 have one beyond 9/10 of the bound.
    assert np.abs(offsets).max() >= 0.9 * strength * SHIFT * SIDE
    assert np.abs(np.diagonal(maps, axis1=1, axis2=2)).max() >= 0.9 * strength * STRETCH
    assert len(np.unique(np.round(offsets[:, 0], 6))) == N  # each image its own


def test_half_of_the_images_are_mirrored():
    x = ramps()
    mirrored = np.asarray(jax.jit(partial(distorted, mirror=True))(jax.random.key(0), x, 0.0))
    x = np.asarray(x)
    is_same = np.all(mirrored == x, axis=(1, 2, 3))
    np.testing.assert_array_equal(mirrored[~is_same], x[~is_same][:, :, ::-1])
    # Four standard deviations of 200 fair coins.
    assert abs(is_same.sum() - N / 2) < 4 * np.sqrt(N) / 2


def test_episodes_distort_each_image_on_its_own():
    images = Images(np.full((4, 6, SIDE, SIDE, 1), 255, np.uint8), tuple("abcd"))
    key = jax.random.key(0)
    draws = [episodes(images, 3, 2, 2, distort=strength) for strength in (0.0, 1.0)]
    plain, warped = jax.jit(lambda key: [draw(key) for draw in draws])(key)
    np.testing.assert_array_equal(plain.train.y, warped.train.y)
    assert np.all(np.asarray(plain.test.x) == 1)
    x = np.concatenate([warped.train.x, warped.test.x])
    assert len({image.tobytes() for image in x}) == 12
    with pytest.raises(ValueError, match="distort: must be at least 0"):
        episodes(images, 3, 2, 2, distort=-1.0)
