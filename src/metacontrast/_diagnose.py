"""Whether a meta-gradient is to be trusted, for the price of a few."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ._arrays import Numbers, norm
from ._check import check
from ._configuration import Configuration
from ._diagnosis import Diagnosis as Diagnosis
from ._diagnosis import Proposal, conclude, has_beta
from ._directional import MORE, Judge, Look, change, cosine
from ._estimator._base import Estimator, MetaGradient
from ._estimator._contrastive import Contrastive
from ._estimator._implicit import Implicit
from ._estimator._trajectory import Trajectory
from ._estimator._unrolled import Unrolled
from ._features import Features
from ._problem import Problem
from ._solver._base import SolverLike
from ._solver._secant_cg import SecantCG, secant_cg
from ._types import Key, PyTree

MOVED = 0.02  # how far the proposed nudge moves phi, in units of its own size
CONVERGED = 0.1  # the slope that the free phase may leave, beside the nudge
MUCH = 2**28  # bytes of states and gradients, above which only those of some steps are kept
# What is advised of learners that come near a minimum.
AT_MINIMUM = Contrastive(None, "symmetric", nudge="linear", nudged=secant_cg(20))


def diagnose(
    problem: Problem,
    solver: SolverLike,
    estimator: Estimator,
    theta: PyTree,
    z: PyTree,
    key: Key | None = None,
    *,
    features: Features | None = None,
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
    it is not trusted, a steadier one is tried by the same test: `Trajectory` where learning did not
    converge, `secant_cg` where it did, or else a linear nudge, damped. Where it is trusted, it is
    also asked what it is worth: does it hold over a change of theta that can be seen in the
    meta-loss? Of runs that are chaotic it holds for no such change.

    Kinks of F within a step, as of networks with ReLU, look like an error of the estimate: what is
    not trusted is looked at once more at a tenth of the step, and of `Unrolled` and `Trajectory`,
    which are exact but for round-off, in the next wider arithmetic, whose steps are a thousandth.

    It costs at most 18 meta-gradients (counting one as two phases at least), and 8 more of those
    two, compiles four to six programs, and is not for use under `jit`.

    Args:
        problem: what is learned.
        solver: how; a `Solver`, or any function that `as_solver` takes.
        estimator: how the meta-gradient is obtained.
        theta: the meta-parameters.
        z: one task.
        key: for problems that sample.
        features: see `meta_train`; theta and z are then what it is called with.

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
    run = Configuration(problem, solver, theta, z, key, features)
    check(problem, *run.inputs, key)
    return _diagnosed(run, estimator)


def _diagnosed(run: Configuration, rule: Estimator) -> Diagnosis:
    gradient = run.gradient(rule)
    d, meta = gradient(1.0, run.key)
    judge = run.judge(float(meta.value))
    look = judge.look(d)
    if look.verdict != "trust" and isinstance(rule, Unrolled | Trajectory) and not run.draws:
        # Exact but for round-off and truncation, which is seen there too; kinks are not.
        again = run.wide_look(d, judge.value)
        look = again if again is not None and again.verdict == "trust" else look
    half = gradient(0.5, run.key)[0] if has_beta(rule) else None
    other, wide = None, None
    if run.draws:
        other = gradient(1.0, run.other_key)[0]
    else:
        wide = run.wide(rule)
    return conclude(
        rule,
        look,
        flags=meta.aux["flags"].raised(),
        linear_residual=meta.aux.get("linear_residual"),
        nudge=None if half is None else change(half, d),
        keys=None if other is None else cosine(other, d),
        precision=None if wide is None else change(wide, d),
        proposal=_proposal(run, rule, meta, judge, look),
    )


def _proposal(
    run: Configuration, rule: Estimator, meta: MetaGradient, judge: Judge, look: Look
) -> Proposal | None:
    """Another estimator, by the same test, where the estimate is not trusted."""
    if look.verdict == "trust" or look.directions == MORE:  # which was all that may be spent
        return None
    for steadier in _steadier(run, rule, meta):
        try:
            c, _ = run.gradient(steadier)(1.0, run.key)
        except (TypeError, ValueError):  # not for this solver, or not for this theta
            continue
        found = _cosine(judge, look, c)
        return Proposal(steadier, found) if found > 0 else None
    return None


def _steadier(run: Configuration, rule: Estimator, meta: MetaGradient) -> Iterator[Estimator]:
    """What may be trusted instead, the first that can be run.

    The gradient of the steps that were taken, where these did not converge; where they did, a
    conjugate gradient, which learns nothing and needs no beta; else a linear nudge, damped.
    """
    if isinstance(rule, Unrolled):
        return
    if isinstance(rule, Trajectory):
        if rule.product == "secant":
            yield replace(rule, product="exact")
        return
    follow = followed(run)
    if meta.phases is None or not isinstance(rule, Contrastive | Implicit):
        yield follow
        return
    curvature, size, nudge = run.stiffness(meta.phases.free)
    own = rule.nudged if isinstance(rule, Contrastive) else None
    if run.draws or not meta.aux["residual"] <= CONVERGED * nudge:
        yield follow
    elif not isinstance(own, SecantCG):
        yield AT_MINIMUM
    if 0 < curvature < float("inf") and size > 0:
        beta, damping = float(f"{MOVED * size * 2 * curvature:.1g}"), float(f"{curvature:.1g}")
        yield Contrastive(beta, "symmetric", nudge="linear", damping=damping, nudged=own)


def followed(run: Configuration) -> Trajectory:
    """What is advised of those that do not: the gradient of the steps that were taken."""
    return Trajectory(keep="all" if run.kept <= MUCH else "sqrt")


def _cosine(judge: Judge, look: Look, c: Numbers) -> float:
    """Of another estimate; where the first one told how long the gradient is, at least roughly."""
    if not look.size > 0:
        return judge.look(c).cosine
    if not 0 < norm(c) < float("inf"):
        return 0.0
    along = judge.slope(c)
    return along / max(abs(along), look.size)
