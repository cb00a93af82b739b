"""The core's coming names on today's core: this file goes with the renaming."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax

import metacontrast as mc
from metacontrast import train

solve_inner = mc.learn


class Synapse(NamedTuple):
    """Slow weights of a complex synapse; `pull` is what ties the fast weights phi to them."""

    omega: Any = None
    log_lam: Any = 0.0

    def pull(self, phi: Any) -> jax.Array:
        """`sum_i lambda_i (phi_i - omega_i)^2`."""
        return mc.attraction(phi, *self)


def meta_train(
    problem: Any,
    solver: Any,
    estimator: Any,
    sample_task: Any,
    theta: Any,
    optimizer: Any,
    *,
    validate: Any = None,
    log_every: int = 100,
    steps_per_dispatch: int = 10,
    average_from: int | None = None,
    task_batch_size: int | None = None,
    **given: Any,
) -> train.Trained:
    """`train.meta_train` by its coming names."""
    return train.meta_train(
        problem,
        solver,
        estimator,
        sample_task,
        theta,
        optimizer,
        valid=validate,
        every=log_every,
        chunk=steps_per_dispatch,
        polyak=average_from,
        at_a_time=task_batch_size,
        **given,
    )
