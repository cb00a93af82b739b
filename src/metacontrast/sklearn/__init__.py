"""Searches for scikit-learn: hyperparameters by the hundred, tuned by the contrastive rule."""

from .._optional import optional as _optional

_optional("sklearn", extra="sklearn")

from ._search import ContrastiveSearchCV as ContrastiveSearchCV  # noqa: E402
