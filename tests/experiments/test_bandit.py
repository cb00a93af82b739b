"""The bandit experiment: its protocol, its baseline's posterior, its results."""

import json
from dataclasses import replace

import _bandit_tuning
import bandit
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from _bandit_figures import saved_regrets
from _bandit_neural_linear import Prior, posterior, posteriors
from _bandit_play import FIRST, Agent, Buffer, play, uniform
from bandit import METHODS
from problems import EPS

from metacontrast.tasks._wheel import mean_rewards, uniform_regret

PRIOR = Prior(3.0, 2.0, 0.7)


def oracle(delta, every=10, blind=False):
    """Plays the best arm, or the fourth; its state is the buffer."""
    act = lambda state, x, key: (
        jnp.full(len(x), 3) if blind else jnp.argmax(mean_rewards(x, delta), axis=1)
    )
    return Agent(lambda key: jnp.zeros(()), act, lambda state, buffer, key: buffer, every)


def test_an_oracle_has_no_regret_but_of_the_first_pulls():
    _, each = play(oracle(0.7), 0.7, jax.random.key(0), 200)
    assert each.shape == (FIRST + 200,)
    np.testing.assert_array_equal(each[FIRST:], 0)
    assert (each[:FIRST] > 0).any()


def test_uniform_play_has_a_relative_regret_of_one():
    n, trials = 20, 200
    s = replace(METHODS["uniform"], online_seeds=n, trials=trials)
    each = bandit.regret(s, uniform(20), jax.random.split(jax.random.key(3), n))
    assert each.shape == (5, n, FIRST + trials)
    for row in bandit.relative(s, each):
        # Within 5 standard errors over games; the 10 first pulls are no other for uniform play.
        assert abs(row.mean() - 100) < 5 * row.std(ddof=1) / np.sqrt(n)


def test_all_players_see_the_same_contexts_and_luck_whatever_their_blocks():
    key = jax.random.key(4)
    fourth = [play(oracle(0.7, every, blind=True), 0.7, key, 60) for every in (10, 30)]
    (one, regret), (other, same) = fourth
    np.testing.assert_array_equal(regret, same)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(a, b)  # contexts, arms and rewards
    best, _ = play(oracle(0.7), 0.7, key, 60)
    np.testing.assert_array_equal(best.pulls.x, one.pulls.x)
    again = (best.pulls.y.arm == 3) & (best.pulls.x[:, 0] < 0)
    np.testing.assert_array_equal(best.pulls.y.reward[again], one.pulls.y.reward[again])


def test_a_batch_of_a_long_buffer_stands_for_all_of_it():
    buffer, _ = play(oracle(0.7), 0.7, jax.random.key(5), 40)
    few, many = buffer.batch(jax.random.key(0), 80), buffer.batch(jax.random.key(0), 20)
    assert float(few.y.weight.sum()) == float(many.y.weight.sum()) == FIRST + 40
    used = np.asarray(few.y.weight) > 0
    np.testing.assert_array_equal(np.asarray(few.x)[used], buffer.pulls.x)
    assert set(map(tuple, np.asarray(many.x))) <= set(map(tuple, np.asarray(buffer.pulls.x)))


def test_the_posterior_is_that_of_bayesian_linear_regression():
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=(12, 3)), rng.normal(size=12)
    weight = (np.arange(12) < 8).astype(float)
    found = posterior(PRIOR, *map(jnp.asarray, (f, y, weight)))
    f, y = f[:8], y[:8]
    whole = f.T @ f + PRIOR.precision * np.eye(3)
    mean = np.linalg.solve(whole, f.T @ y)
    b = PRIOR.b + (y @ y - mean @ whole @ mean) / 2
    for a, e in zip(found, (mean, np.linalg.inv(whole), PRIOR.a + 4, b), strict=True):
        np.testing.assert_allclose(a, e, rtol=1e4 * EPS, atol=1e3 * EPS)
    # The evidence factorises: p(y_1) p(y_2 | y_1) = p(y_2) p(y_1 | y_2) holds only if a, b, mean
    # and cov are right together; here by way of the marginal's closed form, a Student t.
    log_evidence = lambda y: float(_log_evidence(f, y, whole))
    marginal = np.eye(8) + f @ f.T / PRIOR.precision
    quad = y @ np.linalg.solve(marginal, y)
    from_marginal = -np.linalg.slogdet(marginal)[1] / 2 - (PRIOR.a + 4) * np.log(PRIOR.b + quad / 2)
    assert log_evidence(y) == pytest.approx(from_marginal, rel=1e-10)


def _log_evidence(f, y, whole):
    """Up to what depends on n alone, from the posterior."""
    found = posterior(PRIOR, jnp.asarray(f), jnp.asarray(y), jnp.ones(len(y)))
    shrunk = 3 * np.log(PRIOR.precision) / 2 - np.linalg.slogdet(whole)[1] / 2
    return shrunk - found.a * np.log(found.b)


def test_posteriors_are_of_all_pulls_however_empty_the_buffer():
    buffer, _ = play(oracle(0.7, blind=True), 0.7, jax.random.key(5), 40)
    room = lambda leaf: jnp.concatenate([leaf, jnp.ones((50, *leaf.shape[1:]), leaf.dtype)])
    longer = Buffer(jax.tree.map(room, buffer.pulls), buffer.n)
    weights = bandit.network(METHODS["cml-syn"]).init(jax.random.key(0))
    few, many = (posteriors(PRIOR, weights, b, 10.0) for b in (buffer, longer))
    assert few.a.tolist() == [4.0, 4.0, 4.0, 24.0, 4.0]  # two of each arm, forty more of the fourth
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e6 * EPS, atol=1e4 * EPS)
    tenfold = buffer._replace(pulls=buffer.pulls._replace(y=scaled(buffer.pulls.y)))
    for a, b in zip(few, posteriors(PRIOR, weights, tenfold, 1.0), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e6 * EPS, atol=1e4 * EPS)


def scaled(pulled):
    return pulled._replace(reward=pulled.reward / 10)


SHORT = dict(trials=100, online_seeds=2, deltas=(0.5, 0.9), batch=20, width=10)
FEW = dict(steps=2, tasks=2, pulls=12, queries=4, valid_tasks=2, free=2, nudged=1, updates=1)


def short(method, out):
    """Its settings, with which a run takes seconds."""
    s = replace(METHODS[method], seed=1, out=out, **SHORT)
    return replace(s, **FEW) if s.steps else replace(s, updates=2)


# Here the one that learns nothing; maml plays where it is tuned, below, and what others are of
# (slow weights, posteriors) has tests of its own.
@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=() if m == "uniform" else pytest.mark.thorough) for m in METHODS],
)
def test_every_method_plays_and_leaves_its_result(method, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(bandit, "figure", lambda path, *rest: figures.append(path.name))
    s = short(method, tmp_path / method / "seed1")
    result = bandit.run(s)
    assert json.loads((s.out / "result.json").read_text()) == json.loads(json.dumps(result))
    shown = (result["n_tasks"], result["trials"], result["meta_steps"], list(result["by_delta"]))
    assert shown == (2, 100, s.steps, ["0.5", "0.9"])
    assert result["value"] == pytest.approx(np.mean([v for v, _ in result["by_delta"].values()]))
    assert np.mean(result["games"]["100"]) == pytest.approx(result["value"])
    (saved,) = saved_regrets(s.out.parent, s.deltas)
    chance = saved["trial"][-1] * uniform_regret(np.array([[0.5], [0.9]]))
    assert 100 * (saved["total"][:, :, -1] / chance).mean() == pytest.approx(result["value"])
    assert figures == ["regret", "policy"]


def test_the_figure_leaves_out_what_it_cannot_compare(tmp_path):
    for seed, (deltas, trials) in enumerate([((0.5,), 90), ((0.5,), 40), ((0.7,), 90)]):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        bandit.save_regrets(folder, deltas, np.ones((1, 2, trials)))
    np.savez(folder / "regrets.npz", trial=[90], total=np.ones((1, 2, 1)))  # says no deltas
    runs = saved_regrets(tmp_path, (0.5,))
    assert [int(run["trial"][-1]) for run in runs] == [90]
    np.testing.assert_array_equal(runs[0]["total"][0, 0], runs[0]["trial"])


def test_a_run_from_its_command_is_drawn(start, tmp_path, capsys):
    out = tmp_path / "uniform" / "seed0"
    words = ("--trials", 50, "--online-seeds", 2, "--deltas", 0.5, 0.9, "--out", out)
    assert start(bandit, "--method", "uniform", *words) == 0
    assert "delta 0.9: " in capsys.readouterr().out
    for name in ("regret.png", "policy.png"):
        assert (out / name).stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nonsense"), "method: unknown 'nonsense'"),
        (("--method", "uniform", "--steps", "5"), "steps: uniform takes no"),
        (("--seed", str(2**31 - 2)), "draws held-out tasks"),
        (("--method", "uniform", "--trials", "7"), "trials: must be a multiple of 50"),
        (("--method", "uniform", "--online-seeds", "1"), "online_seeds: must be at least 2"),
    ],
)
def test_bad_input_ends_in_one_line(start, words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert start(bandit, *words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_tuned_player_plays_games_that_no_result_has(tmp_path, monkeypatch):
    monkeypatch.setattr(_bandit_tuning, "TRIALS", 50)
    monkeypatch.setattr(_bandit_tuning, "DELTAS", (0.7,))
    tried = _bandit_tuning.played("maml", (1, 16, 1, 0.1), tmp_path)
    assert tried["by_delta"] == [tried["value"]] and tried["updates"] == 1
    config = json.loads((tmp_path / "maml-1" / "config.json").read_text())
    assert config["seed"] == 100 and config["batch"] == bandit.METHODS["maml"].batch
