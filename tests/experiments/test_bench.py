"""Benchmarks: the arithmetic of what is timed, what is written, and that equals are compared.

Nothing here looks at how long anything takes: clocks are made up.
"""

import json
import math
import sys

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
    seconds = time_in_turns({"a": clock.takes("a", 2**-6)}, 4, min_sample=0.1, clock=lambda: clock.now)
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
    found = {(m.subject, m.quantity): m.value for m in fastest_by_target(trials)}
    assert found["contrastive", "ms to 1e-01"] == 1000
    assert found["contrastive", "ms to 1e-02"] == found["contrastive", "ms to 1e-03"] == 4000
    assert found["unrolled", "over ours, 1e-01"] == 2  # the median of 2/1, 3/1, 4/2
    assert found["unrolled", "over ours, 1e-02"] == 0.5
    assert ("unrolled", "ms to 1e-03") not in found
    assert not any(quantity.endswith("1e-04") for _, quantity in found)


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_exponents_of_power_laws(p):
    seconds = [Measurement("a", str(n), 3 * n**p) for n in (10, 100, 400)]
    (found,) = _growth.exponents(seconds, 4)
    assert found.subject == "a"
    np.testing.assert_allclose(found.value, p, rtol=10 * EPS)


def test_growth_is_of_each_rule_by_itself():
    memory = [Measurement(name, n, x) for name, n, x in (("a", "1", 2), ("b", "1", 5), ("a", "9", 8))]
    grown = _growth.last_over_first(memory)
    assert grown == [Measurement("a", "last / first", 4), Measurement("b", "last / first", 1)]


def test_memory_is_flat_in_steps_and_that_of_unrolling_is_not():
    # What the compiler sets aside, so it is exact; 5% is what the project promises.
    size = lambda rule, n: _growth._temporary(_growth._compiled("inner steps", n, rule)[0])
    assert size("contrastive", 1000) <= 1.05 * size("contrastive", 10)
    # Unrolled keeps at least phi and the momentum of each step.
    phi = sum(
        leaf.size for leaf in jax.tree.leaves(_growth.mlp(1, 40, 2, 1).init(jax.random.key(0)))
    )
    assert size("unrolled", 1000) >= 990 * 2 * 4 * phi


@pytest.mark.parametrize("size", _growth.SIZES["weights"])
def test_the_network_has_as_many_weights(size):
    omega = jax.eval_shape(lambda: _growth.network("weights", size).init(jax.random.key(0)))
    n = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(omega))
    # Rounding the width moves w^2 by at most w.
    assert abs(n - size) <= math.sqrt(size) + 3


# Equals are compared.


def test_bare_phases_are_those_of_the_rule():
    """The gradient from what the bare phases learned, by the synapse's closed form."""
    learning = _images.sine_learning()
    learning = learning._replace(tasks=jax.tree.map(lambda leaf: leaf[:1], learning.tasks))
    programs = _overhead.programs(learning)
    omega, log_lam = learning.theta
    low, high = jax.jit(programs[_overhead.BARE])(*learning[-2:])
    lam = jax.tree.map(jnp.exp, log_lam)
    by_omega = lambda s, a, b: -(s / learning.beta) * (b - a)
    by_lam = lambda s, a, b, o: s / (2 * learning.beta) * ((b - o) ** 2 - (a - o) ** 2)
    expected = (
        jax.tree.map(by_omega, lam, low, high),
        jax.tree.map(by_lam, lam, low, high, omega),
    )
    _, found = jax.jit(programs[_overhead.RULE])(*learning[-2:])
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Round-off of weights of order 1 in each of 150 steps, divided by beta.
        np.testing.assert_allclose(a, b, rtol=0, atol=1e4 * EPS / learning.beta)


def test_our_subject_is_the_mean_over_its_tasks():
    at = _sine.case(3, 10, np.float64)
    theta, tasks = _sine.arguments(at)
    rule, problem = _sine.contrastive(at), _sine.sine.METHODS["cml-gd"].problem
    solve = _sine.solvers(at)[0]
    gradient = jax.jit(lambda task: rule.value_and_grad(problem, solve, theta, task)[1])
    each = [gradient(jax.tree.map(lambda leaf, i=i: leaf[i], tasks)) for i in range(3)]
    mean = sum(_sine.flat(jax.tree.leaves(grad)) for grad in each) / 3
    # Sums in another order, in gradients divided by beta.
    np.testing.assert_allclose(
        _sine.ours(_sine.contrastive, at)(), mean, rtol=0, atol=1e4 * EPS / at.beta
    )


def test_conv4_learns_from_noise():
    learn, omega, data = _images.conv4_learned(_images.Conv4Case(4, True, 5, 2, 30), jnp.float64)
    phi = learn(omega, data)
    net = _images.conv4(4, strided=True, classes=5)
    for i in range(2):
        own = jax.tree.map(lambda leaf, i=i: leaf[i], (phi, data))
        before, after = (_entropy(net.apply(w, own[1].x), own[1].y) for w in (omega, own[0]))
        assert after < before


def _entropy(logits, y):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1))


# What is written.


@pytest.fixture
def fake(monkeypatch):
    """A part that counts how often it runs."""
    runs = []

    def part(quick, tell):
        tell("something")
        runs.append(quick)
        figures = [summarise("ours", "ms", [1, 2, 3]), Measurement("theirs", "MiB", 4)]
        return _part.Found({"A table": figures}, {"absent": "not installed"})

    monkeypatch.setattr(_run, "PARTS", {"fake": ("what", "_fake.part")})
    monkeypatch.setattr(_run, "import_module", lambda *_: type("M", (), {"part": part}))
    return runs


def test_the_files_of_a_part(fake, tmp_path, capsys):
    _run.bench(None, True, tmp_path, resume=False)
    found = json.loads((tmp_path / "fake.json").read_text())
    assert found["tables"] == {
        "A table": [
            {"subject": "ours", "quantity": "ms", "value": 2.0, "low": 1.5, "high": 2.5},
            {"subject": "theirs", "quantity": "MiB", "value": 4, "low": None, "high": None},
        ]
    }
    assert {"processor", "cores", "load"} == set(found["machine"])
    assert {"part", "quick", "seconds", "notes", "versions", "revision"} <= set(found)
    assert found["versions"]["jax"] == jax.__version__
    page = (tmp_path / "tables.md").read_text()
    assert "| ours | 2.00 (1.50-2.50) |  |" in page and "- absent: not installed." in page
    assert "A table" in capsys.readouterr().out


def test_finished_parts_are_not_run_again_unless_their_settings_differ(fake, tmp_path):
    for quick, resume in ((True, False), (True, True), (False, True), (False, False)):
        _run.bench("fake", quick, tmp_path, resume)
    assert fake == [True, False, False]


def test_every_part_is_there():
    for _, where in _run.PARTS.values():
        module, function = where.split(".")
        assert callable(getattr(_run.import_module(f"metacontrast.bench.{module}"), function))


def test_an_unknown_part_is_named(tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, "bench", "speed", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "part: unknown 'speed'; choose one of overhead, sine, conv4, accuracy, growth." in said
    assert not (tmp_path / "out").exists()


def test_cells_that_are_missing_stay_empty():
    columns, rows = grid([Measurement("a", "x", 1), Measurement("b", "y", 2)])
    assert columns == ["", "x", "y"]
    assert rows == [["a", "1.00", ""], ["b", "", "2.00"]]


def test_the_page_says_what_was_run_and_where():
    found = {
        "part": "sine",
        "quick": True,
        "seconds": 12.0,
        "tables": {"T": [Measurement("a", "x", 1)._asdict()]},
        "notes": {},
        "machine": {"cores": 2, "processor": "P", "load": 0.1},
        "versions": {"jax": "0"},
    }
    assert markdown(found).endswith(
        "*`metacontrast bench sine --quick`, 12 s, 2 cores, P, load 0.1 at the start, jax 0.*\n"
    )


def test_estimators_are_public():
    assert isinstance(_sine.contrastive(_sine.case(1, 2)), mc.Contrastive)
