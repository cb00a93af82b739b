"""Where a process computes, several of them in one run, and that one which dies is noticed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import jax
import pytest
import toy_run
from problems import forbidden
from toy_run import assert_close_run, lines

from metacontrast.train import _archive, _processes, _run, _watch, by_first, use_devices


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


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (ValueError("out: bad"), ValueError),
        (_archive.DamagedError("x"), ValueError),
        (UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), ValueError),
        (FileNotFoundError(2, "No such file", "x"), FileNotFoundError),
        (jax.errors.JaxRuntimeError("INTERNAL: x"), RuntimeError),
    ],
)
def test_an_error_arrives_as_one_of_its_kind_with_its_words(monkeypatch, error, found):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(_processes, "_broadcast", lambda value: json.loads(json.dumps(value)))

    def act():
        raise error

    with pytest.raises(found) as raised:
        by_first(act)
    assert str(error) in str(raised.value)


class Store:
    """What processes share, if process 1 counts on or says that it is over."""

    def __init__(self, tells):
        self.tells, self.told = tells, {}

    def key_value_set(self, key, value, overwrite):
        self.told[key] = value

    def key_value_try_get(self, key):
        if self.tells is None:
            raise RuntimeError("NOT_FOUND")
        return self.tells()


@pytest.mark.parametrize(
    ("tells", "is_lost"),
    [(None, True), (lambda: "7", True), (lambda: "over", False), (lambda: str(time.time()), False)],
)
def test_a_process_that_is_silent_is_lost_and_one_that_is_over_is_not(monkeypatch, tells, is_lost):
    said, at_end, store = [], [], Store(tells)
    monkeypatch.setattr(_watch, "_leave", said.append)
    monkeypatch.setattr(_watch, "_explain_aborts", lambda process: None)
    monkeypatch.setattr(_watch.atexit, "register", at_end.append)
    monkeypatch.setattr(_watch.global_state, "client", store)
    _watch.watch(0, 2, timeout=0.5)
    time.sleep(0.8)
    at_end[0]()
    assert store.told == {"metacontrast/0": "over"}
    text = "process 0 lost another one (process 1 has given no sign of life for 0.5 s)"
    assert {text in x for x in said} == ({True} if is_lost else set())


ALONE = "from metacontrast.train import use_devices; use_devices(distributed=True, coordinator="
ALONE += "'127.0.0.1:{}', processes=2, process={}, timeout=2)"


@pytest.mark.parametrize("process", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_process_whose_partner_never_comes_says_so(process):
    command = [sys.executable, "-c", ALONE.format(free_port(), process)]
    done = subprocess.run(command, env=toy_run.environment(), capture_output=True, text=True)
    assert done.returncode == 2
    text = f"process {process} lost another one (not all have come within 2 s)"
    assert text in done.stderr and "Traceback" not in done.stderr


# Two processes


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start_both(out, victim=None, patient=False):
    """Two processes of the run in `out`, of which `victim` kills itself after a checkpoint.

    Patient ones wait after each.
    """
    address = f"127.0.0.1:{free_port()}"
    commands = [
        [sys.executable, toy_run.__file__, out, address, str(i)]
        + ["dies"] * (i == victim)
        + ["waits"] * patient
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


@pytest.mark.thorough
def test_the_death_of_the_first_process_ends_the_other_and_one_process_goes_on(tmp_path, whole):
    kill(tmp_path, victim=0)
    again = toy_run.toy_run(tmp_path, resume=True, steps=toy_run.FEW)
    assert_close_run(again, tmp_path, *whole)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_of_two_ends_both_with_a_checkpoint(tmp_path, whole, number):
    both = start_both(tmp_path, patient=True)
    while not (tmp_path / "metrics.jsonl").is_file() or not lines(tmp_path):
        assert all(one.poll() is None for one in both)
        time.sleep(0.01)
    both[1].send_signal(number)
    ended = [end(one) for one in both]
    # Python itself ends by SIGINT where nobody catches KeyboardInterrupt.
    assert [status for _, status in ended] == [{15: 143, 2: -2}[number]] * 2, ended
    assert "stopped at meta-step" in ended[0][0]
    again = toy_run.toy_run(tmp_path, resume=True, steps=toy_run.FEW)
    assert_close_run(again, tmp_path, *whole)


@pytest.mark.thorough
@pytest.mark.parametrize("victim", [0, 1])
def test_one_of_two_that_hangs_ends_the_other(tmp_path, victim):
    both = start_both(tmp_path, patient=True)
    while not (tmp_path / "metrics.jsonl").is_file() or not lines(tmp_path):
        assert all(one.poll() is None for one in both)
        time.sleep(0.01)
    both[victim].send_signal(signal.SIGSTOP)
    message, status = end(both[1 - victim])
    both[victim].kill()
    both[victim].communicate()
    assert status == 2
    assert f"process {victim} has given no sign of life for 5 s" in message
