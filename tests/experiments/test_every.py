"""What holds for every experiment in the folder, without running it."""

import ast
import dataclasses
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import frame
import pytest
from options import parse

FOLDER = Path(frame.__file__).parent
SHARED = {"frame", "options"}
NAMES = sorted(p.stem for p in FOLDER.glob("[!_]*.py") if p.stem not in SHARED)


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_imports_no_other_one(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = {a.name for x in ast.walk(tree) if isinstance(x, ast.Import) for a in x.names}
    imported |= {x.module for x in ast.walk(tree) if isinstance(x, ast.ImportFrom)}
    assert not imported & set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_methods_and_their_settings_have_one_name(name):
    experiment = import_module(name).EXPERIMENT
    assert experiment.name == name.replace("_", "-")
    assert {m: s.method for m, s in experiment.methods.items()} == {
        m: m for m in experiment.methods
    }
    assert experiment.default in (*experiment.methods, "all")
    for settings in experiment.methods.values():
        assert type(settings.shorten()) is type(settings)
        # What is no setting of a result is none where a subclass says it anew.
        compared = {f.name for f in dataclasses.fields(settings) if f.compare}
        assert not compared & {f.name for f in dataclasses.fields(frame.Settings) if not f.compare}


def changed(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return tuple(map(changed, value))
    return value if value is None or isinstance(value, str) else value + type(value)(1)


@pytest.mark.parametrize("name", NAMES)
def test_the_command_that_a_result_names_is_that_run(name):
    """Also where nothing is as it is by default, but for words, of which only some are allowed."""
    experiment = import_module(name).EXPERIMENT
    method, default = next(iter(experiment.methods.items()))
    values = {f.name: getattr(default, f.name) for f in dataclasses.fields(default) if f.compare}
    others = {x: changed(y) for x, y in values.items() if x != "steps" or y}
    for settings in (default, dataclasses.replace(default, **others)):
        python, file, *words = experiment.command(settings).split()
        assert (python, file) == ("python", f"experiments/{name}.py")
        defaults = {method: experiment.default_of(settings)}
        assert parse(defaults, method, words, "") == [settings]
    assert experiment.command(default) == f"python {file} --method {method} --seed 0"


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_every_setting_and_says_how_it_is_run(start, capsys, name):
    module = import_module(name)
    assert start(module, "--help") == 0
    shown = capsys.readouterr().out
    for method, settings in module.EXPERIMENT.methods.items():
        assert method in shown
        for option in vars(settings):
            # What is on is shown with the word that ends it.
            assert re.search(f"--(no-)?{option.replace('_', '-')}\\b", shown)
    for option in ("mesh", "distributed", "coordinator", "process"):
        assert f"--{option}" in shown
    assert f"python experiments/{name}.py" in shown


EACH = """
import sys
from importlib import import_module
for name in sys.argv[1:]:
    import_module(name)
    from jax._src import xla_bridge
    assert not xla_bridge.backends_are_initialized(), name
"""


def test_no_experiment_computes_when_it_is_imported():
    """Or the choice of devices would come too late."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, *NAMES], cwd=FOLDER, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
