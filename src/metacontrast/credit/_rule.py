"""How a network answers an error at its output: a rule in place of the derivative by phi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from .._problem import Loss, Problem, PyTree
from .._solve import Solution, Solver, settle

Apply = Callable[[PyTree, PyTree], PyTree]
Rule = Callable[..., PyTree]
NOISE = 2**32 - 1  # folded into the key of a step, which draws the step's view by itself


def credited(
    apply: Apply, answer: Callable[[PyTree, PyTree, PyTree, jax.Array | None], PyTree]
) -> Rule:
    """The network `apply`, whose derivative by phi is the credit rule `answer`.

    `jax.grad` of any loss written with it is then the rule's gradient: errors at the output are
    those of the loss, whatever it is, and what depends on phi by other ways (a pull to omega) keeps
    its exact derivative. Errors are not carried back to x.

    Args:
        apply: `(phi, x) -> output`, of one example.
        answer: `(phi, x, error, key) -> gradient`, of phi's structure, the rule's stand-in for
            `error' d output / d phi`; `error`, that is dL/d output, has the output's structure.

    Returns:
        The rule, `(phi, x, key=None) -> output`; the key draws what noise the answer needs.

    Raises:
        TypeError: from the rule, if x depends on what is differentiated by.

    Example:
        >>> timid = credited(lambda w, x: w * x, lambda w, x, error, key: jnp.sign(error * x))
        >>> float(jax.grad(lambda w: timid(w, 3.0) ** 2)(2.0))
        1.0
    """

    @jax.custom_vjp
    def rule(phi: PyTree, x: PyTree, key: Any) -> PyTree:
        return apply(phi, x)

    def forward(phi: PyTree, x: PyTree, key: Any) -> tuple[PyTree, Any]:
        if any(leaf.perturbed for leaf in jax.tree.leaves(x, is_leaf=_is_primal)):
            raise TypeError(
                "x: a credit rule carries no error back to its input, which here depends on what "
                "is differentiated by; let the rule's network begin where phi does."
            )
        phi, x, key = jax.tree.map(lambda leaf: leaf.value, (phi, x, key), is_leaf=_is_primal)
        return apply(phi, x), (phi, x, key)

    def backward(kept: Any, error: PyTree) -> tuple[PyTree, None, None]:
        phi, x, key = kept
        return answer(phi, x, jax.tree.map(_number, error, is_leaf=_is_zero), key), None, None

    rule.defvjp(forward, backward, symbolic_zeros=True)
    return lambda phi, x, key=None: rule(phi, x, key)


def by(solve: Solver, problem: Callable[[Apply], Problem], rule: Rule) -> Solver:
    """The solver `solve`, whose gradients with respect to phi a credit rule finds.

    The solver is handed `problem(rule)`; estimators and evaluators keep the exact problem, so that
    only learning is changed. Step `t` of every phase draws the same noise.

    Args:
        solve: any solver that asks JAX for gradients, `descend` or `until_converged` say. One that
            uses all data at once draws the same noise at each of its steps.
        problem: `apply -> Problem`, the problem as a function of its network `(phi, x) -> output`.
            `problem(rule)` must have the values of the exact problem; only derivatives differ.
        rule: see `credited`.

    Raises:
        TypeError: from the solver, if the loss is not that of a `Problem`.

    Example:
        >>> import optax, metacontrast as mc
        >>> def problem(apply):
        ...     loss = lambda phi, data: (apply(phi, data.x) - data.y) ** 2
        ...     return mc.Problem(
        ...         init=lambda theta, task: theta,
        ...         inner=lambda phi, w, task: loss(phi, task.train) + mc.attraction(phi, w),
        ...         outer=lambda phi, theta, task: loss(phi, task.test),
        ...     )
        >>> line = lambda w, x: w * x
        >>> rule = credited(line, lambda w, x, error, key: error * jnp.sign(x))  # unaware of |x|
        >>> solve = by(mc.descend(optax.sgd(0.1), 100), problem, rule)
        >>> task = mc.Task(*[mc.Data(jnp.array(2.0), jnp.array(4.0))] * 2)
        >>> solution = mc.learn(problem(line), solve, jnp.array(0.0), task)
        >>> round(float(solution.phi), 3)  # sign(x) (2 phi - 4) + phi = 0, not 2 (2 phi - 4) + phi
        1.333
    """

    def solve_by(loss: Any, phi0: PyTree, state: PyTree = None) -> Solution:
        if not isinstance(loss, Loss):
            raise TypeError("loss: a credit rule needs the loss of a Problem (problem.loss(...)).")
        return settle(solve, _twin(loss, problem, rule), phi0, state)

    return solve_by


def _twin(loss: Loss, problem: Callable[[Apply], Problem], rule: Rule) -> Loss:
    """The same loss, written with the rule; the key of its noise travels with the task."""
    draw = loss.problem.sample

    def half(name: str) -> Callable[..., Any]:
        def value(phi: PyTree, theta: PyTree, seen: tuple[PyTree, Any]) -> Any:
            z, key = seen
            return getattr(problem(lambda phi, x: rule(phi, x, key)), name)(phi, theta, z)

        return value

    def sample(seen: tuple[PyTree, Any], key: jax.Array) -> tuple[PyTree, Any]:
        return seen[0] if draw is None else draw(seen[0], key), jax.random.fold_in(key, NOISE)

    keyless = draw is None and loss.key is None
    twin = Problem(
        loss.problem.init, half("inner"), half("outer"), sample=None if keyless else sample
    )
    return replace(loss, problem=twin, z=(loss.z, loss.key))


def _is_primal(leaf: Any) -> bool:
    return hasattr(leaf, "perturbed")


def _is_zero(leaf: Any) -> bool:
    return isinstance(leaf, jax.custom_derivatives.SymbolicZero)


def _number(error: Any) -> jax.Array:
    return jnp.zeros(error.shape, error.dtype) if _is_zero(error) else error
