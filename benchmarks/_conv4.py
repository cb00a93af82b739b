"""The free phase of Conv4, for the comparison with PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import conv4

from ._learners import classification, nesterov, noise

Learn = Callable[[PyTree, mc.Data], PyTree]  # (omega, support sets) -> every task's phi


class Conv4Case(NamedTuple):
    """Support images alone, one a class; cross-entropy, and a pull to where learning starts."""

    filters: int
    strided: bool
    way: int
    tasks: int
    steps: int
    rate: float = 1e-2
    pull: float = 0.25
    momentum: float = 0.9


def conv4_training(
    case: Conv4Case, dtype: DTypeLike = jnp.float32
) -> tuple[Learn, PyTree, mc.Data]:
    """How the tasks are learned, the omega where learning starts, and the tasks' support sets."""
    net = conv4(case.filters, strided=case.strided, classes=case.way, lowering="reverse")
    omega = net.init(jax.random.key(0))
    sets = [noise(i, case.way, 28, 1, case.way) for i in range(case.tasks)]
    data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *sets)
    omega, x = jax.tree.map(lambda leaf: leaf.astype(dtype), (omega, data.x))
    problem = classification(net.apply, lambda omega: mc.Synapse(omega, math.log(case.pull)))
    solver = nesterov(case.rate, case.steps)

    def learn(omega: PyTree, support: mc.Data) -> PyTree:
        return mc.solve_inner(problem, solver, omega, mc.Task(support, support)).phi

    return jax.jit(jax.vmap(learn, (None, 0))), omega, data._replace(x=x)
