"""How the processes of the benchmark of XLA's kernels are told apart."""

import subprocess

import pytest

from benchmarks import kernels
from benchmarks._precision_report import ENDS
from benchmarks._precision_report import kernels as table


@pytest.mark.parametrize(
    ("code", "said", "end"), [(0, "", "right"), (1, "DivergedError: meta-step 1", "diverged")]
)
def test_a_process_ends_well_or_diverges(code, said, end, tmp_path, monkeypatch):
    def run(command, env, **options):
        assert command[-3:-1] == ["highest", "--out"] and "MALLOC_PERTURB_" in env
        assert env["XLA_FLAGS"] == "--xla_cpu_experimental_ynn_fusion_type=SUMS"
        return subprocess.CompletedProcess(command, code, "", said)

    monkeypatch.setattr(subprocess, "run", run)
    assert kernels.outcome("highest", "SUMS", tmp_path) == end


def test_one_that_does_neither_stands_still_or_is_an_error(tmp_path, monkeypatch):
    def late(command, timeout, **options):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", late)
    assert kernels.outcome("highest", "", tmp_path) == "stood still"
    broken = subprocess.CompletedProcess([], 1, "", "no such file")
    monkeypatch.setattr(subprocess, "run", lambda *args, **options: broken)
    with pytest.raises(RuntimeError, match="no such file"):
        kernels.outcome("highest", "", tmp_path)


def test_the_table_counts_every_end():
    row = dict(precision="highest", kernels="none", processes=6)
    head, line = table([row | dict(zip(ENDS, (1, 2, 3), strict=True))]).splitlines()
    assert head.split()[:3] == ["network", "kernels", "processes"]
    assert line.split() == ["highest", "none", "6", "1", "2", "3"]
