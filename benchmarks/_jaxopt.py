"""The sine task with JAXopt."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc

from ._learners import sine_problem
from ._sine import CG, DAMPING, Gradient, SineCase, arguments, flat


def jaxopt_implicit(case: SineCase) -> Gradient:
    """JAXopt's optax solver, differentiated implicitly by its conjugate gradient."""
    import jaxopt

    problem, (theta, tasks) = sine_problem(), arguments(case)
    learner = jaxopt.OptaxSolver(
        problem.inner,
        optax.sgd(case.rate, case.momentum, nesterov=True),
        maxiter=case.steps,
        tol=0.0,
        implicit_diff=True,
        implicit_diff_solve=partial(
            jaxopt.linear_solve.solve_cg, ridge=DAMPING, maxiter=CG, tol=0.0
        ),
    )

    def outer(theta: mc.Synapse, task: mc.Task) -> jax.Array:
        phi = learner.run(problem.init(theta, task), theta, task).params
        return problem.outer(phi, theta, task)

    def mean(theta: mc.Synapse, tasks: mc.Task) -> jax.Array:
        return jnp.mean(jax.vmap(partial(outer, theta))(tasks))

    program = jax.jit(jax.grad(mean))
    return lambda: flat(jax.tree.leaves(program(theta, tasks)))
