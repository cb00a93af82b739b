"""The sine tasks are drawn as the talk says, and the experiment runs from the command line."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast import cli
from metacontrast.tasks import sine

N = 4000
TASKS = jax.jit(jax.vmap(sine))(jax.random.split(jax.random.key(0), N))
X, Y = (np.concatenate([a[..., 0], b[..., 0]], 1) for a, b in zip(*TASKS, strict=True))


def assert_mean(by_point, expected):
    """The mean is `expected`, within 5 standard errors over tasks (false alarm: 6e-7)."""
    by_task = by_point.mean(axis=1)
    assert abs(by_task.mean() - expected) < 5 * by_task.std(ddof=1) / np.sqrt(N)


def test_points_are_uniform():
    assert np.abs(X).max() <= 5
    assert_mean(X, 0.0)
    assert_mean(X**2, 25 / 3)


def test_amplitudes_are_uniform():
    # E[A^2] / 2, since a phase uniform over half a period makes E[sin^2] = 1/2 at every x.
    assert_mean(Y**2, (5**3 - 0.1**3) / (3 * 4.9) / 2)
    assert np.abs(Y).max() <= 5


def test_phases_are_uniform_over_half_a_turn():
    # E[y | x] = E[A] E[sin(x + p)] = 2.55 (2/pi) cos x; over a whole turn it would be 0.
    assert_mean(Y * np.cos(X), 2.55 * 2 / np.pi * (1 / 2 + np.sin(10) / 20))
    assert_mean(Y * np.sin(X), 0.0)


def test_support_and_query_are_one_sine():
    task = sine(jax.random.key(3), shots=10, queries=30)
    x, y = task.train.x[:, 0], task.train.y[:, 0]
    waves = lambda x: jnp.stack([jnp.sin(x), jnp.cos(x)], axis=1)
    mix = jnp.linalg.lstsq(waves(x), y)[0]
    np.testing.assert_allclose(waves(task.test.x[:, 0]) @ mix, task.test.y[:, 0], atol=1e-10)


@pytest.mark.parametrize("counts", [{"shots": 0}, {"queries": 0}])
def test_no_points_are_refused(counts):
    with pytest.raises(ValueError, match=next(iter(counts))):
        sine(jax.random.key(0), **counts)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["metacontrast", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return stop.value.code


def test_a_run_leaves_its_result_and_the_table_shows_it(tmp_path, monkeypatch, capsys):
    run = ("run", "sine", "--method", "maml", "--steps", 3, "--seed", 4, "--out", tmp_path / "m")
    assert command(monkeypatch, *run) == 0
    result = json.loads((tmp_path / "m" / "result.json").read_text())
    assert {k: result[k] for k in ("method", "seeds", "meta_steps", "n_tasks", "reference")} == {
        "method": "maml", "seeds": [4], "meta_steps": 3, "n_tasks": 1000,
        "reference": "0.435 +- 0.039",
    }  # fmt: skip
    assert (tmp_path / "m" / "predictions.png").stat().st_size > 0
    assert command(monkeypatch, "table", "sine", "--runs", tmp_path) == 0
    table = capsys.readouterr().out
    (maml,) = [line for line in table.splitlines() if " maml " in line]
    assert f"{result['value']:.4f} +- {result['ci95']:.4f}" in maml
    assert table.count("not run") == 6
    assert command(monkeypatch, *run) == 2
    assert "--resume" in capsys.readouterr().err
    assert command(monkeypatch, *run, "--resume") == 0
    assert json.loads((tmp_path / "m" / "result.json").read_text())["value"] == result["value"]
    longer = [*run[:5], 6, *run[6:], "--resume"]
    assert command(monkeypatch, *longer) == 2
    assert "another run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "sine", "--method", "nonsense"), "method: unknown 'nonsense'"),
        (("table", "nonsense"), "experiment: unknown 'nonsense'"),
        (("run", "sine", "--steps", "0"), "steps"),
        (("run", "sine", "--method", "scratch", "--steps", "5"), "steps: scratch takes no"),
        (("run", "sine", "--seed", str(2**31 - 1)), "seed: 2147483647 draws held-out tasks"),
    ],
)
def test_bad_input_ends_in_one_line(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_without_meta_steps_keeps_its_folder_too(tmp_path, monkeypatch, capsys):
    run = ("run", "sine", "--method", "scratch", "--out", tmp_path)
    assert command(monkeypatch, *run, "--seed", 1) == 0
    assert command(monkeypatch, *run, "--seed", 2) == 2
    assert "seed is 1 there and 2 now" in capsys.readouterr().err
    assert command(monkeypatch, *run, "--seed", 1) == 2
    assert command(monkeypatch, *run, "--seed", 1, "--resume") == 0


def test_list_names_experiments_and_methods(monkeypatch, capsys):
    assert command(monkeypatch, "list") == 0
    assert "cml-gn, cml-mod, maml" in capsys.readouterr().out
