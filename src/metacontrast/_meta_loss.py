"""The frame around every estimator: it checks, compiles, and makes `jax.grad` the chosen rule."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from ._check import check_finite, check_seen, check_shapes, check_slope, start_losses
from ._estimator._base import Estimator, MetaGradient, Phases, Starts, free_phase
from ._expected import check, kinds
from ._flags import Flags
from ._loss import Loss
from ._problem import Problem
from ._solver._base import Solver, SolverLike
from ._solver._function import as_solver
from ._tree import is_finite
from ._types import Key, PyTree, Scalar

PHASES = kinds(Phases)


def meta_gradient(
    problem: Problem, solver: SolverLike, estimator: Estimator, *, by_z: bool | None = None
) -> Callable[..., MetaGradient]:
    """The meta-gradient of one task with all that the estimator tells: see `MetaGradient`.

    `f(theta, z, key=None, starts=None)` gives the value, its gradients by theta and by z, the aux,
    and the `phases`, which the next call can take as its `starts`: so the phases of one long task
    go on from where they stopped while theta moves, a few steps a phase, or a single one. With
    `descend(optax.sgd(a), 1)` and a beta that falls from call to call this is F2SA, the single-loop
    first-order bilevel method (Kwon, Kwon, Wright, Nowak, 2023). The nudged phases must keep up
    with theta: their lag is divided by beta.

    Build it once and call it often, under `jit` or not: it compiles once for each shape.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        estimator: how the meta-gradient is obtained.
        by_z: whether the gradient by z is wanted. Default: where the estimator gives it.

    Raises:
        ValueError: bad input, see `check`.
        TypeError: `starts` for an estimator, or `by_z` of one, that does not have it; code that
            JAX cannot trace.

    Example: the penalty at which a ridge of one weight, `phi = 2 / (1 + theta^2)`, comes to be 1.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(()),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + theta**2 * phi**2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> solver, rule = mc.descend(optax.sgd(0.1), 1), mc.Contrastive(0.1)
        >>> step = jax.jit(mc.meta_gradient(problem, solver, rule))
        >>> theta, phases = jnp.array(0.5), None
        >>> for _ in range(400):
        ...     meta = step(theta, jnp.array(2.0), None, phases)
        ...     theta, phases = theta - 0.1 * meta.by_theta, meta.phases
        >>> round(float(theta), 2)
        1.0
    """
    gradient_of = meta_gradient_of(problem, as_solver(solver), estimator, by_z)

    def gradient(
        theta: PyTree, z: PyTree, key: Key | None = None, starts: Starts = None
    ) -> MetaGradient:
        return gradient_of(theta, z, key, starts, (True,) * len(jax.tree.leaves(theta)))

    return gradient


def meta_gradient_of(
    problem: Problem, solver: Solver, estimator: Estimator, by_z: bool | None
) -> Callable[[PyTree, PyTree, Key | None, Starts, tuple[bool, ...]], MetaGradient]:
    """`meta_gradient`, which is also told of which leaves of theta a gradient is wanted."""
    wanted = estimator.by_z if by_z is None else by_z
    if wanted and not estimator.by_z:
        raise TypeError(_no_gradient_by_z(estimator))
    check_start = _checker(problem, estimator.through, estimator.by_slope)

    @jax.jit
    def run(theta: PyTree, z: PyTree, key: Key | None, starts: Starts) -> MetaGradient:
        meta = estimator.value_and_grad(Loss(problem, theta, z, key, by_z=wanted), solver, starts)
        flags = meta.aux.get("flags", Flags())
        finite = is_finite((meta.value, meta.by_theta, meta.by_z if wanted else None))
        return meta._replace(
            by_theta=_typed_like(theta, meta.by_theta),
            by_z=_typed_like(z, meta.by_z) if wanted else None,
            aux=meta.aux | {"flags": Flags(*map(jnp.asarray, flags._replace(nonfinite=~finite)))},
        )

    def gradient(
        theta: PyTree, z: PyTree, key: Key | None, starts: Starts, learned: tuple[bool, ...]
    ) -> MetaGradient:
        if starts is not None:
            check("starts", starts, PHASES)
            if not estimator.warm_start:
                raise TypeError(
                    f"starts: {estimator!r} looks at where learning started and cannot go on from "
                    "earlier phases; use Contrastive or Implicit, or leave starts out."
                )
        check_start(theta, z, key, learned)
        meta = _traced(run, theta, z, key, starts)
        if not isinstance(meta.value, jax.core.Tracer):
            estimator.check_aux(meta.aux)
        return meta

    return gradient


def meta_loss(
    problem: Problem, solver: SolverLike, estimator: Estimator
) -> Callable[[PyTree, PyTree, Key | None], Scalar]:
    """How well the learner learned, as an ordinary function whose gradient is the chosen rule.

    `loss(theta, z, key=None) = L_out(phi_0, theta, z)` with `phi_0` what the solver ended with. Its
    derivatives by theta and by z are the estimator's meta-gradient, so `jit`, `vmap`, means over
    tasks, reparameterised thetas, features of a slow body and optax compose with it. Evaluated
    without a gradient, it runs the free phase alone. Forward mode works too, and second derivatives
    are those of what the estimator computes. Build it once: each new one compiles anew.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        estimator: how the meta-gradient is obtained.

    Raises:
        ValueError: bad input, see `check`.
        TypeError: when the gradient by z is asked of an estimator that does not give it (it must
            not pass for zero), or by what the solver or the problem closes over (a learning rate;
            where `jit` is around or inside `grad`, JAX says it itself, of an unexpected tracer or
            of a constant); code that JAX cannot trace.

    Example: learn an l2 penalty for ridge regression.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> mse = lambda w, data: jnp.mean((data.x @ w - data.y) ** 2)
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(3),
        ...     inner=lambda w, theta, task: mse(w, task.train) + jnp.exp(theta) * jnp.sum(w**2),
        ...     outer=lambda w, theta, task: mse(w, task.test),
        ... )
        >>> x = jax.random.normal(jax.random.key(0), (20, 3))
        >>> y = x @ jnp.ones(3)
        >>> task = mc.Task(train=mc.Data(x[:10], y[:10]), test=mc.Data(x[10:], y[10:]))
        >>> loss = mc.meta_loss(problem, mc.descend(optax.sgd(0.1), 300), mc.Contrastive(beta=0.01))
        >>> bool(jax.grad(loss)(0.0, task) > 0)  # the data are noiseless: penalise less
        True
    """
    solver = as_solver(solver)
    by_theta = meta_gradient_of(problem, solver, estimator, by_z=False)
    by_both = meta_gradient_of(problem, solver, estimator, by_z=True) if estimator.by_z else None
    check_start = _checker(problem)

    @jax.jit
    def free(theta: PyTree, z: PyTree, key: Key | None) -> Scalar:
        loss = Loss(problem, theta, z, key)
        end = free_phase(loss, solver)
        return loss.with_state(end.model).outer(end.phi)

    @jax.custom_jvp
    def loss(theta: PyTree, z: PyTree, key: Key | None) -> Scalar:
        return _traced(free, theta, z, key)

    def derivative(
        primals: tuple[PyTree, PyTree, Key | None], tangents: tuple[PyTree, PyTree, PyTree]
    ) -> tuple[Scalar, Scalar]:
        theta_tangent, z_tangent, _ = tangents
        of_z = any(map(_moves, jax.tree.leaves(z_tangent)))
        if of_z and by_both is None:
            raise TypeError(_no_gradient_by_z(estimator))
        rule = by_both if of_z and by_both is not None else by_theta
        meta = rule(*primals, None, tuple(map(_moves, jax.tree.leaves(theta_tangent))))
        terms = _products(meta.by_theta, theta_tangent)
        terms += _products(meta.by_z, z_tangent) if of_z else []
        tangent = sum((t.astype(meta.value.dtype) for t in terms), jnp.zeros_like(meta.value))
        return meta.value, tangent

    loss.defjvp(derivative, symbolic_zeros=True)

    def meta(theta: PyTree, z: PyTree, key: Key | None = None) -> Scalar:
        check_start(theta, z, key, ())
        return loss(theta, z, key)

    return meta


def _moves(tangent: jax.Array | SymbolicZero) -> bool:
    return not isinstance(tangent, SymbolicZero)


def _checker(
    problem: Problem, through: tuple[str, ...] | None = None, by_slope: bool = False
) -> Callable[[PyTree, PyTree, Key | None, tuple[bool, ...]], None]:
    """`check`, of which the part on shapes is made once a shape.

    With the leaves of theta that are learned, these are looked for in the functions `through`; and
    the outer loss for a slope, if the gradient is to be `by_slope`.
    """
    known: set[PyTree] = set()
    losses = jax.jit(start_losses(problem))

    def check_start(theta: PyTree, z: PyTree, key: Key | None, learned: tuple[bool, ...]) -> None:
        leaves, structure = jax.tree.flatten((theta, z))
        # Not the key's dtype, which costs as much as all the rest.
        shapes = (structure, learned, tuple(map(_kind, leaves)), type(key), _shape(key))
        if is_new := shapes not in known:
            check_shapes(Loss(problem, theta, z, key))
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            check_finite(losses(theta, z), theta, z)
        if is_new and through is not None:
            check_seen(Loss(problem, theta, z, key), through, learned)
        if is_new and by_slope:
            check_slope(Loss(problem, theta, z, key))
        known.add(shapes)

    return check_start


def _shape(x: PyTree) -> PyTree:
    return getattr(x, "shape", ())


def _kind(leaf: PyTree) -> PyTree:
    """What a leaf looks like to a compiler; of something that is no array, its type."""
    return (
        (leaf.shape, leaf.dtype)
        if isinstance(leaf, jax.Array | np.ndarray)
        else (type(leaf), _shape(leaf))
    )


def _traced(run: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """What `run` returns; where it cannot be traced, an error that says what to do."""
    try:
        return run(*arguments)
    except jax.errors.UnexpectedTracerError as error:
        raise TypeError(
            "solver: it, or the problem, closes over a value that is being differentiated (a "
            "learning rate, say), by which a meta-loss has no derivative: put that value into "
            "theta, where the losses read it as theta and a solver of your own as loss.theta, and "
            "differentiate by theta with an estimator that sees it (Unrolled or Evolution for what "
            "the solver alone uses); or hide it from jax.grad by jax.lax.stop_gradient."
        ) from error
    except (jax.errors.TracerArrayConversionError, jax.errors.ConcretizationTypeError) as error:
        raise TypeError(
            "solver: it, or the problem, asks for numbers where JAX traces arrays "
            f"({str(error).splitlines()[0]}). Write it with jax.numpy, or wrap it in "
            "jax.pure_callback; learners outside JAX are for metacontrast.external."
        ) from error


def _typed_like(tree: PyTree, grads: PyTree) -> PyTree:
    """The gradients in the types of what they are by."""
    return jax.tree.map(
        lambda x, g: g if g.dtype == jax.dtypes.float0 else g.astype(jnp.result_type(x)),
        tree,
        grads,
    )


def _products(grads: PyTree, tangents: PyTree) -> list[Scalar]:
    """`<g, t>` of each leaf that has a tangent."""
    is_leaf = lambda t: isinstance(t, SymbolicZero)
    pairs = zip(jax.tree.leaves(grads), jax.tree.leaves(tangents, is_leaf=is_leaf), strict=True)
    return [jnp.sum(g * t) for g, t in pairs if not is_leaf(t) and t.dtype != jax.dtypes.float0]


def _no_gradient_by_z(estimator: Estimator) -> str:
    return (
        f"z: {estimator!r} gives no gradient by the task; use Contrastive, Implicit or Unrolled, "
        "or make what you want to learn of the task (its weights, say) a part of theta."
    )
