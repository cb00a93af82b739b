"""What an experiment needs beside its science: a command, a folder, a result. See `sine.py`."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Generic

import _quiet
import jax
import jax.numpy as jnp
import optax
from _held_out import SEEDS as SEEDS
from _held_out import Tests as Tests
from _held_out import held_out as held_out
from _held_out import stack_tasks as stack_tasks
from jaxtyping import PyTree
from options import S, parse
from options import Settings as Settings

import metacontrast as mc
from metacontrast import loggers, train
from metacontrast.accuracy import suggest_beta
from metacontrast.cli import ends_in_words


@dataclass(frozen=True)
class Experiment(Generic[S]):
    """A name, what a result measures, and the default settings of each method."""

    name: str
    metric: str
    methods: Mapping[str, S]
    default: str  # the method, if none is asked for
    rows: Mapping[str, str] | None = None  # of the table, and the published figure of each

    def main(
        self, run: Callable[[S], object], overview: Callable[[Path], object] | None = None
    ) -> None:
        """Do what the command line asks for; bad input ends in one line and exit status 2.

        Args:
            run: does one method with one seed, and ends with `finish`.
            overview: draws all results below a folder, once `--method all` is done.
        """
        _quiet.over()
        about = sys.modules[run.__module__].__doc__ or ""
        with ends_in_words(self.name):
            several = parse(self.methods, self.default, sys.argv[1:], about)
            several[0].devices.use()
            # The products that say nothing else; a GPU's default is TF32.
            jax.config.update("jax_default_matmul_precision", "highest")
            train.keep_compiled()
            if len(several) == 1:
                run(several[0])
            else:
                self._all(several, run, overview)

    def _all(self, several: list[S], run: Any, overview: Any) -> None:
        """Each method in its folder below `--out`; to resume, only those without a result."""
        root = several[0].out or Path("runs") / self.name
        for settings in several:
            out = root / settings.method / f"seed{settings.seed}"
            if not (settings.resume and train.by_first((out / train.RESULT).is_file)):
                run(replace(settings, out=out))
        if overview is not None:
            overview(root)

    def folder(self, settings: S) -> Path:
        """Where this run writes.

        Raises:
            ValueError: the seed draws held-out tasks.
        """
        if settings.seed in SEEDS.values():
            raise ValueError(f"seed: {settings.seed} draws held-out tasks; choose another.")
        return settings.out or Path("runs") / self.name / settings.method / f"seed{settings.seed}"

    def config(self, settings: S) -> dict[str, Any]:
        """All that the result depends on, which tells this run from another."""
        every = asdict(settings)
        own = {f.name: every[f.name] for f in fields(settings) if f.compare}
        as_written: dict[str, Any] = json.loads(json.dumps({"experiment": self.name} | own))
        return as_written

    def command(self, settings: S) -> str:
        """What is typed to have this run once more: all that is not so by default."""
        words = [f"--method {settings.method}", f"--seed {settings.seed}"]
        default = self.default_of(settings)
        for f in fields(settings):
            value, is_named = getattr(settings, f.name), f.name in ("method", "seed")
            if f.compare and not is_named and value != getattr(default, f.name):
                has_words = "FlagConversionOff" in str(f.type)
                words.append(_option(f.name.replace("_", "-"), value, has_words))
        return " ".join([f"python experiments/{self.name.replace('-', '_')}.py", *words])

    def default_of(self, settings: S) -> S:
        """What a command that names the method alone would run."""
        return self.methods[settings.method]

    def claim(self, settings: S) -> Path:
        """Open the folder of a run that does not go through `meta_train`."""
        return train.open_folder(self.folder(settings), self.config(settings), settings.resume)

    def meta_train(self, settings: S, *parts: Any, **options: Any) -> train.Trained:
        """`meta_train(*parts, **options)` in the folder of this run."""
        dispatch = options.setdefault("steps_per_dispatch", 10)
        options.setdefault("log_every", max(1, settings.steps // 20 // dispatch) * dispatch)
        # The outer rate's schedule depends on the number of steps: no other number resumes it.
        config = self.config(settings) | {"schedule": settings.steps}
        options |= dict(out=self.folder(settings), resume=settings.resume, config=config)
        named = dict.fromkeys(settings.log)  # each once
        options["callbacks"] = [self._logger(name, settings) for name in named]
        options |= {x: getattr(settings, x) for x in ("on_flag", "on_collapse", "diagnose")}
        options.setdefault("precision", getattr(settings, "precision", "highest"))
        return train.meta_train(*parts, steps=settings.steps, seed=settings.seed, **options)

    def _logger(self, name: str, settings: S) -> train.Callback:
        folder, config = self.folder(settings), self.config(settings)
        match name:
            case "tensorboard":
                return loggers.TensorBoard(folder / name)
            case "wandb":
                return loggers.WandB(folder / name, self.name, config)
            case "mlflow":
                return loggers.MLflow(folder / name, self.name, config)
        return loggers.CSV(folder / "metrics.csv")

    def finish(
        self, settings: S, values: Any, label: str = "", note: str = "", **facts: Any
    ) -> dict[str, Any]:
        """Write result.json, and say in a line what it says.

        Args:
            settings: of the run.
            values: what was measured, one a task.
            label: the row of the table. Default: the method.
            note: what the line says besides.
            facts: further fields of the result, `seconds` among them.
        """
        rows = dict(self.rows or dict.fromkeys(self.methods, ""))
        label = label or settings.method
        fields: dict[str, Any] = dict(experiment=self.name, method=label, metric=self.metric)
        fields |= dict(seeds=[settings.seed], meta_steps=settings.steps)
        fields |= dict(reference=rows.get(label, ""), rows=rows, settings=self.config(settings))
        fields |= dict(command=self.command(settings))
        result = train.summarise(values, **(fields | facts))
        train.write_result(self.folder(settings), result)
        print(f"{label}, seed {settings.seed}: {train.describe(result)}{note}", flush=True)
        return result

    def results(self, root: Path, seed: int | str = "*") -> list[dict[str, Any]]:
        """Those below a folder, of all seeds or of one, in the order of the methods."""
        folders = (x for name in self.methods for x in sorted((root / name).glob(f"seed{seed}")))
        return [train.read_result(x) for x in folders if (x / train.RESULT).is_file()]


def _option(name: str, value: Any, has_words: bool) -> str:
    """An option of the command line; one that is on or off may ask for a word, too."""
    if isinstance(value, bool) and not has_words:
        return f"--{name}" if value else f"--no-{name}"
    several = value if isinstance(value, tuple | list) else [value]
    return " ".join([f"--{name}", *map(str, several)])


def facts(trained: train.Trained | None = None, tasks: int = 1) -> dict[str, Any]:
    """What meta-training took, and which share of the meta-gradients raised each flag.

    Args:
        trained: its result; None where there was none.
        tasks: of a meta-step.
    """
    if trained is None or not trained.metrics:
        return {"seconds": 0.0, "flags": {}}
    counts: Counter[str] = sum((Counter(line["flags"]) for line in trained.metrics), Counter())
    total = tasks * trained.metrics[-1]["step"]
    return {"seconds": trained.seconds, "flags": {name: n / total for name, n in counts.items()}}


def first_key(seed: int) -> jax.Array:
    """Draws the first theta."""
    # Far from the keys that the meta-steps of this seed fold in, which are their numbers.
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def synapses(
    init: Callable[[jax.Array], PyTree],
    seed: int,
    lam: float,
    fast: Callable[[PyTree], PyTree] = lambda omega: omega,
) -> mc.Synapse:
    """omega, a random network, and log lambda, one a weight that is fast."""
    omega = jax.jit(init)(first_key(seed))
    return mc.Synapse(omega, jax.tree.map(lambda x: jnp.full(x.shape, jnp.log(lam)), fast(omega)))


def suggested_beta(
    problem: mc.Problem, solver: mc.Solver, rule: mc.Contrastive, theta: PyTree, tasks: PyTree
) -> float:
    """The nudge for `rule` where meta-training starts: the median over stacked training tasks."""
    best = partial(
        suggest_beta, problem, solver, theta,
        scheme=rule.scheme, order=rule.order, nudged=rule.nudged,
    )  # fmt: skip
    return float(jnp.nanmedian(jax.vmap(lambda task: best(task).beta)(tasks)))


def outer_optimizer(rate: float, steps: int, last: float = 0.02) -> optax.GradientTransformation:
    """Adam on clipped meta-gradients, its rate falling on a cosine to `last` of what it was."""
    schedule = optax.cosine_decay_schedule(rate, steps, last)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
