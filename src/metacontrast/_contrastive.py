"""The contrastive meta-learning rule."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from ._check import shapes
from ._contrast import Encoded, encoded
from ._diagnostics import Diagnostics, contrasted, warn_if_unbounded
from ._holomorphic import complexified, require_analytic
from ._problem import Loss, Problem, PyTree, is_free
from ._solve import Solution, Solver, settle
from ._stencil import stencil
from ._suggest import choose


@dataclass(frozen=True)
class Contrastive:
    """The contrastive meta-learning rule: learn freely, learn nudged, contrast the two.

    With the augmented loss `L = L_in + beta L_out` and its minimiser `phi_beta`,

        dL_out(phi_0)/dtheta = lim_{beta -> 0} (1/beta) [ g(phi_beta, beta) - g(phi_0, 0) ],

    where `g(phi, beta) = dL(phi, theta, beta)/dtheta` at fixed phi. Only first derivatives; memory
    does not depend on the number of training steps. The difference quotient is one of a family
    (see `stencil`), `sum_k w_k g(phi_{b_k}, b_k)`. Its error is `O(beta^order)` from the nudge plus
    `O(delta / beta)` from solvers that stop at a distance `delta` from the minimiser: a small beta
    needs an accurate solver.

    Args:
        beta: the nudge, not 0. If negative, the nudge is away from the test loss. Or "auto": chosen
            anew for every task, see `accuracy.suggest_beta`, at the price of 16 times the nudged
            phases; the diagnostics then tell `beta` and its `expected_error`.
        scheme: "forward" (0, beta), the talk's; or "symmetric" (-beta, beta). A negative nudge
            makes `L_in - |beta| L_out` unbounded below where `L_out` grows faster than `L_in`, as
            in over-parameterised regression: keep beta below the ratio of their curvatures.
            Or "holomorphic": `order` complex nudges on the circle of radius beta, of which half are
            run, for losses analytic in phi (tanh, not ReLU) and a nudged solver that can learn in
            complex numbers (`descend`, `until_converged`). A run that stops early keeps its order
            with SGD and momentum; Adam and its kin divide by |g|^2, which is not analytic, and
            keep it only where the phases converge.
        order: in beta. Default 1 for forward, 2 for symmetric, 4 for holomorphic.
        nudged: solver of the nudged phases, which start at `phi_0`. Default: that of the free one.
        carry: hand the optimiser's state from the free to the nudged phases. Default: start afresh.
        control: run the phase at beta = 0 once more, from `phi_0` and with the nudged solver, and
            contrast with that. What the solver does irrespective of the nudge (steps still to go, a
            fresh Adam's first steps, the mini-batches of the phase) then cancels instead of being
            divided by beta, for the price of one more phase. Ours, not the paper's; without effect
            where a scheme does not use the node 0.

    Raises:
        ValueError: beta zero or not finite, an unknown scheme, an order that the scheme lacks;
            with the holomorphic scheme, a loss that is not analytic or a carried state.
        TypeError: with the holomorphic scheme, a solver that does not say it is `holomorphic`.

    Reference: Zucchet, Schug, von Oswald, Zhao, Sacramento, "A contrastive rule for
    meta-learning", NeurIPS 2022, https://arxiv.org/abs/2104.01677.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solve = mc.descend(optax.sgd(0.1), steps=100)
        >>> loss = mc.meta_loss(problem, solve, mc.Contrastive(beta=0.01, scheme="symmetric"))
        >>> value, grad = jax.value_and_grad(loss)(jnp.array(1.0), jnp.array(3.0))
        >>> round(float(value), 3), round(float(grad), 3)  # phi_0 = 2, d phi_0 / d theta = 1/2
        (4.0, 2.0)
    """

    beta: Any
    scheme: str = "forward"
    order: int | None = None
    nudged: Solver | None = None
    carry: bool = False
    control: bool = False

    def __post_init__(self) -> None:
        auto = isinstance(self.beta, str)
        if auto and (self.beta != "auto" or self.scheme == "holomorphic"):
            raise ValueError(
                f"beta: must be a number, or 'auto' with the forward or the symmetric scheme; not "
                f"{self.beta!r} with {self.scheme!r}."
            )
        stencil(self.scheme, self.order, 1.0 if auto else self.beta)
        if self.carry and self.scheme == "holomorphic":
            raise ValueError(
                "carry: the state of a real phase does not fit a complex one; leave carry=False "
                "with the holomorphic scheme."
            )

    def value_and_grad(
        self,
        problem: Problem,
        solve: Solver,
        theta: PyTree,
        task: PyTree,
        key: jax.Array | None = None,
    ) -> tuple[tuple[jax.Array, Diagnostics], PyTree]:
        """`((L_out(phi_0), diagnostics), meta-gradient)`, as of `jax.value_and_grad(has_aux=True)`.

        Diagnostics: `inner` and `outer` loss of the free phase and its `residual` (the norm of
        `dL/dphi` where it stopped); the same of each nudged phase, `nudged_inner`,
        `nudged_outer`, `nudged_residual`, its `distance` from `phi_0`, and `nudged_curvature`, that
        of its loss between `phi_0` and where it stopped, as lists.

        Warns (`RuntimeWarning`), with concrete arrays, if a negatively nudged phase fell down a
        slope that grows steeper: `L_in - |beta| L_out` is then likely unbounded below. Where values
        are traced (`jit`, `vmap`) nothing can be said, and a `nudged_curvature` that is not
        positive tells it.
        """
        shapes(problem, theta, task)
        seen = encoded(problem, theta, task)
        loss = Loss(problem, theta, seen.z, 0.0, key)
        phi0 = problem.init(theta, task)
        if self.scheme == "holomorphic":
            _can_learn_in_complex_numbers(self.nudged or solve)
            require_analytic(problem, phi0, theta, seen.z)
        free = settle(solve, loss, phi0)
        beta, chosen = self._nudge(solve, seen, loss, free)
        nodes, weights = stencil(self.scheme, self.order, beta)
        phis = [self._phase(solve, loss.nudged(b), free) for b in nodes]
        grad = seen.contrast(nodes, weights, phis)
        nudged = [
            (loss.nudged(b), phi) for b, phi in zip(nodes, phis, strict=True) if not is_free(b)
        ]
        told = contrasted(loss, free.phi, nudged)
        warn_if_unbounded(nodes, told)
        return (loss.outer(free.phi), told | chosen), grad

    def _nudge(
        self, solve: Solver, seen: Encoded, loss: Loss, free: Solution
    ) -> tuple[Any, Diagnostics]:
        if not isinstance(self.beta, str):
            return self.beta, {}
        phase = partial(self._phase, solve)
        found = choose(seen, loss, free, phase, self.scheme, self.order)
        return found.beta, {"beta": found.beta, "expected_error": found.error}

    def _phase(self, solve: Solver, loss: Loss, free: Solution) -> PyTree:
        if is_free(loss.beta) and not self.control:
            return free.phi
        if self.carry and free.state is None:
            raise ValueError(
                "carry: this solver returns no state to carry into the nudged phase; return a "
                "Solution(phi, state) from it, or leave carry=False."
            )
        state = free.state if self.carry else None
        start = complexified(free.phi) if jnp.iscomplexobj(loss.beta) else free.phi
        return settle(self.nudged or solve, loss, start, state).phi


def _can_learn_in_complex_numbers(solve: Solver) -> None:
    if not getattr(solve, "holomorphic", False):
        raise TypeError(
            "solve: the holomorphic scheme learns its nudged phases in complex numbers, which this "
            "solver does not say it can; give Contrastive(nudged=descend(optax.sgd(...), ...)) or "
            "until_converged, or set `holomorphic = True` on a solver that takes complex phi."
        )
