"""Examples in the order of their classes, which may be of unequal size, and draws of them."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from .._problem import Data
from ._images import Images


@dataclass(frozen=True)
class ByClass:
    """Examples in one row: class c is the `sizes[c]` of them from `firsts[c]` on.

    Args:
        x: (n, ...).
        sizes: of the classes, at least one each.
        scale: what x is multiplied by once drawn, in float32; None leaves x as it is.
    """

    x: np.ndarray
    sizes: np.ndarray
    scale: float | None

    @property
    def firsts(self) -> np.ndarray:
        """Where each class begins."""
        return np.cumsum(self.sizes) - self.sizes

    def distinct(self, key: jax.Array, label: jax.Array, n: int) -> jax.Array:
        """`n` distinct examples of a class, as numbers of rows."""
        if (most := int(self.sizes.max())) == self.sizes.min():
            within = jax.random.choice(key, most, (n,), replace=False)
        else:  # the first of a random order of as many as the class has
            order = jax.random.uniform(key, (most,))
            is_there = jnp.arange(most) < jnp.asarray(self.sizes)[label]
            within = jnp.argsort(jnp.where(is_there, order, 2.0))[:n]
        return jnp.asarray(self.firsts)[label] + within

    def scaled(self, drawn: jax.Array) -> jax.Array:
        """What was drawn, in the units that learners are given."""
        return drawn if self.scale is None else drawn.astype(jnp.float32) / self.scale


def by_class(examples: Images | Data) -> ByClass:
    """The examples in the order of their classes.

    Raises:
        ValueError: arrays that are no examples with labels; names the argument.
    """
    if isinstance(examples, Images):
        classes, each = examples.pixels.shape[:2]
        x = examples.pixels.reshape(classes * each, *examples.pixels.shape[2:])
        return ByClass(x, np.full(classes, each), 255)
    x, y = np.asarray(examples.x), np.asarray(examples.y)
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise ValueError(
            f"examples.x: must be numbers of shape (n, ...), one row an example, not {x.dtype} of "
            f"shape {x.shape}; a vector of n numbers is x[:, None]."
        )
    if y.shape != x.shape[:1] or y.dtype.kind == "f":
        raise ValueError(
            f"examples.y: must be {len(x)} labels, whole numbers or words, one for each row of x, "
            f"not {y.dtype} of shape {y.shape}."
        )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError("examples.x: has NaN or infinity; leave those rows out, or fill them.")
    _, sizes = np.unique(y, return_counts=True)
    x = x[np.argsort(y, kind="stable")]
    return ByClass(x, sizes, None if x.dtype.kind == "f" else 255 if x.dtype == np.uint8 else 1)
