"""Test data have no part in what is chosen: one spy for all experiments."""

import ast
import sys
from dataclasses import replace
from importlib import import_module
from types import ModuleType, SimpleNamespace

import _cifar10
import _few_shot
import frame
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from test_every import FOLDER, NAMES

import metacontrast as mc
from metacontrast.tasks import Images
from metacontrast.train import Trained

FEW = dict(valid_tasks=2, test_tasks=2, test_queries=3)
CLASSES = FEW | dict(way=3, train_way=3, queries=3, views=0, size=16, filters=(2, 2, 2, 2))
SMALL = {
    "bandit": dict(valid_tasks=2),
    "cifar10_l2": dict(images=20, valid_images=30, batch=5),
    "complementary": FEW,
    "complementary_characters": FEW | dict(hidden=4, way=3),
    "credit": FEW,
    "denoise": dict(patches=1, valid_patches=1, test_patches=1),
    "estimators": FEW | dict(rates=(0.1,)),
    "hypercleaning": dict(images=8, valid_images=4),
    "miniimagenet": CLASSES,
    "omniglot": CLASSES,
    "reweight": dict(chars=4000, width=8, depth=1, heads=2),
    "sine": FEW,
    "spiking": FEW,
}
UNTESTED = {"cifar10_overfit", "theory", "theory_bound"}  # which have no test data
# What else than `meta_train` chooses.
CHOOSERS = {
    "cifar10_l2": ["best_number"],
    "denoise": ["learn"],
    "estimators": ["theta_or_none", "validate"],
    "reweight": ["train"],
}
EACH = [(name, method) for name in SMALL for method in import_module(name).EXPERIMENT.methods]


class Read(Exception):
    """Of test data, after the choice: the run ends here."""


def images(part, split=None, size=16, channels=1):
    """Six classes, other ones in each part, of images none of which there is twice."""
    rng = np.random.default_rng(["train", "valid", "test"].index(part))
    pixels = rng.integers(0, 256, (6, 20, size, size, channels)).astype(np.uint8)
    return Images(pixels, tuple(f"{part}{i}" for i in range(6)))


def stubs(name, folder):
    """Small made-up data of an experiment, and what stands for its computations."""
    zeros = lambda *_: np.zeros(2)
    match name:
        case "cifar10_l2":
            photographs.save(folder, "train", 60, seed=0)
            learning = lambda *_: zeros
            scores = lambda *_: np.zeros((2, 2))
            return {"learning": learning, "scores": scores, "figure": lambda *_: None}
        case "denoise":
            errors = lambda *_: SimpleNamespace(error=np.ones(1))
            step = lambda theta, state, key: (theta, state, 0.0)
            picture = lambda part: jnp.zeros((40, 40), jnp.float32)
            return {"photograph": picture, "scorer": lambda s: errors, "meta_step": lambda *_: step}
        case "estimators":
            speeds = lambda s, names: dict.fromkeys(names, 1.0)
            trained = lambda *_: SimpleNamespace(theta="trained")
            return {"measure_speeds": speeds, "_meta_train": trained}
        case "hypercleaning":
            digits = lambda part: (np.zeros((12, 28, 28), np.uint8), np.zeros(12, np.int32))
            return {"mnist": digits, "learners": lambda *_: (None, None)}
        case "reweight":
            return {"judge_of": lambda *_: zeros, "train": lambda *_: SimpleNamespace(phi=None)}
        case "complementary_characters" | "omniglot":
            return {"omniglot": images}
        case "miniimagenet":
            return {"miniimagenet": lambda part, size: images(part, size=size, channels=3)}
    return {}


@pytest.fixture
def spied(monkeypatch, tmp_path):
    """`spied(name, module)`: what the run of an experiment chooses, in order, as it goes on.

    Whatever chooses finds the gate shut, and the first look at test data ends the run.
    """
    done, gates = [], []

    def chooses(name, function):
        def noted(*args, **options):
            with pytest.raises(RuntimeError, match="tests: read before anything is chosen"):
                gates[-1].open()
            result = function(*args, **options)
            done.append(name)
            return result

        return noted

    def meta_train(self, s, *parts, validate, **options):
        theta = parts[4]
        validate(theta, None) if options.get("warm_start") else validate(theta)
        return Trained(theta, theta, (), best_step=1)

    class Tests(frame.Tests):
        def __init__(self, read):
            super().__init__(self.ends)
            gates.append(self)

        def ends(self, part):
            raise Read(part)

        def chosen(self, choice):
            done.append("chosen")
            return super().chosen(choice)

    def prepared(name, module):
        fakes = stubs(name, tmp_path)
        if hasattr(module, "evaluator"):
            fakes["evaluator"] = lambda *args, **options: lambda theta, tasks: np.zeros(2)
        for stub, value in fakes.items():
            monkeypatch.setattr(module, stub, value)
        for chooser in CHOOSERS.get(name, ()):
            monkeypatch.setattr(module, chooser, chooses(chooser, getattr(module, chooser)))
        return done

    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    monkeypatch.setattr(_cifar10, "NET", photographs.NET)
    monkeypatch.setattr(_few_shot, "scorer", lambda *_: lambda theta, stacks: np.zeros(2))
    monkeypatch.setattr(mc, "lbfgs", lambda *_: mc.as_solver(lambda loss, phi: phi))
    monkeypatch.setattr(frame, "suggested_beta", lambda *_: 0.1)
    monkeypatch.setattr(frame, "Tests", Tests)
    monkeypatch.setattr(frame, "stack_tasks", lambda sample_task, part, n: part)
    monkeypatch.setattr(frame.Experiment, "meta_train", chooses("meta_train", meta_train))
    return prepared


def settings(name, module, method, out):
    s = replace(module.EXPERIMENT.methods[method], out=out, **SMALL[name])
    return replace(s, steps=min(s.steps, 2))


@pytest.mark.parametrize(("name", "method"), EACH)
def test_no_test_data_are_read_before_the_choice(name, method, spied, tmp_path):
    module = import_module(name)
    s, done = settings(name, module, method, tmp_path / "run"), spied(name, module)
    with pytest.raises(Read, match=r"^test$"):
        module.run(s)
    choices = ["meta_train"] if s.steps else []
    match name:
        case "denoise":
            choices = ["learn"]
        case "estimators":  # the rate, and then its theta
            choices = ["theta_or_none", "validate", "theta_or_none"]
        case "cifar10_l2":
            choices = choices or ["best_number"]
        case "reweight":  # the mixture, and then a model of it
            choices = [*choices, "train"]
    assert done == [*choices, "chosen"]


@pytest.mark.parametrize(
    ("name", "honest", "early"),
    [
        ("sine", "meta_train(s, of, scores)\n", "tests.open()\n"),
        ("estimators", 'tasks("valid", s.valid_tasks)', "tests.open()"),
        (
            "cifar10_l2",
            "best_number(s, learn, photos.valid)",
            "best_number(s, learn, tests.open())",
        ),
    ],
)
def test_an_experiment_that_reads_them_early_is_stopped(
    name, honest, early, spied, tmp_path, monkeypatch
):
    source = (FOLDER / f"{name}.py").read_text()
    assert source.count(honest) == 1
    module = ModuleType(f"early_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(source.replace(honest, early), module.__dict__)
    done, method = spied(name, module), {"cifar10_l2": "grid"}.get(name, module.EXPERIMENT.default)
    method = next(iter(module.EXPERIMENT.methods)) if method == "all" else method
    with pytest.raises(RuntimeError, match="tests: read before anything is chosen"):
        module.run(settings(name, module, method, tmp_path / "run"))
    assert "chosen" not in done


def test_a_choice_is_made_once():
    tests = frame.Tests(lambda part: part)
    assert tests.chosen("theta") == "theta" and tests.open() == "test"
    with pytest.raises(RuntimeError, match="the choice is made once"):
        tests.chosen("another")


def test_every_experiment_with_test_data_goes_through_the_gate():
    assert set(NAMES) == SMALL.keys() | UNTESTED
    for name in UNTESTED:
        assert "frame.Tests" not in (FOLDER / f"{name}.py").read_text()


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_nothing_but_the_gate_asks_for_test_data(path):
    """No other call is given "test", and no other file knows the seed of test tasks."""
    source = path.read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    given = [x for call in calls for x in (*call.args, *(k.value for k in call.keywords))]
    asks = [x for x in given if isinstance(x, ast.Constant) and x.value == "test"]
    assert len(asks) == (path.stem == "_held_out")
    assert ("SEEDS" in source) is (path.stem in ("_held_out", "frame"))
