"""How a network answers an error at its output: a rule in place of the derivative by phi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
from jax.custom_derivatives import CustomVJPPrimal, SymbolicZero, custom_vjp_primal_tree_values

from .._loss import Loss
from .._problem import Problem
from .._solver._base import Solver, SolverLike, State
from .._solver._function import as_solver
from .._types import Key, PyTree, Step

Apply: TypeAlias = Callable[[PyTree, PyTree], PyTree]
# `(phi, x, error, key) -> gradient`.
Backward: TypeAlias = Callable[[PyTree, PyTree, PyTree, Key | None], PyTree]
Residuals: TypeAlias = tuple[PyTree, PyTree, Key | None]


@runtime_checkable
class Rule(Protocol):
    """A network `(phi, x, key=None) -> output` with a derivative by phi of its own."""

    def __call__(self, phi: PyTree, x: PyTree, key: Key | None = None) -> PyTree:
        """The output for one example; the key draws what noise the derivative needs."""


def credit_rule(apply: Apply, backward: Backward) -> Rule:
    """The network `apply`, whose derivative by phi is `backward`.

    `jax.grad` of any loss written with it is then the rule's gradient: errors at the output are
    those of the loss, whatever it is, and what depends on phi by other ways (a pull to omega) keeps
    its exact derivative. Errors are not carried back to x.

    Args:
        apply: `(phi, x) -> output`, of one example.
        backward: `(phi, x, error, key) -> gradient`, of phi's structure, the rule's stand-in for
            `error' d output / d phi`; `error`, that is dL/d output, has the output's structure.

    Returns:
        The rule, `(phi, x, key=None) -> output`; the key draws what noise `backward` needs.

    Raises:
        TypeError: from the rule, if x depends on what is differentiated by.

    Example:
        >>> timid = credit_rule(lambda w, x: w * x, lambda w, x, error, key: jnp.sign(error * x))
        >>> float(jax.grad(lambda w: timid(w, 3.0) ** 2)(2.0))
        1.0
    """

    @jax.custom_vjp
    def rule(phi: PyTree, x: PyTree, key: Key | None) -> PyTree:
        return apply(phi, x)

    def forward(phi: PyTree, x: PyTree, key: PyTree) -> tuple[PyTree, Residuals]:
        if any(leaf.perturbed for leaf in jax.tree.leaves(x, is_leaf=_is_primal)):
            raise TypeError(
                "x: a credit rule carries no error back to its input, which here depends on what "
                "is differentiated by; let the rule's network begin where phi does."
            )
        phi, x, key = custom_vjp_primal_tree_values((phi, x, key))
        return apply(phi, x), (phi, x, key)

    def pull_back(residuals: Residuals, error: PyTree) -> tuple[PyTree, None, None]:
        phi, x, key = residuals
        error = jax.tree.map(_as_array, error, is_leaf=_is_zero)
        return backward(phi, x, error, key), None, None

    rule.defvjp(forward, pull_back, symbolic_zeros=True)
    return lambda phi, x, key=None: rule(phi, x, key)


@dataclass(frozen=True)
class WithCreditRule(Solver):
    """What `with_credit_rule` returns: a solver that is handed the loss as the rule sees it."""

    solver: Solver
    problem: Callable[[Apply], Problem] = field(repr=False)
    rule: Rule = field(repr=False)

    def init(self, loss: Loss, phi: PyTree, memory: PyTree = None) -> State:
        """The solver's own."""
        return self.solver.init(_twin(loss, self.problem, self.rule), phi, memory)

    def step(self, loss: Loss, state: State, t: Step) -> State:
        """The solver's own."""
        return self.solver.step(_twin(loss, self.problem, self.rule), state, t)


def with_credit_rule(solver: SolverLike, problem: Callable[[Apply], Problem], rule: Rule) -> Solver:
    """A solver whose gradients by phi are those of a credit rule.

    It is handed the loss of `problem(rule)`; estimators and evaluators keep the exact problem, so
    that only learning is changed. Step `t` of every phase draws the same noise; a solver that runs
    until converged draws the same one at each of its steps, without which it could not converge.

    Args:
        solver: any that asks JAX for gradients, `descend` or `until_converged` say; also a function
            that `as_solver` takes. It keeps its abilities, but for complex numbers.
        problem: `apply -> Problem`, the problem as a function of its network `(phi, x) -> output`.
            `problem(rule)` must have the values of the exact problem; only derivatives differ.
        rule: see `credit_rule`.

    Example:
        >>> import optax, metacontrast as mc
        >>> def problem(apply):
        ...     loss = lambda phi, data: (apply(phi, data.x) - data.y) ** 2
        ...     return mc.Problem(
        ...         init=lambda w, task: w,
        ...         inner=lambda phi, w, task: loss(phi, task.train) + mc.Synapse(w).pull(phi),
        ...         outer=lambda phi, w, task: loss(phi, task.test),
        ...     )
        >>> line = lambda w, x: w * x
        >>> rule = credit_rule(line, lambda w, x, error, key: error * jnp.sign(x))  # unaware of |x|
        >>> solver = with_credit_rule(mc.descend(optax.sgd(0.1), 100), problem, rule)
        >>> task = mc.Task(*[mc.Data(jnp.array(2.0), jnp.array(4.0))] * 2)
        >>> solution = mc.solve_inner(problem(line), solver, jnp.array(0.0), task)
        >>> round(float(solution.phi), 3)  # sign(x) (2 phi - 4) + phi = 0, not 2 (2 phi - 4) + phi
        1.333
    """
    solver = as_solver(solver)
    return WithCreditRule(
        solver,
        problem,
        rule,
        steps=solver.steps,
        tol=solver.tol,
        carries=solver.carries,
        sampled=solver.sampled,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class _Twin(Loss):
    """A loss written with the rule, whose noise is drawn by the key of the loss."""

    exact: Loss
    build: Callable[[Apply], Problem]
    rule: Rule

    def view(self, step: Step) -> Loss:
        """The view of the exact loss, with noise of its own."""
        return _twin(self.exact.view(step), self.build, self.rule)


def _twin(loss: Loss, build: Callable[[Apply], Problem], rule: Rule) -> Loss:
    written = build(lambda phi, x: rule(phi, x, loss.key))
    return _Twin(
        problem=replace(written, init=loss.problem.init, sample=loss.problem.sample),
        theta=loss.theta,
        z=loss.z,
        key=loss.key,
        nudge=None if loss.nudge is None else loss.nudge.without_cache(),
        exact=loss,
        build=build,
        rule=rule,
    )


def _is_primal(leaf: PyTree) -> bool:
    return isinstance(leaf, CustomVJPPrimal)


def _is_zero(leaf: PyTree) -> bool:
    return isinstance(leaf, SymbolicZero)


def _as_array(error: PyTree) -> jax.Array:
    return jnp.zeros(error.shape, error.dtype) if _is_zero(error) else error
