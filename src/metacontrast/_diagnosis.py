"""Whether a meta-gradient is to be trusted: the report, and what to do."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

from ._directional import REFUSED, Look, Verdict
from ._estimator._base import Estimator
from ._estimator._contrastive import Contrastive
from ._estimator._trajectory import Trajectory
from ._estimator._unrolled import Unrolled
from ._flags import REMEDIES, REMEDIES_OUTSIDE
from ._solver._secant_cg import SecantCG

BENT = 0.5  # how much of a slope is to be left, or it to grow, where it is to foretell a step
LENGTH = 0.5  # the relative error from which on more than the direction is to be spoken of
NOT_SMOOTH = (
    "the meta-loss is not smooth in theta on the scale of its own round-off, so that no gradient "
    "says much of it; smoother activations, smaller inner rates, more examples."
)


class Proposal(NamedTuple):
    """An estimator that was tried in place of the one asked about, and its cosine."""

    estimator: Estimator
    cosine: float


@dataclass(frozen=True)
class Diagnosis:
    """What `diagnose` found; it prints as a short report.

    Attributes:
        verdict: "trust", "do not trust", or "doubt" where the tests do not tell.
        cosine: between the estimate and the gradient of what the learner did, as far as the tests
            see it; NaN where the estimate is 0 or not finite.
        error: the relative error to be expected, `|estimate - gradient| / |gradient|`.
        flags: those of the estimate that are up.
        linear_residual: what the phases left undone beside the nudge, see `Contrastive`; None for
            estimators that have none.
        nudge: `|estimate(beta) - estimate(beta/2)| / |estimate(beta)|`; None without a beta.
        keys: the cosine of the estimates with two keys; None where nothing is drawn.
        precision: the relative change of the estimate in the next wider type, or None.
        straight: of an estimate that is trusted, the slope of the meta-loss over a change of 5% of
            it to either side, relative to that at theta: 1 where the meta-gradient foretells what a
            step of theta does, and near 0 where the run is so chaotic that it does not.
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
    straight: float | None
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
            ("slope over a change of 5%, beside that at theta", self.straight),
            ("residual of the phases beside the nudge", self.linear_residual),
        ]
        lines = [f"{self.verdict}: {self.advice}"]
        lines += [f"  {name}: {x:.3g}" for name, x in rows if x is not None]
        lines += [f"  flags: {', '.join(self.flags) or 'none'}"]
        return "\n".join(lines)


def conclude(
    rule: object,
    look: Look,
    *,
    flags: list[str],
    proposal: Proposal | None = None,
    outside: bool = False,
    **numbers: Any,
) -> Diagnosis:
    """The diagnosis.

    Args:
        rule: the estimator that was asked about.
        look: what differences of the meta-loss say.
        flags: those that are up.
        proposal: what was tried instead.
        outside: whether the learner is outside JAX, where fewer rules can be advised.
        numbers: the others of `Diagnosis`; None if left out.
    """
    names = ("linear_residual", "nudge", "keys", "precision")
    known = {name: None if numbers.get(name) is None else float(numbers[name]) for name in names}
    advice = "the estimate agrees with differences of the meta-loss."
    if look.verdict == "trust" and look.error > LENGTH:
        advice = (
            "the direction agrees with differences of the meta-loss, but its length is not "
            f"the slope's: the relative error is {look.error:.2g}."
        )
    elif look.verdict == "trust" and not _holds(look.straight):
        advice = (
            "the estimate agrees with differences of the meta-loss, but only for changes too small "
            f"to matter: over one of 5% its slope is {look.straight:.2g} of that. Learn for "
            "fewer steps or at smaller rates, average over keys, or take smaller meta-steps."
        )
    elif look.verdict != "trust":
        advice = _advice(rule, look, flags, known, proposal, outside)
    return Diagnosis(
        look.verdict, look.cosine, look.error, tuple(flags), **known, straight=look.straight,
        proposal=proposal, advice=advice,
    )  # fmt: skip


def has_beta(rule: object) -> bool:
    """Whether there is a nudge of a length of one's own choice."""
    return isinstance(rule, Contrastive) and rule.beta is not None


def _holds(straight: float | None) -> bool:
    """Whether a slope is worth a step; that of a single point is worth what it is."""
    return straight is None or BENT < straight < 1 / BENT


def _advice(
    rule: object,
    look: Look,
    flags: list[str],
    known: dict[str, float | None],
    proposal: Proposal | None,
    outside: bool,
) -> str:
    """What to do, in one line; the surest thing first."""
    remedies = REMEDIES_OUTSIDE if outside else REMEDIES
    if "idle" in flags:
        return remedies["idle"] + "."
    # In this order: a cosine that is NaN is none to be beaten.
    if proposal is not None and proposal.cosine >= max(REFUSED, look.cosine):
        return f"try {_spelled(proposal.estimator)}, whose cosine is {proposal.cosine:.2g} here."
    for name in ("nonfinite", "rounded", "unbounded", "inexact"):
        if name in flags:
            return remedies[name] + "."
    if look.is_zero:
        first = "raise beta, and " if has_beta(rule) else ""
        return f"the estimate is exactly 0: {first}see that theta is in a loss."
    if not look.is_smooth:
        return NOT_SMOOTH
    beyond = lambda name, least: (known[name] or 0.0) > least
    # What phases left undone is divided by beta, so that half of it says nothing of bends then.
    if beyond("nudge", 0.3) and "unconverged" not in flags:
        instead = "" if outside else ", or take nudge='linear'"
        return f"beta is too large for how the losses bend: halve it{instead}."
    if beyond("precision", 0.1):
        return "round-off decides: raise beta, or learn in a wider type."
    keys = known["keys"]
    if keys is not None and keys < 0.5:
        if outside:
            return (
                "noise decides: full batches, no dropout, a larger beta, or the mean over several "
                "calls; metacontrast.Trajectory, in JAX, is exact for the steps that were taken."
            )
        return (
            "noise decides: symmetric with a linear nudge and damping, a larger beta, "
            "Problem(views=...), or Trajectory, which is exact for the steps that were taken."
        )
    if isinstance(rule, Trajectory) or (isinstance(rule, Unrolled) and rule.truncate is None):
        return NOT_SMOOTH  # these are derivatives, and of those there is one
    if known["linear_residual"] is None and not isinstance(rule, Contrastive):
        return (
            f"{type(rule).__name__} does not point where the meta-loss falls: Contrastive does "
            "where learning converges, Trajectory where it does not."
        )
    return remedies["unconverged"] + "."


def _spelled(rule: Estimator) -> str:
    """The rule as one would write it: what is not as it is anyway."""
    assert is_dataclass(rule)
    own = [f for f in fields(rule) if f.name != "nudged" and getattr(rule, f.name) != f.default]
    parts = [f"{f.name}={getattr(rule, f.name)!r}" for f in own]
    if isinstance(nudged := getattr(rule, "nudged", None), SecantCG):
        parts += [f"nudged=secant_cg({nudged.iterations})"]
    return f"{type(rule).__name__}({', '.join(parts)})"
