"""Benchmarks: the arithmetic of what is timed, what is written, and that equals are compared.

Nothing here looks at how long anything takes: clocks are made up.
"""

import json
import math
import sys
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import EPS

import metacontrast as mc
from benchmarks import __main__ as command_line
from benchmarks import _conv4, _growth, _learners, _overhead, _result, _run, _sine, core
from benchmarks._accuracy import PROBLEMS, Trial, exact_gradient, fastest_by_target, gradient_of
from benchmarks._measure import Measurement, ratios, summarise, time_in_turns
from benchmarks._report import grid, markdown


class Clock:
    """Stands still but for what is said to pass."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def takes(self, name, *seconds):
        """A subject whose calls take these seconds in turn, and then the last of them."""
        left = list(seconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


# Timing.


def test_every_round_runs_all_and_every_other_backwards():
    clock = Clock()
    subjects = {name: clock.takes(name, 1.0) for name in "abc"}
    seconds = time_in_turns(subjects, 3, min_sample=0.5, clock=lambda: clock.now)
    assert {name: list(x) for name, x in seconds.items()} == {name: [1.0] * 3 for name in "abc"}
    assert "".join(clock.log[6:]) == "abc" + "cba" + "abc"  # after two calls of each to calibrate


def test_a_fast_subject_is_called_until_a_sample_is_long_enough():
    clock = Clock()
    seconds = time_in_turns(
        {"a": clock.takes("a", 2**-6)}, 4, min_sample=0.1, clock=lambda: clock.now
    )
    assert len(clock.log) == 2 + 4 * 7  # 7 / 64 is the first multiple above 0.1
    assert list(seconds["a"]) == [2**-6] * 4


def test_no_round_is_begun_after_its_time_but_three_are_run():
    clock = Clock()
    rounds = lambda most: len(
        time_in_turns({"a": clock.takes("a", 1.0)}, 9, max_total=most, clock=lambda: clock.now)["a"]
    )
    assert [rounds(most) for most in (0.0, 4.5, math.inf)] == [3, 5, 9]


def test_ratios_are_of_the_same_round():
    # The machine is ten times slower in the second round; the ratio does not see it.
    clock = Clock()
    subjects = {
        "a": clock.takes("a", 1, 1, 1, 10, 1),
        "b": clock.takes("b", 4, 4, 4, 40, 4),
    }
    seconds = time_in_turns(subjects, 3, min_sample=0.0, clock=lambda: clock.now)
    assert list(seconds["a"]) == [1, 10, 1]
    assert list(ratios(seconds, "b", "a")) == [4, 4, 4]


def test_quartiles():
    assert summarise("s", "q", [5, 1, 2, 4, 3, 0, 6, 8, 7]) == Measurement("s", "q", 4, 2, 6)


# What is made of it.


def test_the_fastest_setting_that_reaches_an_accuracy_counts():
    trials = [
        Trial("contrastive", "short", 5e-2, np.array([1.0, 1.0, 2.0])),
        Trial("contrastive", "long", 5e-4, np.array([4.0, 4.0, 8.0])),
        Trial("contrastive", "longer", 4e-4, np.array([9.0, 9.0, 9.0])),
        Trial("unrolled", "short", 5e-3, np.array([2.0, 3.0, 4.0])),
        Trial("unrolled", "diverged", math.nan, np.array([0.1, 0.1, 0.1])),
    ]
    values = {(m.subject, m.quantity): m.value for m in fastest_by_target(trials)}
    assert values["contrastive", "ms to 1e-01"] == 1000
    assert values["contrastive", "ms to 1e-02"] == values["contrastive", "ms to 1e-03"] == 4000
    assert values["unrolled", "over ours, 1e-01"] == 2  # the median of 2/1, 3/1, 4/2
    assert values["unrolled", "over ours, 1e-02"] == 0.5
    assert ("unrolled", "ms to 1e-03") not in values
    assert not any(quantity.endswith("1e-04") for _, quantity in values)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_exponents_of_power_laws(p):
    seconds = [Measurement("a", str(n), 3 * n**p) for n in (10, 100, 400)]
    (exponent,) = _growth.exponents(seconds, 4)
    assert exponent.subject == "a"
    np.testing.assert_allclose(exponent.value, p, rtol=10 * EPS)


def test_growth_is_of_each_estimator_by_itself():
    memory = [
        Measurement(name, n, x) for name, n, x in (("a", "1", 2), ("b", "1", 5), ("a", "9", 8))
    ]
    grown = _growth.growth_factors(memory)
    assert grown == [Measurement("a", "last / first", 4), Measurement("b", "last / first", 1)]


@pytest.mark.thorough
def test_memory_is_flat_in_steps_and_that_of_unrolling_is_not():
    # What the compiler sets aside, so it is exact; 5% is what the project promises.
    size = lambda name, n: _growth.compile_gradient("inner steps", n, name).bytes
    assert size("contrastive", 1000) <= 1.05 * size("contrastive", 10)
    # Unrolled keeps at least phi and the momentum of each step.
    phi = sum(leaf.nbytes for leaf in jax.tree.leaves(_learners.sine_theta().omega))
    assert size("unrolled", 1000) >= 990 * 2 * phi


@pytest.mark.parametrize("size", _growth.SIZES["weights"])
def test_the_network_has_as_many_weights(size):
    omega = jax.eval_shape(lambda: _growth.network("weights", size).init(jax.random.key(0)))
    n = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(omega))
    # Rounding the width moves w^2 by at most w.
    assert abs(n - size) <= math.sqrt(size) + 3


# Equals are compared.


@pytest.mark.thorough
def test_bare_phases_are_those_of_the_rule():
    """The gradient from where the bare phases end, by the synapse's closed form."""
    learner = _learners.sine_learner()
    tasks = jax.tree.map(lambda leaf: leaf[:1], learner.tasks)
    free, nudged = (_learners.descent_on_sines(steps) for steps in (6, 3))
    learner = learner._replace(free=free, nudged=nudged, tasks=tasks)
    programs = _overhead.programs(learner)
    low, high = jax.jit(programs[_overhead.PHASES])(learner.theta, tasks)
    expected = learner.theta.contrast(low, high, 2 * learner.beta)
    _, by_theta = jax.jit(programs[_overhead.GRADIENT])(learner.theta, tasks)
    for a, b in zip(jax.tree.leaves(by_theta), jax.tree.leaves(expected), strict=True):
        # Round-off of weights of order 1 in each of 12 steps, divided by beta.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e3 * EPS / learner.beta)


@pytest.mark.thorough
def test_ours_is_the_mean_over_its_tasks():
    case = _sine.sine_case(3, 4, np.float64)
    theta, tasks = _sine.arguments(case)
    rule = mc.Implicit("identity")  # a cheap one
    problem, solver = _learners.sine_problem(), _sine.solvers(case)[0]
    gradient = jax.jit(mc.meta_gradient(problem, solver, rule, by_z=False))
    each = [gradient(theta, jax.tree.map(lambda leaf, i=i: leaf[i], tasks)) for i in range(3)]
    mean = sum(_sine.flat(jax.tree.leaves(meta.by_theta)) for meta in each) / 3
    # Sums in another order, of gradients of order 100.
    np.testing.assert_allclose(
        _sine.by_estimator(lambda case: rule, case)(), mean, rtol=0, atol=1e4 * EPS
    )


@pytest.mark.thorough
def test_conv4_learns_from_noise():
    case = _conv4.Conv4Case(4, True, 5, 1, 30)
    learn, omega, data = _conv4.conv4_training(case, jnp.float64)
    phi = jax.tree.map(lambda leaf: leaf[0], learn(omega, data))
    net = _conv4.conv4(4, strided=True, classes=5)
    chances = jax.jit(lambda w: jax.nn.softmax(net.apply(w, data.x[0])))
    right = lambda w: np.log(chances(w)[np.arange(5), data.y[0]]).sum()
    assert right(phi) > right(omega)


@pytest.mark.thorough
def test_the_exact_gradient_is_that_of_a_contrast_of_minimisers():
    smooth = PROBLEMS["network"]()
    # A minimiser to round-off; the symmetric rule then errs by beta^2 times a third derivative.
    rule = mc.Contrastive(1e-3, "symmetric")
    contrast = gradient_of(smooth, mc.newton_cg(1e-13, 100, 400), rule)()
    exact = exact_gradient(smooth)
    assert np.linalg.norm(contrast - exact) <= 1e-3 * np.linalg.norm(exact)


# Beside another commit.


class MadeUp:
    """A process of one side, whose calls take a second, or half of one; its turns are noted."""

    log: ClassVar[list[str]] = []

    def __init__(self, case, source):
        self.source, self.norm = source, 1.0
        self.first, self.first_cpu = (2.0, 5.0) if source == "old" else (3.0, 6.0)
        MadeUp.log.append(f"{source} starts")

    def take_turn(self):
        MadeUp.log.append(self.source)
        return 1.0 if self.source == "old" else 0.5

    def end(self):
        MadeUp.log.append(f"{self.source} ends")


def test_both_sides_take_turns_and_change_their_order(monkeypatch):
    monkeypatch.setattr(core, "Side", MadeUp)
    monkeypatch.setattr(MadeUp, "log", [])
    times = core.time_case("case", {core.NOW: "new", core.BEFORE: "old"}, 2, turns=2)
    new, old = (["new starts", "old starts"], ["old starts", "new starts"])
    assert MadeUp.log[:6] == [*new, "new", "old", "new", "old"]
    assert MadeUp.log[10:14] == [*old, "old", "new"]
    assert len(times.call[core.NOW]) == 4
    assert [core.ratio("case", "", x, core.BEFORE).value for x in times] == [0.5, 1.5, 1.2]


def test_sides_that_compute_something_else_are_not_compared():
    core.check_equal("case", {core.NOW: 1.0, core.BEFORE: 1.005})
    for norm in (1.1, math.nan):
        with pytest.raises(ArithmeticError, match="case: a meta-gradient of norm"):
            core.check_equal("case", {core.NOW: norm, core.BEFORE: 1.0})


# What is written.


@pytest.fixture
def runs(monkeypatch):
    """A part that notes each of its runs."""
    runs = []

    def part(quick, progress):
        progress("something")
        runs.append(quick)
        rows = [summarise("ours", "ms", [1, 2, 3]), Measurement("theirs", "MiB", 4)]
        return _result.PartResult({"A table": rows}, {"absent": "not installed"})

    monkeypatch.setattr(_run, "PARTS", {"fake": ("what", "_fake.part")})
    monkeypatch.setattr(_run, "import_module", lambda *_: type("M", (), {"part": part}))
    return runs


def test_the_files_of_a_part(runs, tmp_path, capsys):
    _run.run_parts(["fake"], True, tmp_path, resume=False)
    facts = json.loads((tmp_path / "fake.json").read_text())
    assert facts["tables"] == {
        "A table": [
            {"subject": "ours", "quantity": "ms", "value": 2.0, "low": 1.5, "high": 2.5},
            {"subject": "theirs", "quantity": "MiB", "value": 4, "low": None, "high": None},
        ]
    }
    assert {"processor", "cores", "load"} == set(facts["machine"])
    assert {"part", "quick", "seconds", "notes", "versions", "revision"} <= set(facts)
    assert facts["versions"]["jax"] == jax.__version__
    page = (tmp_path / "tables.md").read_text()
    assert "| ours | 2.00 (1.50-2.50) |  |" in page and "- absent: not installed." in page
    assert "A table" in capsys.readouterr().out


def test_finished_parts_are_not_run_again_unless_their_settings_differ(runs, tmp_path):
    for quick, resume in ((True, False), (True, True), (False, True), (False, False)):
        _run.run_parts(["fake"], quick, tmp_path, resume)
    assert runs == [True, False, False]


def test_a_part_that_is_interrupted_keeps_what_it_has_timed(monkeypatch, tmp_path, capsys):
    rounds = []

    def part(quick, progress):
        def program():
            rounds.append(1)
            if len(rounds) == 7:  # two to find out how long it takes, then the fifth round
                raise KeyboardInterrupt

        time_in_turns({"ours": program}, 9, min_sample=0)

    monkeypatch.setattr(_run, "PARTS", {"growth": ("what", "_fake.part")})
    monkeypatch.setattr(_run, "import_module", lambda *_: type("M", (), {"part": part}))
    assert called(monkeypatch, "growth", "--quick", "--out", tmp_path) == 130
    kept = json.loads((tmp_path / "growth.interrupted.json").read_text())
    assert [list(map(len, timed.values())) for timed in kept["seconds"]] == [[4]]
    assert "growth.interrupted.json" in capsys.readouterr().err
    assert not (tmp_path / "growth.json").exists()


def test_every_part_is_there():
    assert all(callable(_run._part(name)) for name in _run.PARTS)


def called(monkeypatch, *words):
    """The exit status of `python -m benchmarks WORDS`."""
    monkeypatch.setattr(sys, "argv", ["benchmarks", *map(str, words)])
    try:
        command_line.main()
    except SystemExit as stop:
        return stop.code
    return 0


def test_an_unknown_part_is_named(tmp_path, monkeypatch, capsys):
    assert called(monkeypatch, "speed", "--out", tmp_path / "out") == 2
    message = capsys.readouterr().err
    assert "'speed'" in message and all(part in message for part in _run.PARTS)
    assert not (tmp_path / "out").exists()


def test_the_command_runs_all_parts_or_one(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(command_line, "run_parts", lambda *arguments: asked.append(arguments))
    assert called(monkeypatch, "growth", "--quick", "--out", tmp_path) == 0
    assert called(monkeypatch, "--resume", "--out", tmp_path) == 0
    assert asked == [(["growth"], True, tmp_path, False), ([*_run.PARTS], False, tmp_path, True)]


def test_what_cannot_be_measured_ends_in_a_line(monkeypatch, capsys):
    def fail(*arguments):
        raise ArithmeticError("higher: computes something else")

    monkeypatch.setattr(command_line, "run_parts", fail)
    assert called(monkeypatch, "sine") == 2
    assert capsys.readouterr().err == "benchmarks: higher: computes something else\n"


def test_cells_that_are_missing_stay_empty():
    columns, rows = grid([Measurement("a", "x", 1), Measurement("b", "y", 2)])
    assert columns == ["", "x", "y"]
    assert rows == [["a", "1.00", ""], ["b", "", "2.00"]]


def test_the_page_says_what_was_run_and_where():
    facts = {
        "part": "sine",
        "quick": True,
        "seconds": 12.0,
        "tables": {"T": [Measurement("a", "x", 1)._asdict()]},
        "notes": {},
        "machine": {"cores": 2, "processor": "P", "load": 0.1},
        "versions": {"jax": "0"},
    }
    assert markdown(facts).endswith(
        "*`python -m benchmarks sine --quick`, 12 s, 2 cores, P, load 0.1 at the start, jax 0.*\n"
    )
