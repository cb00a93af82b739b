"""Experiments are beside the library, and run in seconds here."""

import sys
from pathlib import Path

import pytest

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))


@pytest.fixture
def start(monkeypatch):
    """`start(module, *words)`: the exit status of `python experiments/MODULE.py WORDS`."""

    def called(module, *words):
        monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, words)])
        try:
            module.EXPERIMENT.main(module.run)
        except SystemExit as stop:
            return stop.code
        return 0

    return called
