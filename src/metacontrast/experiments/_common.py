"""What experiments share: seeds, options of commands, checks before a run, where it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
import typer

from ..train import RESULT, by_first

# Task streams: training draws from the run's seed, these two from seeds no run may have.
VALID_SEED, TEST_SEED = 2**31 - 2, 2**31 - 1

Seed = Annotated[int, typer.Option(help="Draws the first theta and the training tasks.")]
Steps = Annotated[int | None, typer.Option(help="Meta-steps. Default: the method's.")]
Out = Annotated[Path | None, typer.Option(help="Default: runs/EXPERIMENT/METHOD/seedSEED.")]
Quick = Annotated[bool, typer.Option("--quick", help="A tenth of the meta-steps.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in OUT.")]


def folder(experiment: str, methods: Iterable[str], name: str, seed: int, out: Path | None) -> Path:
    """Where this run goes: `out`, or the default.

    Raises:
        ValueError: an unknown method, or the seed of held-out tasks.
    """
    if name not in methods:
        raise ValueError(f"method: unknown {name!r}; choose one of {', '.join(methods)}.")
    if seed in (VALID_SEED, TEST_SEED):
        raise ValueError(f"seed: {seed} draws held-out tasks; choose another.")
    return out or Path("runs") / experiment / name / f"seed{seed}"


def unfinished(
    root: Path, methods: Iterable[str], seed: int, resume: bool
) -> Iterator[tuple[str, Path]]:
    """Each method with its folder below `root`; to resume, only those without a result."""
    for name in methods:
        at = root / name / f"seed{seed}"
        if not (resume and by_first((at / RESULT).is_file)):
            yield name, at


def shortened(settings: Any, steps: int | None, quick: bool = False, part: int = 10) -> Any:
    """The settings with `steps` meta-steps; if none are given with their own, or 1 in `part`."""
    if steps is None:
        steps = settings.steps // part if quick else settings.steps
    return replace(settings, steps=steps)


def first_key(seed: int) -> jax.Array:
    """Draws the first theta."""
    # Far from the keys that the meta-steps of this seed fold in, which are their numbers.
    return jax.random.fold_in(jax.random.key(seed), 2**31)


def synapses(
    init: Callable[[jax.Array], Any], seed: int, lam: float, fast: Any = lambda slow: slow
) -> tuple[Any, Any]:
    """omega, a random network, and log lambda, one a weight that is fast."""
    omega = jax.jit(init)(first_key(seed))
    return omega, jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.log(lam)), fast(omega))


def outer_optimizer(rate: float, steps: int, last: float) -> optax.GradientTransformation:
    """Adam on clipped meta-gradients, its rate falling on a cosine to `last` of what it was."""
    schedule = optax.cosine_decay_schedule(rate, steps, last)
    return optax.chain(optax.clip_by_global_norm(10.0), optax.adam(schedule))
