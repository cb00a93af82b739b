"""The command line, called from a test."""

import sys

from metacontrast import cli


def command(monkeypatch, *words):
    """The exit status of `metacontrast WORDS`."""
    monkeypatch.setattr(sys, "argv", ["metacontrast", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0
