"""The command of the wheel: demonstration, tables, data."""

import os
import sys

import pytest
from command import command

from metacontrast import _compiled, _demo, cli


def test_the_demonstration_keeps_what_it_compiles(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(_compiled, "keep_compiled", lambda: calls.append("keep_compiled"))
    monkeypatch.setattr(_demo, "demo", calls.append)
    assert command(monkeypatch, "demo", "--out", tmp_path) == 0
    assert calls == ["keep_compiled", tmp_path]


def test_without_a_word_it_says_what_it_can_do(monkeypatch, capsys):
    assert command(monkeypatch) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("demo", "report", "data"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("report", "nowhere"), "metacontrast: runs: no result.json is below nowhere"),
        (("data", "verify", "nonsense"), "metacontrast: name: unknown 'nonsense'"),
        (("data",), "fetch"),
        (("nonsense",), "nonsense"),
    ],
)
def test_bad_input_says_what_is_expected(words, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_has_enough_ends_it_without_a_word(lines, monkeypatch, capsys):
    """As `head` does; a single line is not written before the end."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as out:  # which writes what is left, and must not fail
        monkeypatch.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as stop, cli.ends_in_words("report"):
            print("word\n" * lines, end="")
    assert stop.value.code == cli.BROKEN_PIPE
    assert capsys.readouterr().err == ""
