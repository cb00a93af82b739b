"""Tests compute in float64, in which the mathematics is exact, and compile each program once."""

from __future__ import annotations

import gc
import hashlib
import os
import platform
import signal
from importlib.util import find_spec
from pathlib import Path

import jax
import pytest
from hypothesis import settings
from jaxlib.version import __version__ as jaxlib_version

# Nothing here imports the library, so that jaxtyping's hook can (--jaxtyping-packages).
ROOT = Path(__file__).parent

# PyTorch comes into .venv when it is asked for: `make .venv/torch`.
OF_TORCH = ["src/metacontrast/torch", "docs/torch.md", "tests/library/torch_problems.py"]
collect_ignore = [] if find_spec("torch") else OF_TORCH
# Nor is flax, of which one page is, in every environment.
collect_ignore += [] if find_spec("flax") else ["docs/flax.md"]
collect_ignore_glob = [] if find_spec("torch") else ["benchmarks/_torch_*.py"]

# Tests spend their time on tracing and compiling, not on computing: the compiler optimises nothing,
# and the garbage of tracing is collected seldom. Newer jaxlibs do not know the last flag.
gc.set_threshold(200_000, 100, 100)
FASTER = ["--xla_backend_optimization_level=0", "--xla_cpu_parallel_codegen_split_count=1"]
if jaxlib_version.startswith("0.10."):
    FASTER += ["--xla_cpu_use_fusion_emitters=false"]
given = os.environ.get("XLA_FLAGS", "").split()
os.environ["XLA_FLAGS"] = " ".join(given + [flag for flag in FASTER if flag not in given])

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)  # the first is the default; see test_devices.py
jax.config.update("jax_numpy_rank_promotion", "raise")


def compiled_here() -> Path:
    """Of this jaxlib and processor: a program compiled for another one may crash."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    kind = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    digest = hashlib.sha256("\n".join([platform.processor(), *sorted(kind)]).encode()).hexdigest()
    return ROOT / ".compiled" / f"jaxlib-{jaxlib_version}-{platform.machine()}-{digest[:12]}"


# What one process or run of the tests has compiled, the next one finds, as do the processes that
# tests start; `make clean` forgets it. The command line keeps nothing of what it compiles in tests.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(compiled_here()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
least = float(os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
os.environ["METACONTRAST_COMPILED"] = "off"
# Nor do the small runs of tests look at their first meta-gradient; see test_diagnosed.py.
os.environ["METACONTRAST_DIAGNOSE"] = "off"

# What a shell starts in the background ignores Ctrl-C, which some tests send.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time; and the first one compiles, so there is no deadline.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("steady")


# Cases of what another case holds too, by their ids: `make test` leaves them to `make
# test-thorough`. What is thorough as a whole is marked where it stands.
REPEATS = frozenset((ROOT / "tests" / "repeats.txt").read_text().splitlines())


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The tier of a test is its folder, tests/core, tests/library or tests/experiments."""
    for item in items:
        parts = item.path.relative_to(ROOT).parts
        if parts[0] == "tests" and len(parts) > 2:
            item.add_marker(parts[1])
        if item.nodeid in REPEATS:
            item.add_marker("thorough")
    if config.args == config.getini("testpaths"):  # all of them
        files = {item.nodeid.split("::")[0] for item in items}
        here = {name for name in REPEATS if name.split("::")[0] in files}
        if gone := here - {item.nodeid for item in items}:
            raise pytest.UsageError(f"tests/repeats.txt: there is no {min(gone)} any more")
