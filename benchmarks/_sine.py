"""The sine task of the comparison with other libraries: the same numbers for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.tasks import sine

from ._learners import nesterov, sine_problem, sine_theta

Gradient = Callable[[], np.ndarray]  # one meta-gradient, as one long vector
CG, DAMPING = 20, 10.0  # where learning stops early the Hessian is indefinite


class SineCase(NamedTuple):
    """Network 1-40-40-1, every weight a complex synapse; all arrays are NumPy's.

    `omega` and `log_lam` are theta: (weight, bias) of each layer, weights of shape (outputs,
    inputs). `train` and `test` are (x, y) of shape (tasks, points, 1). The learner is gradient
    descent with Nesterov's momentum on the sum of squares and the pull.
    """

    omega: list[np.ndarray]
    log_lam: list[np.ndarray]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    steps: int = 100
    nudged: int = 50
    beta: float = 0.05
    rate: float = 1e-3
    momentum: float = 0.9


def sine_case(
    tasks: int = 25, steps: int = 100, dtype: DTypeLike = np.float32, seed: int = 0
) -> SineCase:
    """`tasks` sines: 10 points to learn from, 10 to be judged on; half as many nudged steps."""
    drawn = jax.vmap(sine)(jax.random.split(jax.random.key(seed), tasks))
    theta, drawn = jax.tree.map(lambda x: np.asarray(x, dtype), (sine_theta(), drawn))
    omega, log_lam = map(jax.tree.leaves, theta)
    halves = tuple(drawn.train), tuple(drawn.test)
    return SineCase(omega, log_lam, *halves, steps, max(1, steps // 2))


def solvers(case: SineCase) -> tuple[mc.Solver, mc.Solver]:
    """Of the free and of the nudged phases."""
    return nesterov(case.rate, case.steps), nesterov(case.rate, case.nudged)


def arguments(case: SineCase) -> tuple[mc.Synapse, mc.Task]:
    """theta and the tasks, as trees of arrays."""
    tree = jax.tree.structure(sine_theta().omega)
    slow = (case.omega, case.log_lam)
    theta = mc.Synapse(*(jax.tree.unflatten(tree, map(jnp.asarray, leaves)) for leaves in slow))
    halves = (mc.Data(*map(jnp.asarray, half)) for half in (case.train, case.test))
    return theta, mc.Task(*halves)


def by_estimator(estimator: Callable[[SineCase], mc.Estimator], case: SineCase) -> Gradient:
    """The mean meta-gradient over the tasks, by an estimator of this library."""
    gradient = mc.meta_gradient(sine_problem(), solvers(case)[0], estimator(case), by_z=False)

    def mean(theta: mc.Synapse, tasks: mc.Task) -> PyTree:
        grads = jax.vmap(lambda task: gradient(theta, task).by_theta)(tasks)
        return jax.tree.map(lambda g: jnp.mean(g, 0), grads)

    program, args = jax.jit(mean), arguments(case)
    return lambda: flat(jax.tree.leaves(program(*args)))


def contrastive(case: SineCase) -> mc.Contrastive:
    """Symmetric, as the experiment has it."""
    return mc.Contrastive(case.beta, "symmetric", nudged=solvers(case)[1])


def cg(case: SineCase) -> mc.Implicit:
    """Conjugate gradient on the damped Hessian."""
    return mc.Implicit("cg", CG, damping=DAMPING)


def flat(leaves: Any) -> np.ndarray:
    """One vector of all leaves, also of PyTorch's."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])
