"""A run looks at its first meta-gradient, says what it found, and is the same run."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import test_features
from springs import SEED, THETA, drawn, spring
from toy_run import assert_same, lines, noisy, problem

import metacontrast as mc
from metacontrast.train import _diagnosed, device_mesh, meta_train

LONG, RULE = mc.descend(optax.sgd(0.2), 30), mc.Contrastive(0.01)
run = partial(
    meta_train, problem=problem, solver=LONG, estimator=RULE, sample_task=spring, theta=THETA,
    optimizer=optax.sgd(0.1), steps=2, tasks=16, seed=SEED, log_every=1, steps_per_dispatch=1,
    progress=False,
)  # fmt: skip


@pytest.fixture(autouse=True)
def switched_on(monkeypatch):
    monkeypatch.delenv(_diagnosed.VARIABLE)


def test_one_that_is_trusted_is_quiet_and_changes_no_number(tmp_path):
    trained, plain = run(out=tmp_path / "one"), run(out=tmp_path / "other", diagnose=False)
    assert_same(trained.theta, plain.theta)
    assert lines(tmp_path / "one") == lines(tmp_path / "other")
    assert trained.diagnosis.verdict == "trust" and plain.diagnosis is None
    assert (tmp_path / "one" / _diagnosed.REPORT).read_text() == f"{trained.diagnosis}\n"
    assert not (tmp_path / "other" / _diagnosed.REPORT).exists()
    config = [(tmp_path / name / "config.json").read_text() for name in ("one", "other")]
    assert config[0] == config[1]


def test_one_that_is_not_trusted_is_warned_of_once_where_the_run_is_started():
    with pytest.warns(RuntimeWarning, match="first task, do not trust: try Trajectory") as said:
        trained = run(estimator=mc.Reptile(), optimizer=optax.sgd(0.0))
    assert [warning.filename for warning in said] == [__file__]
    assert trained.diagnosis.verdict == "do not trust"


def test_it_is_the_first_task_of_the_first_meta_step_with_its_keys():
    """Of a schedule, with the estimator of that meta-step."""
    small = partial(run, problem=noisy, solver=mc.descend(optax.sgd(0.2), 3), on_flag="warn")
    with pytest.warns(RuntimeWarning):
        found = small(estimator=lambda t: mc.Contrastive(0.1 / (1 + t))).diagnosis
    tasks, learning = drawn(0)
    expected = mc.diagnose(
        noisy, mc.descend(optax.sgd(0.2), 3), mc.Contrastive(0.1), THETA, tasks[0], learning[0]
    )
    np.testing.assert_allclose([found.error, found.keys], [expected.error, expected.keys], 1e-6)


def test_a_run_that_is_resumed_keeps_the_report(tmp_path):
    run(out=tmp_path)
    (tmp_path / _diagnosed.REPORT).write_text("kept")
    assert run(out=tmp_path, resume=True, steps=3).diagnosis is None
    assert (tmp_path / _diagnosed.REPORT).read_text() == "kept"


def test_one_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(out=tmp_path, validate=interrupted)
    (tmp_path / _diagnosed.REPORT).unlink()
    assert run(out=tmp_path, resume=True).diagnosis.verdict == "trust"
    assert (tmp_path / _diagnosed.REPORT).exists()


def interrupted(theta):
    raise KeyboardInterrupt


def test_an_error_in_it_ends_no_run(tmp_path, monkeypatch):
    def fails(*args, **options):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(_diagnosed, "diagnose", fails)
    with pytest.warns(RuntimeWarning, match=r"RuntimeError: out of memory\. The run goes on; diag"):
        trained = run(out=tmp_path)
    assert trained.diagnosis is None and len(trained.metrics) == 2
    assert "out of memory" in (tmp_path / _diagnosed.REPORT).read_text()


def test_a_slow_body_is_composed():
    found = test_features.run(
        solver=mc.descend(optax.sgd(0.1), 200), steps=1, log_every=1, steps_per_dispatch=1
    ).diagnosis
    assert found.verdict == "trust" and 0 < found.error < 0.3


def test_a_warm_start_says_why_there_is_none(tmp_path):
    trained = run(out=tmp_path, tasks=1, warm_start="phases", steps=1)
    assert trained.diagnosis is None
    assert "not diagnosed: the phases of a warm" in (tmp_path / _diagnosed.REPORT).read_text()


def test_the_environment_switches_it_off(monkeypatch, tmp_path):
    monkeypatch.setenv(_diagnosed.VARIABLE, "off")
    assert run(out=tmp_path, steps=1).diagnosis is None
    assert not (tmp_path / _diagnosed.REPORT).exists()


def test_nor_is_there_one_of_several_processes(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    assert "one process cannot learn" in _diagnosed._skipped(None)


@pytest.mark.thorough
def test_parameters_may_be_split_over_devices():
    theta = jnp.array([0.3, -0.2])
    on = lambda **where: run(theta=theta, steps=1, **where).diagnosis
    split, whole = on(mesh=device_mesh(2, 2)), on()
    assert split.verdict == "trust" and split.error == pytest.approx(whole.error, rel=1e-3)
