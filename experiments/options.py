"""What the command line of an experiment may say, and how it is read."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tyro

from metacontrast._expected import check, kinds
from metacontrast._must import Count, Seed
from metacontrast.cli import did_you_mean
from metacontrast.train import is_first, use_devices
from metacontrast.train._collapse import OnCollapse


@dataclass(frozen=True)
class Devices:
    """On which devices an experiment runs; no result depends on it, but for rounding."""

    devices: int | None = None  # Spread the tasks over so many; on a CPU, over so many cores.
    mesh: str | None = None  # Devices as TASKSxPARAMETERS: 2x4 also splits the parameters by 4.
    distributed: bool = False  # This is one of several processes; the cluster says which.
    coordinator: str | None = None  # HOST:PORT of process 0, if no cluster says it.
    processes: int | None = None  # How many processes there are.
    process: int | None = None  # Which one this is, from 0.
    timeout: int = 60  # Seconds of silence after which another process counts as lost.

    def use(self) -> None:
        """Run there from now on; JAX must not have computed anything."""
        if self == Devices():
            return
        use_devices(
            self.devices,
            _shape(self.mesh),
            distributed=self.distributed,
            coordinator=self.coordinator,
            processes=self.processes,
            process=self.process,
            timeout=self.timeout,
        )
        if not is_first():  # all print the same
            sys.stdout = StringIO()


def _shape(mesh: str | None) -> tuple[int, int] | None:
    if mesh is None:
        return None
    sizes = re.fullmatch(r"(\d+)x(\d+)", mesh)
    if not sizes:
        raise ValueError(f"mesh: must be TASKSxPARAMETERS, as in 2x1, not {mesh!r}.")
    return int(sizes[1]), int(sizes[2])


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of every experiment; a subclass adds its own. Their comments are the help.

    Fields that no result depends on, or that become settings in `meta_train`, do not compare.
    """

    method: str  # How tasks are learned and meta-learned; all: one method after the other.
    seed: int = 0  # Draws the first theta and the training tasks.
    steps: int = 0  # Meta-steps.
    quick: bool = field(default=False, compare=False)  # A tenth of the meta-steps.
    resume: bool = field(default=False, compare=False)  # Continue the run in OUT.
    # Default: runs/EXPERIMENT/METHOD/seedSEED; of all: runs/EXPERIMENT.
    out: Path | None = field(default=None, compare=False)
    # Where most meta-gradients say that they are wrong. The published settings are run as they are.
    on_flag: Literal["stop", "warn"] = field(default="warn", compare=False)
    # Where what was learned is lost; rollback: at half the rate.
    on_collapse: OnCollapse = field(default="stop", compare=False)
    # Compare the first meta-gradient with what the learner does.
    diagnose: bool = field(default=True, compare=False)
    devices: Annotated[Devices, tyro.conf.arg(name="")] = field(default=Devices(), compare=False)

    def shorten(self) -> Self:
        """What `--quick` stands for, where the command line does not say otherwise."""
        return replace(self, steps=self.steps // 10)


S = TypeVar("S", bound=Settings)


def parse(methods: Mapping[str, S], default: str, args: Sequence[str], about: str) -> list[S]:
    """The settings of each method that the command line asks for.

    Args:
        methods: the settings of each, where the command line does not say otherwise.
        default: the method, if the command line names none.
        args: the words of the command line.
        about: the text above the options, in the help.
    """
    # These two choose the defaults of all others.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--method", default=default)
    first.add_argument("--quick", action="store_true")
    selection, others = first.parse_known_args(args)
    names = list(methods) if selection.method == "all" else [selection.method]
    if not set(names) <= set(methods):
        raise ValueError(f"method: {did_you_mean(selection.method, methods)}, or all.")
    about = f"{about}\n\nMethods: {', '.join(methods)}."
    several = [_one(methods[name], selection.quick, others, about) for name in names]
    if any(methods[name].steps for name in names):
        # --steps is for those that take any.
        several = [s if methods[s.method].steps else replace(s, steps=0) for s in several]
    for s in several:
        check("seed", s.seed, kinds(Seed))
        if methods[s.method].steps:
            check("steps", s.steps, kinds(Count))
    return several


def as_option(name: str, value: Any) -> str:
    """A field of settings as the command line says it."""
    word = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{word}" if value else f"--no-{word}"
    several = value if isinstance(value, tuple | list) else [value]
    return " ".join([f"--{word}", *map(str, several)])


def _one(default: S, quick: bool, args: Sequence[str], about: str) -> S:
    if quick:
        default = replace(default.shorten(), quick=True)
    flags = (tyro.conf.FlagCreatePairsOff,)
    return tyro.cli(type(default), default=default, args=args, description=about, config=flags)
