"""Data reweighting: how much of each source of text a language model should learn from.

    metacontrast run reweight --method cml --seed 0
    metacontrast run reweight --method all --seed 0      # every method, and one figure of all
    metacontrast table reweight

Seven sources of text are at hand, one of them like the target domain (`tasks.texts`), and a little
trusted text of the target. A transformer minimises the weighted loss of all sources, and their
weights, a softmax of seven logits, are meta-learned to lower its loss on the trusted text. Both
phases of the rule are carried on, a few stochastic steps each a meta-step (F2SA): the transformer
is trained twice, side by side, and never started anew. Then a fresh transformer learns from the
mixture that was found, and is judged on test text, looked at once. Settings were chosen by
validation text with seed 100.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import typer

import metacontrast as mc

from ..report import figure
from ..tasks import texts
from ..tasks._text import SOURCES
from ..train import open_folder, summarise, warm_train, write_result
from ..train._folder import METRICS
from ._common import Out, Quick, Resume, Seed, Steps, first_key, folder, shortened, unfinished
from ._reweight_figure import draw_panels
from ._reweight_final import TEST, VALID, judged, known, train
from ._reweight_problem import Settings, drawer, network, problem

NAME = "reweight"
METRIC = "cross-entropy a character (nats), 500 test sequences of the target"


class Method(NamedTuple):
    """How the mixture is found; with no rule, it is given."""

    rule: Any
    settings: Settings = Settings()


METHODS = {
    "cml": Method(mc.Contrastive),
    "t1t2": Method(lambda beta: mc.Implicit("identity")),  # has no nudge
    "uniform": Method(None),
    "clean": Method(None),  # an oracle: the one source that is like the target
}
REFERENCE = dict.fromkeys(METHODS, "")


def main(
    method: Annotated[str, typer.Option(help=f"One of {', '.join(METHODS)}, or all.")] = "cml",
    seed: Seed = 0,
    steps: Steps = None,
    out: Out = None,
    resume: Resume = False,
    quick: Quick = False,
) -> None:
    """Learn the weights of sources of text; then train a model on their mixture, and test it."""
    if method != "all":
        _report(run(method, seed, steps, out, resume, quick))
        return
    root = out or Path("runs") / NAME
    for name, at in unfinished(root, METHODS, seed, resume):
        _report(run(name, seed, steps, at, resume, quick))
    figure(root / NAME, partial(draw_panels, root, SOURCES, tuple(METHODS)), 1, 3, (3.4, 2.9))


def _report(result: dict[str, Any]) -> None:
    weights = ", ".join(f"{name} {w:.3f}" for name, w in result["weights"].items())
    print(
        f"{result['method']}, seed {result['seeds'][0]}: {result['value']:.4f} "
        f"+- {result['ci95']:.4f} ({METRIC}); {weights}"
    )


def run(
    name: str,
    seed: int = 0,
    steps: int | None = None,
    out: Path | None = None,
    resume: bool = False,
    quick: bool = False,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """One method, one seed: find the mixture, learn from it, test, write result.json."""
    out = folder(NAME, METHODS, name, seed, out)
    settings = shortened(settings or METHODS[name].settings, steps, quick)
    if quick:
        settings = replace(settings, final_steps=settings.final_steps // 10)
    made = texts(seed, settings.chars)
    net = network(settings)
    found = _mixture(name, net, made, settings, seed, out, resume)
    # Apart from the weights that meta-learning started from.
    fresh = net.init(jax.random.fold_in(first_key(seed), 1))
    final = train(net, fresh, found["mixture"], made, settings, seed)
    result = summarise(
        judged(net, made.test, settings, TEST)(final.phi),
        experiment=NAME,
        method=name,
        metric=METRIC,
        seeds=[seed],
        meta_steps=found["steps"],
        seconds=found["seconds"],
        reference=REFERENCE[name],
        weights=dict(zip(SOURCES, map(float, found["mixture"]), strict=True)),
        curve=final.curve,
        final_seconds=final.seconds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(fresh)),
    )
    write_result(out, result)
    return result


def _mixture(
    name: str, net: Any, made: Any, settings: Settings, seed: int, out: Path, resume: bool
) -> dict[str, Any]:
    config = {"experiment": NAME, "method": name, "schedule": settings.steps} | asdict(settings)
    rule = METHODS[name].rule
    if rule is None:
        open_folder(out, config | {"seed": seed, "steps": 0}, resume)
        (out / METRICS).touch()
        return {"mixture": known(name), "steps": 0, "seconds": 0.0}
    first = net.init(first_key(seed))
    judge = judged(net, made.valid, settings, VALID)

    def watch(theta: Any, phi: Any) -> dict[str, float]:
        weights = dict(zip(SOURCES, np.asarray(jax.nn.softmax(jnp.asarray(theta))), strict=True))
        return {"loss": float(np.mean(judge(phi)))} | weights

    every = max(1, settings.steps // 20)
    trained = warm_train(
        problem(net, first, settings),
        mc.descend(optax.adam(settings.rate), settings.inner_steps),
        rule(settings.beta),
        drawer(made, settings),
        jnp.zeros(len(SOURCES)),
        outer_optimizer(settings),
        steps=settings.steps,
        seed=seed,
        out=out,
        resume=resume,
        config=config,
        every=every,
        chunk=every,
        watch=watch,
    )
    weights = np.asarray(jax.nn.softmax(trained.theta))
    return {"mixture": weights, "steps": settings.steps, "seconds": trained.seconds}


def outer_optimizer(settings: Settings) -> optax.GradientTransformation:
    """Adam, whose rate grows for a tenth of the meta-steps, while the phases find their way."""
    warm = optax.linear_schedule(0.0, settings.outer_rate, max(1, settings.steps // 10))
    return optax.adam(warm)
