"""Meta-training on Omniglot, as benchmarks want it: the last theta, on validation classes."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from jaxtyping import PyTree

sys.path.append(str(Path(__file__).parents[1] / "experiments"))
import _few_shot
import omniglot as omniglot
from _few_shot_learners import learner as learner


def trained(s: omniglot.Settings, judged: int) -> tuple[PyTree, np.ndarray]:
    """Meta-train, or go on; the last theta, and its accuracy on so many tasks in percent."""
    classes, one = omniglot.classes(s), learner(s, channels=1)
    scores = _few_shot.scorer(one, _few_shot.first_images(s, classes.images("train")))
    theta = _few_shot.meta_train(omniglot.EXPERIMENT, s, one, classes, scores).theta
    return theta, scores(theta, classes.held_out("valid", s, judged, 15)())
