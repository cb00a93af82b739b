"""How accurate is each estimator, and at what cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from rich.console import Console
from rich.table import Table

from .._check import check
from .._gauss_newton import LeastSquares
from .._meta_loss import Estimator
from .._problem import Problem, PyTree
from .._solve import Solver, positive
from ._count import GRADIENTS, PRODUCTS, Counts, counted


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
    solve: Solver | Mapping[str, Solver],
    theta: PyTree,
    task: PyTree,
    exact: PyTree,
    key: jax.Array | None = None,
    repeats: int = 5,
) -> list[Record]:
    """Run every estimator on one task: its error, and its cost.

    Gradients and products are counted as they are run, in a run of its own: loops by their turns,
    rows under `vmap` one by one, what is unused not at all. Derivatives by theta at a fixed phi
    (one a meta-gradient) and the diagnostics are not counted.

    Args:
        estimators: by name.
        problem: what is learned.
        solve: how it is learned; or one solver an estimator, by the same names.
        theta: the meta-parameters.
        task: one task.
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
        ...     theta=jnp.array(1.0), task=jnp.array(3.0), exact=jnp.array(2.0),
        ... )
        >>> [(r.name, round(r.error, 4), r.gradients, r.products) for r in records]
        [('symmetric', 0.0025, 300, 0), ('crude', 1.0, 100, 0)]
    """
    positive("repeats", repeats)
    check(problem, theta, task)
    truth = _flat(exact, theta)
    solvers = solve if isinstance(solve, Mapping) else dict.fromkeys(estimators, solve)
    if missing := [name for name in estimators if name not in solvers]:
        raise ValueError(f"solve: there is none for {', '.join(missing)}; add it by that name.")
    records = []
    for name, estimator in estimators.items():
        learner = solvers[name]
        grad, seconds, memory = _timed(estimator, problem, learner, (theta, task, key), repeats)
        counts = _counted(estimator, problem, learner, (theta, task, key))
        error = float(np.linalg.norm(grad - truth) / np.linalg.norm(truth))
        sizes = np.linalg.norm(grad) * np.linalg.norm(truth)
        cosine = float(grad @ truth / sizes) if sizes else 0.0
        records.append(Record(name, error, cosine, *counts, seconds, memory))
    return records


def print_records(records: Iterable[Record], title: str = "") -> None:
    """Print a table, one row an estimator."""
    sheet = Table(title=title or None, title_justify="left")
    sheet.add_column("estimator")
    columns = ("relative error", "cosine", "gradients", "Hessian products", "ms", "KiB")
    for column in columns:
        sheet.add_column(column, justify="right")
    for r in records:
        memory = "" if r.memory is None else f"{r.memory / 1024:.0f}"
        cells = (f"{r.error:.1e}", f"{r.cosine:.4f}", str(r.gradients), str(r.products))
        sheet.add_row(r.name, *cells, f"{1000 * r.seconds:.2f}", memory)
    Console(width=100).print(sheet)


def _flat(exact: PyTree, theta: PyTree) -> np.ndarray:
    shape = lambda tree: jax.tree.map(jnp.shape, tree)
    if shape(exact) != shape(theta):
        raise ValueError(f"exact: must be like theta, {shape(theta)}, not {shape(exact)}.")
    flat = np.asarray(ravel_pytree(exact)[0], np.float64)
    if not (np.isfinite(flat).all() and flat.any()):
        raise ValueError("exact: is zero or not finite, so nothing is relative to it; move theta.")
    return flat


def _timed(
    estimator: Estimator, problem: Problem, solve: Solver, args: tuple[Any, ...], repeats: int
) -> tuple[np.ndarray, float, int | None]:
    program = _compiled(estimator, problem, solve, args)
    grad = jax.block_until_ready(program(*args))
    took = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*args))
        took.append(time.perf_counter() - start)
    layout = program.memory_analysis()
    memory = None if layout is None else int(layout.temp_size_in_bytes)
    return np.asarray(grad, np.float64), float(np.median(took)), memory


def _counted(
    estimator: Estimator, problem: Problem, solve: Solver, args: tuple[Any, ...]
) -> tuple[int, int]:
    counts, rows = Counts(Counter(), Counter()), 1
    program = _compiled(estimator, counted(problem, counts), solve, args)
    jax.block_until_ready(program(*args))
    if isinstance(problem.inner, LeastSquares):
        examples = problem.inner.data(problem.encoded(*args[:2]))
        rows = len(jax.tree.leaves(examples)[0])
    return counts.total(GRADIENTS, rows), counts.total(PRODUCTS, rows)


def _compiled(estimator: Estimator, problem: Problem, solve: Solver, args: tuple[Any, ...]) -> Any:
    def grad(theta: PyTree, task: PyTree, key: Any) -> jax.Array:
        return ravel_pytree(estimator.value_and_grad(problem, solve, theta, task, key)[1])[0]

    return jax.jit(grad).lower(*args).compile()
