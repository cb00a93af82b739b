"""Callbacks of the loop: who is told of what, once; and the packages that draw it."""

import csv
import json
import math
import os
import re
import signal
import struct
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
from toy_run import assert_same_run, toy_run

from metacontrast import loggers
from metacontrast.train import _processes, read_metrics

STEPS = [*range(10, 91, 10), 95]


class Recorder:
    """A plain callback; it may do something at a step."""

    def __init__(self, at=None, act=None):
        self.told, self.closed, self.at, self.act = [], 0, at, act

    def log(self, step, values):
        self.told.append((step, values))
        if step == self.at:
            self.act()

    def close(self):
        self.closed += 1

    @property
    def steps(self):
        return [step for step, _ in self.told]


def interrupt():
    """As Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise RuntimeError("the\nserver is gone")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nobody is told of."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run(out), out


def test_a_callback_is_told_each_line_of_the_metrics_as_numbers(whole, tmp_path):
    trained, folder = whole
    recorder = Recorder()
    assert_same_run(toy_run(tmp_path, callbacks=[recorder]), tmp_path, trained, folder)
    assert recorder.steps == STEPS and recorder.closed == 1
    for line, (_, values) in zip(read_metrics(tmp_path), recorder.told, strict=True):
        assert all(type(x) is float for x in values.values())
        assert values["meta_loss"] == line["meta_loss"] and values["diverged"] == line["diverged"]
        assert values["valid_loss"] == line["valid_loss"] and "step" not in values
        named = {f"flags/{name}": n for name, n in line["flags"].items()}
        assert named == {x: y for x, y in values.items() if x.startswith("flags/") and y}


def test_a_run_that_was_stopped_and_resumed_tells_every_step_once(whole, tmp_path):
    trained, folder = whole
    recorder = Recorder(at=40, act=interrupt)
    table = loggers.CSV(tmp_path / "run" / "metrics.csv")
    with pytest.raises(KeyboardInterrupt, match="meta-step 40 of 95"):
        toy_run(tmp_path / "run", callbacks=[recorder, table])
    assert recorder.closed == 1
    again = toy_run(tmp_path / "run", callbacks=[recorder, table], resume=True)
    assert_same_run(again, tmp_path / "run", trained, folder)
    assert recorder.steps == STEPS and recorder.closed == 2
    assert csv_steps(tmp_path / "run" / "metrics.csv") == STEPS


def test_one_that_raises_is_named_in_a_line_and_the_run_goes_on(whole, tmp_path):
    trained, folder = whole
    bad, good = Recorder(at=30, act=fail), Recorder()
    with pytest.warns(RuntimeWarning) as said:
        got = toy_run(tmp_path, callbacks=[bad, good])
    (warning,) = [str(w.message) for w in said if "callbacks" in str(w.message)]
    assert warning == (
        "callbacks: Recorder failed at meta-step 30 (RuntimeError: the server is gone); the run "
        "goes on without it."
    )
    assert bad.steps == [10, 20, 30] and good.steps == STEPS and good.closed == 1
    assert_same_run(got, tmp_path, trained, folder)


def test_only_the_first_process_calls_them(monkeypatch, tmp_path):
    monkeypatch.setattr("metacontrast.train._callbacks.is_first", lambda: False)
    recorder = Recorder()
    toy_run(None, steps=20, callbacks=[recorder])
    assert recorder.told == [] and recorder.closed == 0
    assert _processes.is_first()


def test_what_is_no_callback_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="callbacks: must be a list of which each is a Callback"):
        toy_run(None, callbacks=[print])


# What each adapter kept, read as its own users would.


def csv_steps(path):
    with path.open(newline="") as file:
        return [int(row["step"]) for row in csv.DictReader(file)]


def test_the_table_has_new_columns_and_loses_a_torn_row(tmp_path):
    path = tmp_path / "deep" / "metrics.csv"
    loggers.CSV(path).log(1, {"a": 0.5})
    loggers.CSV(path).log(2, {"a": math.nan, "b": 3.0})
    with path.open("a") as file:
        file.write("3,0.")  # killed
    table = loggers.CSV(path)
    assert table.last_step() == 2
    assert path.read_text() == "step,a,b\n1,0.5,\n2,nan,3.0\n3,0."
    table.log(3, {"a": 0.25, "b": 1.0})
    assert path.read_text() == "step,a,b\n1,0.5,\n2,nan,3.0\n3,0.25,1.0\n"


def of_tensorboard(folder):
    """Step and value of one scalar, in all event files."""
    event = import_module("tensorboardX.proto.event_pb2").Event
    found = []
    for path in sorted(folder.glob("events*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (n,) = struct.unpack_from("<Q", data, at)
            one = event.FromString(data[at + 12 : at + 12 + n])
            found += [(one.step, v.simple_value) for v in one.summary.value if v.tag == "meta_loss"]
            at += n + 16
    return found


def of_wandb(folder):
    """The same, in the records that `wandb sync` would send."""
    record = import_module("wandb.proto.wandb_internal_pb2").Record
    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda p: p.stat().st_mtime):
        # 7 bytes, then blocks of LevelDB's log: checksum, length and kind before each record.
        data, at = path.read_bytes(), 7
        assert len(data) < 32768  # one block
        while at < len(data):
            n, kind = struct.unpack_from("<HB", data, at + 4)
            assert kind == 1  # a whole record
            at += 7 + n
            history = record.FromString(data[at - n : at]).history
            items = {"/".join(i.nested_key) or i.key: i.value_json for i in history.item}
            if "meta_loss" in items:
                found.append((history.step.num, json.loads(items["meta_loss"])))
    return found


def of_mlflow(folder):
    """The same, from MLflow's own store."""
    client = import_module("mlflow.tracking").MlflowClient((folder / "mlruns").as_uri())
    run = (folder / "metacontrast-run.txt").read_text().strip()
    assert client.get_run(run).info.status == "FINISHED"
    assert client.get_run(run).data.params == {"rate": "0.1"}
    return [(x.step, x.value) for x in client.get_metric_history(run, "meta_loss")]


ADAPTERS = {
    "tensorboard": ("tensorboardX", loggers.TensorBoard, {}, of_tensorboard),
    "wandb": ("wandb", loggers.WandB, {"config": {"rate": 0.1}}, of_wandb),
    "mlflow": ("mlflow", loggers.MLflow, {"config": {"rate": 0.1}}, of_mlflow),
}


@pytest.mark.filterwarnings("ignore")  # what these packages import is theirs
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_keeps_every_step_once_also_of_a_run_that_was_killed(name, tmp_path):
    package, logger, options, read = ADAPTERS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'metacontrast[{name}]'")
    run, kept = tmp_path / "run", tmp_path / "kept"
    first = logger(kept, **options)
    toy_run(run, steps=30, callbacks=[first])
    # Killed, a run may have kept checkpoints that the callback was not told of.
    toy_run(run, steps=50, resume=True)
    toy_run(run, resume=True, callbacks=[logger(kept, **options)])
    told = {line["step"]: line["meta_loss"] for line in read_metrics(run)}
    found = read(kept)
    assert [step for step, _ in found] == STEPS
    assert dict(found) == pytest.approx(told, rel=1e-6)


@pytest.mark.parametrize("name", ADAPTERS)
def test_without_its_package_the_extra_is_named(name, monkeypatch, tmp_path):
    package, logger, _, _ = ADAPTERS[name]
    monkeypatch.setitem(sys.modules, package, None)
    said = re.escape(f"{package}: not installed; pip install 'metacontrast[{name}]'.")
    with pytest.raises(ImportError, match=said):
        logger(tmp_path)
    assert not list(Path(tmp_path).iterdir())
