"""The sine task of the comparison with other libraries: the same numbers for all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..experiments import sine
from ..tasks import sine as draw

Step = Callable[[], np.ndarray]  # one meta-gradient, as one long vector
CG, DAMPING = 20, 10.0  # where learning stops early the Hessian is indefinite


class Case(NamedTuple):
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


def case(tasks: int = 25, steps: int = 100, dtype: Any = np.float32, seed: int = 0) -> Case:
    """`tasks` sines: 10 points to learn from, 10 to be judged on; half as many nudged steps."""
    drawn = jax.vmap(draw)(jax.random.split(jax.random.key(seed), tasks))
    theta, drawn = jax.tree.map(lambda x: np.asarray(x, dtype), (sine.first_theta(0, 5.0), drawn))
    omega, log_lam = map(jax.tree.leaves, theta)
    return Case(omega, log_lam, tuple(drawn.train), tuple(drawn.test), steps, max(1, steps // 2))


def solvers(at: Case) -> tuple[mc.Solver, mc.Solver]:
    """Of the free and of the nudged phases."""
    optimizer = optax.sgd(at.rate, at.momentum, nesterov=True)
    return mc.descend(optimizer, at.steps), mc.descend(optimizer, at.nudged)


def arguments(at: Case) -> tuple[Any, mc.Task]:
    """theta and the tasks, as trees of arrays."""
    tree = jax.tree.structure(sine.first_theta(0, 5.0)[0])
    theta = tuple(
        jax.tree.unflatten(tree, map(jnp.asarray, leaves)) for leaves in (at.omega, at.log_lam)
    )
    halves = (mc.Data(*map(jnp.asarray, half)) for half in (at.train, at.test))
    return theta, mc.Task(*halves)


def ours(estimator: Callable[[Case], Any], at: Case) -> Step:
    """The mean meta-gradient over the tasks, by an estimator of this library."""
    solve, rule = solvers(at)[0], estimator(at)
    problem = sine.METHODS["cml-gd"].problem

    def mean(theta: Any, tasks: mc.Task) -> Any:
        one = lambda task: rule.value_and_grad(problem, solve, theta, task)[1]
        return jax.tree.map(lambda g: jnp.mean(g, 0), jax.vmap(one)(tasks))

    program, args = jax.jit(mean), arguments(at)
    return lambda: flat(jax.tree.leaves(program(*args)))


def contrastive(at: Case) -> Any:
    """Symmetric, as the experiment has it."""
    return mc.Contrastive(at.beta, "symmetric", nudged=solvers(at)[1])


def cg(at: Case) -> Any:
    """Conjugate gradient on the damped Hessian."""
    return mc.Implicit("cg", CG, damping=DAMPING)


def flat(leaves: Any) -> np.ndarray:
    """One vector of all leaves."""
    return np.concatenate([np.asarray(leaf).ravel() for leaf in leaves])
