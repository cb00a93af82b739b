"""Where arrays lie: the tasks of a meta-step side by side on devices, large parameters split."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool

from .._problem import Problem
from .._types import PyTree
from ._mesh import PARAMETERS, TASKS


@dataclass(frozen=True)
class Layout:
    """What lies where on a mesh; without one, everything is on one device, and nothing is moved."""

    mesh: Mesh | None = None

    @property
    def task_axis(self) -> str | None:
        """The name that `vmap` over tasks gives its axis, so that constraints inside it keep it."""
        return None if self.mesh is None else TASKS

    def check_tasks(self, tasks: int) -> None:
        """Raise a `ValueError` if there are devices that would get no task."""
        if self.mesh is not None and tasks < self.mesh.shape[TASKS]:
            raise ValueError(
                f"tasks: {tasks} cannot be spread over the {self.mesh.shape[TASKS]} devices of the "
                "mesh's axis 'tasks'; take fewer devices, more tasks, or split the parameters "
                "(--mesh 1xP)."
            )

    # Inside `jit`

    def shard_tasks(self, rows: PyTree) -> tuple[PyTree, Bool[Array, " n"]]:
        """The rows, one a task, spread over the devices; and which of them are to be counted.

        Devices get equally many: what is missing is filled with copies, which are not to be
        counted.
        """
        n = len(jax.tree.leaves(rows)[0])
        if self.mesh is None:
            return rows, jnp.ones(n, bool)
        padded = jnp.arange(math.ceil(n / self.mesh.shape[TASKS]) * self.mesh.shape[TASKS])
        rows = jax.tree.map(lambda leaf: leaf[padded % n], rows)
        by_task = NamedSharding(self.mesh, PartitionSpec(TASKS))
        return jax.lax.with_sharding_constraint((rows, padded < n), by_task)

    def shard_parameters(self, tree: PyTree) -> PyTree:
        """The tree, split as parameters are."""
        if self.mesh is None:
            return tree
        constrain = jax.lax.with_sharding_constraint
        return jax.tree.map(lambda x: constrain(x, self._sharding(x)), tree)

    def shard_phi(self, problem: Problem) -> Problem:
        """The problem, with phi split as parameters are, wherever it starts."""
        if self.mesh is None or self.mesh.shape.get(PARAMETERS, 1) == 1:
            return problem
        init = problem.init
        return replace(problem, init=lambda theta, z: self.shard_parameters(init(theta, z)))

    def replicate(self, tree: PyTree) -> PyTree:
        """The tree, whole on every device."""
        if self.mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, NamedSharding(self.mesh, PartitionSpec()))

    # Outside; the trees must be the same in all processes

    def put_parameters(self, tree: PyTree) -> PyTree:
        """The tree on the devices, split as parameters are."""
        if self.mesh is None:
            return tree
        return jax.tree.map(lambda x: _put(x, self._sharding(x)), tree)

    def put_replicated(self, tree: PyTree) -> PyTree:
        """The tree, whole on every device."""
        if self.mesh is None:
            return tree
        whole = NamedSharding(self.mesh, PartitionSpec())
        return jax.tree.map(lambda x: _put(x, whole), tree)

    def _sharding(self, leaf: PyTree) -> NamedSharding:
        """Along its longest axis (the first of equals) that the axis "parameters" divides."""
        assert self.mesh is not None
        size, shape = self.mesh.shape.get(PARAMETERS, 1), jnp.shape(leaf)
        fitting = [i for i, n in enumerate(shape) if size > 1 and n and n % size == 0]
        if not fitting:
            return NamedSharding(self.mesh, PartitionSpec())
        axis = max(fitting, key=lambda i: shape[i])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, PARAMETERS))


def _put(leaf: PyTree, sharding: NamedSharding) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    # JAX puts no keys on the devices of other processes, but their data it does.
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    data = jax.device_put(jax.random.key_data(leaf), whole)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def gather(tree: PyTree) -> PyTree:
    """The tree, with what is split over processes whole in each; every one of them must call."""

    def whole(leaf: PyTree) -> PyTree:
        local = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if local or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def to_host(tree: PyTree) -> PyTree:
    """A copy on the host, which no donation of the original's buffers can touch; see `gather`."""

    def copy(leaf: PyTree) -> PyTree:
        is_key = jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key)
        return jnp.array(leaf) if is_key else np.array(leaf)  # NumPy has no keys

    return jax.tree.map(copy, gather(tree))
