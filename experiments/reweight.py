"""Data reweighting: how much of each source of text a language model should learn from.

    python experiments/reweight.py --method cml --seed 0
    python experiments/reweight.py --method all --seed 0      # every method, and a figure of all
    metacontrast report runs/reweight

Seven sources of text are at hand, one of them like the target domain (`tasks.texts`), and a little
trusted text of the target. A transformer minimises the weighted loss of all sources, and their
weights, a softmax of seven logits, are meta-learned to lower its loss on the trusted text. Both
phases of the rule are carried on, a few stochastic steps each a meta-step (F2SA): the transformer
is trained twice, side by side, and never started anew. Then a fresh transformer learns from the
mixture, and is tested on further text, looked at once. Settings were chosen by validation text with
seed 100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Self

import frame
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _language_model import Judge, Training, errors, judge_of, train, windows
from jaxtyping import PyTree

import metacontrast as mc
from metacontrast.nets import Net, transformer
from metacontrast.report import figure, look
from metacontrast.tasks import texts
from metacontrast.tasks._text import ALPHABET, SOURCES, Texts
from metacontrast.train import Trained


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """What a run depends on."""

    beta: float = 1.0  # The strength of the nudge.
    inner_steps: int = 4  # Of each phase, a meta-step.
    outer_rate: float = 0.05  # Of Adam on the logits, after a tenth of the meta-steps.
    rate: float = 2e-3  # Of Adam on the transformer; of the final one it falls on a cosine.
    decay: float = 0.0  # Of the l2 penalty on all of the transformer's weights.
    batch: int = 2  # Sequences of each source, an inner step.
    trusted: int = 8  # Sequences of the target, an inner step of the nudged phase.
    length: int = 64  # Characters of a sequence.
    width: int = 96  # Of the transformer.
    depth: int = 2  # Blocks of the transformer.
    heads: int = 4  # Of attention.
    chars: int = 200_000  # Of each source.
    final_steps: int = 600  # Of the final transformer.
    final_batch: int = 16  # Sequences of a step of the final transformer.
    final_log_every: int = 50  # Steps of the final transformer from one validation to the next.
    valid_sequences: int = 100  # On which transformers are judged on the way.
    test_sequences: int = 500  # On which the final transformer is judged, once.

    def shorten(self) -> Self:
        """A tenth of the final transformer's steps too."""
        return replace(super().shorten(), final_steps=self.final_steps // 10)


_LEARNED = Settings(method="cml", steps=200)
METHODS = {
    "cml": _LEARNED,
    "t1t2": replace(_LEARNED, method="t1t2"),
    "uniform": Settings(method="uniform"),
    "clean": Settings(method="clean"),  # an oracle: the one source that is like the target
}
EXPERIMENT = frame.Experiment(
    "reweight",
    metric="cross-entropy a character (nats), on test sequences of the target",
    methods=METHODS,
    default="cml",
)


class Sequences(NamedTuple):
    """A task: of each source (sources, n, length + 1), and of the trusted text (m, length + 1)."""

    sources: jax.Array
    trusted: jax.Array


def network(s: Settings) -> Net:
    """The language model."""
    return transformer(len(ALPHABET), s.length, s.width, s.depth, s.heads)


def problem(net: Net, first: PyTree, s: Settings) -> mc.Problem:
    """Theta are the sources' logits; a task holds sequences of each source, and trusted ones.

        L_in = sum_s softmax(theta)_s L_s(phi) + decay |phi|^2,   L_out = L_trusted(phi)

    Solvers see a few of the sequences a step, the same in every phase; the contrast sees all.
    """

    def inner(phi: PyTree, theta: jax.Array, task: Sequences) -> jax.Array:
        losses = errors(net, phi, jnp.concatenate(task.sources))
        loss = jax.nn.softmax(theta) @ jnp.mean(losses.reshape(len(theta), -1), axis=1)
        if s.decay:
            loss = loss + s.decay * optax.tree.norm(phi, squared=True)
        return loss

    def sample(task: Sequences, key: jax.Array) -> Sequences:
        keys = jax.random.split(key)
        some = jax.random.randint(keys[0], (s.batch,), 0, task.sources.shape[1])
        few = jax.random.randint(keys[1], (s.trusted,), 0, task.trusted.shape[0])
        return Sequences(task.sources[:, some], task.trusted[few])

    return mc.Problem(
        init=lambda theta, task: first,
        inner=inner,
        outer=lambda phi, theta, task: jnp.mean(errors(net, phi, task.trusted)),
        sample=sample,
    )


def task_sampler(data: Texts, s: Settings) -> Callable[[jax.Array], Sequences]:
    """`key -> task`: twice what an inner step sees of each source, and of the trusted text."""
    sources, trusted = jnp.asarray(data.train), jnp.asarray(data.trusted)
    cut = partial(windows, length=s.length)

    def sample_task(key: jax.Array) -> Sequences:
        keys = jax.random.split(key, len(SOURCES) + 1)
        of_each = jax.vmap(lambda k, text: cut(k, text, 2 * s.batch))(keys[1:], sources)
        return Sequences(of_each, cut(keys[0], trusted, 2 * s.trusted))

    return sample_task


def estimator(s: Settings) -> mc.Estimator | None:
    """How the mixture is learned; None: it is given."""
    rules: dict[str, mc.Estimator] = {
        "cml": mc.Contrastive(s.beta),
        "t1t2": mc.Implicit("identity"),
    }
    return rules.get(s.method)


def outer_optimizer(s: Settings) -> optax.GradientTransformation:
    """Adam, whose rate grows for a tenth of the meta-steps, while the phases find their way."""
    return optax.adam(optax.linear_schedule(0.0, s.outer_rate, max(1, s.steps // 10)))


def learn_mixture(s: Settings, net: Net, data: Texts, judge: Judge) -> Trained:
    """Whose theta are the logits of the sources."""

    def validate(theta: PyTree, phi: PyTree) -> dict[str, float]:
        weights = np.asarray(jax.nn.softmax(jnp.asarray(theta)))
        return {"loss": float(np.mean(judge(phi)))} | dict(zip(SOURCES, weights, strict=True))

    every = max(1, s.steps // 20)
    return EXPERIMENT.meta_train(
        s,
        problem(net, net.init(frame.first_key(s.seed)), s),
        mc.descend(optax.adam(s.rate), s.inner_steps),
        estimator(s),
        task_sampler(data, s),
        jnp.zeros(len(SOURCES)),
        outer_optimizer(s),
        tasks=1,
        validate=validate,
        log_every=every,
        steps_per_dispatch=every,
        warm_start="phases",
    )


def given_mixture(s: Settings) -> np.ndarray:
    """The weights of the sources that are not learned."""
    uniform = np.full(len(SOURCES), 1 / len(SOURCES))
    return {"uniform": uniform, "clean": np.eye(len(SOURCES))[0]}[s.method]


def run(s: Settings) -> dict[str, Any]:
    """One method, one seed: find the mixture, learn from it, test, write result.json."""
    data, net = texts(s.seed, s.chars), network(s)
    tests = frame.Tests(lambda part: data._asdict()[part])
    judge = judge_of(net, data.valid, s.valid_sequences, s.length)
    if estimator(s) is None:
        s = replace(s, steps=0)
        EXPERIMENT.claim(s)
        mixture, seconds, course = given_mixture(s), 0.0, []
    else:
        trained = learn_mixture(s, net, data, judge)
        mixture, seconds = np.asarray(jax.nn.softmax(trained.theta)), trained.seconds
        course = [[x["step"], *(x[f"valid_{name}"] for name in SOURCES)] for x in trained.metrics]
    # Apart from the weights that meta-learning started from.
    fresh = net.init(jax.random.fold_in(frame.first_key(s.seed), 1))
    training = Training(s.final_steps, s.final_batch, s.length, s.rate, s.final_log_every)
    final = train(net, fresh, data.train, mixture, judge, training, s.seed)
    tests.chosen(final.phi)
    weights = dict(zip(SOURCES, map(float, mixture), strict=True))
    return EXPERIMENT.finish(
        s,
        judge_of(net, tests.open(), s.test_sequences, s.length)(final.phi),
        note="; " + ", ".join(f"{name} {weight:.3f}" for name, weight in weights.items()),
        seconds=seconds,
        weights=weights,
        course=course,
        curve=final.curve,
        final_seconds=final.seconds,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(fresh)),
    )


def overview(root: Path) -> None:
    """The figure of all methods and seeds below `root`."""
    figure(root / "reweight", partial(draw, EXPERIMENT.results(root)), 1, 3, (3.4, 2.9))


def draw(rows: Sequence[Mapping[str, Any]], axes: Any) -> None:
    """Weights of `cml` over meta-steps, and losses on the target of every method.

    Means over seeds; a band, or a dot, is the range over them.
    """
    weights, curves, losses = axes.flat
    course = np.array([row["course"] for row in rows if row["method"] == "cml"])
    for i, source in enumerate(SOURCES if course.size else ()):
        band(weights, course[0, :, 0], course[..., 1 + i], f"C{i}", source)
    weights.axhline(1 / len(SOURCES), color="0.7", lw=0.8, ls=":")
    weights.set(xlabel="meta-step", ylabel="weight of the source", ylim=0)
    weights.set_title("cml")
    handles, labels = weights.get_legend_handles_labels()
    weights.figure.legend(handles, labels, loc="outside lower left", ncols=len(labels))
    for i, name in enumerate(METHODS):
        results = [row for row in rows if row["method"] == name]
        if not results:
            continue
        runs = np.array([result["curve"] for result in results])
        color = look(name).color
        band(curves, runs[0, :, 0], runs[..., 1], color, name)
        tests = np.array([result["value"] for result in results], float)  # None is NaN
        losses.hlines(np.mean(tests), i - 0.3, i + 0.3, color=color)
        losses.plot(np.full(len(tests), i), tests, look(name).marker, color=color)
    curves.set(xlabel="step of the final model", ylabel="loss on the target, validation")
    curves.legend()
    losses.set_xticks(range(len(METHODS)), METHODS)
    losses.set_ylabel("loss on the target, test")


def band(ax: Any, x: np.ndarray, rows: np.ndarray, color: str, label: str) -> None:
    """The mean of the rows over x, and their range."""
    ax.plot(x, rows.mean(axis=0), color=color, lw=1.2, label=label)
    ax.fill_between(x, rows.min(axis=0), rows.max(axis=0), color=color, alpha=0.2, lw=0)


if __name__ == "__main__":
    EXPERIMENT.main(run, overview)
