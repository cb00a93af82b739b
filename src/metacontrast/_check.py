"""Bad input, found before any compute is spent, with what to do about it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import jax
import jax.numpy as jnp
from jax.interpreters.partial_eval import dce_jaxpr

from ._flags import unseen
from ._leaves import check_arrays, check_floating, not_finite
from ._loss import Loss
from ._problem import Problem, Task
from ._solver._base import start_of
from ._tree import are_alike, kinds
from ._types import Key, PyTree, Scalar


def check(problem: Problem, theta: PyTree, z: PyTree, key: Key | None = None) -> None:
    """Raise a `ValueError` if `problem` cannot be learned and judged on this task.

    Looked at: the functions take the arguments they are called with; theta and phi have floating
    leaves only; both losses are scalars; train and test data fit each other (where the task is a
    `Task`); and, if the arguments are concrete arrays, both losses are finite where learning
    starts. `meta_loss` makes the checks by itself, those on shapes once for each shape.
    """
    loss = Loss(problem, theta, z, key)
    check_shapes(loss)
    check_finite(jax.jit(start_losses(problem))(theta, z), theta, z)


def check_shapes(loss: Loss) -> None:
    """The part of `check` that needs no arithmetic: types and shapes, at trace time."""
    problem, given = loss.problem, {"theta": loss.theta, "z": loss.z}
    check_floating("theta", loss.theta)
    check_arrays("z", loss.z)
    if isinstance(loss.z, Task):
        _check_halves(loss.z)
    phi = _shapes_of(problem, "init", given)
    check_floating("phi (what problem.init returns)", phi)
    given = {"phi": phi, **given}
    if problem.state is not None:
        given["state"] = _shapes_of(problem, "state", {"theta": loss.theta, "z": loss.z})
    for name in ("inner", "outer"):
        value = _shapes_of(problem, name, given)
        if "state" in given:
            value = _checked_state(name, value, given["state"])
        if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
            raise ValueError(
                f"problem.{name}: must return one floating number, not {shapes(value)}; take the "
                "mean or the sum over examples."
            )


def _shapes_of(problem: Problem, name: str, given: dict[str, PyTree]) -> PyTree:
    """Those that a function of the problem returns; what it cannot take is named."""
    try:
        return jax.eval_shape(getattr(problem, name), *given.values())
    except jax.errors.JAXTypeError:  # of code that cannot be traced: `_traced` says what to do
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        line = next(iter(str(error).splitlines()), "")
        if re.match(r"[\w.\[\]']+: ", line):  # it names an argument already
            raise
        what = ", ".join(f"`{part}` {shapes(tree)}" for part, tree in given.items())
        raise ValueError(
            f"problem.{name}: does not take {what} ({type(error).__name__}: {line}); give it what "
            "it is written for."
        ) from error


@contextmanager
def explained(loss: Loss) -> Iterator[None]:
    """Where what is within fails, `check_shapes` says what is wrong, if it is that."""
    try:
        yield
    except jax.errors.JAXTypeError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError):
        check_shapes(loss)
        raise


def shapes(tree: PyTree) -> str:
    """A tree in a few words."""
    words = str(kinds(tree)).replace("'", "")
    return words if len(words) <= 200 else f"{words[:200]}..."


def check_seen(loss: Loss, through: Sequence[str], learned: Sequence[bool]) -> None:
    """Raise if theta has a leaf that none of these functions of the problem depends on.

    Args:
        loss: of the task.
        through: of "init", "inner" and "outer", those by which the estimator finds theta.
        learned: which leaves of theta a gradient is wanted for.
    """

    def values(theta: PyTree, z: PyTree) -> list[PyTree]:
        start = start_of(loss)
        at, phi = loss.at(theta, z).with_state(start.model), start.phi
        all_of = {
            "init": lambda: loss.problem.init(theta, z),
            "inner": lambda: at.inner(phi),
            "outer": lambda: at.outer(phi),
        }
        return [all_of[name]() for name in through]

    program = jax.make_jaxpr(values)(loss.theta, loss.z).jaxpr
    _, used = dce_jaxpr(program, [True] * len(program.outvars))
    leaves = jax.tree_util.tree_leaves_with_path(loss.theta)
    lost = [
        f"theta{jax.tree_util.keystr(path)}"
        for (path, leaf), is_learned, is_used in zip(leaves, learned, used, strict=False)
        if jnp.size(leaf) and is_learned and not is_used
    ]
    if lost:
        where = "no loss depends on"
        if "init" in through:
            where = " and ".join(f"problem.{name}" for name in through)
            where += " do not depend on" if len(through) > 1 else " does not depend on"
        raise ValueError(unseen(lost, INSTEAD, where))


def check_slope(loss: Loss) -> None:
    """Raise if the outer loss is flat wherever it is defined, as a share of right answers is."""
    leaves, structure = jax.tree.flatten((loss.theta, loss.z))
    floats = [
        i for i, leaf in enumerate(leaves) if jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
    ]
    start = jax.eval_shape(lambda: start_of(loss).phi)

    def slope(begun: list[PyTree], way: PyTree, ways: list[jax.Array]) -> Scalar:
        first = start_of(loss)

        def outer(phi: PyTree, some: list[jax.Array]) -> Scalar:
            moved = list(begun)
            for i, leaf in zip(floats, some, strict=True):
                moved[i] = leaf
            at = loss.at(*jax.tree.unflatten(structure, moved)).with_state(first.model)
            return at.outer(phi)

        return jax.jvp(outer, (first.phi, [begun[i] for i in floats]), (way, ways))[1]

    try:
        program = jax.make_jaxpr(slope)(leaves, start, [leaves[i] for i in floats]).jaxpr
    except Exception:  # what has no derivative forwards may have one backwards
        return
    _, used = dce_jaxpr(program, [True])
    if not any(used[len(leaves) :]):
        raise ValueError(
            "problem.outer: does not change smoothly with phi or theta, so that its gradient is 0 "
            "everywhere (a share of right answers, argmax, comparisons, rounding, "
            "jax.lax.stop_gradient); judge by a loss with a slope, such as the cross-entropy, or "
            "take Evolution, which needs none."
        )


INSTEAD = (
    "Put it into a loss (a Synapse's pull, say, which draws phi to it); or choose an estimator "
    "that sees all that the learner does, Trajectory, Unrolled or Evolution; or keep what is not "
    "to be learned out of theta (a closure, jax.lax.stop_gradient)."
)


def start_losses(problem: Problem) -> Callable[[PyTree, PyTree], tuple[Scalar, Scalar]]:
    """`(theta, z) -> (inner, outer)` where learning starts."""

    def losses(theta: PyTree, z: PyTree) -> tuple[Scalar, Scalar]:
        loss = Loss(problem, theta, z, is_view=True)
        start = start_of(loss)
        loss = loss.with_state(start.model)
        return loss.inner(start.phi), loss.outer(start.phi)

    return losses


def check_finite(losses: tuple[Scalar, Scalar], theta: PyTree, z: PyTree) -> None:
    """Raise if one of the losses where learning starts is known and not finite."""
    for name, value in zip(("inner", "outer"), losses, strict=True):
        if not isinstance(value, jax.core.Tracer) and not jnp.isfinite(value):
            bad = [f"`{part}`" for part, tree in (("theta", theta), ("z", z)) if not_finite(tree)]
            where = f" in {' and '.join(bad)}" if bad else ", of which theta and z have none"
            raise ValueError(
                f"problem.{name}: the loss is {value} where learning starts; look for NaN or "
                f"infinity{where}, or for logarithms and divisions of 0."
            )


def _checked_state(name: str, result: PyTree, state: PyTree) -> PyTree:
    """The value of a loss, if the state that it returns is like the one it was given."""
    is_pair = isinstance(result, tuple) and len(result) == 2
    if not is_pair and name == "outer":  # which may leave the state as it is
        return result
    if not is_pair or not are_alike(result[1], state):
        returned = kinds(result[1]) if is_pair else "none"
        raise ValueError(
            f"problem.{name}: with Problem(state=...) it must return (value, state) with a state "
            f"like the one it is given, {kinds(state)}, not {returned}."
        )
    return result[0]


def _check_halves(task: Task) -> None:
    for name, (x, y) in (("train", task.train), ("test", task.test)):
        counts = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves((x, y))}
        if len(counts) > 1:
            raise ValueError(
                f"task.{name}: x and y must have as many examples (rows) as each other, but their "
                f"first dimensions are {sorted(counts)}."
            )
    for name in ("x", "y"):
        train, test = getattr(task.train, name), getattr(task.test, name)
        if (a := _rows(train)) != (b := _rows(test)):
            raise ValueError(
                f"task.test.{name}: one example is {b}, but one of task.train.{name} is {a}; "
                "the two must have the same structure, shape and type but for the number of rows."
            )


def _rows(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf)[1:])}", tree)
