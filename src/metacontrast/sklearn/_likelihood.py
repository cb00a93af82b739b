"""Losses of linear models as functions of their scores: value, slope and curvature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float

Scores: TypeAlias = Float[np.ndarray, "n outputs"]


class Likelihood(NamedTuple):
    """A loss of each example, `l(scores, y)`, as scikit-learn's models minimise it.

    Attributes:
        losses: `(scores, y) -> (n,)`.
        errors: `(scores, y) -> (n, outputs)`, the slope by the scores.
        curvature: `(scores, y) -> (n, outputs, outputs)`.
        is_quadratic: whether the curvature is the same everywhere.
    """

    losses: Callable[[Scores, np.ndarray], np.ndarray]
    errors: Callable[[Scores, np.ndarray], np.ndarray]
    curvature: Callable[[Scores, np.ndarray], np.ndarray]
    is_quadratic: bool


def _sigmoid(scores: Scores) -> Scores:
    return 0.5 * (1 + np.tanh(scores / 2))


def _binary_curvature(scores: Scores, y: np.ndarray) -> np.ndarray:
    p = _sigmoid(scores)
    return (p * (1 - p))[:, :, None]


def _softmax(scores: Scores) -> Scores:
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def _softmax_losses(scores: Scores, y: np.ndarray) -> np.ndarray:
    most = scores.max(axis=1)
    total = most + np.log(np.exp(scores - most[:, None]).sum(axis=1))
    return total - scores[np.arange(len(y)), y]


def _softmax_errors(scores: Scores, y: np.ndarray) -> np.ndarray:
    errors = _softmax(scores)
    errors[np.arange(len(y)), y] -= 1
    return errors


def _softmax_curvature(scores: Scores, y: np.ndarray) -> np.ndarray:
    p = _softmax(scores)
    return p[:, :, None] * (np.eye(p.shape[1]) - p[:, None, :])


# `Ridge` minimises the sum of squares, targets (n,).
SQUARES = Likelihood(
    losses=lambda scores, y: (scores[:, 0] - y) ** 2,
    errors=lambda scores, y: 2 * (scores - y[:, None]),
    curvature=lambda scores, y: np.full((len(y), 1, 1), 2.0),
    is_quadratic=True,
)
# `LogisticRegression` of two classes has one score between them, labels 0 and 1.
BINARY = Likelihood(
    losses=lambda scores, y: np.logaddexp(0, scores[:, 0]) - y * scores[:, 0],
    errors=lambda scores, y: _sigmoid(scores) - y[:, None],
    curvature=_binary_curvature,
    is_quadratic=False,
)
# Of more classes, one score each, labels 0, 1, 2 ...
SOFTMAX = Likelihood(_softmax_losses, _softmax_errors, _softmax_curvature, False)
