"""That no interruption changes a run, and that no folder is given to another one."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from problems import forbidden
from toy_run import assert_same, assert_same_run, lines

import metacontrast as mc
from metacontrast.train import _loop, _run
from metacontrast.train._checkpoints import Checkpoints, Name


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
    finished = out / "checkpoints" / "95.npz"
    finished.rename(finished.with_name("95.npz.tmp"))  # as if killed while saving it
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 105, "meta_lo')
    (out / "config.json.tmp").write_text("{")
    assert_same_run(toy_run.toy_run(out, resume=True), out, *whole)


def test_a_finished_run_comes_back_without_compute(whole, monkeypatch):
    trained, out = whole
    monkeypatch.setattr(_run, "run_block", forbidden)
    again = toy_run.toy_run(out, resume=True)
    assert_same_run(again, out, *whole)
    assert again.metrics == trained.metrics
    assert again.seconds == trained.seconds


def test_a_run_that_was_killed_and_resumed_is_the_run_that_was_not(tmp_path, whole):
    def ready():
        """While it saves a checkpoint; or else when it has gone far enough."""
        metrics = tmp_path / "metrics.jsonl"
        written = metrics.read_text().count("\n") if metrics.exists() else 0
        saving = any((tmp_path / "checkpoints").glob("*.tmp"))
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


def test_a_checkpoint_that_does_not_fit_is_refused(whole):
    checkpoints = Checkpoints(whole[1] / "checkpoints")
    with pytest.raises(ValueError, match=r"^out: the checkpoint holds \d+ arrays, not 1; resume"):
        checkpoints.load(Name(95), jnp.ones(2))
    like = [jnp.ones(3)] * len(np.load(whole[1] / "checkpoints" / "95.npz").files[1:])
    with pytest.raises(ValueError, match=r"^out: \[0\] is \w+\[\] in the checkpoint, not float64"):
        checkpoints.load(Name(95), like)


# Folders


other_inner = replace(toy_run.nested, inner=lambda phi, theta, task: jnp.sum(phi**2))


def rate(first):
    """The optimiser of the toy run at another rate."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.add_noise(0.1, 0.5, 5),
        optax.adam(optax.cosine_decay_schedule(first, 100)),
    )


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
        # What the objects themselves say, with no word in `config`:
        (dict(resume=True, estimator=mc.Unrolled()), "estimator is 'FirstOrder' .* 'Unrolled' now"),
        (dict(resume=True, optimizer=optax.sgd(0.1)), "optimizer.* 'scale.<locals>.update_fn' now"),
        (dict(resume=True, optimizer=rate(0.2)), "learning_rate.init_value is 0.3 there and 0.2"),
        (dict(resume=True, solver=mc.descend(optax.sgd(0.2), 1)), "step_size is -0.25 .* -0.2 now"),
        (dict(resume=True, problem=replace(toy_run.nested, views=2)), "problem.views is 'absent'"),
        (dict(resume=True, sample_task=toy_run.spring), "sample_task is 'spring_or_steep' there"),
        (dict(resume=True, theta={"spring": jnp.ones(3)}), r"theta.spring is 'float64\[2\]' there"),
        (dict(resume=True, problem=other_inner), "problem.inner.code is '[0-9a-f]*' there"),
    ],
)
def test_a_folder_with_a_run_is_not_given_to_another(whole, changes, message, monkeypatch):
    monkeypatch.setattr(_loop.MetaStep, "check", forbidden)
    before = sorted((p, p.stat().st_mtime_ns) for p in whole[1].rglob("*"))
    with pytest.raises(ValueError, match=message):
        toy_run.toy_run(whole[1], **changes)
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
    config = json.loads((out / "config.json").read_text())
    depends, versions = config.pop("depends_on"), config.pop("versions")
    assert config == dict(
        beta=0.1, steps=20, tasks=8, seed=3, log_every=10, steps_per_dispatch=5, average_from=17,
        precision="highest",
    )  # fmt: skip
    assert depends["sample_task.STEEP"] == toy_run.STEEP
    assert versions["jax"] == jax.__version__
    written = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == list(trained.metrics)
