"""What is damaged or lost in the folder of a run is noticed, and others' files are left alone."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_run
from toy_run import assert_same, assert_same_run

from metacontrast.train import _claim, _folder, open_folder, read_metrics
from metacontrast.train._folder import EMPTY, Block, Folder
from metacontrast.train._progress import Progress
from metacontrast.train._stop import Stop

SETTINGS = dict(log_every=10, steps_per_dispatch=5, steps=40, versions={"python": "3.11.1"})


def tree(step):
    """What a checkpoint holds: numbers of several types, a key, nothing."""
    return {
        "step": step,
        "key": jax.random.key(step),
        "narrow": jnp.full(3, step, jnp.bfloat16),
        "none": np.zeros((0, 2)),
    }


def line(step):
    return {"step": step, "meta_loss": 1 / step, "diverged": 1}


def opened(out, steps=(10, 20, 30), **changes):
    """The folder of a run that got as far as these steps."""
    folder = Folder(out, SETTINGS | changes, resume=True)
    with folder.open(resume=True):
        for i, step in enumerate(steps):
            folder.add([line(x) for x in steps[: i + 1]], tree(step))
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


DAMAGES = {
    "flipped": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
}


# A folder


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_put_aside_and_the_one_before_it_taken(tmp_path, damage):
    folder, checkpoints = opened(tmp_path), tmp_path / "checkpoints"
    damage(checkpoints / "30.npz")
    with pytest.warns(RuntimeWarning, match=r"30.npz .*damaged.*30.npz.damaged; .*one before it"):
        restored = folder.restore(tree(0))
    assert_same(jax.tree.map(np.asarray, numbers(restored.tree)), numbers(tree(20)))
    assert restored.lines == read_metrics(tmp_path) == [line(10), line(20)]
    assert sorted(p.name for p in checkpoints.iterdir()) == ["20.npz", "30.npz.damaged"]
    damage(checkpoints / "20.npz")
    with (
        pytest.warns(RuntimeWarning, match="20.npz"),
        pytest.raises(ValueError, match=r"^out: .*checkpoints holds no checkpoint that is whole"),
    ):
        folder.restore(tree(0))


def numbers(tree):
    """The tree with the data of its keys."""
    return jax.tree.map(np.asarray, tree | {"key": jax.random.key_data(tree["key"])})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out, steps=30), out


def test_a_run_that_lost_its_last_checkpoint_is_the_run_that_did_not(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole[1], out)
    flip(out / "checkpoints" / "30.npz")
    (out / "metrics.jsonl").unlink()
    with pytest.warns(RuntimeWarning) as said:
        again = toy_run.toy_run(out, steps=30, resume=True)
    assert_same_run(again, out, *whole)
    assert [str(w.message).split(" ")[1] for w in said] == ["the", str(out / "metrics.jsonl")]
    for name in ("theta.npz", "best.npz"):
        assert (out / name).read_bytes() == (whole[1] / name).read_bytes()


def test_metrics_are_read_up_to_a_torn_line_and_damage_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{json.dumps(line(10))}\n{{torn")
    assert read_metrics(tmp_path) == [line(10)]
    path.write_text(f"{{torn\n{json.dumps(line(10))}\n")
    with pytest.raises(ValueError, match=r"^folder: .*metrics.jsonl is damaged .*resume the run"):
        read_metrics(tmp_path)


def test_checkpoints_that_are_gone_are_missed(tmp_path):
    folder = opened(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"no checkpoint that is whole, though.*another folder"):
        folder.restore(tree(0))
    # But one who was killed before the first checkpoint starts anew.
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line(10)) + "\n")
    assert folder.restore(tree(0)).lines == read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    "lose",
    [
        lambda lines: [],
        lambda lines: lines[1:],
        lambda lines: [lines[0], *lines],
        lambda lines: [*lines[:2], lines[2][:9]],
        lambda lines: [lines[0].replace('"diverged": 1', '"diverged": 0'), *lines[1:]],
        lambda lines: ["\x00\ufffd"],
    ],
)
def test_metrics_that_are_not_those_of_the_checkpoint_are_restored(tmp_path, lose):
    folder, metrics = opened(tmp_path), tmp_path / "metrics.jsonl"
    before = metrics.read_text()
    metrics.write_text("".join(f"{text}\n" for text in lose(before.splitlines())))
    with pytest.warns(RuntimeWarning, match=r"metrics.jsonl is not as it was written"):
        assert folder.restore(tree(0)).lines == [line(10), line(20), line(30)]
    assert metrics.read_text() == before


def test_a_stop_in_the_midst_of_a_block_is_kept_with_what_was_measured(tmp_path):
    folder = opened(tmp_path)
    block = Block({"loss": np.arange(5, dtype=np.float32)}, 2.5, 5)
    folder.add_part(35, [line(10), line(20), line(30)], tree(35), block)
    restored = folder.restore(tree(0))
    assert restored.block.metrics["loss"].tolist() == [0, 1, 2, 3, 4]
    assert (restored.block.seconds, restored.block.steps) == (2.5, 5)
    assert len(restored.lines) == 3 and restored.tree["step"] == 35
    # A run of other dispatches does not pass there.
    other = Folder(tmp_path, SETTINGS, resume=True)
    other._settings = SETTINGS | {"steps_per_dispatch": 10}
    assert other.restore(tree(0)).block == EMPTY
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["30.npz"]


def test_files_of_others_neither_block_a_run_nor_are_deleted(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    folder = opened(tmp_path)
    (checkpoints / "40").mkdir()
    (checkpoints / "40" / "thesis.tex").touch()
    for name in ("notes.txt", "notes.npz", "old.npz.tmp", ".nfs0001"):
        (checkpoints / name).write_text("mine")
    before = {p for p in checkpoints.rglob("*") if not p.name[0].isdigit() or p.name == "40"}
    assert folder.restore(tree(0)).tree["step"] == 30
    folder.add([line(10), line(20), line(30), line(40)], tree(40))
    assert before <= set(checkpoints.rglob("*"))
    assert (checkpoints / "40.npz").is_file()


@pytest.mark.parametrize("content", ["", '{"steps": 4', "[]", "\x00", '{"log_every": 90}'])
def test_a_config_that_cannot_be_read_is_taken_from_the_last_checkpoint(tmp_path, content):
    opened(tmp_path)
    (tmp_path / "config.json").write_text(content)
    assert len(opened(tmp_path, ()).restore(tree(0)).lines) == 3
    assert json.loads((tmp_path / "config.json").read_text()) == SETTINGS
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(
        ValueError, match=r"^out: .* holds another run .log_every is 10 there and 5"
    ):
        Folder(tmp_path, SETTINGS | {"log_every": 5}, resume=True)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(ValueError, match=r"^out: .*(config.json cannot be read|another run) .*"):
        Folder(tmp_path, SETTINGS, resume=True)


def test_other_versions_are_warned_of_and_another_python_tells_nothing_by_its_code(tmp_path):
    depends = {"loss": "f", "loss.code": "abc"}
    opened(tmp_path, depends_on=depends)
    with pytest.raises(ValueError, match=r"loss.code is 'abc' there and 'def' now"):
        opened(tmp_path, (), depends_on=depends | {"loss.code": "def"})
    versions = {"versions": {"python": "3.12.0"}, "depends_on": depends | {"loss.code": "def"}}
    with pytest.warns(RuntimeWarning, match=r"python 3.11.1 there and 3.12.0 now.*in rounding"):
        opened(tmp_path, (), **versions)


# One run a folder

HOLD = """
import sys
from metacontrast.train import open_folder
open_folder(sys.argv[1], {"a": 1}, resume=True)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_given_to_one_process_until_it_dies(tmp_path):
    out = tmp_path / "run"
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=toy_run.environment())
    with subprocess.Popen([sys.executable, "-c", HOLD, out], **pipes) as other:
        assert other.stdout.readline() == b"held\n"
        before = sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*"))
        with pytest.raises(ValueError, match=rf"^out: another run .*process {other.pid} on .*stop"):
            open_folder(out, {"a": 1}, resume=True)
        assert sorted((p, p.stat().st_mtime_ns) for p in out.rglob("*")) == before
        other.kill()
    assert open_folder(out, {"a": 1}, resume=True) == out
    # This process has it now, and may have it again.
    assert open_folder(out, {"a": 1}, resume=True) == out


def test_two_runs_of_one_process_do_not_share_a_folder(tmp_path):
    first, second = (Folder(tmp_path, SETTINGS, resume=True) for _ in range(2))
    refused = pytest.raises(ValueError, match=r"^out: another run is writing")
    with first.open(resume=True), refused, second.open(resume=True):
        pass
    with second.open(resume=True):
        pass


# Signals


def test_a_run_that_was_told_to_end_keeps_its_last_meta_step(tmp_path, whole, monkeypatch, capsys):
    def send(number):
        os.kill(os.getpid(), number)

    def at_15(self, size, last, advance=Progress.advance, calls=[]):  # noqa: B006
        advance(self, size, last)
        calls.append(size)
        if len(calls) == 3:
            send(signal.SIGTERM)

    before = [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)]
    monkeypatch.setattr(Progress, "advance", at_15)
    with pytest.raises(SystemExit) as stop:
        toy_run.toy_run(tmp_path, steps=30)
    assert stop.value.code == 128 + signal.SIGTERM
    words = (
        f"stopped at meta-step 15 of 30: all of it is kept in {tmp_path}; go on with resume=True"
    )
    assert capsys.readouterr().err == f"{words} (--resume).\n"
    assert [x["step"] for x in read_metrics(tmp_path)] == [10]
    monkeypatch.undo()

    def in_validation(theta):
        send(signal.SIGINT)
        raise AssertionError("the signal should have ended it")

    with pytest.raises(KeyboardInterrupt, match=r"^stopped at meta-step 20 of 30: all of it"):
        toy_run.toy_run(tmp_path, steps=30, resume=True, validate=in_validation)
    assert [x["step"] for x in read_metrics(tmp_path)] == [10]
    assert_same_run(toy_run.toy_run(tmp_path, steps=30, resume=True), tmp_path, *whole)
    assert [signal.getsignal(x) for x in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_second_signal_ends_it_at_once():
    stop = Stop()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_handlers_of_others_are_left_alone():
    calls = []
    before = signal.signal(signal.SIGTERM, lambda *_: calls.append(1))
    try:
        stop = Stop()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGTERM)
        assert calls and not stop.asked
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_without_a_folder_says_that_nothing_is_kept():
    def stop(theta):
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match=r"^stopped at meta-step 0 .*nothing is kept"):
        toy_run.toy_run(None, steps=20, validate=stop)


# The disk


@pytest.mark.parametrize("number", [28, 30])  # no space left, read-only file system
def test_a_disk_that_takes_no_more_is_one_line_that_says_what_is_kept(
    tmp_path, number, monkeypatch
):
    folder = opened(tmp_path)

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_folder.os, "fsync", fail)
    with pytest.raises(OSError, match=r"^out: .*meta-step 30 is kept.*--resume") as raised:
        folder.add([line(10), line(20), line(30), line(40)], tree(40))
    assert os.strerror(number) in str(raised.value) and "\n" not in str(raised.value)
    monkeypatch.undo()
    assert folder.restore(tree(0)).lines[-1] == line(30)


def test_a_folder_that_was_deleted_is_not_made_anew(tmp_path):
    folder = opened(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.raises(OSError, match=r"^out: .*none is kept"):
        folder.add([line(40)], tree(40))
    assert not (tmp_path / "run").exists()


def test_a_config_that_is_no_run_is_named(tmp_path):
    (tmp_path / _claim.CONFIG).mkdir()
    with pytest.raises(ValueError, match=r"^out: .*config.json cannot be read"):
        open_folder(Path(tmp_path), {}, resume=True)
