"""The exact gradient of the steps that were taken, by first derivatives alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from .._diagnostics import free_diagnostics
from .._differenced import SLOPE, Difference, MoreThanGradients, Product, differenced
from .._flags import APART, Flags
from .._linear import coarsest
from .._loss import Loss
from .._must import positive
from .._secant import best_step, expected_error, size_of
from .._solver._base import Solver, State, advance, begin, start_of
from .._tree import norm, or_one, widened
from .._types import PyTree, Scalar
from ._base import Estimator, MetaGradient, Starts
from ._unrolled import back_through, require_fixed_steps, scan_in_blocks

Keep: TypeAlias = Literal["all", "sqrt", "host"]
# The number of a step, whether its products are checked, and its probe: 0, whose derivative tells
# of the way back through it the size of the adjoint, and what `Difference` says.
Turn: TypeAlias = tuple[Int[Array, "..."], Bool[Array, "..."], Float[Array, "... 4"]]
START = "start"  # of a step: the name of phi and of what the optimiser remembers
CHECKS, SPARSE = 8, 4  # steps that are checked, at most; and no more than every so many
CHAOTIC = 1e4  # growth of the adjoint, with which small errors grow too
INEXACT = 0.1  # relative error to be expected from which on a meta-gradient is flagged


@dataclass(frozen=True)
class Trajectory(Estimator):
    """The exact gradient of what the solver did, by contrasts: `Unrolled`, in first derivatives.

    A step goes `phi_{t+1} = U(phi_t, s_t, g_t)` along the gradient `g_t = dL_in/dphi(phi_t)`, with
    s what the optimiser remembers. The sweep back over the steps, from `dL_out/dphi(phi_T)`, goes
    through U as it stands, and there finds the cotangent d of `g_t`. The learner's loss enters by
    one product alone, which is symmetric and so a contrast of first derivatives:

        d' dg_t/d(phi, theta, z) = [ dL_in/d(phi, theta, z)(phi_t + e d) - ...(phi_t - e d) ] / 2e.

    It sees all that `Unrolled` does: losses, where learning starts, and the solver's own numbers
    (see `descend`). It needs no convergence, no second derivative and no memory of activations. A
    step costs three gradients in place of one.

    Kinks (ReLU, max-pooling, clipping) between the two points of a difference would be divided by
    2e: both points see the piece of the loss that phi_t lies on, whose kinks are held there. Only
    what JAX cannot look into (a `custom_vjp`, a `while_loop`) keeps its kinks; its errors are
    flagged, and `product="exact"` has none, where the loss has second derivatives.

    Args:
        product: "secant", the contrast; or "exact", a product of JAX's own with second derivatives,
            one step at a time, for the same memory and about the same time.
        h: how far a difference moves phi, relative to `|phi|`. "auto": from two trials where
            learning starts, along the slope of the outer loss, such that errors by bends and by
            round-off are small over the run; 8 more gradients.
        keep: of the T steps' phi, memories and gradients, "all"; or those of `2 sqrt(T)` steps,
            "sqrt", for a second run of the learner; or "host", all, in the memory of the host, from
            where an accelerator fetches them back step by step.

    Raises:
        ValueError: a bad argument.
        TypeError: a solver that stops at a tolerance, or asks more of a loss than its gradients.

    Reference: the adjoint of the steps as in Maclaurin, Duvenaud, Adams, 2015; a product with the
    Hessian as a difference of gradients: Pearlmutter, 1994.

    Example: two steps from theta towards the task, and one rate for both.
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta["start"],
        ...     inner=lambda phi, theta, task: 0.5 * (phi - task) ** 2,
        ...     outer=lambda phi, theta, task: phi,
        ... )
        >>> solver = mc.descend(lambda theta: optax.sgd(theta["rate"]), steps=2)
        >>> loss = mc.meta_loss(problem, solver, mc.Trajectory())
        >>> theta = {"start": jnp.array(0.0), "rate": jnp.array(0.5)}
        >>> grad = jax.grad(loss)(theta, jnp.array(2.0))  # phi_2 = 2 - 2 (1 - rate)^2
        >>> round(float(grad["start"]), 3), round(float(grad["rate"]), 3)
        (0.25, 2.0)
    """

    product: Product = "secant"
    h: Annotated[float, positive("or 'auto'")] | Literal["auto"] = "auto"
    keep: Keep = "all"
    by_z: ClassVar[bool] = True

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient of one task.

        Its aux: inner, outer, residual; `growth`, of the adjoint over the sweep, the largest beside
        the first; and, of secants, `h`, and the relative `error` to be expected, from products at
        every eighth part of the run that are repeated with half and a quarter of h. It is flagged
        "inexact" where that is above a tenth, or the adjoint grows 10,000-fold, and errors with it.
        """
        require_fixed_steps(self, solver)
        is_secant = self.product == "secant"
        h = self._step(loss, solver) if is_secant else jnp.ones(())
        every = max(-(-solver.steps // CHECKS), SPARSE)
        turns = jnp.arange(solver.steps)
        checked = ((solver.steps - 1 - turns) % every == 0) & is_secant

        def trained(theta: PyTree, z: PyTree, probes: Float[Array, "t 4"]) -> tuple[Scalar, State]:
            at = loss.at(theta, z)
            end = self._train(solver, at, h, (turns, checked, probes))
            return at.with_state(end.model).outer(end.phi), end

        at = loss.theta, loss.z, jnp.zeros((solver.steps, 4))
        try:
            (value, end), (by_theta, by_z, probed) = back_through(self, solver, trained, *at)
        except (TypeError, NotImplementedError) as error:
            if not isinstance(error, MoreThanGradients) and not _is_forward_mode(error):
                raise
            raise TypeError(_more_than_gradients(solver)) from error
        aux = free_diagnostics(loss.with_state(end.model), end.phi)
        adjoints = probed[:, 0]
        aux["growth"] = jnp.max(adjoints) / or_one(adjoints[-1])
        calm = aux["growth"] <= CHAOTIC
        aux["flags"] = Flags(inexact=~calm)
        if is_secant:
            aux["h"] = h
            eps = coarsest(jax.tree.map(widened, end.phi))
            aux["error"] = expected_error(probed[:, 1:], adjoints, h, eps, every)
            aux["flags"] = Flags(
                inexact=~(calm & (aux["error"] <= INEXACT)), rounded=~(h > APART * eps)
            )
        return MetaGradient(value, by_theta, by_z, aux)

    def _step(self, loss: Loss, solver: Solver) -> Scalar:
        """h, as given or by trial where learning starts."""
        if self.h != "auto":
            return jnp.asarray(self.h)
        start = start_of(loss)
        loss = loss.with_state(start.model)
        v = jax.tree.leaves(jax.grad(loss.outer)(start.phi))
        f, xs, rest, n = differenced(loss.view(0) if loss.samples else loss).parts(start.phi)
        d, at = v + [jnp.zeros_like(x) for x in xs[n:]], lambda xs: f(xs, rest)
        return jax.lax.stop_gradient(best_step(at, xs, d, size_of(xs[:n]), solver.steps))

    def _train(self, solver: Solver, loss: Loss, h: Scalar, turns: Turn) -> State:
        at = differenced(loss)

        def step(state: State, turn: Turn) -> tuple[State, None]:
            t, checked, probe = turn
            now = replace(at, difference=Difference(self.product, h, checked, probe[1:]))
            state = _named(state._replace(phi=_probed(state.phi, probe[0])))
            return advance(solver, now, state, t, 1)[0], None

        # Of each step its start and its gradient are kept; the view, and what the optimiser makes
        # of these, are made again.
        policy = jax.checkpoint_policies.save_only_these_names(SLOPE)
        if self.keep == "host":
            policy = jax.checkpoint_policies.save_and_offload_only_these_names(
                names_which_can_be_saved=[], names_which_can_be_offloaded=[SLOPE, START],
                offload_src="device", offload_dst="pinned_host",
            )  # fmt: skip
        step = jax.checkpoint(step, policy=policy, prevent_cse=False)
        state = begin(solver, at, start_of(at))
        if self.keep == "sqrt":
            return scan_in_blocks(step, state, turns)
        return jax.lax.scan(step, state, turns)[0]


def _named(state: State) -> State:
    """The state, of which a policy can say where it is kept."""
    named = lambda x: checkpoint_name(x, START)
    return jax.tree.map(lambda x: named(x) if jnp.issubdtype(x.dtype, jnp.inexact) else x, state)


@jax.custom_vjp
def _probed(phi: PyTree, probe: Scalar) -> PyTree:
    """phi; the probe's derivative is the size of the adjoint there."""
    return phi


_probed.defvjp(lambda phi, probe: (phi, probe), lambda probe, g: (g, norm(g).astype(probe.dtype)))


def _is_forward_mode(error: Exception) -> bool:
    """Whether JAX was asked for a product with second derivatives that are not there."""
    return "forward-mode" in str(error) or "custom_lin" in str(error)


def _more_than_gradients(solver: Solver) -> str:
    return (
        f"solver: Trajectory follows the gradients of the learner, and {solver!r} asks more of its "
        "loss (residuals, or second derivatives); use Unrolled, or Implicit where it converges."
    )
