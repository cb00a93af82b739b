"""What experiments share: seeds of held-out tasks, options of commands, checks before a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

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
