"""What the frame does for every experiment, shown on one that computes next to nothing."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial, partialmethod
from pathlib import Path

import frame
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from options import parse

import metacontrast as mc
from metacontrast.accuracy import suggest_beta
from metacontrast.report import print_report
from metacontrast.train import Trained


@dataclass(frozen=True, kw_only=True)
class Settings(frame.Settings):
    """Options of its own."""

    rate: float = 0.1  # Of something.
    sizes: tuple[int, int] = (3, 4)
    own: bool = True

    def shorten(self):
        return replace(super().shorten(), rate=0.5)


METHODS = {
    "slow": Settings(method="slow", steps=100),
    "fast": Settings(method="fast", steps=50, rate=0.2),
}
EXPERIMENT = frame.Experiment("toy", "a number", METHODS, "slow", {"slow": "1.0", "fast": ""})
MAIN = frame.Experiment.main
RUNS = []  # the settings of each


def run(settings):
    """Its value is its rate."""
    RUNS.append(settings)
    EXPERIMENT.claim(settings)
    return EXPERIMENT.finish(settings, [settings.rate] * 2, seconds=1.0, note="; done")


@pytest.fixture
def command(start):
    """`command(*words)`: the exit status of this file as an experiment."""
    RUNS.clear()
    return partial(start, sys.modules[__name__])


def test_loggers_are_made_by_name_in_the_folder_of_the_run(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(frame.train, "meta_train", lambda **options: given.append(options))
    settings = replace(METHODS["slow"], out=tmp_path, log=("csv", "csv"))
    EXPERIMENT.meta_train(settings)
    EXPERIMENT.meta_train(replace(settings, log=()))
    assert [len(options["callbacks"]) for options in given] == [1, 0]
    given[0]["callbacks"][0].log(10, {"meta_loss": 0.5})
    assert (tmp_path / "metrics.csv").read_text() == "step,meta_loss\n10,0.5\n"


def runs():
    return [(s.method, s.steps, s.rate) for s in RUNS]


def test_an_option_not_given_is_the_methods_own(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command() == 0
    assert command("--method", "fast") == 0
    assert command("--method=fast", "--seed", 3, "--rate", 0.7, "--sizes", 1, 2) == 0
    assert runs() == [("slow", 100, 0.1), ("fast", 50, 0.2), ("fast", 50, 0.7)]
    assert RUNS[2].sizes == (1, 2)
    folders = sorted(str(p.parent.relative_to(tmp_path)) for p in tmp_path.rglob("result.json"))
    assert folders == [f"runs/toy/{name}" for name in ("fast/seed0", "fast/seed3", "slow/seed0")]


def test_quick_shortens_what_is_not_given(command, tmp_path):
    assert command("--quick", "--out", tmp_path / "a") == 0
    assert command("--quick", "--steps", 7, "--out", tmp_path / "b") == 0
    assert command("--quick", "--rate", 0.9, "--out", tmp_path / "c") == 0
    assert runs() == [("slow", 10, 0.5), ("slow", 7, 0.5), ("slow", 10, 0.9)]


def test_all_are_run_and_to_resume_only_those_without_a_result(command, tmp_path, monkeypatch):
    words = ["--method", "all", "--out", tmp_path, "--rate", 0.3]
    assert command(*words) == 0
    (tmp_path / "fast" / "seed0" / "result.json").unlink()
    roots = []
    monkeypatch.setattr(EXPERIMENT.__class__, "main", partialmethod(MAIN, overview=roots.append))
    assert command(*words, "--resume") == 0
    assert runs() == [("slow", 100, 0.3), ("fast", 50, 0.3), ("fast", 50, 0.3)]
    assert roots == [tmp_path]


def test_of_all_methods_those_that_take_no_steps_are_given_none():
    methods = METHODS | {"scratch": Settings(method="scratch")}
    several = parse(methods, "slow", ["--method", "all", "--steps", "7"], "")
    assert [s.steps for s in several] == [7, 7, 0]
    (alone,) = parse(methods, "slow", ["--method", "scratch", "--steps", "7"], "")
    assert alone.steps == 7  # which the experiment refuses


def test_config_and_result_say_what_was_used(command, tmp_path, capsys):
    words = ("--seed", 2, "--rate", 0.25, "--quick", "--out", tmp_path)
    assert command(*words) == 0
    used = {
        "experiment": "toy",
        "method": "slow",
        "seed": 2,
        "steps": 10,
        "rate": 0.25,
        "sizes": [3, 4],
        "own": True,
    }
    assert json.loads((tmp_path / "config.json").read_text()) == used
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["settings"], result["value"], result["reference"]) == (used, 0.25, "1.0")
    assert capsys.readouterr().out == "slow, seed 2: 0.25 +- 0 (a number); done\n"
    # It may be resumed on other devices, and with options that are the same.
    assert command(*words[:4], "--steps", 10, "--out", tmp_path, "--resume") == 0
    assert command("--seed", 2, "--rate", 0.5, "--quick", "--out", tmp_path, "--resume") == 2
    assert "rate is 0.25 there and 0.5 now" in capsys.readouterr().err


def test_the_command_of_a_result_is_that_run_again(command, tmp_path):
    words = ("--method", "fast", "--seed", 2, "--sizes", 1, 2, "--quick", "--no-own")
    assert command(*words, "--out", tmp_path, "--resume") == 0
    said = json.loads((tmp_path / "result.json").read_text())["command"]
    assert said == (
        "python experiments/toy.py --method fast --seed 2 --steps 5 --rate 0.5 --sizes 1 2 --no-own"
    )
    (again,) = parse(METHODS, "slow", said.split()[2:], "")
    assert EXPERIMENT.config(again) == EXPERIMENT.config(RUNS[0])


def test_shares_of_flags_are_of_all_meta_gradients():
    lines = ({"step": 10, "flags": {"idle": 5}}, {"step": 20, "flags": {"idle": 4, "rounded": 1}})
    lines = tuple(line | {"seconds": 1.5} for line in lines)
    facts = frame.facts(Trained(None, None, lines), 2)
    assert facts == {"seconds": 3.0, "flags": {"idle": 9 / 40, "rounded": 1 / 40}}
    assert frame.facts() == {"seconds": 0.0, "flags": {}}


def test_the_report_has_a_row_for_what_was_not_run(command, tmp_path, capsys):
    assert command("--seed", 0, "--out", tmp_path / "0") == 0
    assert command("--seed", 1, "--rate", 0.3, "--out", tmp_path / "1") == 0
    capsys.readouterr()
    print_report(tmp_path)
    slow, fast = [
        line for line in capsys.readouterr().out.splitlines() if " 1.0 " in line or "fast" in line
    ]
    # Student's t with one degree of freedom: 12.706 times 0.1, the standard error of 0.1 and 0.3.
    assert "0.2000 +- 1.2706" in slow and " 2 " in slow
    assert "not run" in fast


@pytest.mark.parametrize(
    ("values", "value", "said"),
    [
        ([np.nan, np.inf], None, "no value (a number; 2 of 2 tasks diverged)"),
        ([1.0, 2.0, np.nan, np.nan, np.nan], None, "no value (a number; 3 of 5 tasks diverged)"),
        ([4.0, np.inf], 4.0, "4 (a number; 1 of 2 tasks diverged and is left out)"),
        ([1.0, 1.0], 1.0, "1 +- 0 (a number)"),
    ],
)
def test_a_line_says_what_diverged_and_few_tasks_have_no_value(
    tmp_path, capsys, values, value, said
):
    s = replace(METHODS["slow"], out=tmp_path)
    result = EXPERIMENT.finish(s, values, seconds=1.0, meta_steps=3)
    diverged = int(np.sum(~np.isfinite(values)))
    assert (result["value"], result["diverged"], result["meta_steps"]) == (value, diverged, 3)
    assert capsys.readouterr().out == f"slow, seed 0: {said}\n"


def test_the_report_says_what_diverged(tmp_path, capsys):
    """Of three seeds one is lost, and of another a task; of the other method too many are."""
    values = {
        "slow": ([1.0, 1.0], [3.0, 3.0, np.nan], [np.nan, np.nan]),
        "fast": ([5.0, 5.0], [np.nan], [7.0, np.nan, np.nan]),
    }
    for name, seeds in values.items():
        for i, of in enumerate(seeds):
            s = replace(METHODS[name], out=tmp_path / name / str(i))
            EXPERIMENT.finish(s, of, seconds=1.0)
    capsys.readouterr()
    print_report(tmp_path)
    rows = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    printed = " ".join(" ".join(row[2] for row in rows).split())  # a cell may take two lines
    # Of 1 and 3: 12.706 times 1, the standard error.
    assert printed == (
        "2.0000 +- 12.7062 (3 tasks, 1 seeds diverged) no value (3 tasks, 2 seeds diverged)"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "nonsense"), "method: unknown 'nonsense'; choose one of slow, fast, or all"),
        (("--seed", str(frame.SEEDS["test"])), "seed: 2147483647 draws held-out tasks"),
        *(
            (("--mesh", mesh), f"mesh: must be TASKSxPARAMETERS, as in 2x1, not '{mesh}'")
            for mesh in ("2", "2x", "axb", "2x1x1")
        ),
        (("--devices", "0"), "devices: must be"),
        (("--seed", str(2**32)), "seed: must be a whole number from 0 to 4294967295"),
        (("--seed", "-1"), "seed: must be a whole number from 0 to 4294967295"),
        (("--on-flag", "ignore"), "--on-flag"),
        (("--on-collapse", "warn"), "--on-collapse"),
        (("--rate", "fast"), "--rate"),
        (("--speed", "3"), "--speed"),
    ],
)
def test_bad_input_is_refused(command, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_run_does_in_trouble_is_for_its_command_to_say(command, tmp_path, monkeypatch):
    given, quiet = [], ["--no-diagnose"]
    monkeypatch.setattr(frame.train, "meta_train", lambda **options: given.append(options))
    monkeypatch.setattr(sys.modules[__name__], "run", EXPERIMENT.meta_train)
    assert command("--out", tmp_path) == 0
    assert command("--out", tmp_path, "--on-flag", "stop", "--on-collapse", "rollback", *quiet) == 0
    said = [(o["on_flag"], o["on_collapse"], o["diagnose"]) for o in given]
    assert said == [("warn", "stop", True), ("stop", "rollback", False)]
    # Only a rollback makes another run of it, which `meta_train` says itself.
    assert given[0]["config"] == given[1]["config"]
    assert not {"on_flag", "on_collapse", "diagnose"} & given[0]["config"].keys()


@pytest.mark.parametrize("error", [ValueError, TypeError, FloatingPointError, FileNotFoundError])
def test_an_error_of_a_run_is_one_line(command, monkeypatch, capsys, error):
    def run(settings):
        raise error("mend: this way.")

    monkeypatch.setattr(sys.modules[__name__], "run", run)
    assert command() == 2
    assert capsys.readouterr().err == "toy: mend: this way.\n"


def test_a_fault_in_an_experiment_shows_where_it_is(command, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "run", lambda settings: len(settings.seed))
    with pytest.raises(TypeError, match="has no len"):
        command()


def test_what_a_run_compiles_is_kept(command, monkeypatch, tmp_path):
    runs_before = []
    monkeypatch.setattr(frame.train, "keep_compiled", lambda: runs_before.append(len(RUNS)))
    assert command("--out", tmp_path) == 0
    assert (runs_before, len(RUNS)) == ([0], 1)


SCRIPT = """
import sys
import sine
from metacontrast.train._mesh import resolve_mesh
def run(settings):  # nothing, with the devices that a run would have
    print(resolve_mesh(None) and dict(resolve_mesh(None).shape))
sine.EXPERIMENT.main(run)
"""


def script(*words):
    """Of a process of its own, since devices are chosen before JAX computes."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, words)],
        cwd=Path(frame.__file__).parent,
        capture_output=True,
        text=True,
    )


def test_devices_are_chosen_before_jax_starts(tmp_path):
    done = script("--method", "fomaml", "--devices", 2, "--out", tmp_path)
    assert done.stdout == "{'tasks': 2, 'parameters': 1}\n", done.stderr
    assert done.returncode == 0


def test_a_process_of_no_cluster_is_refused(tmp_path):
    done = script("--distributed", "--out", tmp_path)
    assert "sine: distributed: JAX finds no cluster here" in done.stderr
    assert done.returncode == 2


EARLY = """
import os, signal, sys
sys.argv[0] = "{started}"
signal.signal(signal.SIGINT, signal.default_int_handler)
import _quiet
{over}
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.parametrize(
    ("started", "over", "is_quiet"),
    [("sine.py", "", True), ("sine.py", "_quiet.over()", False), ("/usr/bin/pytest", "", False)],
)
def test_ctrl_c_before_the_start_is_a_line(started, over, is_quiet):
    command = [sys.executable, "-c", EARLY.format(started=started, over=over)]
    folder = Path(frame.__file__).parent
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert (done.stderr == "stopped before it began.\n") == is_quiet
    assert (done.returncode == 130) == is_quiet


def test_a_suggested_beta_is_that_of_the_tasks():
    """A learner that stops at a distance: the best nudge grows with it, as suggest_beta says."""
    problem = mc.Problem(
        init=lambda theta, task: theta,
        inner=lambda phi, theta, task: (phi - task) ** 2 + (phi - theta) ** 2,
        outer=lambda phi, theta, task: phi**2,
    )
    solver, theta, tasks = mc.descend(optax.sgd(0.05), 20), jnp.array(1.0), jnp.array([3.0, 4.0, 2])
    each = [float(suggest_beta(problem, solver, theta, task, "symmetric").beta) for task in tasks]
    rule = mc.Contrastive(1.0, "symmetric")
    beta = frame.suggested_beta(problem, solver, rule, theta, tasks)
    assert beta == pytest.approx(np.median(each), rel=1e-6)
