"""The command of the wheel: demonstration, tables, data."""

import os
import signal
import sys

import pytest
from command import command

import metacontrast as mc
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
        (("nonsense",), "metacontrast: command: unknown 'nonsense'; choose one of demo, report,"),
        (
            ("demoo",),
            "unknown 'demoo'; did you mean 'demo'? Choose one of demo, report, watch",
        ),
        (("sine",), "experiments are beside the library, python experiments/NAME.py"),
        (("completion", "fish"), "bash"),
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


def test_it_says_its_version_and_its_help(monkeypatch, capsys):
    assert command(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"metacontrast {mc.__version__}\n"
    assert command(monkeypatch, "-h") == 0
    assert "--version" in capsys.readouterr().out


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_it_completes_words_in_shells(shell, monkeypatch, capsys):
    assert command(monkeypatch, "completion", shell) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in ("metacontrast", *cli.COMMANDS))


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"]
)
def test_one_that_is_told_to_end_says_so_in_a_line(number, status, capsys):
    with pytest.raises(SystemExit) as stop, cli.ends_in_words("report"):
        os.kill(os.getpid(), number)
    assert stop.value.code == status
    (said,) = capsys.readouterr().err.splitlines()
    assert "stopped; what it had finished is kept" in said and "--resume" in said


def test_what_a_run_says_of_its_end_is_what_is_said():
    with pytest.raises(SystemExit) as stop, cli.ends_in_words("sine"):
        raise KeyboardInterrupt("stopped at meta-step 15")
    assert stop.value.code == 130
