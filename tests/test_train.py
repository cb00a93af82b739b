"""The meta-training loop: what one step does, and that no interruption changes what many do."""

import json
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_run
from problems import EPS, forbidden
from toy_run import STEEP, STEEPISH, Spring, draw, draw_some_steep, lines, noisy, problem, solve

import metacontrast as mc
from metacontrast.train import (
    DivergedError,
    evaluate,
    evaluator,
    half_width,
    meta_train,
    read_result,
    summarise,
    write_result,
)
from metacontrast.train._checkpoints import Checkpoints

SEED, TASKS, THETA = 7, 16, jnp.array(0.5)


def train(**changes):
    arguments = dict(
        problem=problem, solve=solve, estimator=mc.Unrolled(), draw=draw, theta=THETA,
        optimizer=optax.sgd(0.1), steps=6, tasks=TASKS, seed=SEED, every=2, chunk=1, progress=False,
    )  # fmt: skip
    return meta_train(**(arguments | changes))


def drawn(t, draw=draw):
    """The tasks of meta-step `t` and the keys to learn them with, by the documented rule."""
    keys = jax.random.split(jax.random.fold_in(jax.random.key(SEED), t))
    drawing, learning = (jax.random.split(key, TASKS) for key in keys)
    return [draw(key) for key in drawing], learning


def exact(theta, t, draw=draw):
    """The mean over the tasks that do not diverge of `phi - 1`, at `phi = (centre + theta) / 2`."""
    return np.mean([(x.centre + theta) / 2 - 1 for x in drawn(t, draw)[0] if x.steepness == 1])


def by_hand(optimizer, gradient=exact, steps=6):
    """Theta after each meta-step."""
    theta, state, thetas = THETA, optimizer.init(THETA), []
    for t in range(steps):
        updates, state = optimizer.update(jnp.asarray(gradient(theta, t)), state, theta)
        theta = optax.apply_updates(theta, updates)
        thetas.append(theta)
    return np.array(thetas)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1000 * EPS)


def assert_same(one, other):
    """Bit for bit."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# What a meta-step does


def test_each_step_follows_the_mean_of_the_gradients_of_its_tasks():
    schedule = lambda t: 0.3 / (1 + t)
    optimizer = optax.chain(optax.clip(0.7), optax.sgd(schedule, momentum=0.9))
    close(train(optimizer=optimizer).theta, by_hand(optimizer)[-1])


def test_each_task_is_learned_with_a_key_of_its_own():
    rule = mc.Contrastive(beta=0.1)
    learned = jax.jit(partial(rule.value_and_grad, noisy, solve))

    def gradient(theta, t):
        pairs = zip(*drawn(t), strict=True)
        return np.mean([learned(theta, *pair)[1] for pair in pairs])

    trained = train(problem=noisy, estimator=rule, steps=2)
    close(trained.theta, by_hand(optax.sgd(0.1), gradient, steps=2)[-1])


def test_metrics_are_means_over_tasks_and_steps():
    thetas = [THETA, *by_hand(optax.sgd(0.1))]
    loss = [np.mean([((x.centre + thetas[t]) / 2 - 1) ** 2 for x in drawn(t)[0]]) for t in range(6)]
    metrics = train().metrics
    assert [line["step"] for line in metrics] == [2, 4, 6]
    close([line["meta_loss"] for line in metrics], np.reshape(loss, (3, 2)).mean(axis=1))
    assert all(line["seconds"] > 0 and line["diverged"] == 0 for line in metrics)


def test_a_diagnostic_that_is_a_list_enters_the_metrics_as_its_mean():
    def gap(order):
        rule = mc.Contrastive(beta=0.1, order=order)
        return train(steps=1, estimator=rule).metrics[0]["distance"]

    # The augmented loss is quadratic: phi_b - phi_0 = b (1 - phi_0) / (2 + b). One exact step from
    # phi_0 with rate 1/4 goes b/2 (1 - phi_0): twice as far for the nudge 2b as for b.
    assert gap(2) == pytest.approx((1 + 2) / 2 * gap(1), rel=1e-12)


@pytest.mark.parametrize("chunk", [3, 6])
def test_the_chunk_does_not_change_the_result(chunk):
    one, other = train(steps=8, every=6), train(steps=8, every=6, chunk=chunk)
    close(other.theta, one.theta)
    close([x["meta_loss"] for x in other.metrics], [x["meta_loss"] for x in one.metrics])
    assert [x["step"] for x in other.metrics] == [6, 8]


@pytest.mark.parametrize("at_a_time", [1, 4])
def test_tasks_reduced_as_they_come_give_the_same_means(at_a_time):
    arguments = dict(draw=draw_some_steep, estimator=mc.Contrastive(0.1, order=2))
    one, other = train(**arguments), train(**arguments, at_a_time=at_a_time)
    assert one.diverged == other.diverged > 0
    close(other.theta, one.theta)
    for a, b in zip(one.metrics, other.metrics, strict=True):
        assert a.keys() == b.keys() and a["diverged"] == b["diverged"]
        close(*([x["meta_loss"], x["inner"], x["distance"]] for x in (b, a)))


def test_each_of_the_tasks_that_come_one_by_one_has_its_own_key():
    both = [
        train(problem=noisy, estimator=mc.Contrastive(0.1), steps=2, at_a_time=n) for n in (1, None)
    ]
    close(both[0].theta, both[1].theta)


def test_arguments_survive_and_python_numbers_are_as_good():
    theta = jnp.array(0.5)
    assert_same(train(theta=theta).theta, train(theta=0.5).theta)
    assert theta == 0.5


# Divergence


@pytest.mark.parametrize("steepness", [STEEP, STEEPISH], ids=["overflows", "stays finite"])
def test_tasks_that_diverge_are_left_out_of_the_mean_and_counted(steepness):
    draw = partial(draw_some_steep, steep=steepness)
    steep = [sum(x.steepness != 1 for x in drawn(t, draw)[0]) for t in range(6)]
    assert all(0 < count < TASKS for count in steep)
    trained = train(draw=draw)
    expected = by_hand(optax.sgd(0.1), lambda theta, t: exact(theta, t, draw))
    close(trained.theta, expected[-1])
    assert [x["diverged"] for x in trained.metrics] == list(np.reshape(steep, (3, 2)).sum(axis=1))
    assert trained.diverged == sum(steep)


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is():
    class Broken:
        def value_and_grad(self, problem, solve, theta, task, key=None):
            grad = jnp.where(task.centre > 0, jnp.nan, 1.0)
            return (jnp.zeros(()), {}), {"a": jnp.ones(2), "b": grad}

    trained = train(theta={"a": jnp.zeros(2), "b": THETA}, problem=two_leaves, estimator=Broken())
    assert trained.diverged == sum(x.centre > 0 for t in range(6) for x in drawn(t)[0]) > 0
    close(trained.theta["b"], THETA - 6 * 0.1)
    close(trained.theta["a"], -0.6 * np.ones(2))


two_leaves = mc.Problem(
    init=lambda theta, task: theta["b"],
    inner=lambda phi, theta, task: phi**2,
    outer=lambda phi, theta, task: phi**2,
)


def test_when_all_tasks_diverge_the_run_stops_and_keeps_its_checkpoints(tmp_path):
    # The ninth meta-step throws theta so far that the loss of every task overflows.
    far = optax.sgd(lambda t: jnp.where(t < 8, 0.1, 1e200))
    with pytest.raises(DivergedError, match=r"meta-step 10: every task.*inner.*beta"):
        train(optimizer=far, steps=20, every=4, chunk=4, out=tmp_path)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8]
    assert Checkpoints(tmp_path / "checkpoints").steps() == [4, 8]
    kept = train(optimizer=far, steps=8, every=4, chunk=4)
    with pytest.raises(DivergedError, match="meta-step 10:"):
        train(optimizer=far, steps=20, every=4, chunk=4, out=tmp_path, resume=True)
    with pytest.raises(DivergedError, match="meta-step 10: every task"):
        train(optimizer=far, steps=20, every=4, chunk=4, at_a_time=2)
    assert kept.metrics[-1]["meta_loss"] == lines(tmp_path)[-1]["meta_loss"]


def test_an_update_that_is_not_finite_names_the_outer_optimiser():
    with pytest.raises(DivergedError, match=r"meta-step 4: theta is not finite.*`optimizer`"):
        train(optimizer=optax.sgd(lambda t: jnp.where(t < 3, 0.1, jnp.inf)))


# Validation and the average


def test_polyak_is_the_mean_of_thetas_and_is_what_is_validated():
    seen = []

    def valid(theta):
        seen.append(theta)
        return {"loss": 0.0}

    trained = train(polyak=3, valid=valid, every=1)
    thetas = by_hand(optax.sgd(0.1))
    expected = [*thetas[:2], *(thetas[2:t].mean() for t in range(3, 7))]
    close(seen, expected)
    close(trained.theta, expected[-1])


def test_best_is_the_theta_of_the_lowest_finite_validation_loss():
    losses = iter([float("nan"), 2.0, 1.0, float("inf"), 1.0, 3.0])
    trained = train(every=1, valid=lambda theta: {"loss": next(losses), "theta": theta})
    assert [x["valid_loss"] for x in trained.metrics] == [None, 2.0, 1.0, None, 1.0, 3.0]
    assert trained.best == trained.metrics[2]["valid_theta"] != trained.theta


@pytest.mark.parametrize("valid", [None, lambda theta: {"loss": float("nan")}])
def test_best_is_the_last_theta_if_nothing_speaks_for_another(valid):
    trained = train(valid=valid)
    assert_same(trained.best, trained.theta)


def test_validation_without_a_loss_is_refused():
    with pytest.raises(ValueError, match=r"valid:.*'loss'"):
        train(valid=lambda theta: {"accuracy": 1.0})


# Interruption


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run and its folder."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return toy_run.toy_run(out), out


def assert_same_run(trained, out, whole):
    expected, folder = whole
    assert_same((trained.theta, trained.best), (expected.theta, expected.best))
    assert lines(out) == lines(folder)
    assert trained.diverged == expected.diverged > 0


def test_the_best_theta_of_the_toy_run_is_not_its_last(whole):
    trained, _ = whole
    assert trained.best["spring"] != trained.theta["spring"]


def test_a_run_that_crashed_and_resumed_is_the_run_that_did_not(tmp_path, whole):
    def crash(theta):
        if len(lines(tmp_path)) == 2:
            raise RuntimeError("power cut")
        return toy_run.score(theta)

    with pytest.raises(RuntimeError, match="power cut"):
        toy_run.toy_run(tmp_path, valid=crash)
    assert len(lines(tmp_path)) == 2
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, whole)


def test_a_run_that_was_extended_is_the_longer_run(tmp_path):
    blocks = dict(every=10, chunk=5, optimizer=optax.adam(0.1), polyak=15)
    # Not a multiple of `every`: the short last block must be forgotten. And once again.
    for steps, expected in ((25, [10, 20, 25]), (28, [10, 20, 28]), (33, [10, 20, 30, 33])):
        trained = train(**blocks, steps=steps, out=tmp_path / "short", resume=True)
        assert [line["step"] for line in trained.metrics] == expected
        assert Checkpoints(tmp_path / "short" / "checkpoints").steps() == expected[-2:]
    assert_same(trained.theta, train(**blocks, steps=33, out=tmp_path / "long").theta)
    assert lines(tmp_path / "short") == lines(tmp_path / "long")


def test_torn_and_overhanging_metrics_are_cut_back_to_the_checkpoint(tmp_path, whole):
    out = tmp_path / "run"
    shutil.copytree(whole[1], out)
    finished = out / "checkpoints" / "95"
    finished.rename(finished.with_name("95.orbax-checkpoint-tmp"))  # as if killed while saving it
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"step": 105, "meta_lo')
    (out / "config.json.tmp").write_text("{")
    assert_same_run(toy_run.toy_run(out, resume=True), out, whole)


def test_a_finished_run_comes_back_without_compute(whole):
    trained, out = whole
    again = toy_run.toy_run(out, resume=True, solve=forbidden)
    assert_same_run(again, out, whole)
    assert again.metrics == trained.metrics
    assert again.seconds == trained.seconds


def _killed(out, ready):
    """Run the toy in a process of its own, and kill it as soon as `ready`."""
    script = Path(toy_run.__file__)
    with subprocess.Popen([sys.executable, script, out]) as process:
        deadline = time.monotonic() + 60
        while not ready() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def test_a_run_that_was_killed_twice_and_resumed_is_the_run_that_was_not(tmp_path, whole):
    def written():
        metrics = tmp_path / "metrics.jsonl"
        return metrics.read_text().count("\n") if metrics.exists() else 0

    def saving():
        return any((tmp_path / "checkpoints").glob("*checkpoint-tmp")) or written() > reached + 3

    _killed(tmp_path, lambda: written() >= 2)
    reached = written()
    _killed(tmp_path, lambda: written() > reached and saving())
    assert_same_run(toy_run.toy_run(tmp_path, resume=True), tmp_path, whole)


def test_what_resumes_with_another_optimiser_is_refused(whole):
    with pytest.raises(ValueError, match=r"^out: the checkpoint holds \d+ arrays, not \d+; resume"):
        toy_run.toy_run(whole[1], resume=True, optimizer=optax.sgd(0.1))
    wider = toy_run.THETA | {"spring": jnp.ones(3)}
    with pytest.raises(ValueError, match=r"^out: .*'spring'\] is float64\[\] in the checkpoint"):
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
        (dict(resume=True, polyak=None), "polyak is 17 there and None now"),
    ],
)
def test_a_folder_with_a_run_is_not_given_to_another(whole, changes, message):
    before = sorted((p, p.stat().st_mtime_ns) for p in whole[1].rglob("*"))
    with pytest.raises(ValueError, match=message):
        toy_run.toy_run(whole[1], solve=forbidden, draw=forbidden, **changes)
    assert sorted((p, p.stat().st_mtime_ns) for p in whole[1].rglob("*")) == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_with_other_files_is_refused(tmp_path, resume):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match=r"^out: .*not of a run \(thesis.tex\)"):
        train(out=tmp_path, resume=resume, solve=forbidden)
    with pytest.raises(ValueError, match=r"^out: .* is a file"):
        train(out=tmp_path / "thesis.tex", resume=resume, solve=forbidden)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_starts_what_is_not_there_and_the_folder_says_what_it_holds(tmp_path):
    out = tmp_path / "new" / "run"
    trained = train(out=out, resume=True, config={"beta": 0.1, "steps": 6})
    assert_same(trained.theta, train().theta)
    assert json.loads((out / "config.json").read_text()) == dict(
        beta=0.1, steps=6, tasks=TASKS, seed=SEED, every=2, chunk=1, polyak=None
    )
    written = (out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in written] == list(trained.metrics)


# Bad input, before compute


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(steps=0), "^steps"),
        (dict(at_a_time=0), "^at_a_time"),
        (dict(at_a_time=3), "^at_a_time: must divide tasks=16, which 3 does not"),
        (dict(tasks=0), "^tasks"),
        (dict(every=0), "^every"),
        (dict(chunk=0), "^chunk"),
        (dict(steps=1.5), "^steps"),
        (dict(every=10, chunk=4), "^every: must be a multiple of chunk=4, not 10; try every=12"),
        (dict(seed=jax.random.key(0)), "^seed"),
        (dict(polyak=0), "^polyak"),
        (dict(polyak=7), "^polyak: .* 1 to 6, not 7"),
        (dict(config={"steps": 500}), "^config: its 'steps' is 500.*steps=6"),
        (dict(config={"net": jnp.tanh}), "^config: holds something that JSON cannot"),
        (dict(config={"beta": float("nan")}), "^config"),
        (dict(theta=jnp.array(1)), "^theta"),
        (dict(theta=jnp.array(jnp.nan)), r"^problem\.inner: the loss is nan"),
    ],
)
def test_bad_input_is_refused_before_compute(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        train(**(dict(solve=forbidden, out=tmp_path / "run") | changes))
    assert not (tmp_path / "run").exists()


def test_the_bar_shows_metrics_on_stderr_and_can_be_turned_off(capsys):
    train(progress=True, draw=draw_some_steep, valid=lambda theta: {"loss": 0.25})
    shown = capsys.readouterr()
    assert shown.out == ""
    for text in ("valid 0.25", "meta_loss=", "6/6", "tasks diverged and were left out"):
        assert text in shown.err
    train(draw=draw_some_steep)
    assert capsys.readouterr() == ("", "")


# Evaluation


def springs(n):
    return Spring(jnp.linspace(-2, 2, n), jnp.ones(n))


@pytest.mark.parametrize("batch", [3, 100])
def test_evaluation_is_a_loop_over_tasks(batch):
    tasks, keys = springs(7), [jax.random.fold_in(jax.random.key(5), i) for i in range(7)]
    found = evaluate(noisy, solve, THETA, tasks, seed=5, batch=batch)
    single = [jax.tree.map(lambda leaf, i=i: leaf[i], tasks) for i in range(7)]
    phis = [mc.learn(noisy, solve, THETA, *x).phi for x in zip(single, keys, strict=True)]
    assert isinstance(found, np.ndarray)
    close(found, [(phi - 1) ** 2 for phi in phis])


def test_evaluation_by_a_metric_and_of_what_diverges():
    tasks = springs(3)._replace(steepness=jnp.array([1.0, toy_run.STEEP, 1.0]))
    gap = lambda phi, theta, task: phi - task.centre
    close(evaluate(problem, solve, THETA, springs(3), metric=gap), [1.25, 0.25, -0.75])
    found = evaluate(problem, solve, 0.5 * THETA, tasks)
    close(found[[0, 2]], [(-0.875 - 1) ** 2, (1.125 - 1) ** 2])
    assert not np.isfinite(found[1])


def test_an_evaluator_compiles_once():
    traces = []

    def counted(loss, phi0):
        traces.append(1)
        return solve(loss, phi0)

    scores = evaluator(problem, counted, batch=2)
    first = scores(THETA, springs(4))
    once = len(traces)
    assert not np.array_equal(scores(2 * THETA, springs(4), seed=3), first)
    assert len(traces) == once > 0


@pytest.mark.parametrize(
    "tasks", [Spring(jnp.ones(3), jnp.ones(2)), draw(jax.random.key(0)), springs(0)]
)
def test_tasks_that_are_not_stacked_are_refused(tasks):
    with pytest.raises(ValueError, match=r"^tasks: .*Stack"):
        evaluate(problem, forbidden, THETA, tasks)


def test_an_evaluator_of_nothing_at_a_time_is_refused():
    with pytest.raises(ValueError, match=r"^batch"):
        evaluator(problem, solve, batch=0)


# Results

FACTS = dict(
    experiment="sine", method="maml", metric="mse", seeds=[0], meta_steps=6, seconds=1.0,
    reference=None,
)  # fmt: skip


def test_a_summary_leaves_out_what_is_not_finite_and_counts_it():
    result = summarise([[1.0, 2.0, np.nan], [4.0, 5.0, -np.inf]], **FACTS)
    assert result["value"] == 3.0
    # Squared distances from 3: 4, 1, 1, 4.
    assert result["std"] == pytest.approx(np.sqrt(10 / 3), rel=1e-15)
    # Student's t of three degrees of freedom, from a table.
    assert result["ci95"] == pytest.approx(3.182446 * np.sqrt(10 / 3) / 2, rel=1e-6)
    assert (result["n_tasks"], result["diverged"]) == (6, 2)
    assert result["versions"]["jax"] == jax.__version__
    assert result["versions"]["python"] == sys.version.split()[0]


def test_half_the_interval_of_three_numbers_is_known_in_closed_form():
    # With two degrees of freedom the quantile at p is (2p - 1) / sqrt(2 p (1 - p)).
    quantile = 0.95 / np.sqrt(2 * 0.975 * 0.025)
    found = half_width(np.array([1.0, 2.0, 3.0]))
    assert found == pytest.approx(quantile / np.sqrt(3), rel=1e-12)


def test_figures_that_too_few_tasks_give_are_none():
    assert summarise([2.0])["value"] == 2.0
    assert [summarise([2.0])[name] for name in ("std", "ci95")] == [None, None]
    assert summarise([np.nan])["value"] is None


def test_the_revision_is_that_of_the_checkout():
    here = Path(mc.__file__).parent
    command = ["git", "rev-parse", "HEAD"]
    done = subprocess.run(command, cwd=here, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("the package does not lie in a git checkout")
    revision = summarise([1.0])["revision"]
    assert revision is None or revision.removesuffix("-dirty") == done.stdout.strip()


def test_a_result_is_written_whole_and_read_back(tmp_path):
    result = summarise([1.0, 2.0], **FACTS)
    path = write_result(tmp_path / "run", result)
    assert path.name == "result.json"
    assert read_result(tmp_path / "run") == result
    assert [p.name for p in path.parent.iterdir()] == ["result.json"]
    del result["reference"], result["seeds"]
    with pytest.raises(ValueError, match=r"^result: lacks seeds, reference;"):
        write_result(tmp_path, result)
    with pytest.raises(FileNotFoundError, match=r"^out: .*result.json"):
        read_result(tmp_path)
