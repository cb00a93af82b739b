"""The contrastive meta-learning rule."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import jax

from .._complex import require_analytic
from .._contrast import Phase, contrast, linear_contrast
from .._diagnostics import phase_diagnostics
from .._loss import Loss, OuterNudge
from .._must import NotNegative, nudge
from .._solver._base import Solution, Solver, SolverLike, Start
from .._solver._function import as_solver
from .._stencil import Scheme, Stencil, stencil
from .._types import PyTree, Scalar
from ._base import Estimator, MetaGradient, Phases, Starts, free_phase, start_from


@dataclass(frozen=True)
class Contrastive(Estimator):
    """The contrastive meta-learning rule: learn freely, learn nudged, contrast the two.

    With the augmented loss `L = L_in + beta L_out` and its minimiser `phi_beta`,

        dL_out(phi_0)/d(theta, z) = lim_{beta -> 0} (1/beta) [ g(phi_beta, beta) - g(phi_0, 0) ],

    where `g(phi, beta) = dL(phi, theta, z, beta)/d(theta, z)` at fixed phi. Only first derivatives;
    memory does not depend on the number of training steps. The difference quotient is one of a
    family (see `stencil`), `sum_k w_k g(phi_{b_k}, b_k)`. Its error is `O(beta^order)` from the
    nudge plus `O(delta / beta)` from solvers that stop at a distance `delta` from the minimiser: a
    small beta needs an accurate solver.

    With `nudge="linear"` the outer loss is taken as straight where the free phase ended,

        v = dL_out/dphi(phi_0),   phi_b = argmin_phi L_in + b <v / |v|, phi>,   times |v|,

    to which comes the direct derivative of `L_out`. Nudged phases then see no test data, a negative
    nudge is harmless, beta is a length in units of the gradient `dL_in/dphi`, and the symmetric
    scheme is exact for quadratic inner losses, whatever beta. Where minimisers are many, it is the
    gradient of the nearest one, and that of the outer nudge the gradient of the best.

    Args:
        beta: the nudge, finite and not 0. If negative, the nudge is away from the test loss. None,
            with the linear nudge alone: by the curvature along it, so that phi moves by a small
            part of its size; for learners that converge.
        scheme: "forward" (0, beta), the paper's; or "symmetric" (-beta, beta). A negative outer
            nudge makes `L_in - |beta| L_out` unbounded below where `L_out` grows faster than
            `L_in`, as in over-parameterised regression: keep beta below the ratio of their
            curvatures, or take the linear nudge.
            Or "holomorphic": `order` complex nudges on the circle of radius beta, of which half are
            run, for losses analytic in phi (tanh, not ReLU) and a nudged solver that can learn in
            complex numbers (`descend`, `until_converged`). A run that stops early keeps its order
            with SGD and momentum; Adam and its kin divide by |g|^2, which is not analytic, and
            keep it only where the phases converge.
        order: in beta. Default 1 for forward, 2 for symmetric, 4 for holomorphic.
        nudge: "outer", the paper's, or "linear".
        damping: with the linear nudge, makes `phi_0` a stationary point of `L_in` and adds
            `damping/2 |phi - phi_0|^2`: takes out the slope that a learner left which stopped
            early, and holds up directions of negative curvature, at the price of a bias. At least
            0. Default: the slope is left as it is.
        nudged: solver of the nudged phases, which start at `phi_0`, or a function that `as_solver`
            takes. Default: that of the free phase.
        control: run the phase at beta = 0 once more, from `phi_0` and with the nudged solver, and
            contrast with that. What the solver does irrespective of the nudge (steps still to go, a
            fresh Adam's first steps, the mini-batches of the phase) then cancels instead of being
            divided by beta, for the price of one more phase. Ours, not the paper's; without effect
            where a scheme does not use the node 0.
        side_by_side: run the nudged phases in one batch, rather than one after the other: the same
            result, sooner where one phase does not fill the machine, as on a GPU, for the memory of
            all of them at once.

    Raises:
        ValueError: beta zero or not finite, an unknown scheme or nudge, an order that the scheme
            lacks, damping with another nudge than the linear one, negative or with a control; with
            the holomorphic scheme, a loss that is not analytic.
        TypeError: with the holomorphic scheme, a solver that does not say it is `holomorphic`.

    Reference: Zucchet, Schug, von Oswald, Zhao, Sacramento, "A contrastive rule for
    meta-learning", NeurIPS 2022, https://arxiv.org/abs/2104.01677. The linear nudge is the linear
    part of that of Scellier and Bengio, "Equilibrium propagation", 2017.

    Example:
        >>> import jax, jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: theta,
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        ...     outer=lambda phi, theta, task: phi**2,
        ... )
        >>> solver = mc.descend(optax.sgd(0.1), steps=100)
        >>> theta, task = jnp.array(1.0), jnp.array(3.0)
        >>> for rule in (mc.Contrastive(0.01), mc.Contrastive(0.5, "symmetric", nudge="linear")):
        ...     value, grad = jax.value_and_grad(mc.meta_loss(problem, solver, rule))(theta, task)
        ...     print(round(float(value), 3), round(float(grad), 2))  # phi_0 = 2, its slope 1/2
        4.0 1.99
        4.0 2.0
    """

    beta: Annotated[Scalar | float, nudge()] | None
    scheme: Scheme = "forward"
    order: int | None = None
    nudge: Literal["outer", "linear"] = "outer"
    damping: NotNegative | None = None
    nudged: SolverLike | None = None
    control: bool = False
    side_by_side: bool = False
    by_z: ClassVar[bool] = True
    warm_start: ClassVar[bool] = True
    through: ClassVar[tuple[str, ...]] = ("inner", "outer")

    def __post_init__(self) -> None:
        self._stencil(1.0 if self.beta is None else self.beta)
        if self.beta is None and self.nudge != "linear":
            raise ValueError(
                "beta: only that of a linear nudge follows from the curvature along it; say "
                "nudge='linear', or give a number (accuracy.suggest_beta finds a good one)."
            )
        if self.damping is None:
            return
        if self.nudge != "linear" or self.control:
            raise ValueError(
                "damping: takes out the slope at phi_0 for a linear nudge; say nudge='linear', and "
                "leave control=False, which would cancel the same slope once more."
            )

    def value_and_grad(self, loss: Loss, solver: Solver, starts: Starts = None) -> MetaGradient:
        """The meta-gradient of one task.

        Its aux: `inner` and `outer` loss of the free phase and its `residual` (the norm of
        `dL/dphi` where it stopped); the same of each nudged phase, `nudged_inner`,
        `nudged_outer`, `nudged_residual`, its `distance` from `phi_0`, and `nudged_curvature`, that
        of its loss between `phi_0` and where it stopped, as lists; of all phases together the
        `linear_residual`, what they left undone beside the nudge; and the `flags`.
        """
        nudged = solver if self.nudged is None else as_solver(self.nudged)
        if self.scheme == "holomorphic":
            _require_holomorphic(nudged)
            phi = loss.problem.init(loss.theta, loss.z)
            require_analytic(loss, phi, outer=self.nudge == "outer")
        free = free_phase(loss, solver, starts)
        loss = loss.with_state(free.model)
        warm = None if starts is None else starts.nudged
        if self.nudge == "outer" and self.beta is not None:
            value, points = loss.outer(free.phi), self._stencil(self.beta)
            grads, phases = contrast(
                loss, free.phi, nudged, points, OuterNudge,
                control=self.control, starts=warm, inverse=free.inverse,
                side_by_side=self.side_by_side,
            )  # fmt: skip
        else:
            value, grads, phases = self._linear(loss, free, nudged, warm)
        return MetaGradient(
            value,
            *grads,
            phase_diagnostics(loss, free.phi, phases, None if starts is None else starts.free.phi),
            Phases(start_from(free), tuple(start_from(phase.solution) for phase in phases)),
        )

    def scaled(self, factor: Scalar | float) -> Contrastive:
        """The same with beta times a factor; itself, where beta follows from the curvature."""
        return self if self.beta is None else replace(self, beta=factor * self.beta)

    def _stencil(self, beta: Scalar | float) -> Stencil:
        return stencil(self.scheme, self.order, beta)

    def _linear(
        self,
        loss: Loss,
        free: Solution,
        nudged: Solver,
        starts: tuple[Start, ...] | None,
    ) -> tuple[Scalar, tuple[PyTree, PyTree], list[Phase]]:
        outer = jax.value_and_grad(
            lambda phi, theta, z: loss.at(theta, z).outer(phi), (0, 1, 2), allow_int=True
        )
        value, (v, *direct) = outer(free.phi, loss.theta, loss.z)
        through_phi, phases = linear_contrast(
            loss, free.phi, v, nudged, self.beta, self.scheme, self.order,
            damping=self.damping, control=self.control, starts=starts, inverse=free.inverse,
            side_by_side=self.side_by_side,
        )  # fmt: skip
        return value, jax.tree.map(_add, tuple(direct), through_phi), phases


def _add(a: jax.Array, b: jax.Array) -> jax.Array:
    return a if a.dtype == jax.dtypes.float0 else a + b


def _require_holomorphic(solver: Solver) -> None:
    if not solver.holomorphic:
        raise TypeError(
            f"solver: the holomorphic scheme learns its nudged phases in complex numbers, which "
            f"{solver!r} cannot; give Contrastive(nudged=descend(optax.sgd(...), ...)) or "
            "until_converged, or say `holomorphic = True` of a solver that takes complex phi."
        )
