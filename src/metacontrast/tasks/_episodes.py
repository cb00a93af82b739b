"""Few-shot classification tasks out of examples by class."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from .._must import Count, NotNegative
from .._problem import Data, Task
from ._by_class import ByClass, by_class
from ._distort import distorted
from ._images import Images


def episodes(
    examples: Images | Data,
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
    to learn from and the other `query` to be judged on. The examples stay on the device as they
    are, of which `draw` takes what it needs, inside of `jit` and `vmap`.

    Args:
        examples: `Images` by class, such as `omniglot("train")`; or `Data(x, y)` of your own: x
            (n, ...), vectors or images (H, W, C), and y (n,), labels of any kind, in any order, of
            classes of any sizes. Floating x keeps its units and type; bytes (uint8) are divided by
            255, other whole numbers are not. They become a constant of the compiled program; some
            hundred megabytes take it seconds longer to compile.
        way: classes a task, at least 1.
        shot: examples of each class to learn from, at least 1.
        query: examples of each class to be judged on, at least 1.
        rotations: make four classes of each, by turning all of its images by 0, 90, 180 and 270
            degrees (Santoro et al., 2016). A task may hold several turns of one class.
        distort: how strongly each image is shifted, turned, stretched and sheared on its own, for
            training. At 1, within 7% of its side, 10 degrees and 12%. Default: not at all.
        mirror: exchange left and right in half of the images, for training on photographs.

    Returns:
        `draw`. Its tasks have x (way * shot, ...), floating (of images by class float32 in [0, 1]),
        and y (way * shot,), int32, 0 to way - 1, ordered by class; likewise the test data with
        `query`.

    Raises:
        ValueError: a number below 1, or more than the examples have; x and y that do not fit;
            images not square to be turned, or vectors to be turned, distorted or mirrored; a
            negative `distort`.

    Example:
        >>> import numpy as np
        >>> images = Images(np.zeros((30, 20, 28, 28, 1), np.uint8), names=("a",) * 30)
        >>> task = episodes(images, way=5, shot=1, query=15)(jax.random.key(0))
        >>> task.train.x.shape, task.test.y.shape
        ((5, 28, 28, 1), (75,))

        Vectors of one's own, of three classes of unequal size:
        >>> x, y = np.random.normal(size=(12, 4)), np.array(list("aaabbbbccccc"))
        >>> task = episodes(Data(x, y), way=2, shot=2, query=1)(jax.random.key(0))
        >>> task.train.x.shape, task.train.y.tolist()
        ((4, 4), [0, 0, 1, 1])
    """
    source = by_class(examples)
    _check_views(source, rotations, distort, mirror)
    classes = _checked(source, way, shot, query, rotations)
    x = jnp.asarray(source.x)

    def draw(key: jax.Array) -> Task:
        classing, turning = jax.random.split(key)
        chosen = jax.random.choice(classing, classes, (way,), replace=False)
        which = lambda key, label: source.distinct(key, label, shot + query)
        labels = chosen % len(source.sizes)
        drawn = x[jax.vmap(which)(jax.random.split(turning, way), labels)]
        if rotations:
            drawn = jax.vmap(_turned)(drawn, chosen // len(source.sizes))
        drawn = source.scaled(drawn)
        if distort or mirror:
            warp = partial(distorted, strength=distort, mirror=mirror)
            drawn = jax.vmap(warp)(jax.random.split(jax.random.fold_in(key, 0), way), drawn)
        return Task(_data(drawn[:, :shot]), _data(drawn[:, shot:]))

    return draw


def _check_views(source: ByClass, rotations: bool, distort: float, mirror: bool) -> None:
    """Raise where examples cannot be turned, distorted or mirrored."""
    wanted = {"rotations": rotations, "distort": distort, "mirror": mirror}
    shape = source.x.shape[1:]
    if len(shape) != 3 and (named := [name for name, value in wanted.items() if value]):
        raise ValueError(
            f"{named[0]}: is for images (H, W, C), and one example is of shape {shape}; leave it "
            "out, or give images of one colour their axis, x[..., None]."
        )
    if rotations and shape[0] != shape[1]:
        raise ValueError(
            f"rotations: images of {shape[0]}x{shape[1]} are not square; leave it False."
        )
    if not distort >= 0:
        raise ValueError(
            f"distort: must not be negative, got {distort}; 0 leaves images as they are."
        )


def _checked(source: ByClass, way: int, shot: int, query: int, rotations: bool) -> int:
    """How many classes there are, with rotations."""
    classes = len(source.sizes) * (4 if rotations else 1)
    if way > classes:
        raise ValueError(f"way: {way} of {classes} classes cannot be distinct; lower it.")
    least = int(source.sizes.min())
    if shot + query > least:
        few = int((source.sizes < shot + query).sum())
        which = "that there are" if few == len(source.sizes) else f"of the smallest ({few} are so)"
        raise ValueError(
            f"query: {shot} + {query} examples of a class are more than the {least} {which}; lower "
            "query or shot, or leave small classes out."
        )
    return classes


def _turned(drawn: jax.Array, quarters: jax.Array) -> jax.Array:
    """Images (n, H, W, C) turned by so many quarters."""
    return jnp.stack([jnp.rot90(drawn, k, axes=(1, 2)) for k in range(4)])[quarters]


def _data(drawn: jax.Array) -> Data:
    way, each = drawn.shape[:2]
    x = drawn.reshape(way * each, *drawn.shape[2:])
    return Data(x, jnp.repeat(jnp.arange(way, dtype=jnp.int32), each))
