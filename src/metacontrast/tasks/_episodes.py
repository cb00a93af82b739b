"""Few-shot classification tasks out of images by class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from .._must import Count, NotNegative
from .._problem import Data, Task
from ._distort import distorted
from ._images import Images


def episodes(
    images: Images,
    way: Count,
    shot: Count,
    query: Count,
    *,
    rotations: bool = False,
    distort: NotNegative = 0.0,
    mirror: bool = False,
) -> Callable[[jax.Array], Task]:
    """`draw(key) -> task`: tell `way` classes apart from `shot` examples of each.

    Classes of a task are distinct, and so are examples of a class, of which the first `shot` are
    to learn from and the other `query` to be judged on. The images stay on the device as bytes, of
    which `draw` takes what it needs, inside of `jit` and `vmap`.

    Args:
        images: by class, such as `omniglot("train")`. They become a constant of the compiled
            program; some hundred megabytes take it seconds longer to compile.
        way: classes a task, at least 1.
        shot: examples of each class to learn from, at least 1.
        query: examples of each class to be judged on, at least 1.
        rotations: make four classes of each, by turning all of its images by 0, 90, 180 and 270
            degrees (Santoro et al., 2016). A task may hold several turns of one class.
        distort: how strongly each image is shifted, turned, stretched and sheared on its own, for
            training. At 1, within 7% of its side, 10 degrees and 12%. Default: not at all.
        mirror: exchange left and right in half of the images, for training on photographs.

    Returns:
        `draw`. Its tasks have x (way * shot, H, W, C), float32 in [0, 1], and y (way * shot,),
        int32, 0 to way - 1, ordered by class; likewise the test data with `query`.

    Raises:
        ValueError: a number below 1, or more than the images have; images not square to be turned;
            a negative `distort`.

    Example:
        >>> import numpy as np
        >>> images = Images(np.zeros((30, 20, 28, 28, 1), np.uint8), names=("a",) * 30)
        >>> task = episodes(images, way=5, shot=1, query=15)(jax.random.key(0))
        >>> task.train.x.shape, task.test.y.shape
        ((5, 28, 28, 1), (75,))
    """
    classes, per_class = _checked(images, way, shot, query, rotations)
    if not distort >= 0:
        raise ValueError(
            f"distort: must not be negative, got {distort}; 0 leaves images as they are."
        )
    pixels = jnp.asarray(images.pixels)

    def draw(key: jax.Array) -> Task:
        classing, turning = jax.random.split(key)
        chosen = jax.random.choice(classing, classes, (way,), replace=False)
        which = lambda key: jax.random.choice(key, per_class, (shot + query,), replace=False)
        rows = jax.vmap(which)(jax.random.split(turning, way))
        drawn = pixels[(chosen % len(pixels))[:, None], rows]
        if rotations:
            drawn = jax.vmap(_turned)(drawn, chosen // len(pixels))
        drawn = drawn.astype(jnp.float32) / 255
        if distort or mirror:
            warp = partial(distorted, strength=distort, mirror=mirror)
            drawn = jax.vmap(warp)(jax.random.split(jax.random.fold_in(key, 0), way), drawn)
        return Task(_data(drawn[:, :shot]), _data(drawn[:, shot:]))

    return draw


def _checked(images: Images, way: int, shot: int, query: int, rotations: bool) -> tuple[int, int]:
    """How many classes there are, with rotations, and images of each."""
    classes, per_class, height, width, _ = images.pixels.shape
    if rotations and height != width:
        raise ValueError(f"rotations: images of {height}x{width} are not square; leave it False.")
    classes *= 4 if rotations else 1
    if way > classes:
        raise ValueError(f"way: {way} of {classes} classes cannot be distinct; lower it.")
    if shot + query > per_class:
        raise ValueError(
            f"query: {shot} + {query} examples of a class are more than the {per_class} that there "
            "are; lower query or shot."
        )
    return classes, per_class


def _turned(drawn: jax.Array, quarters: jax.Array) -> jax.Array:
    """Images (n, H, W, C) turned by so many quarters."""
    return jnp.stack([jnp.rot90(drawn, k, axes=(1, 2)) for k in range(4)])[quarters]


def _data(drawn: jax.Array) -> Data:
    way, each = drawn.shape[:2]
    x = drawn.reshape(way * each, *drawn.shape[2:])
    return Data(x, jnp.repeat(jnp.arange(way, dtype=jnp.int32), each))
