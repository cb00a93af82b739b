"""What `diagnose` runs in JAX: estimates of a meta-gradient, and meta-losses beside theta."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ._arrays import Numbers, flat
from ._directional import Judge, Look, Move
from ._estimator._base import Estimator, MetaGradient
from ._estimator._contrastive import Contrastive
from ._estimator._first_order import FirstOrder
from ._features import Features, problem_inputs, vjp_features
from ._linear import central_difference
from ._loss import Loss
from ._meta_loss import meta_gradient, meta_loss
from ._problem import Problem
from ._program import narrowest
from ._solver._base import SolverLike, Start, start_of
from ._solver._function import as_solver
from ._tree import dot, norm, or_one, widened
from ._types import Key, PyTree, Scalar

T = TypeVar("T")
Gradient = Callable[[float, Key | None], tuple[Numbers, MetaGradient]]


@dataclass(frozen=True)
class Configuration:
    """One task at one theta: the arguments of `diagnose` of these names."""

    problem: Problem
    solver: SolverLike
    theta: PyTree
    z: PyTree
    key: Key | None
    features: Features | None = None

    @cached_property
    def inputs(self) -> tuple[PyTree, PyTree]:
        """The theta and the z of the problem."""
        if self.features is None:
            return self.theta, self.z
        return jax.jit(self.features)(self.theta, self.z)

    @property
    def draws(self) -> bool:
        """Whether another key makes another estimate."""
        return self.key is not None and self.problem.sample is not None

    @property
    def other_key(self) -> Key | None:
        """Another key."""
        return None if self.key is None else jax.random.fold_in(self.key, 1)

    def gradient(self, estimator: Estimator) -> Gradient:
        """`(factor of beta, key) -> (the estimate in one row, all of it)`, one program."""

        @jax.jit
        def run(factor: Scalar, *at: PyTree) -> tuple[PyTree, MetaGradient]:
            rule = estimator
            if isinstance(rule, Contrastive):
                rule = rule.scaled(factor)
            return self._estimate(self.problem, rule, *at)

        def gradient(factor: float, key: Key | None) -> tuple[Numbers, MetaGradient]:
            by_theta, meta = run(factor, self.theta, self.z, key)
            return flat(by_theta), meta

        return gradient

    def wide(self, estimator: Estimator) -> Numbers | None:
        """The estimate in the next wider type, where all of it can be had there."""
        return self._in_wider(lambda run: run.gradient(estimator)(1.0, run.key)[0])

    def wide_look(self, d: Numbers, value: float) -> Look | None:
        """What differences say in the next wider type, whose steps see fewer kinks."""

        def look(run: Configuration) -> Look:
            judge = run.judge(value)
            # Numbers that only enter, such as data that the losses hold, may stay as narrow.
            return replace(judge, eps=judge.theta_eps).look(d)

        return self._in_wider(look)

    def _in_wider(self, found: Callable[[Configuration], T]) -> T | None:
        if self._eps <= np.finfo(np.float64).eps:
            return None
        kind = np.float64 if self._eps <= np.finfo(np.float32).eps else np.float32
        widen = partial(_widened, kind)
        init, state = self.problem.init, self.problem.state
        wide = replace(self.problem, init=lambda theta, z: widen(init(theta, z)))
        if state is not None:
            wide = replace(wide, state=lambda theta, z: widen(state(theta, z)))
        try:
            with jax.enable_x64(kind == np.float64):
                theta, z = widen(self.theta), widen(self.z)
                return found(replace(self, problem=wide, theta=theta, z=z))
        except (TypeError, ValueError):  # a part of the problem insists on its type
            return None

    def _estimate(
        self, problem: Problem, rule: Estimator, theta: PyTree, z: PyTree, key: Key | None
    ) -> tuple[PyTree, MetaGradient]:
        inputs, pull_back = vjp_features(self.features, theta, z)
        by_z = self.features is not None
        meta = meta_gradient(problem, self.solver, rule, by_z=by_z)(*inputs, key)
        return pull_back(meta), meta._replace(by_z=None)

    def judge(self, value: float) -> Judge:
        """Of estimates of the gradient of the meta-loss, which is `value` at theta."""
        kinds = [jnp.result_type(x) for x in jax.tree.leaves(self.theta)]
        coarsest = max(float(jnp.finfo(kind).eps) for kind in kinds)
        return Judge(self._meta_loss, flat(self.theta), value, self._eps, coarsest)

    @cached_property
    def _meta_loss(self) -> Move:
        """Of the free phase alone, with the same random numbers everywhere."""
        loss = meta_loss(self.problem, self.solver, FirstOrder())
        row, unravel = ravel_pytree(self.theta)
        here = np.asarray(row, float)

        @jax.jit
        def value(row: Float[Array, " n"], z: PyTree, key: Key | None) -> tuple[PyTree, Scalar]:
            theta = unravel(row)
            return theta, loss(*problem_inputs(self.features, theta, z), key)

        def at(way: Numbers) -> tuple[Numbers, float]:
            theta, found = value(jnp.asarray(here + way, row.dtype), self.z, self.key)
            return flat(theta) - here, float(found)

        return at

    @cached_property
    def _eps(self) -> float:
        """That of the narrowest type that the losses compute in."""

        def losses(theta: PyTree, z: PyTree) -> tuple[Scalar, Scalar]:
            loss = Loss(self.problem, *problem_inputs(self.features, theta, z), self.key)
            start = start_of(loss)
            at = replace(loss.with_state(start.model), is_view=True)
            return at.inner(start.phi), at.outer(start.phi)

        return narrowest(losses, self.theta, self.z) or float(jnp.finfo(jnp.float64).eps)

    @property
    def kept(self) -> int:
        """Bytes of all steps' phi, moments and gradients, roughly: four of phi a step."""

        def start(theta: PyTree, z: PyTree) -> PyTree:
            return start_of(Loss(self.problem, theta, z, self.key)).phi

        leaves = jax.tree.leaves(jax.eval_shape(start, *self.inputs))
        whole = sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)
        return 4 * whole * as_solver(self.solver).steps

    def stiffness(self, free: Start) -> tuple[float, float, float]:
        """The sizes of the curvature along the nudge at `phi_0`, of `phi_0`, and of the nudge."""

        @jax.jit
        def curvature(free: Start, *at: PyTree) -> tuple[Scalar, ...]:
            loss = Loss(self.problem, *at).with_state(free.model)
            x, unravel = ravel_pytree(free.phi)
            v = jax.grad(lambda x: loss.outer(unravel(x)))(x)
            slope = jax.grad(lambda x: loss.inner(unravel(x)))
            along = widened(v) / or_one(norm(v))
            return jnp.abs(dot(along, central_difference(slope, x, along))), norm(x), norm(v)

        stiff, size, nudge = curvature(free, *self.inputs, self.key)
        return float(stiff), float(size), float(nudge)


def _widened(kind: type, tree: PyTree) -> PyTree:
    """The tree with its floating leaves in this type."""
    is_float = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.tree.map(lambda x: jnp.asarray(x, kind) if is_float(x) else x, tree)
