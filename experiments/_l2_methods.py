"""The methods of `cifar10_l2`, their settings, and what a meta-step of each costs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import frame

META_STEPS = 20  # Of the methods whose meta-step has the common cost; it sets the budget of all.


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on. `seed` chooses the images, the start of learning and its batches."""

    images: int = 5000  # To learn from.
    valid_images: int = 5000  # Which choose lambda.
    free: int = 500  # Steps of learning.
    batch: int = 50  # Images of a step of learning.
    rate: float = 0.02  # Of learning; falls to zero on a cosine.
    momentum: float = 0.9  # Of learning; Nesterov's.
    first_lambda: float = 1e-2  # Of every weight, where lambda is learned.
    outer_rate: float = 0.3  # Of Adam on log lambda; falls to zero on a cosine.
    valid_batch: int = 2000  # Validation images of a meta-step.
    beta: float = 0.5  # The strength of the nudge.
    damping: float = 0.03  # Of the curvature, in an anchored nudge and in conjugate gradient.
    nudged: int = 40  # Steps of the nudged phase.
    nudged_batch: int = 100  # Images of a step of it; of the outer nudge, as many to validate on.
    nudged_rate: float = 0.003  # Of the nudged phase.
    nudged_momentum: float = 0.95  # Of the nudged phase.
    products: int = 10  # Products with the Hessian: of cg, neumann and truncated backpropagation.
    product_batch: int = 400  # Images of those of cg and neumann, the same for all of a meta-step.
    series_rate: float = 0.01  # Of the Neumann series.
    grid: tuple[float, ...] = (0.0, 1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 2e-2, 3e-2)

    def shorten(self) -> Self:
        """A tenth of the steps of learning too."""
        return replace(super().shorten(), free=self.free // 10)


def cost(s: Settings) -> int:
    """The images whose gradients by phi a meta-step takes; one in a Hessian product counts two."""
    learning = s.free * s.batch
    match s.method:
        # Two a step: of the inner loss at phi and at phi_0, where it has a slope on each batch; or,
        # plain, of the inner loss and of the nudge.
        case "contrastive-anchored" | "layer" | "contrastive-plain":
            return learning + s.nudged * 2 * s.nudged_batch
        case "cg" | "neumann":
            return learning + s.products * 2 * s.product_batch
        case "tbptt":
            return learning + s.products * 2 * s.batch
        case "trajectory":
            return learning + s.free * 2 * s.batch
    return learning


def _at_equal_cost(s: Settings) -> Settings:
    """With as many meta-steps as the common budget allows."""
    return replace(s, steps=META_STEPS * cost(_BASE) // cost(s))


# No diagnosis, whose cost is that of many meta-steps; and the best theta is kept, whatever follows.
_BASE = Settings(method="contrastive-anchored", diagnose=False, on_collapse="ignore")
_LEARNED = (
    # At an outer rate of 1, which validation hardly tells from 0.3, lambda of this and of cg grew
    # beyond 34, where descent at a rate of 0.02 with its momentum is unstable.
    _BASE,
    replace(_BASE, method="layer"),
    # The rule as it stands in the paper: what is left of learning is divided by beta.
    replace(
        _BASE,
        method="contrastive-plain",
        beta=10.0,
        nudged_rate=0.001,
        nudged_momentum=0.9,
        outer_rate=1.0,
    ),
    replace(_BASE, method="trajectory", outer_rate=1.0),
    # Where learning stops early, curvature of -0.6 was met in 10 products on 400 images.
    replace(_BASE, method="cg", damping=3.0),
    replace(_BASE, method="neumann", products=40, product_batch=100),
    replace(_BASE, method="tbptt", products=80),
    replace(_BASE, method="t1t2"),
)
LEARNED = {s.method: _at_equal_cost(s) for s in _LEARNED}
METHODS = LEARNED | {
    "grid": Settings(method="grid"),
    "none": Settings(method="none", grid=(0.0,)),
}
