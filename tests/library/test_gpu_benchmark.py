"""The script for a GPU, on a CPU at toy size."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ("checked", "tested", "conv-lowering.json", "gpu-speed.json")
RESULTS += ("gpu-20w1s.json", "gpu-20w5s.json")


def script(out, *parts, **more):
    settings = more | {"OUT": str(out), "PYTHON": sys.executable, "SMALL": "1"}
    command = ["bash", "benchmarks/gpu.sh", *parts]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )


def test_what_has_its_result_is_not_done_again(tmp_path):
    for name in RESULTS:
        (tmp_path / name).touch()
    done = script(tmp_path)
    assert done.stdout.count("done before") == len(RESULTS)
    assert done.returncode == 0


def test_a_cell_is_named_by_experiment_method_and_shots(tmp_path):
    names = ("omniglot-cml-syn-5", "omniglot-imaml-cg-1", "miniimagenet-cml-head-1")
    for name in names:
        (tmp_path / f"gpu-{name}.json").touch()
    done = script(tmp_path, *names)
    assert sorted(done.stdout.splitlines()) == sorted(f"{name}: done before" for name in names)
    assert done.returncode == 0
    wrong = script(tmp_path, "omniglot-cml-syn-3")
    assert "omniglot-cml-syn-3: no part is called so" in wrong.stderr and wrong.returncode == 1


@pytest.mark.thorough
def test_parts_run_by_themselves_and_a_failure_is_said(tmp_path):
    done = script(tmp_path, "check", "lowering")
    assert done.returncode == 0, done.stdout
    assert "patches_ms" in (tmp_path / "conv-lowering.json").read_text()
    # In a folder without data.
    failed = script(tmp_path, "check", "train-1", METACONTRAST_DATA=str(tmp_path))
    assert "check: done before" in failed.stdout
    assert "train-1: FAILED" in failed.stdout
    assert failed.returncode == 1
