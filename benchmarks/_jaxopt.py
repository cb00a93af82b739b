"""The sine task with JAXopt."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jaxopt
import optax

import metacontrast as mc

from ..experiments import sine
from ._sine import CG, DAMPING, Case, Step, arguments, flat


def jaxopt_implicit(at: Case) -> Step:
    """JAXopt's optax solver, differentiated implicitly by its conjugate gradient."""
    problem, (theta, tasks) = sine.METHODS["cml-gd"].problem, arguments(at)
    learner = jaxopt.OptaxSolver(
        problem.inner,
        optax.sgd(at.rate, at.momentum, nesterov=True),
        maxiter=at.steps,
        tol=0.0,
        implicit_diff=True,
        implicit_diff_solve=partial(
            jaxopt.linear_solve.solve_cg, ridge=DAMPING, maxiter=CG, tol=0.0
        ),
    )

    def judged(theta: Any, task: mc.Task) -> jax.Array:
        phi = learner.run(problem.init(theta, task), theta, task).params
        return problem.outer(phi, theta, task)

    def mean(theta: Any, tasks: mc.Task) -> jax.Array:
        return jnp.mean(jax.vmap(partial(judged, theta))(tasks))

    program = jax.jit(jax.grad(mean))
    return lambda: flat(jax.tree.leaves(program(theta, tasks)))
