"""The effect of every training example on what was learned."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from functools import wraps
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._check import check
from ._estimator._base import Estimator
from ._estimator._contrastive import Contrastive
from ._estimator._trajectory import Trajectory
from ._flags import Flags
from ._loss import Loss
from ._meta_loss import meta_gradient_of
from ._must import Count
from ._problem import LossFunction, Problem
from ._solver._base import SolverLike, start_of
from ._solver._function import as_solver
from ._solver._secant_cg import secant_cg
from ._tree import kinds
from ._types import Aux, Key, PyTree
from ._weights import Select, check_weights, of_weights, weighted

Method: TypeAlias = Literal["trajectory", "equilibrium"] | Estimator
METHODS: dict[str, Estimator] = {
    "trajectory": Trajectory(),
    "equilibrium": Contrastive(None, "symmetric", nudge="linear", nudged=secant_cg(100, 1e-3)),
}


class Influence(NamedTuple):
    """What `influence` gives, for queries in an array of shape q and weights of shape n.

    Attributes:
        scores: `dL_q/dw_i`, of shape (*q, *n). Positive: more of the example, more loss.
        losses: of the queries where learning ended, of shape q.
        aux: diagnostics of the estimator by name, and its `flags`, each for every query, in the
            order of `losses.ravel()`.
    """

    scores: Float[Array, "..."]
    losses: Float[Array, "..."]
    aux: Aux


def influence(
    problem: Problem,
    solver: SolverLike,
    theta: PyTree,
    z: PyTree,
    query: LossFunction,
    *,
    weights: Select,
    method: Method = "trajectory",
    key: Key | None = None,
    query_batch_size: Count | None = None,
) -> Influence:
    """How the losses of queries change with the weight of every training example.

        score_qi = dL_q(phi_T(w), theta, z) / dw_i    at the weights w that `z` holds,

    with phi_T what the solver ends with: one meta-gradient a query, for all examples at once. To
    first order the loss of query q changes by `sum_i score_qi dw_i`, so by `-w_i score_qi` where
    example i is left out. A positive score is that of an example which harms the query, and a
    negative one that of an example which helps it.

    The weights are a part of the task: `inner` multiplies the loss of each example by its own, and
    where the problem samples, `sample` takes the weights of the examples that it draws along with
    them. They may be those of groups, of tokens, or of whatever else the inner loss weighs.

    A flag that is up for some query (kinks, chaos, no minimum) is a `RuntimeWarning`.

    Args:
        problem: what is learned. Its `outer` is not used.
        solver: how; a `Solver`, or any function that `as_solver` takes. One of your own cannot
            read `loss.z`.
        theta: the meta-parameters, held fixed; None where there are none.
        z: the task, with the weights: `jnp.ones(n)` for all examples alike.
        query: called as `problem.outer` is, `(phi, theta, z) -> losses`: one number a query, in an
            array of any shape.
        weights: `z -> array`, which leaf of z they are: `lambda z: z["weights"]`.
        method: "trajectory", `Trajectory()`, of the steps that were taken: exact for learners that
            stop early, for any fixed number of smooth steps. "equilibrium", of a minimum, the
            classical influence function, by a linear nudge and `secant_cg`: for learners that
            converge, some 100 gradients on all data however long the run. Or any estimator that
            gives the gradient by z: `Trajectory("exact")`, `Unrolled()`, a `Contrastive` with
            damping.
        key: for problems that sample.
        query_batch_size: how many queries go back through training side by side, for so many times
            the memory. Default: all. Learning is run once for each batch of them.

    Raises:
        ValueError: bad input, see `check`; weights on which the inner loss does not depend.
        TypeError: an estimator that gives no gradient by z, or a solver that it does not go with.

    Reference: Koh and Liang, 2017 (equilibrium); Hara, Nitanda and Maehara, 2019, and Ilyas and
    Engstrom, 2025 (trajectory).

    Example: the mean of 1, 2 and 6, asked how far from 2 it is.
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, z: jnp.zeros(()),
        ...     inner=lambda phi, theta, z: jnp.mean(z["w"] * (phi - z["x"]) ** 2),
        ...     outer=lambda phi, theta, z: phi,
        ... )
        >>> found = mc.influence(  # phi = 3, and it moves by (x_i - 3) / 3 with w_i
        ...     problem, mc.descend(optax.sgd(0.25), 40), None,
        ...     {"x": jnp.array([1.0, 2.0, 6.0]), "w": jnp.ones(3)},
        ...     query=lambda phi, theta, z: (phi - 2.0) ** 2, weights=lambda z: z["w"],
        ... )
        >>> found.losses.round(3).item(), found.scores.round(3).tolist()
        (1.0, [-1.333..., -0.667..., 2.0])
    """
    estimator = _estimator(method)
    loss = _checked(Loss(problem, theta, z, key), query, weights)
    shape = jax.eval_shape(lambda: _losses(query, _arguments(loss))).shape
    batch = query_batch_size or math.prod(shape)
    solver, unlearned = as_solver(solver), (False,) * len(jax.tree.leaves(theta))

    @jax.jit
    def run(theta: PyTree, z: PyTree, key: Key | None) -> tuple[Array, Array, Aux]:
        def one(i: Int[Array, ""]) -> tuple[Array, Array, Aux]:
            asked = replace(problem, outer=lambda *at: jnp.ravel(_losses(query, at))[i])
            gradient = meta_gradient_of(of_weights(asked, weights), solver, estimator, True)
            meta = gradient(theta, weighted(z, weights), key, None, unlearned)
            return meta.by_z.weights, meta.value, meta.aux

        return jax.lax.map(one, jnp.arange(math.prod(shape)), batch_size=batch)

    scores, losses, aux = run(theta, z, key)
    _warn(estimator, aux)
    return Influence(scores.reshape(shape + scores.shape[1:]), losses.reshape(shape), aux)


def _estimator(method: Method) -> Estimator:
    estimator = METHODS[method] if isinstance(method, str) else method
    if not estimator.by_z:
        raise TypeError(
            f"method: {estimator!r} gives no gradient by the task, where the weights are; use "
            "'trajectory', 'equilibrium', or Trajectory, Contrastive, Implicit or Unrolled."
        )
    return estimator


def _checked(loss: Loss, query: LossFunction, weights: Select) -> Loss:
    """The loss, if it can be learned, asked and weighed."""
    if loss.samples and loss.key is None:
        raise ValueError(
            "key: this problem samples (Problem(sample=...)), so its learner is stochastic; give "
            "key=jax.random.key(0), or the key with which it learned."
        )

    @wraps(query)  # so that what is said of arguments is said of its own
    def total(*at: PyTree) -> Array:
        return jnp.sum(_losses(query, at))

    try:
        check(replace(loss.problem, outer=total), loss.theta, loss.z, loss.key)
    except (TypeError, ValueError) as error:
        text = re.sub(r"^(problem\.)?outer\b", "query", str(error))
        if text == str(error):
            raise
        raise type(error)(text) from error
    check_weights(loss, weights)
    return loss


def _losses(query: LossFunction, at: tuple[PyTree, ...]) -> Float[Array, "..."]:
    """Those of the queries; of a problem with a state it may be handed on beside them."""
    result = query(*at)
    losses = result[0] if isinstance(result, tuple) else result
    if not jnp.issubdtype(jnp.result_type(losses), jnp.floating) or not jnp.size(losses):
        raise ValueError(
            "query: must return losses, an array of floating numbers, one a query, not "
            f"{kinds(losses)}."
        )
    return losses


def _arguments(loss: Loss) -> tuple[PyTree, ...]:
    """What the losses are called with where learning starts."""
    start = start_of(loss)
    state = () if loss.problem.state is None else (start.model,)
    return start.phi, loss.theta, loss.z, *state


def _warn(estimator: Estimator, aux: Aux) -> None:
    """Let the estimator say what is wrong for any of the queries, where that is known."""
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(aux)):
        least = jax.tree.map(lambda x: jnp.min(x, axis=0), aux)  # a curvature below 0 is refused
        estimator.check_aux(least | {"flags": Flags(*(jnp.any(flag) for flag in aux["flags"]))})
