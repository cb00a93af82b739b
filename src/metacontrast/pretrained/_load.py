"""Thetas that come with the package: a file of arrays and a result each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .._synapse import Synapse
from .._types import PyTree
from ..nets import conv4, mlp
from ..slow import HeadTheta
from ..train import load_theta

_FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.npz")))


def _sine() -> Synapse:
    omega = mlp(1, 40, 2, 1).init(jax.random.key(0))
    return Synapse(omega, omega)


def _omniglot_head() -> dict[str, Any]:
    net = conv4((64,) * 4, strided=True, channels=1, size=28)
    body, images = net.init(jax.random.key(0)), jnp.zeros((2, 28, 28, 1))
    by = {"statistics": net.statistics(body, images), "centre": net.apply(body, images)[0]}
    return {"body": body, "head": HeadTheta(jnp.zeros(()), jnp.zeros(())), "reference": by}


# What has other containers than dicts, lists and `Synapse`, which a file does not name.
_LIKE = {"omniglot-head": _omniglot_head, "sine": _sine}


class Pretrained(NamedTuple):
    """A theta that was meta-trained, and what is known of it.

    Attributes:
        theta: in float32.
        result: that of its run, as `result.json` of the run's folder: `value`, `ci95`, `n_tasks`,
            `metric`, `command`, `settings`, `versions` and the rest.
    """

    theta: PyTree
    result: Mapping[str, Any]


def load(name: str) -> Pretrained:
    """A theta that comes with the package.

    Each is of the first seed of those that a table reports, not of the best; its file is one of
    `save_theta`, and vouches for itself by a checksum. What each is and how it is used:
    docs/pretrained.md.

    Args:
        name: one of `NAMES`.

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> import jax, jax.numpy as jnp, metacontrast as mc
        >>> from metacontrast import pretrained
        >>> theta, result = pretrained.load("sine")
        >>> result["metric"]
        'mean squared error on held-out tasks'
        >>> net = mc.nets.mlp(1, 40, 2, 1, jnp.tanh)
        >>> jax.vmap(lambda x: net.apply(theta.omega, x))(jnp.zeros((3, 1))).shape  # untaught
        (3, 1)
    """
    if name not in NAMES:
        raise ValueError(f"name: no theta is called {name!r}; choose of {', '.join(NAMES)}.")
    result = json.loads((_FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    with jax.enable_x64(False):
        like = _LIKE[name]() if name in _LIKE else None
        return Pretrained(load_theta(_FOLDER / f"{name}.npz", like), result)
