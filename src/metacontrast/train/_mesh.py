"""Devices: the tasks of a meta-step side by side on them, large parameters split over them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from .._problem import Problem, PyTree
from .._solve import positive

TASKS, PARAMETERS = "tasks", "parameters"


def device_mesh(tasks: int | None = None, parameters: int = 1) -> Mesh:
    """A mesh of `tasks` times `parameters` devices, for `meta_train` and `evaluator`.

    Each of the `tasks` rows of the mesh learns its share of the tasks. Within a row, each array of
    theta, of phi and of the optimiser's state is split along its longest axis that `parameters`
    divides; an array without such an axis is kept whole on every device.

    Args:
        tasks: over how many devices the tasks are spread. Default: over all there are.
        parameters: over how many devices each copy of the parameters is split.

    Raises:
        ValueError: fewer devices than that; with several processes, not all devices.

    Example:
        >>> dict(device_mesh(1).shape)
        {'tasks': 1, 'parameters': 1}
    """
    positive("parameters", parameters)
    devices = jax.devices()
    if tasks is None:
        tasks = max(1, len(devices) // parameters)
    positive("tasks", tasks)
    wanted, several = tasks * parameters, jax.process_count() > 1
    if wanted > len(devices) or (several and wanted != len(devices)):
        raise ValueError(
            f"mesh: {tasks}x{parameters} needs {wanted} devices, and there are {len(devices)}"
            + (" in all processes, every one of which must be used." if several else "; on CPU ask "
               "for more before anything else uses JAX, by use_devices or --devices.")
        )  # fmt: skip
    grid = np.array(devices[:wanted]).reshape(tasks, parameters)
    return Mesh(grid, (TASKS, PARAMETERS), axis_types=(AxisType.Auto,) * 2)


_default: list[Mesh] = []  # what `use_devices` chose for this process; at most one


def set_default(mesh: Mesh | None) -> None:
    """Where `meta_train` and `evaluator` run if they are given no mesh; None is one device."""
    _default[:] = [] if mesh is None else [mesh]


def resolved(mesh: Mesh | None) -> Mesh | None:
    """`mesh`, or the default of this process.

    Raises:
        ValueError: an axis other than "tasks" and "parameters", or one that is not automatic.
    """
    mesh = mesh if mesh is not None else next(iter(_default), None)
    if mesh is None:
        return None
    if TASKS not in mesh.axis_names or set(mesh.axis_names) - {TASKS, PARAMETERS}:
        raise ValueError(
            f"mesh: its axes must be 'tasks' and, if you like, 'parameters', not "
            f"{mesh.axis_names}; device_mesh makes one."
        )
    if any(kind != AxisType.Auto for kind in mesh.axis_types):
        raise ValueError("mesh: its axes must be of type Auto; device_mesh makes such a mesh.")
    return mesh


def check_tasks(tasks: int, mesh: Mesh | None) -> None:
    """Raise a `ValueError` if there are devices that would get no task."""
    if mesh is not None and tasks < mesh.shape[TASKS]:
        raise ValueError(
            f"tasks: {tasks} cannot be spread over the {mesh.shape[TASKS]} devices of the mesh's "
            "axis 'tasks'; take fewer devices, more tasks, or split the parameters (--mesh 1xP)."
        )


def axis_of_tasks(mesh: Mesh | None) -> str | None:
    """The name that `vmap` over tasks gives its axis, so that constraints inside it keep it."""
    return None if mesh is None else TASKS


def spread(rows: PyTree, mesh: Mesh | None) -> tuple[PyTree, jax.Array]:
    """The rows, one a task, spread over the devices; and which of them are to be counted.

    Devices get equally many: what is missing is filled with copies, which are not to be counted.
    """
    n = len(jax.tree.leaves(rows)[0])
    if mesh is None:
        return rows, jnp.ones(n, bool)
    padded = jnp.arange(math.ceil(n / mesh.shape[TASKS]) * mesh.shape[TASKS])
    rows = jax.tree.map(lambda leaf: leaf[padded % n], rows)
    by_task = NamedSharding(mesh, PartitionSpec(TASKS))
    return jax.lax.with_sharding_constraint((rows, padded < n), by_task)


def _split(leaf: Any, mesh: Mesh) -> NamedSharding:
    """Along its longest axis that the mesh's axis "parameters" divides (the first of equals)."""
    size, shape = mesh.shape.get(PARAMETERS, 1), jnp.shape(leaf)
    fitting = [i for i, n in enumerate(shape) if size > 1 and n and n % size == 0]
    if not fitting:
        return NamedSharding(mesh, PartitionSpec())
    axis = max(fitting, key=lambda i: shape[i])
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, PARAMETERS))


def constrained(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside `jit`: the tree, split as parameters are."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, _split(x, mesh)), tree)


def split_phi(problem: Problem, mesh: Mesh | None) -> Problem:
    """The problem, with phi split as parameters are, wherever it starts."""
    if mesh is None or mesh.shape.get(PARAMETERS, 1) == 1:
        return problem
    init = problem.init
    return replace(problem, init=lambda theta, task: constrained(init(theta, task), mesh))


def placed(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree on the devices, split as parameters are. It must be the same in all processes."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: _put(x, _split(x, mesh)), tree)


def copied(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The tree, whole on every device. It must be the same in all processes."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda x: _put(x, NamedSharding(mesh, PartitionSpec())), tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    # JAX puts no keys on the devices of other processes, but their data it does.
    whole = NamedSharding(sharding.mesh, PartitionSpec())
    data = jax.device_put(jax.random.key_data(leaf), whole)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))


def whole(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Inside `jit`: the tree, whole on every device."""
    if mesh is None:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, PartitionSpec()))


def gathered(tree: PyTree) -> PyTree:
    """The tree, with what is split over processes whole in each; every one of them must call."""

    def whole(leaf: Any) -> Any:
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable
        if here or leaf.is_fully_replicated:
            return leaf
        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(whole, tree)


def held(tree: PyTree) -> PyTree:
    """A copy on the host, which no donation of the original's buffers can touch; see `gathered`."""
    return jax.tree.map(np.array, gathered(tree))
