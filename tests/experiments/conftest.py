"""Experiments are beside the library, and run in seconds here."""

import sys
import warnings
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


@pytest.fixture(autouse=True)
def learners_of_few_steps():
    """What takes seconds has not converged, and says so."""
    with warnings.catch_warnings():
        for said in ("the meta-gradient may be wrong", "Of .* some are flagged"):
            warnings.filterwarnings("ignore", said)
        yield
