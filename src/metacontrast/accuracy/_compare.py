"""How accurate is each estimator, and at what cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float

from .._check import check
from .._estimator._base import Estimator
from .._linear import Vector
from .._meta_loss import meta_gradient
from .._must import Count
from .._problem import Problem
from .._solver._base import SolverLike
from .._types import Key, PyTree
from ._count import GRADIENTS, PRODUCTS, Counts, counted, rows

Arguments: TypeAlias = tuple[PyTree, PyTree, Key | None]  # theta, z and the key
COLUMNS = (
    "estimator", "relative error", "cosine", "gradients", "Hessian products", "ms", "KiB"
)  # fmt: skip


class Record(NamedTuple):
    """One estimator: how near it came to the exact meta-gradient, and what that took.

    Attributes:
        name: its key in `compare`'s first argument.
        error: `|estimate - exact| / |exact|`, over all leaves.
        cosine: of the angle between the two.
        gradients: evaluations of the inner (or augmented) loss's gradient by phi.
        products: products of its Hessian by phi with a vector, which cost about two gradients each.
        seconds: of one evaluation, the median of several, without compilation.
        memory: bytes of intermediate results, as the compiler lays them out; None if it does not
            tell.
    """

    name: str
    error: float
    cosine: float
    gradients: int
    products: int
    seconds: float
    memory: int | None


def compare(
    estimators: Mapping[str, Estimator],
    problem: Problem,
    solver: SolverLike | Mapping[str, SolverLike],
    theta: PyTree,
    z: PyTree,
    exact: PyTree,
    key: Key | None = None,
    repeats: Count = 5,
) -> list[Record]:
    """Run every estimator on one task: its error, and its cost.

    Gradients and products are counted as they are run, in a run of its own: loops by their turns,
    rows under `vmap` one by one, what is unused not at all. Derivatives by theta at a fixed phi
    (one a meta-gradient) and the diagnostics are not counted.

    Args:
        estimators: by name.
        problem: what is learned.
        solver: how it is learned; or one solver an estimator, by the same names.
        theta: the meta-parameters.
        z: one task.
        exact: the exact meta-gradient, of theta's structure.
        key: for learners or estimators that draw random numbers.
        repeats: evaluations that are timed.

    Returns:
        One record an estimator, in order.

    Raises:
        ValueError: `exact` unlike theta, or without a length; a solver that is missing; bad input
            (see `check`).

    Example:
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> estimators = {"symmetric": mc.Contrastive(0.1, "symmetric"), "crude": mc.FirstOrder()}
        >>> records = compare(
        ...     estimators, problem, mc.descend(optax.sgd(0.1), 100),
        ...     theta=jnp.array(1.0), z=jnp.array(3.0), exact=jnp.array(2.0),
        ... )
        >>> [(r.name, round(r.error, 4), r.gradients, r.products) for r in records]
        [('symmetric', 0.0025, 300, 0), ('crude', 1.0, 100, 0)]
    """
    check(problem, theta, z, key)
    truth = _flat(exact, theta)
    solvers = solver if isinstance(solver, Mapping) else dict.fromkeys(estimators, solver)
    if missing := [name for name in estimators if name not in solvers]:
        raise ValueError(f"solver: there is none for {', '.join(missing)}; add it by that name.")
    records = []
    for name, estimator in estimators.items():
        arguments = (theta, z, key)
        grad, seconds, memory = _timed(problem, solvers[name], estimator, arguments, repeats)
        counts = _counted(problem, solvers[name], estimator, arguments)
        error = float(np.linalg.norm(grad - truth) / np.linalg.norm(truth))
        sizes = np.linalg.norm(grad) * np.linalg.norm(truth)
        cosine = float(grad @ truth / sizes) if sizes else 0.0
        records.append(Record(name, error, cosine, *counts, seconds, memory))
    return records


def print_records(records: Iterable[Record], title: str = "") -> None:
    """Print a table, one row an estimator."""
    table = [COLUMNS] + [
        (
            r.name,
            f"{r.error:.1e}",
            f"{r.cosine:.4f}",
            str(r.gradients),
            str(r.products),
            f"{1000 * r.seconds:.2f}",
            "" if r.memory is None else f"{r.memory / 1024:.0f}",
        )
        for r in records
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    if title:
        print(title)
    for first, *numbers in table:
        cells = [cell.rjust(n) for cell, n in zip(numbers, widths[1:], strict=True)]
        print("  ".join([first.ljust(widths[0]), *cells]))


def _flat(exact: PyTree, theta: PyTree) -> Float[np.ndarray, " n"]:
    shape = lambda tree: jax.tree.map(jnp.shape, tree)
    if shape(exact) != shape(theta):
        raise ValueError(f"exact: must be like theta, {shape(theta)}, not {shape(exact)}.")
    flat = np.asarray(ravel_pytree(exact)[0], np.float64)
    if not (np.isfinite(flat).all() and flat.any()):
        raise ValueError("exact: is zero or not finite, so nothing is relative to it; move theta.")
    return flat


def _timed(
    problem: Problem, solver: SolverLike, estimator: Estimator, arguments: Arguments, repeats: int
) -> tuple[Float[np.ndarray, " n"], float, int | None]:
    program = _compiled(problem, solver, estimator, arguments)
    grad = jax.block_until_ready(program(*arguments))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        seconds.append(time.perf_counter() - start)
    layout = program.memory_analysis()
    memory = None if layout is None else int(layout.temp_size_in_bytes)
    return np.asarray(grad, np.float64), float(np.median(seconds)), memory


def _counted(
    problem: Problem, solver: SolverLike, estimator: Estimator, arguments: Arguments
) -> tuple[int, int]:
    counts = Counts(Counter(), Counter())
    program = _compiled(counted(problem, counts), solver, estimator, arguments)
    jax.block_until_ready(program(*arguments))
    examples = rows(problem, *arguments[:2])
    return counts.total(GRADIENTS, examples), counts.total(PRODUCTS, examples)


def _compiled(
    problem: Problem, solver: SolverLike, estimator: Estimator, arguments: Arguments
) -> jax.stages.Compiled:
    meta = meta_gradient(problem, solver, estimator, by_z=False)

    def grad(theta: PyTree, z: PyTree, key: Key | None) -> Vector:
        return ravel_pytree(meta(theta, z, key).by_theta)[0]

    return jax.jit(grad).lower(*arguments).compile()
