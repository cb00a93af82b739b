"""The command of the wheel: demonstration, tables, data."""

import pytest
from command import command

from metacontrast import _compiled, _demo


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
