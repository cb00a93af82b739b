"""Compiled programs are kept from one command to the next, and change no result."""

import json
import subprocess
import sys

import jax
import jaxlib
import pytest
import toy_run
from toy_run import lines

from metacontrast._compiled import VARIABLE, keep_compiled

SCRIPT = """
import collections, json, sys
import jax
from metacontrast._compiled import keep_compiled
from toy_run import toy_run

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.split("/")[-1]]))
jax.config.update("jax_enable_x64", True)
keep_compiled()
trained = toy_run(sys.argv[1], steps=int(sys.argv[2]), resume=True)
print(json.dumps([counts["cache_hits"], counts["cache_misses"], trained.theta["spring"].tolist()]))
"""


# Without the folder that the tests themselves keep what they compile in.
OUTSIDE = toy_run.environment()
OUTSIDE.pop("JAX_COMPILATION_CACHE_DIR", None)


def process(out, steps, cache):
    """Start or resume the toy run in a process of its own: hits, misses, theta; and its stderr."""
    env = OUTSIDE | {VARIABLE: str(cache)}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(out), str(steps)],
        env=env, check=True, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    return *json.loads(ended.stdout), ended.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped, which found nothing compiled."""
    root = tmp_path_factory.mktemp("compiled")
    hits, misses, theta, _ = process(root / "whole", 95, root / "cache")
    assert hits < misses
    assert len(list((root / "cache").rglob("*-cache"))) == misses
    return root, theta


@pytest.mark.thorough
def test_a_run_resumed_with_kept_programs_is_bit_for_bit_the_run_that_was_not(whole):
    root, theta = whole
    process(root / "part", 50, root / "cache")
    hits, misses, resumed, errors = process(root / "part", 95, root / "cache")
    assert hits > 0
    # All but what a restored checkpoint alone is put on the device by.
    assert misses <= 3
    assert "Error" not in errors
    assert resumed == theta
    assert lines(root / "part") == lines(root / "whole")


@pytest.mark.thorough
def test_damaged_programs_warn_and_are_compiled_again(tmp_path):
    _, _, theta, _ = process(tmp_path / "first", 20, tmp_path / "cache")
    for i, file in enumerate(sorted((tmp_path / "cache").rglob("*-cache"))):
        content = file.read_bytes()
        file.write_bytes(content[: len(content) // 2] if i % 2 else b"nonsense")
    hits, _, found, errors = process(tmp_path / "second", 20, tmp_path / "cache")
    assert "Error reading persistent compilation cache entry" in errors
    assert hits == 0
    assert found == theta


@pytest.fixture
def jax_config():
    """No folder yet; and what keeping changes, put back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield before
    for name, value in before.items():
        jax.config.update(name, value)


def test_the_folder_is_of_this_jaxlib_and_processor(jax_config, monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = keep_compiled()
    assert folder.parent == tmp_path / "metacontrast" / "compiled"
    assert jaxlib.__version__ in folder.name
    assert jax.config.jax_compilation_cache_dir == str(folder)
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setattr("platform.processor", lambda: "another one")
    assert keep_compiled() not in (folder, None)


def test_off_and_what_jax_itself_was_told_change_nothing(jax_config, monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "off")
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.setenv(VARIABLE, str(tmp_path / "ours"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "theirs"))
    assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "theirs")
    assert not (tmp_path / "ours").exists()


def test_a_folder_that_cannot_be_made_warns(jax_config, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=VARIABLE):
        assert keep_compiled() is None
    assert jax.config.jax_compilation_cache_dir is None


def test_the_library_is_imported_without_what_only_runs_and_figures_need():
    heavy = ["metacontrast.train", "matplotlib", "PIL", "sklearn", "torch", "tyro", "scipy.stats"]
    code = f"import sys, jax, metacontrast; print([m for m in {heavy} if m in sys.modules])"
    code += "; print(jax.config.jax_compilation_cache_dir)"  # importing keeps nothing
    ended = subprocess.run(
        [sys.executable, "-c", code], env=OUTSIDE, check=True, capture_output=True, text=True
    )
    assert ended.stdout.split() == ["[]", "None"]
