"""Where a process computes, several of them in one run, and that one which dies is noticed."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import jax
import pytest
import toy_run
from problems import forbidden
from toy_run import assert_close_run, lines

from metacontrast.train import _processes, _run, by_first, use_devices


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run of one process, and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out, steps=toy_run.FEW), out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(devices=0), "^devices"),
        (dict(mesh=(2, 0)), "^mesh"),
        (dict(devices=2, mesh=(2, 2)), "^mesh: 2x2 are 4 devices, not 2"),
        (dict(coordinator="localhost:1234"), "^distributed: .*go together"),
        (dict(distributed=True, process=0), "^distributed: .*SLURM"),
        (
            dict(distributed=True, coordinator="h:1", processes=2, process=2),
            "^process: must be 0 to 1, not 2",
        ),
    ],
)
def test_devices_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        use_devices(**changes)


def test_devices_cannot_be_chosen_once_jax_has_started():
    jax.devices()
    with pytest.raises(RuntimeError, match="before"):
        use_devices(2)


CHOOSE = """
import os, sys
import toy_run
from metacontrast.train import _processes, by_first, use_devices
try:
    use_devices(distributed=True)
except ValueError as error:
    print(error)
print(dict(use_devices(2).shape), os.environ["NPROC"])
try:
    toy_run.toy_run(sys.argv[1], tasks=1)
except ValueError as error:
    print(error)
"""


def test_what_is_chosen_before_jax_starts_is_where_the_loop_runs(tmp_path):
    env = toy_run.environment()
    env.pop("NPROC", None)
    command = [sys.executable, "-c", CHOOSE, tmp_path / "run"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    none, chosen, refused = done.stdout.splitlines()
    assert "distributed: JAX finds no cluster here" in none, done.stderr
    # Twice as many threads as devices and one more, lest calls of LAPACK wait for each other.
    assert chosen == f"{{'tasks': 2, 'parameters': 1}} {max(os.cpu_count(), 5)}"
    assert "tasks: 1 cannot be spread over the 2 devices" in refused


@pytest.mark.parametrize("first", [True, False])
def test_what_fails_in_the_first_process_fails_in_all(monkeypatch, first):
    """Or the others would wait for it; two processes are feigned by what one is sent."""
    calls = []

    def act():
        calls.append(1)
        raise OSError("disk full")

    error = {"error": "OSError", "text": "disk full"}
    sent = (lambda value: json.loads(json.dumps(value))) if first else (lambda value: error)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 0 if first else 1)
    monkeypatch.setattr(_processes, "_broadcast", sent)
    with pytest.raises(OSError, match="disk full"):
        by_first(act)
    assert len(calls) == first


# Two processes


def start_both(out, victim=None):
    """Two processes of the run in `out`, of which `victim` kills itself after a checkpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    commands = [
        [sys.executable, toy_run.__file__, out, address, str(i), *["dies"] * (i == victim)]
        for i in (0, 1)
    ]
    start = partial(subprocess.Popen, env=toy_run.environment(), stderr=subprocess.PIPE, text=True)
    return [start(command) for command in commands]


def end(process):
    """What it wrote, and its exit status; a process that hangs is the failure of the test."""
    try:
        return process.communicate(timeout=100)[1], process.returncode
    finally:
        process.kill()
        process.wait()


def kill(out, victim):
    """Start two, of which one dies; the other ends too and says why."""
    both = start_both(out, victim)
    (errors, died), (message, status) = end(both[victim]), end(both[1 - victim])
    assert died == -signal.SIGKILL, errors
    # By us, also where JAX's runtime sees it first.
    assert f"process {1 - victim} lost another one" in message and "resume=True" in message
    assert status == 2, message
    assert len(lines(out)) == 1


def test_two_processes_are_the_run_of_one_and_one_that_dies_takes_the_other_along(
    tmp_path, whole, monkeypatch
):
    kill(tmp_path, victim=1)
    done = [end(one) for one in start_both(tmp_path)]
    assert [status for _, status in done] == [0, 0], done
    monkeypatch.setattr(_run, "run_block", forbidden)
    again = toy_run.toy_run(tmp_path, resume=True, steps=toy_run.FEW)
    assert_close_run(again, tmp_path, *whole)


def test_the_death_of_the_first_process_ends_the_other_and_one_process_goes_on(tmp_path, whole):
    kill(tmp_path, victim=0)
    again = toy_run.toy_run(tmp_path, resume=True, steps=toy_run.FEW)
    assert_close_run(again, tmp_path, *whole)
