"""The page of runs: what it shows, what it makes of files of strangers, how it looks."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from browser import browser, missing
from command import command
from PIL import Image

pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'metacontrast[plots]'")
pytest.importorskip("matplotlib", reason="matplotlib is not installed: see the extra plots")

from metacontrast.report import look, write_page
from metacontrast.report._curves import spread
from metacontrast.report._runs import LARGEST
from metacontrast.train import summarise, write_result

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{7*7}}[bold]$\\frac{"


def finished(folder, method, seed, losses, rate, **changes):
    """What a run leaves, as `experiments/frame.py` and `meta_train` write it."""
    facts = dict(
        experiment="sine", method=method, metric="error", seeds=[seed], meta_steps=30, seconds=2.0,
        reference="0.4 +- 0.1", rows={method: "0.4 +- 0.1", "maml": "0.435"},
        settings={"method": method, "seed": seed, "rate": rate, "free": 100},
        command=f"python experiments/sine.py --method {method} --seed {seed}",
    ) | changes  # fmt: skip
    write_result(folder, summarise([losses[-1], losses[-1] + 0.1], **facts))
    config = facts["settings"] | {"experiment": facts["experiment"], "depends_on": {"x.code": "f"}}
    (folder / "config.json").write_text(json.dumps(config))
    lines = [
        {"step": 10 * i + 10, "meta_loss": 1.0, "residual": 0.1, "diverged": 0, "flagged": i,
         "flags": {"idle": i} if i else {}, "valid_loss": loss}
        for i, loss in enumerate(losses)
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text + '{"step": 40, "valid')  # still being written
    (folder / "diagnosis.txt").write_text("trust: it agrees.\n  cosine: 0.99\n")
    Image.new("RGB", (900, 300), "white").save(folder / "predictions.png")


@pytest.fixture
def runs(tmp_path):
    """Two methods, one of them with two seeds; of two experiments."""
    root = tmp_path / "runs"
    for seed in (0, 1):
        finished(root / f"cml-gd/seed{seed}", "cml-gd", seed, [1.0, 0.5, 0.1 + 0.02 * seed], 0.1)
    finished(root / "maml/seed0", "maml", 0, [2.0, 1.0, 0.5], 0.2)
    finished(root / "other", "cg", 0, [2.0, 1.0, 0.5], 0.2, experiment="bandit", rows={})
    return root


def test_the_page_has_what_the_runs_left(runs, tmp_path, monkeypatch, capsys):
    assert command(monkeypatch, "report", runs, "--html", tmp_path / "new/page.html") == 0
    assert "0.1600 +-" in capsys.readouterr().out  # the table, as before
    page = (tmp_path / "new/page.html").read_text()
    assert "0.1600 ± 0.1271" in page and "0.4 ± 0.1" in page  # 0.15 and 0.17, by Student's t
    for method in ("cml-gd", "maml", "cg"):
        assert f">{method}</text>" in page  # in the curves' legend
        assert look(method).color in page
    assert "mean over seeds: cml-gd: 0.11, maml: 0.5" in page  # what the drawing says without eyes
    assert "trust: it agrees." in page and "cosine: 0.99" in page
    assert "--method cml-gd --seed 1" in page and "x.code" not in page
    assert re.search(r'class="marked"><th scope="row">rate</th><td>0.1</td><td>0.2</td>', page)
    assert re.search(r'<tr><th scope="row">free</th><td>100</td>', page)  # the same for all
    flags = re.search(r"cml-gd, seed 0</th>(.*?)</tr>", page, re.DOTALL)[1]
    assert re.findall(r">(\d+)</td>", flags) == ["30", "0", "3", "3"]  # step, 0 diverged, 3 idle
    assert page.count("data:image/png;base64,") == 4


def test_curves_are_the_mean_over_seeds_where_all_have_one():
    line = lambda step, loss: {"step": step, "loss": loss}
    one, other = [line(1, 1.0), line(2, 2.0)], [line(2, 4.0), line(3, 0.0)]
    steps, mean, low, high = spread([one, other, []], "loss")
    assert [x.tolist() for x in (steps, mean, low, high)] == [[2], [3.0], [2.0], [4.0]]
    assert spread([], "loss")[0].size == 0
    assert np.isnan(spread([[line(1, "2")]], "loss")[1]).all()


def test_what_strangers_wrote_is_shown_as_text_or_left_out(tmp_path, monkeypatch, capsys):
    root = tmp_path / "runs"
    evil = dict(experiment=EVIL, metric=EVIL, reference=EVIL, rows={EVIL: EVIL}, command=EVIL)
    finished(root / "evil", EVIL, 0, [2.0, 1.0, 0.5], 0.1, **evil, settings={EVIL: [EVIL]})
    (root / "evil/diagnosis.txt").write_text(EVIL + "\x1b[2J")
    (root / "evil/not-an-image.png").write_text(EVIL)
    (tmp_path / "secret.png").write_bytes((root / "evil/predictions.png").read_bytes())
    (root / "evil/link.png").symlink_to(tmp_path / "secret.png")
    os.mkfifo(root / "evil/pipe.png")
    for i, result in enumerate(["[" * 100_000, "[]", '{"experiment": 1}', "\0", '{"value": NaN}']):
        (root / f"broken{i}").mkdir()
        (root / f"broken{i}" / "result.json").write_text(result)
    (root / "odd").mkdir()
    odd = '{"step": 1e999}\n[1]\n{"step": true}\n{"step": 3, "meta_loss": "x", "flags": 7}\n\xff\n'
    (root / "odd/metrics.jsonl").write_text(odd)
    page = write_page(root, tmp_path / "page.html").read_text()
    assert "<script" not in page and "<img src=x" not in page
    assert "&lt;script&gt;alert(1)" in page and "{{7*7}}" in page and "\x1b" not in page
    assert "default-src 'none'" in page
    assert page.count("data:image/png") == 1  # neither text, link nor pipe
    assert page.count("it is left out") == 2 and page.count("is no result of this library") == 3
    shutil.rmtree(root / "broken0")
    shutil.rmtree(root / "broken3")
    assert command(monkeypatch, "report", root) == 2  # the table alone is of results, or none
    assert "broken1/result.json is no result of this library (no object)" in capsys.readouterr().err
    shutil.rmtree(root / "broken1")
    shutil.rmtree(root / "broken2")
    shutil.rmtree(root / "broken4")
    assert command(monkeypatch, "report", root) == 0
    assert "[bold]" in capsys.readouterr().out  # no markup


def test_files_too_large_are_not_read(tmp_path, monkeypatch):
    finished(tmp_path / "runs", "cml-gd", 0, [1.0, 0.5, 0.1], 0.1)
    monkeypatch.setitem(LARGEST, "metrics.jsonl", 100)
    page = write_page(tmp_path / "runs", tmp_path / "page.html").read_text()
    assert re.search(r"metrics.jsonl has \d{3} bytes, more than", page)
    assert "Learning curves" not in page


def test_where_nothing_ran_it_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"runs: no result.json and no metrics.jsonl is"):
        write_page(tmp_path, tmp_path / "page.html")


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
def test_in_a_browser_nothing_is_wrong_with_it(runs, tmp_path):
    finished(runs / "evil", EVIL, 0, [2.0, 1.0, 0.5], 0.1, settings={EVIL: EVIL * 3})
    page = write_page(runs, tmp_path / "page.html")
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page.read_text())  # it loads nothing
    with browser() as chromium:
        assert chromium.problems(page.as_uri()) == []
        assert chromium.run("return document.scripts.length") == 0
        tables = "[...document.querySelectorAll('table')]"
        assert chromium.run(f"return {tables}.filter(t => !t.caption).length") == 0
        shown = chromium.run("return document.querySelector('.curves svg').textContent")
        assert "cml-gd" in shown and Path(page).is_file()
