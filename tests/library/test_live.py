"""Runs as they go: what is told of them, from their folders alone."""

import json
import os
import re
import socket
import subprocess
import sys

import pytest
from command import command

from metacontrast.report import _live
from metacontrast.report._glance import glance, sparkline


@pytest.fixture
def run(tmp_path):
    """A run of 90 meta-steps after the third look; it is this process that runs it."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"steps": 90, "method": "cml"}))
    (folder / "run.lock").write_text(f"process {os.getpid()} on {socket.gethostname()}\n")
    look = {"meta_loss": 0.5, "valid_loss": None, "diverged": 1, "flags": {"idle": 2}}
    lines = [look | {"step": 10 * i, "seconds": 50.0 if i == 1 else 5.0} for i in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 40, "meta_l')  # half a line
    (folder / "checkpoints/30.npz").write_bytes(b"")
    return folder


def died():
    """The number of a process that is gone."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_run_on_its_way_has_a_rate_and_time_left(run):
    found = glance(run, now=(run / "checkpoints/30.npz").stat().st_mtime + 61)
    assert (found.state, found.step, found.steps) == ("running", 30, 90)
    assert found.rate == 2.0  # 20 meta-steps in 10 s; the first look, which compiles, left out
    assert found.seconds_left == 30.0 and found.checkpoint_age == pytest.approx(61)
    assert found.losses["meta_loss"] == [0.5] * 3 and found.problem == ""
    assert found.diverged == 3 and found.flags == {"idle": 6}


def test_it_tells_how_a_run_came_to_stand_still(run):
    lock = run / "run.lock"
    lock.write_text(f"process {died()} on {socket.gethostname()}\n")
    assert glance(run).state == "lost" and glance(run).seconds_left != 30
    (run / "checkpoints/34.part.npz").write_bytes(b"")
    assert (glance(run).state, glance(run).step) == ("interrupted", 34)
    lock.write_text("process 1 on another-machine\n")
    assert glance(run).state == "unknown"
    lock.write_text("process 999999999999999999999 on x")
    assert glance(run).state == "interrupted"
    with (run / "metrics.jsonl").open("a") as file:
        file.write('oss": 0.25}\n{"step": 90}\n')  # the rest of the half line, and the last
    assert (glance(run).state, glance(run).step) == ("ended", 90)
    assert glance(run).losses["meta_loss"][3] == 0.25


def test_off_a_terminal_it_prints_a_line_and_ends(run, monkeypatch, capsys):
    assert command(monkeypatch, "watch", run.parent) == 0
    (said,) = capsys.readouterr().out.splitlines()
    expected = r"run: running, meta-step 30 of 90 \(2/s, 30s left\), meta_loss 0.5, diverged 3, "
    assert re.search(expected + r"idle 6, checkpoint \d+s ago$", said)
    assert command(monkeypatch, "watch", run / "checkpoints") == 2
    assert "runs: no result.json and no metrics.jsonl is below" in capsys.readouterr().err


def test_in_a_terminal_it_goes_on_until_all_have_ended_or_ctrl_c(run, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 2:
            raise KeyboardInterrupt  # as Ctrl-C does

    monkeypatch.setattr(_live.time, "sleep", sleep)
    assert command(monkeypatch, "watch", run, "--every", 0.5) == 0
    shown = capsys.readouterr()
    assert slept == [0.5, 0.5] and "running" in shown.out and shown.err == ""
    (run / "run.lock").write_text(f"process {died()} on {socket.gethostname()}\n")
    assert command(monkeypatch, "watch", run) == 0
    assert len(slept) == 2 and "lost" in capsys.readouterr().out


def test_names_in_files_steer_no_terminal(run, tmp_path, capsys):
    evil = tmp_path / "\x1b[2Jevil"
    run.rename(evil)
    (evil / "config.json").write_text('{"steps": "\\u001b[31m"}' + " " * 2**22)  # too large
    _live.watch([evil])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "config.json has 4,194" in said and len(said.splitlines()) == 1


def test_a_line_of_blocks_shows_rises_falls_and_gaps():
    assert sparkline([1.0, 2.0, 3.0], 2) == "▁█" and sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([float("inf"), float("nan")]) == "" == sparkline([])
    assert sparkline([1e-3, 1e-2, 1e-1, 1.0]) == "▁▃▅█"  # logarithms
