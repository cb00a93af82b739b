"""Images moved, turned and stretched a little, at random: more drawings of the same thing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from .._must import NotNegative
from .._types import Key

# Half-widths of what is drawn, for a strength of 1.
SHIFT, TURN, STRETCH = 0.07, np.deg2rad(10.0), 0.12


def distorted(
    key: Key, x: jax.Array, strength: NotNegative = 1.0, *, mirror: bool = False
) -> jax.Array:
    """Each image under an affine map of its own: shifted, turned, stretched and sheared.

    The output pixel at p, measured from the centre, is the input at `(1 + A) p + b`, interpolated
    linearly; outside of the image all is zero. `b` is uniform within 7% of the image's side; `A`
    adds a turn within 10 degrees to four numbers within 0.12.

    Args:
        key: drawn from for all images.
        x: images (n, H, W, C).
        strength: multiplies all of these bounds. 0 leaves the images as they are.
        mirror: exchange left and right in half of the images, chosen at random.

    Example:
        >>> distorted(jax.random.key(0), jnp.ones((3, 28, 28, 1))).shape
        (3, 28, 28, 1)
    """
    n, height, width, _ = x.shape
    if mirror:
        turned = jax.random.bernoulli(jax.random.fold_in(key, 0), shape=(n, 1, 1, 1))
        x = jnp.where(turned, x[:, :, ::-1], x)
    turn, down, right, *maps = jax.random.uniform(key, (7, n), x.dtype, -strength, strength)
    sides = [jnp.arange(size, dtype=x.dtype) - (size - 1) / 2 for size in (height, width)]
    rows, columns = (side[None] for side in jnp.meshgrid(*sides, indexing="ij"))
    a, b, c, d = (STRETCH * entry[:, None, None] for entry in maps)
    turn, down, right = (
        entry[:, None, None] for entry in (TURN * turn, SHIFT * down, SHIFT * right)
    )
    at_row = (1 + a) * rows + (b - turn) * columns + down * height + (height - 1) / 2
    at_column = (c + turn) * rows + (1 + d) * columns + right * width + (width - 1) / 2
    one = lambda image, *at: jax.scipy.ndimage.map_coordinates(image, at, order=1)
    channels = jax.vmap(one, (-1, None, None), -1)
    return jax.vmap(channels)(x, at_row, at_column)
