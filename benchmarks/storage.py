"""Runs that are killed, told to end, or find their files damaged: which end as if nothing had been.

    python -m benchmarks.storage [--kills N] [--signals N] [--damages N] [--seed S] [--result FILE]

A small run of everything that has a state (Adam, noise, an average, a best theta, tasks that
diverge), of 40 checkpoints. A round is right if theta.npz, best.npz and metrics.jsonl are to the
bit those of the run that nothing happened to; or, where no checkpoint is left whole, if the run
says so. Some ten minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc
from benchmarks._kept import keep
from metacontrast.train import keep_compiled, meta_train

STEPS, LOG_EVERY = 400, 10
Round = tuple[str, bool]  # what was done, and whether it ended right


def spring(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A task: a centre that pulls phi, one in eight so steeply that learning diverges."""
    one, other = jax.random.split(key)
    steep = jax.random.uniform(other) < 0.125
    return jax.random.normal(one), jnp.where(steep, 1e20, 1.0)


PROBLEM = mc.Problem(
    init=lambda theta, task: theta,
    inner=lambda phi, theta, task: jnp.sum(task[1] * (phi - task[0]) ** 2 + (phi - theta) ** 2),
    outer=lambda phi, theta, task: jnp.sum((phi - 1.0) ** 2),
)
OPTIMIZER = optax.chain(optax.add_noise(0.1, 0.5, 5), optax.adam(0.05))


def train(out: Path) -> None:
    """Start the run in `out`, or go on with it."""
    meta_train(
        PROBLEM,
        mc.descend(optax.sgd(0.25), 1),
        mc.FirstOrder(),
        spring,
        jnp.array([0.3, -0.2]),
        OPTIMIZER,
        steps=STEPS,
        tasks=8,
        seed=3,
        out=out,
        resume=True,
        log_every=LOG_EVERY,
        steps_per_dispatch=5,
        average_from=17,
        validate=lambda theta: {"loss": float(((theta - 1.9) ** 2).sum())},
        diagnose=False,
        progress=False,
    )


def begin(out: Path, log: Path) -> int:
    """A process that does; forked from this one, which computes nothing, to save the imports."""
    if (child := os.fork()) != 0:
        return child
    status = 0
    try:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(written, 1), os.dup2(written, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        train(out)
    except SystemExit as stop:
        status = int(stop.code or 0)
    except KeyboardInterrupt as stop:
        print(stop, file=sys.stderr)
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(status)


def ended(child: int) -> int:
    """The exit status; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(out: Path) -> int:
    """Go on to the end."""
    return ended(begin(out, out.parent / "log"))


def outcome(out: Path) -> Any:
    """All that a run leaves, without seconds."""
    if not (out / "theta.npz").is_file():
        return None
    lines = [json.loads(x) for x in (out / "metrics.jsonl").read_text().splitlines()]
    files = [(out / name).read_bytes() for name in ("theta.npz", "best.npz")]
    return [{**line, "seconds": None} for line in lines], files


# What is done to a run that goes


def at_random(out: Path, chance: random.Random) -> Callable[[], bool]:
    """At any moment of the first three seconds."""
    end = time.monotonic() + chance.uniform(0, 3)
    return lambda: time.monotonic() > end


def while_saving(out: Path, chance: random.Random) -> Callable[[], bool]:
    """While a file is not complete, some chances passed by."""
    left = [chance.randrange(30)]

    def is_now() -> bool:
        if any(out.rglob("*.tmp")):
            left[0] -= 1
        return left[0] < 0

    return is_now


def after_metrics(out: Path, chance: random.Random) -> Callable[[], bool]:
    """As soon as the metrics have got so far, before or while the checkpoint is written."""
    n, metrics = chance.randrange(1, STEPS // LOG_EVERY), out / "metrics.jsonl"
    return lambda: metrics.is_file() and metrics.read_bytes().count(b"\n") >= n


def send(out: Path, number: int, chance: random.Random) -> tuple[str, int]:
    """Start or go on, and send a signal at some moment; which moment, and the exit status."""
    moment = chance.choice([at_random, while_saving, after_metrics])
    is_now, child = moment(out, chance), begin(out, out.parent / "log")
    while not is_now():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):  # it was quicker
            break
        time.sleep(0.0005)
    os.kill(child, number)
    return moment.__name__, ended(child)


def kills(n: int, work: Path, whole: Any, chance: random.Random) -> Iterator[Round]:
    """Killed one to three times, then resumed."""
    for _ in range(n):
        out = fresh(work)
        times = chance.choice([1, 1, 2, 3])
        done = [send(out, signal.SIGKILL, chance)[0] for _ in range(times)]
        yield f"{done[0]}, {times} kills", finish(out) == 0 and outcome(out) == whole


def signals(n: int, work: Path, whole: Any, chance: random.Random) -> Iterator[Round]:
    """Told to end, which it does in one line and with its exit status, then resumed."""
    for i in range(n):
        out, number = fresh(work), (signal.SIGTERM, signal.SIGINT)[i % 2]
        finish_at = chance.randrange(2, STEPS // LOG_EVERY - 8)
        child = begin(out, work / "log")
        metrics = out / "metrics.jsonl"
        while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= finish_at):
            time.sleep(0.0005)
        os.kill(child, number)
        status, said = ended(child), (work / "log").read_text().splitlines()
        in_words = status == 128 + number and len(said) == 1 and "stopped at meta-step" in said[0]
        yield number.name, in_words and finish(out) == 0 and outcome(out) == whole


# What is done to its files


def flip(path: Path, chance: random.Random) -> None:
    """One bit is another."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """The end is lost."""
    os.truncate(path, chance.randrange(1, path.stat().st_size))


def empty(path: Path, chance: random.Random) -> None:
    """All of it is."""
    os.truncate(path, 0)


def delete(path: Path, chance: random.Random) -> None:
    """The file is not there."""
    path.unlink()


def double(path: Path, chance: random.Random) -> None:
    """The content is there twice."""
    path.write_bytes(path.read_bytes() * 2)


DAMAGES = (flip, cut, empty, delete, double)


def damages(n: int, work: Path, whole: Any, chance: random.Random) -> Iterator[Round]:
    """A file, or both checkpoints, of a run that was killed on its way, damaged; then resumed."""
    half = work / "half"
    send_at(half, STEPS // LOG_EVERY // 2)
    for i in range(n):
        out, damage = fresh(work), DAMAGES[i % len(DAMAGES)]
        shutil.copytree(half, out)
        saved = sorted((out / "checkpoints").glob("*.npz"))
        chosen = [[saved[-1]], [saved[0]], [out / "metrics.jsonl"], [out / "config.json"], saved]
        paths = chosen[i // len(DAMAGES) % len(chosen)]
        for path in paths:
            damage(path, chance)
        status, said = finish(out), (work / "log").read_text()
        name = "both checkpoints" if len(paths) > 1 else "a checkpoint"
        name = name if "npz" in paths[0].name else paths[0].name
        if len(paths) > 1:
            is_right = (
                status == 1 and f"{out}/checkpoints holds no checkpoint that is whole" in said
            )
        elif (name, damage) == ("config.json", delete):
            is_right = status == 1 and "holds files that are not of a run" in said
        else:
            is_right = status == 0 and outcome(out) == whole
        yield f"{name}, {damage.__name__}", is_right


def send_at(out: Path, lines: int) -> None:
    """Start a run, and kill it when its metrics have got so far."""
    child, metrics = begin(out, out.parent / "log"), out / "metrics.jsonl"
    while not (metrics.is_file() and metrics.read_bytes().count(b"\n") >= lines):
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    ended(child)


def fresh(work: Path) -> Path:
    """A folder that is not there."""
    shutil.rmtree(work / "run", ignore_errors=True)
    return work / "run"


def report(facts: dict[str, Any]) -> str:
    """A line a kind: how many rounds ended right."""
    kinds = {
        "killed one to three times (SIGKILL)": facts["kills"],
        "told to end (SIGTERM, Ctrl-C)": facts["signals"],
    }
    for name, (right, of) in facts["damages"]["each"].items():
        kind = kinds.setdefault(name.split(",")[0] + " damaged", {"right": 0, "of": 0})
        kind["right"], kind["of"] = kind["right"] + right, kind["of"] + of
    lines = [f"{name:37} {kind['right']:3} of {kind['of']:3}" for name, kind in kinds.items()]
    return "\n".join(["what was done                           right", *lines])


def main() -> None:
    """Print a line a kind, and write all counts."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, default in (("kills", 40), ("signals", 20), ("damages", 75), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--result", type=Path, help="write all counts there")
    options = parser.parse_args()
    keep_compiled()
    chance, table = random.Random(options.seed), {}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        assert finish(work / "whole") == 0, (work / "log").read_text()
        whole = outcome(work / "whole")
        for kind in (kills, signals, damages):
            rounds = list(kind(getattr(options, kind.__name__), work, whole, chance))
            right, of = Counter(x for x, ok in rounds if ok), Counter(x for x, _ in rounds)
            each = {name: [right[name], n] for name, n in sorted(of.items())}
            table[kind.__name__] = {"right": right.total(), "of": of.total(), "each": each}
            print(f"{kind.__name__:8} {right.total()} of {of.total()} right", flush=True)
    facts: dict[str, Any] = {
        "command": f"python -m benchmarks.storage --seed {options.seed}",
        **table,
    }
    keep(options.result, **facts)


if __name__ == "__main__":
    main()
