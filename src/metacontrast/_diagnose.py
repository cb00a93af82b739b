"""Whether a meta-gradient is to be trusted, for the price of a few."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ._check import check
from ._estimator._base import Estimator, MetaGradient
from ._estimator._contrastive import Contrastive
from ._estimator._first_order import FirstOrder
from ._estimator._implicit import Implicit
from ._flags import REMEDIES
from ._linear import central_difference
from ._loss import Loss
from ._meta_loss import meta_gradient, meta_loss
from ._problem import Problem
from ._solver._base import SolverLike, Start, start_of
from ._tree import dot, norm, or_one, widened
from ._types import Key, PyTree, Scalar

Verdict: TypeAlias = Literal["trust", "doubt", "do not trust"]
Numbers: TypeAlias = Float[np.ndarray, "..."]

DIRECTIONS = 5  # along which the meta-loss is differenced, beside the gradient's own
TRUSTED, REFUSED = 0.95, 0.85  # the cosine from which on, and up to which, it is sure
ROUGH = 0.3  # the relative change of a difference at half its step from which on it tells nothing
FARTHEST = 0.3  # how far theta is moved, in units of its own size, at most
MOVED = 0.02  # how far the proposed nudge moves phi, in units of its own size


class Proposal(NamedTuple):
    """An estimator that was tried in place of the one asked about, and its cosine."""

    estimator: Contrastive
    cosine: float


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; it prints as a short report.

    Attributes:
        verdict: "trust", "do not trust", or "doubt" where the tests do not tell.
        cosine: between the estimate and the gradient of what the learner did, as far as the tests
            see it.
        error: the relative error to be expected, `|estimate - gradient| / |gradient|`.
        flags: those of the estimate that are up.
        linear_residual: what the phases left undone beside the nudge, see `Contrastive`; None for
            estimators that have none.
        nudge: `|estimate(beta) - estimate(beta/2)| / |estimate(beta)|`; None without a beta.
        keys: the cosine of the estimates with two keys; None where nothing is drawn.
        precision: the relative change of the estimate in the next wider type, or None.
        proposal: what else was tried, if the estimate is not trusted, and helped.
        advice: one line.
    """

    verdict: Verdict
    cosine: float
    error: float
    flags: tuple[str, ...]
    linear_residual: float | None
    nudge: float | None
    keys: float | None
    precision: float | None
    proposal: Proposal | None
    advice: str

    def __str__(self) -> str:
        """The report."""
        rows = [
            ("cosine with differences of the meta-loss", self.cosine),
            ("relative error to be expected", self.error),
            ("beta against beta/2, relative change", self.nudge),
            ("two keys, cosine", self.keys),
            ("wider arithmetic, relative change", self.precision),
            ("residual of the phases beside the nudge", self.linear_residual),
        ]
        lines = [f"{self.verdict}: {self.advice}"]
        lines += [f"  {name}: {x:.3g}" for name, x in rows if x is not None]
        lines += [f"  flags: {', '.join(self.flags) or 'none'}"]
        return "\n".join(lines)


def diagnose(
    problem: Problem,
    solver: SolverLike,
    estimator: Estimator,
    theta: PyTree,
    z: PyTree,
    key: Key | None = None,
) -> Diagnosis:
    """Say whether the meta-gradient of this configuration is to be trusted, and what to do if not.

    The judge is the learner itself. Its meta-loss `F(theta)`, the free phase alone, is differenced
    along the estimate D and along a few random directions orthogonal to it, with the same random
    numbers:

        a = [F(theta + e D/|D|) - F(theta - e D/|D|)] / 2e,    b_i the same along q_i.

    If D is the gradient g, then a = |D| and all b are 0. If not, `|g|^2 ~ a^2 + mean b_i^2`, with
    the q_i scaled to the number of directions that they stand for, so that the cosine of D and g is
    about `a / sqrt(a^2 + mean b_i^2)`: trusted from 0.95 on, refused below 0.85. This sees all that
    can go wrong, whatever the estimator, but not why. For that, the estimate is compared with that
    of half its beta, of another key or of the next wider arithmetic; and its flags are read. Where
    it is not trusted, a steadier one is tried by the same test: a linear nudge, damped.

    It costs at most 10 meta-gradients, compiles three or four programs, and is not for use under
    `jit`.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        estimator: how the meta-gradient is obtained.
        theta: the meta-parameters.
        z: one task.
        key: for problems that sample.

    Raises:
        ValueError: bad input, see `check`.

    Example: a nudge that is too large, and one that is not.
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(2),
        ...     inner=lambda phi, theta, task: (phi @ task - 1) ** 2 + jnp.exp(theta) @ phi**2,
        ...     outer=lambda phi, theta, task: (jnp.sin(3 * phi[0]) + phi[1] - 0.3) ** 2,
        ... )
        >>> solver, task = mc.descend(optax.sgd(0.1), 300), jnp.array([1.0, 0.5])
        >>> ask = lambda rule: mc.diagnose(problem, solver, rule, jnp.zeros(2), task)
        >>> ask(mc.Contrastive(10.0)).verdict, ask(mc.Contrastive(0.01)).verdict
        ('do not trust', 'trust')
    """
    check(problem, theta, z, key)
    run = _Run(problem, solver, estimator, theta, z, key)
    return run.diagnosis()


class _Slopes(NamedTuple):
    """Differences of the meta-loss: along the estimate, at two steps, and across it."""

    along: float
    again: float  # half the step
    across: Numbers  # each scaled to the number of directions that it stands for


@dataclass(frozen=True)
class _Run:
    """One call of `diagnose`."""

    problem: Problem
    solver: SolverLike
    estimator: Estimator
    theta: PyTree
    z: PyTree
    key: Key | None

    def diagnosis(self) -> Diagnosis:
        gradient = self._gradient(self.estimator)
        d, meta = gradient(None, self.key)
        aux = jax.device_get(meta.aux)
        slopes = self._slopes(d, float(meta.value))
        cosine, error, is_smooth = _judged(d, slopes)
        verdict: Verdict = "doubt"
        if not cosine > REFUSED:
            verdict = "do not trust"
        elif is_smooth and cosine >= TRUSTED:
            verdict = "trust"
        has_beta = isinstance(self.estimator, Contrastive) and self.estimator.beta is not None
        half = gradient(0.5, self.key)[0] if has_beta else None
        other = None
        if self.key is not None and self.problem.sample is not None:
            other = gradient(None, jax.random.fold_in(self.key, 1))[0]
        wide = None if other is not None else self._wide()
        found = Diagnosis(
            verdict=verdict,
            cosine=cosine,
            error=error,
            flags=tuple(aux["flags"].raised()),
            linear_residual=_number(aux.get("linear_residual")),
            nudge=None if half is None else _change(half, d),
            keys=None if other is None else _cosine(other, d),
            precision=None if wide is None else _change(wide, d),
            proposal=None,
            advice="",
        )
        if verdict != "trust":
            found = replace(found, proposal=self._proposal(meta, d, slopes))
        return replace(found, advice=_advice(found, is_smooth))

    def _gradient(self, estimator: Estimator) -> Callable[..., tuple[Numbers, MetaGradient]]:
        """`(factor of beta, key) -> estimate`, one program."""

        def run(factor: Scalar, key: Key | None) -> MetaGradient:
            rule = estimator
            if isinstance(rule, Contrastive) and rule.beta is not None:
                rule = replace(rule, beta=factor * rule.beta)
            return meta_gradient(self.problem, self.solver, rule, by_z=False)(
                self.theta, self.z, key
            )

        compiled = jax.jit(run)

        def gradient(factor: float | None, key: Key | None) -> tuple[Numbers, MetaGradient]:
            meta = compiled(1.0 if factor is None else factor, key)
            return _flat(meta.by_theta), meta

        return gradient

    @cached_property
    def _meta_losses(self) -> Callable[[Numbers], tuple[Numbers, Numbers]]:
        """`displacements of theta -> (those that its type holds, the meta-losses there)`."""
        loss = meta_loss(self.problem, self.solver, FirstOrder())
        flat, unravel = ravel_pytree(self.theta)

        @jax.jit
        def values(points: Float[Array, "m n"]) -> Float[Array, " m"]:
            return jax.lax.map(lambda x: loss(unravel(x), self.z, self.key), points)

        def at(displacements: Numbers) -> tuple[Numbers, Numbers]:
            points = jnp.asarray(np.asarray(flat, float) + displacements, flat.dtype)
            held = np.stack([_flat(unravel(x)) for x in points]) - _flat(self.theta)
            return held, np.asarray(values(points), float)

        return at

    def _slopes(self, d: Numbers, value: float) -> _Slopes:
        size, n = float(np.linalg.norm(d)), d.size
        if not (0 < size < math.inf):
            return _Slopes(math.nan, math.nan, np.zeros(1))
        rng = np.random.default_rng(0)
        m = min(DIRECTIONS, n - 1)
        basis, _ = np.linalg.qr(np.vstack([d / size, rng.normal(size=(m, n))]).T)
        across = basis.T[1:] * math.sqrt(n - 1)
        step = self._step(size, value)
        ways = np.concatenate([[step * d / size, step / 2 * d / size], step * across])
        held, values = self._meta_losses(np.concatenate([ways, -ways]))
        held, rise = (x[: m + 2] - x[m + 2 :] for x in (held, values))
        lengths = np.linalg.norm(ways, axis=1) * 2
        slopes = rise / lengths
        # Where theta's type holds a direction only roughly, it has a part along d.
        lean = held[2:] @ d / size / lengths[2:]
        reach = math.sqrt(max(n - 1, 1))
        return _Slopes(slopes[0], slopes[1], reach * (slopes[2:] - slopes[0] * lean))

    def _step(self, size: float, value: float) -> float:
        """How far theta is moved: so far that the meta-loss changes by the cube root of eps."""
        eps = _coarsest(Loss(self.problem, self.theta, self.z, self.key))
        change = min(eps ** (1 / 3), 0.05)
        rms = float(np.sqrt(np.mean(_flat(self.theta) ** 2)))
        return min(change * abs(value) / size, FARTHEST * (rms or 1.0))

    def _wide(self) -> Numbers | None:
        """The estimate in the next wider type, where all of it can be had there."""
        narrow = _coarsest(Loss(self.problem, self.theta, self.z, self.key))
        if narrow <= np.finfo(np.float64).eps:
            return None
        kind = np.float64 if narrow <= np.finfo(np.float32).eps else np.float32
        widen = partial(_widened, kind)
        init, state = self.problem.init, self.problem.state
        wide = replace(self.problem, init=lambda theta, z: widen(init(theta, z)))
        if state is not None:
            wide = replace(wide, state=lambda theta, z: widen(state(theta, z)))
        try:
            with jax.enable_x64(kind == np.float64):
                run = jax.jit(meta_gradient(wide, self.solver, self.estimator, by_z=False))
                meta = run(widen(self.theta), widen(self.z), self.key)
                return _flat(meta.by_theta)
        except (TypeError, ValueError):  # a part of the problem insists on its type
            return None

    def _proposal(self, meta: MetaGradient, d: Numbers, slopes: _Slopes) -> Proposal | None:
        """A linear nudge, damped, by the same test."""
        if meta.phases is None or not isinstance(self.estimator, Contrastive | Implicit):
            return None
        curvature, size = self._stiffness(meta.phases.free)
        if not (0 < curvature < math.inf and size > 0):
            return None
        beta = MOVED * size * 2 * curvature
        rule = Contrastive(
            float(f"{beta:.1g}"),
            "symmetric",
            nudge="linear",
            damping=float(f"{curvature:.1g}"),
            nudged=self.estimator.nudged if isinstance(self.estimator, Contrastive) else None,
        )
        c, _ = self._gradient(rule)(None, self.key)
        length = float(np.linalg.norm(c))
        if not (0 < length < math.inf):
            return None
        step = self._step(length, float(meta.value)) * c / length
        _, values = self._meta_losses(np.stack([step, -step]))
        along = (values[0] - values[1]) / (2 * np.linalg.norm(step))
        # The size of the gradient: from this direction and what was measured before.
        whole = math.hypot(*np.nan_to_num([slopes.along, _rms(slopes.across)]))
        cosine = along / max(whole, abs(along))
        return Proposal(rule, float(cosine)) if cosine > 0 else None

    def _stiffness(self, free: Start) -> tuple[float, float]:
        """The size of the curvature along the nudge at phi_0, and that of phi_0."""

        @jax.jit
        def curvature(free: Start, key: Key | None) -> tuple[Scalar, Scalar]:
            loss = Loss(self.problem, self.theta, self.z, key).with_state(free.model)
            x, unravel = ravel_pytree(free.phi)
            v = jax.grad(lambda x: loss.outer(unravel(x)))(x)
            slope = jax.grad(lambda x: loss.inner(unravel(x)))
            along = widened(v) / or_one(norm(v))
            return jnp.abs(dot(along, central_difference(slope, x, along))), norm(x)

        stiff, size = curvature(free, self.key)
        return float(stiff), float(size)


def _judged(d: Numbers, slopes: _Slopes) -> tuple[float, float, bool]:
    """The cosine, the relative error, and whether the meta-loss is smooth enough to tell."""
    across, size = _rms(slopes.across), float(np.linalg.norm(d))
    whole = math.hypot(slopes.along, across)
    if not whole > 0:
        return math.nan, math.nan, False
    error = math.hypot(size - slopes.along, across) / whole
    is_smooth = abs(slopes.along - slopes.again) <= ROUGH * abs(slopes.along)
    return slopes.along / whole, error, is_smooth


def _advice(found: Diagnosis, is_smooth: bool) -> str:
    """One line: what to do."""
    if found.verdict == "trust":
        return "the estimate agrees with differences of the meta-loss."
    better = found.proposal
    if better is not None and better.cosine >= max(REFUSED, found.cosine):
        return f"try {_spelled(better.estimator)}, whose cosine is {better.cosine:.2g} here."
    for name in ("nonfinite", "idle", "rounded", "unbounded"):
        if name in found.flags:
            return REMEDIES[name] + "."
    if not is_smooth:
        return (
            "the meta-loss is not smooth in theta on the scale of its own round-off, so that no "
            "gradient says much of it; smoother activations, smaller inner rates, more examples."
        )
    if found.nudge is not None and found.nudge > 0.3:
        return "beta is too large for how the losses bend: halve it, or take nudge='linear'."
    if found.precision is not None and found.precision > 0.1:
        return "round-off decides: raise beta, or learn in a wider type."
    if found.keys is not None and found.keys < 0.5:
        return (
            "noise decides: symmetric with a linear nudge and damping, a larger beta, or "
            "Problem(views=...)."
        )
    return REMEDIES["unconverged"] + "."


def _spelled(rule: Contrastive) -> str:
    """The rule as one would write it."""
    text = f"beta={rule.beta}, scheme={rule.scheme!r}, nudge={rule.nudge!r}"
    return f"Contrastive({text}, damping={rule.damping})"


def _coarsest(loss: Loss) -> float:
    """The eps of the narrowest type that the losses compute in."""
    start = jax.eval_shape(lambda: start_of(loss))

    def losses(start: Start) -> tuple[Scalar, Scalar]:
        at = replace(loss.with_state(start.model), is_view=True)
        return at.inner(start.phi), at.outer(start.phi)

    text = str(jax.make_jaxpr(losses)(start))
    names = {"bf16[": jnp.bfloat16, "f16[": jnp.float16, "f32[": jnp.float32}
    found = [float(jnp.finfo(kind).eps) for name, kind in names.items() if name in text]
    return max(found, default=float(jnp.finfo(jnp.float64).eps))


def _widened(kind: type, tree: PyTree) -> PyTree:
    """The tree with its floating leaves in this type."""
    is_float = lambda x: jnp.issubdtype(jnp.result_type(x), jnp.floating)
    return jax.tree.map(lambda x: jnp.asarray(x, kind) if is_float(x) else x, tree)


def _flat(tree: PyTree) -> Numbers:
    leaves = [np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(tree)]
    return np.concatenate(leaves)


def _rms(x: Numbers) -> float:
    return float(np.sqrt(np.mean(x**2))) if x.size else 0.0


def _change(new: Numbers, old: Numbers) -> float:
    return float(np.linalg.norm(new - old) / np.linalg.norm(old))


def _cosine(a: Numbers, b: Numbers) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _number(x: Scalar | None) -> float | None:
    return None if x is None else float(x)
