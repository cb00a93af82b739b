"""That no interruption changes a run, and that no folder is given to another one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import optax
import pytest
import toy_run
from problems import forbidden, never
from toy_run import assert_same, assert_same_run, lines

from metacontrast.train._checkpoints import Checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out), out


def test_the_best_theta_of_the_toy_run_is_not_its_last(whole):
    best, last = whole[0].best["spring"], whole[0].theta["spring"]
    assert (best != last).all() and best[0] != best[1]


def test_a_run_that_crashed_and_resumed_is_the_run_that_did_not(tmp_path, whole):
    def crash(theta):
        if len(lines(tmp_path)) == 2:
            raise RuntimeError("power cut")
        return toy_run.score(theta)

    with pytest.raises(RuntimeError, match="power cut"):
        toy_run.toy_run(tmp_path, validate=crash)
    assert len(lines(tmp_path)) == 2
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, *whole)


def test_a_run_that_was_extended_is_the_longer_run(tmp_path, whole):
    # Not a multiple of `log_every`: the short last block must be forgotten. And once again.
    for steps, expected in ((75, [60, 70, 75]), (80, [70, 80]), (85, [70, 80, 85])):
        trained = toy_run.toy_run(tmp_path, steps=steps, resume=True)
        assert [line["step"] for line in trained.metrics][-len(expected) :] == expected
        assert Checkpoints(tmp_path / "checkpoints").steps() == expected[-2:]
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, *whole)


def test_torn_and_overhanging_metrics_are_cut_back_to_the_checkpoint(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole[1], out)
    finished = out / "checkpoints" / "95"
    finished.rename(finished.with_name("95.orbax-checkpoint-tmp"))  # as if killed while saving it
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 105, "meta_lo')
    (out / "config.json.tmp").write_text("{")
    assert_same_run(toy_run.toy_run(out, resume=True), out, *whole)


def test_a_finished_run_comes_back_without_compute(whole):
    trained, out = whole
    again = toy_run.toy_run(out, resume=True, solver=forbidden)
    assert_same_run(again, out, *whole)
    assert again.metrics == trained.metrics
    assert again.seconds == trained.seconds


def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(tmp_path, whole):
    def ready():
        """While it saves a checkpoint; or else when it has gone far enough."""
        metrics = tmp_path / "metrics.jsonl"
        written = metrics.read_text().count("\n") if metrics.exists() else 0
        saving = any((tmp_path / "checkpoints").glob("*checkpoint-tmp"))
        return written >= 2 and (saving or written > 5)

    script = Path(toy_run.__file__)
    command = [sys.executable, script, tmp_path]
    with subprocess.Popen(command, env=toy_run.environment()) as process:
        deadline = time.monotonic() + 100
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 2 <= len(lines(tmp_path)) < 10
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, *whole)


def test_what_resumes_with_another_optimiser_is_refused(whole):
    with pytest.raises(ValueError, match=r"^out: the checkpoint holds \d+ arrays, not \d+; resume"):
        toy_run.toy_run(whole[1], resume=True, optimizer=optax.sgd(0.1))
    wider = toy_run.THETA | {"spring": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"^out: .*'spring'\] is float64\[2\] in the checkpoint"):
        toy_run.toy_run(whole[1], resume=True, theta=wider)


# Folders


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(), "^out: .* already holds this run.*resume=True"),
        (dict(seed=4), "^out: .* holds another run .seed is 3 there and 4 now.*another folder"),
        (dict(resume=True, seed=4, tasks=9), "seed is 3 there and 4 now; tasks is 8 .* 9 now"),
        (dict(resume=True, config={"method": "maml"}), "method is 'toy' there.*rates is .*absent"),
        (dict(resume=True, steps=94), "steps is 95 there and 94 now.*increased"),
        (dict(resume=True, average_from=None), "average_from is 17 there and 'absent' now"),
        (dict(resume=True, task_batch_size=4), "task_batch_size is 'absent' there and 4 now"),
    ],
)
def test_a_folder_with_a_run_is_not_given_to_another(whole, changes, message):
    before = sorted((p, p.stat().st_mtime_ns) for p in whole[1].rglob("*"))
    with pytest.raises(ValueError, match=message):
        toy_run.toy_run(whole[1], solver=forbidden, sample_task=never, **changes)
    assert sorted((p, p.stat().st_mtime_ns) for p in whole[1].rglob("*")) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"^out: .*not of a run \(thesis.tex\)"):
        toy_run.toy_run(tmp_path, resume=resume, solver=forbidden)
    with pytest.raises(ValueError, match=r"^out: .* is a file"):
        toy_run.toy_run(tmp_path / "thesis.tex", resume=resume, solver=forbidden)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_starts_what_is_not_there_and_the_folder_says_what_it_holds(tmp_path):
    out = tmp_path / "new" / "run"
    trained = toy_run.toy_run(out, resume=True, steps=20, config={"beta": 0.1, "steps": 20})
    assert_same(trained.theta, toy_run.toy_run(None, steps=20).theta)
    assert json.loads((out / "config.json").read_text()) == dict(
        beta=0.1, steps=20, tasks=8, seed=3, log_every=10, steps_per_dispatch=5, average_from=17
    )
    written = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == list(trained.metrics)
