"""The devices of this process, chosen before JAX starts."""

from __future__ import annotations

import os

import jax
from jax.sharding import Mesh

from .._must import Count, Index
from ._mesh import device_mesh, set_default_mesh
from ._watch import waiting, watch

TIMEOUT = 60  # seconds; see `use_devices`


def use_devices(
    devices: Count | None = None,
    mesh: tuple[Count, Count] | None = None,
    *,
    distributed: bool = False,
    coordinator: str | None = None,
    processes: Count | None = None,
    process: Index | None = None,
    timeout: Count = TIMEOUT,
) -> Mesh:
    """Choose where `meta_train` and `evaluator` run from now on, if they are given no mesh.

    Call it first: JAX must not have computed anything. On a CPU, "devices" are virtual ones, each
    with a thread of its own, so that small tasks use every core.

    Args:
        devices: of this process. Default: as many as `mesh` needs; without it all that JAX sees.
        mesh: `(tasks, parameters)`, see `device_mesh`. Default: the tasks over all devices.
        distributed: this is one of several processes, on this or on other machines. Where the
            cluster does not say so itself (SLURM, Open MPI, Kubernetes), give the other three.
        coordinator: "host:port", where process 0 is reached by the others; it listens there alone.
        processes: how many there are.
        process: which one this is, 0 to processes - 1.
        timeout: after how many seconds without a sign of life of another process, be it that it
            never came, ended or hangs, this one ends, with a line that says so and status 2.

    Raises:
        ValueError: numbers that do not fit each other or the machine.
        RuntimeError: JAX has computed something already; the coordinator was not reached.

    Example:
        >>> use_devices(4)  # doctest: +SKIP
        Mesh('tasks': 4, 'parameters': 1, axis_types=(Auto, Auto))
    """
    _check(devices, mesh, distributed, coordinator, processes, process)
    local = devices or (mesh[0] * mesh[1] if mesh and not distributed else None)
    if local is not None:
        jax.config.update("jax_num_cpu_devices", local)  # of no effect on other platforms
        # A LAPACK call of jaxlib waits, in a thread of XLA's pool, for others of the same pool: if
        # each thread holds such a call, that is a deadlock. So there must be more than the two
        # calls of each device that two phases make at a time. XLA reads the number from here.
        os.environ.setdefault("NPROC", str(max(os.cpu_count() or 1, 2 * local + 1)))
    if distributed:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.config.update("jax_enable_preemption_service", False)  # it swallows SIGTERM
        _join(coordinator, processes, process, timeout)
    if mesh is None and local is not None:
        mesh = (local * jax.process_count(), 1)
    chosen = device_mesh(*(mesh or ()))
    set_default_mesh(chosen)
    return chosen


def _join(
    coordinator: str | None, processes: int | None, process: int | None, timeout: int
) -> None:
    # JAX's own patience ends later than ours, and in an abort.
    later = timeout + 60
    try:
        with waiting(process or 0, timeout):
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                initialization_timeout=later,
                heartbeat_timeout_seconds=later,
                shutdown_timeout_seconds=later,
                coordinator_bind_address=coordinator,
            )
    except ValueError as error:  # before anything was started
        raise ValueError(
            f"distributed: JAX finds no cluster here ({error}); give the coordinator's host:port, "
            "the number of processes, and which of them this is."
        ) from error
    watch(jax.process_index(), jax.process_count(), timeout)


def _check(
    devices: int | None,
    mesh: tuple[int, int] | None,
    distributed: bool,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
) -> None:
    if mesh and devices and not distributed and mesh[0] * mesh[1] != devices:
        raise ValueError(
            f"mesh: {mesh[0]}x{mesh[1]} are {mesh[0] * mesh[1]} devices, not {devices}; leave one "
            "of the two out."
        )
    given = [x is not None for x in (coordinator, processes, process)]
    if any(given) and not (distributed and all(given)):
        raise ValueError(
            "distributed: coordinator, processes and process go together with it; give all, or "
            "leave the three out where SLURM, Open MPI or Kubernetes say them."
        )
    if processes is not None and process is not None and process >= processes:
        raise ValueError(f"process: must be 0 to {processes - 1}, not {process}.")
