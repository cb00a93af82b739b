"""The mesh of devices that a run is on."""

from __future__ import annotations

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from .._must import Count

TASKS, PARAMETERS = "tasks", "parameters"


def device_mesh(tasks: Count | None = None, parameters: Count = 1) -> Mesh:
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
    devices = jax.devices()
    if tasks is None:
        tasks = max(1, len(devices) // parameters)
    needed, several = tasks * parameters, jax.process_count() > 1
    if needed > len(devices) or (several and needed != len(devices)):
        raise ValueError(
            f"mesh: {tasks}x{parameters} needs {needed} devices, and there are {len(devices)}"
            + (" in all processes, every one of which must be used." if several else "; on CPU ask "
               "for more before anything else uses JAX, by use_devices or --devices.")
        )  # fmt: skip
    grid = np.array(devices[:needed]).reshape(tasks, parameters)
    return Mesh(grid, (TASKS, PARAMETERS), axis_types=(AxisType.Auto,) * 2)


_default: list[Mesh] = []  # what `use_devices` chose for this process; at most one


def set_default_mesh(mesh: Mesh | None) -> None:
    """Where `meta_train` and `evaluator` run if they are given no mesh; None is one device."""
    _default[:] = [] if mesh is None else [mesh]


def resolve_mesh(mesh: Mesh | None) -> Mesh | None:
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
