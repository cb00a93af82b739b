"""What a meta-gradient says of itself: counted, warned of, and what stops a run."""

import json
import re
from functools import cache, partial

import jax.numpy as jnp
import optax
import pytest
from springs import STEPS, TASKS, THETA, close, drawn, train
from toy_run import assert_same, lines, noisy

import metacontrast as mc
from metacontrast._flags import REMEDIES, Flags
from metacontrast.train import FlaggedError, _flagged, _run, read_metrics


class Says(mc.Estimator):
    """A slope of 1, flagged as it is told; NaN for tasks whose centre is above `broken`."""

    def __init__(self, flags, broken=jnp.inf):
        self.flags, self.broken = flags, broken

    def value_and_grad(self, loss, solver, starts=None):
        centre = loss.z.centre
        gradient = jnp.where(centre > self.broken, jnp.nan, 1.0) + 0 * loss.theta
        aux = {"flags": self.flags(centre), "shown": jnp.array(2.0)}
        return mc.MetaGradient(jnp.ones(()), gradient, aux=aux)


LOW, LOWER = -0.5, -1.0  # nearly a third of the centres are below the one, a sixth below the other


def some(centre):
    return Flags(idle=centre < LOW, rounded=centre < LOWER)


@cache
def below(bound, t):
    return sum(float(task.centre) < bound for task in drawn(t)[0])


flat = partial(train, optimizer=optax.sgd(0.1), log_every=3, on_flag="warn")


def remedies(*pairs):
    return re.escape(". ".join(f"{name} ({n}): {REMEDIES[name]}" for name, n in pairs))


def count(bound, steps):
    return sum(below(bound, t) for t in steps)


@pytest.mark.parametrize("task_batch_size", [None, 1, 4])
def test_flags_are_counted_over_tasks_and_meta_steps_and_warned_of_once(task_batch_size):
    idle, rounded = (count(bound, range(3)) for bound in (LOW, LOWER))
    text = (
        f"^Of 48 tasks of 3 meta-steps some are .*{remedies(('idle', idle), ('rounded', rounded))}"
    )
    with pytest.warns(RuntimeWarning, match=text) as said:
        trained = flat(estimator=Says(some), task_batch_size=task_batch_size)
    assert len(said) == 1 and said[0].filename.endswith("springs.py")  # which calls the loop
    blocks = [range(3), range(3, 6)]
    assert [line["flagged"] for line in trained.metrics] == [count(LOW, x) for x in blocks]
    expected = [{"idle": count(LOW, x), "rounded": count(LOWER, x)} for x in blocks]
    assert [line["flags"] for line in trained.metrics] == expected
    assert trained.flagged == count(LOW, range(STEPS)) > count(LOWER, range(STEPS)) > 0
    # Such tasks are learned all the same, and flags are no diagnostics to take the mean of.
    assert trained.diverged == 0
    close(trained.theta, THETA - 0.1 * STEPS)
    assert trained.metrics[0]["shown"] == 2.0


def test_flags_of_tasks_that_are_left_out_are_counted_and_not_warned_of():
    """So that filters which turn warnings into errors, as those of these tests, let them pass."""
    says = Says(lambda centre: Flags(nonfinite=centre > 1), broken=1.0)
    trained = flat(estimator=says)
    assert trained.flagged == trained.diverged > 0
    assert all(set(line["flags"]) <= {"nonfinite"} for line in trained.metrics)


def test_what_raises_no_flags_has_none():
    trained = train(problem=noisy, estimator=mc.FirstOrder())
    assert [(line["flagged"], line["flags"]) for line in trained.metrics] == [(0, {})] * 3


# What stops a run


def often(share, **flags):
    """Flags that share of the tasks, as they come: by t alone, since centres are random."""
    return lambda t: Says(lambda centre: Flags(**{k: up & share(t) for k, up in flags.items()}))


def from_step(first, gap=-1):
    """All tasks of the meta-steps after the first ones are flagged, but those of one."""
    return often(lambda t: (t >= first) & (t != gap), idle=True, unconverged=True)


def stops(at):
    text = rf"^meta-step {at}: more than half.*of the last 16: {remedies(('idle', 16))}.*'warn'"
    return pytest.raises(FlaggedError, match=text)


long_run = partial(train, optimizer=optax.sgd(0.01), steps=30, log_every=4, steps_per_dispatch=4)
LOUD = pytest.mark.filterwarnings("ignore:Of .* tasks of")


@LOUD
@pytest.mark.parametrize(("first", "gap", "at"), [(0, -1, 10), (5, -1, 15), (5, 13, 24)])
def test_a_run_stops_at_the_tenth_meta_step_in_a_row(first, gap, at):
    with stops(at):
        long_run(estimator=from_step(first, gap))


@LOUD
def test_a_run_that_is_not_flagged_ten_times_in_a_row_goes_on():
    trained = long_run(estimator=from_step(12, 21))
    assert trained.flagged == 17 * TASKS


@LOUD
@pytest.mark.parametrize("half", [False, True])
def test_half_of_the_tasks_are_not_more_than_half(half, monkeypatch):
    most = lambda centre: Flags(idle=centre < median(0, 8 if half else 9))
    run = partial(train, steps=1, log_every=1, estimator=Says(most))
    monkeypatch.setattr(_run, "PATIENCE", 1)
    if half:
        assert run().flagged == TASKS // 2
    else:
        with pytest.raises(FlaggedError, match=r"^meta-step 1: more than half .* idle \(9\)"):
            run()


def median(t, rank):
    """Above the lowest `rank` of the centres of meta-step `t`, and below all others."""
    centres = sorted(float(task.centre) for task in drawn(t)[0])
    return sum(centres[rank - 1 : rank + 1]) / 2


@LOUD
def test_a_run_of_fewer_steps_is_only_warned_of():
    assert train(estimator=from_step(0)).flagged == STEPS * TASKS


@LOUD
def test_to_warn_is_to_go_on_and_changes_nothing():
    quiet = long_run(estimator=often(lambda t: t < 0, idle=True))
    loud = long_run(estimator=from_step(0), on_flag="warn")
    assert_same(loud.theta, quiet.theta)
    assert (loud.flagged, quiet.flagged) == (30 * TASKS, 0)


@LOUD
def test_what_stops_is_one_constant(monkeypatch):
    monkeypatch.setattr(_flagged, "STOPPING", ("unbounded",))
    assert long_run(estimator=from_step(0)).flagged == 30 * TASKS
    with pytest.raises(FlaggedError, match=r"^meta-step 10:"):
        long_run(estimator=often(lambda t: t >= 0, unbounded=True))


@LOUD
def test_a_resumed_run_stops_where_the_other_one_does(tmp_path):
    with stops(15) as whole:
        long_run(estimator=from_step(5), out=tmp_path / "whole")

    def crash(theta):
        if len(lines(tmp_path / "part")) == 2:  # in the middle of the streak
            raise RuntimeError("power cut")
        return {"loss": 1.0}

    with pytest.raises(RuntimeError, match="power cut"):
        long_run(estimator=from_step(5), out=tmp_path / "part", validate=crash)
    assert read_metrics(tmp_path / "part")[-1]["step"] == 8
    with stops(15) as part:
        long_run(estimator=from_step(5), out=tmp_path / "part", resume=True)
    assert str(part.value) == str(whole.value)
    assert [line["step"] for line in lines(tmp_path / "whole")] == [4, 8, 12]
    # What was kept goes on, if it is told to: to the end of a run that was never stopped.
    told = dict(estimator=from_step(5), resume=True, on_flag="warn")
    again = [long_run(out=tmp_path / name, **told) for name in ("whole", "part", "new")]
    assert_same(again[0].theta, again[2].theta)
    assert again[0].flagged == again[1].flagged == again[2].flagged == 25 * TASKS
    assert "on_flag" not in json.loads((tmp_path / "new" / "config.json").read_text())


@LOUD
def test_one_long_task_is_counted_too():
    """Whose aux is cut down to what costs nothing."""

    class Long(mc.Contrastive):
        def value_and_grad(self, loss, solver, starts=None):
            meta = super().value_and_grad(loss, solver, starts)
            return meta._replace(aux=meta.aux | {"flags": Flags(rounded=True)})

    run = partial(long_run, tasks=1, estimator=Long(0.1), warm_start="phases")
    assert run(on_flag="warn").metrics[0]["flags"] == {"rounded": 4}
    with pytest.raises(FlaggedError, match=rf"^meta-step 10: .*{remedies(('rounded', 1))}"):
        run()


def test_what_is_no_choice_is_refused():
    with pytest.raises(ValueError, match=r"^on_flag: must be 'stop' or 'warn', not 'ignore'"):
        train(on_flag="ignore")
