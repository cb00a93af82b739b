"""Products on CPUs are computed without the kernels of XLA's that go wrong."""

import os
import platform
import subprocess
import sys

import pytest

from metacontrast import _xla

# A batch of products in float32, as a head of a few classes has them; how many of them are YNN's.
COUNTED = """
import metacontrast, jax, jax.numpy as jnp
a = jnp.ones((4, 60, 60))
f = jax.jit(lambda a: jax.lax.fori_loop(0, 3, lambda i, x: jnp.tanh(a @ x), a))
print(f.lower(a).compile().as_text().count("__ynn_fusion"))
"""


def counted(flags):
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    command = [sys.executable, "-c", COUNTED]
    return int(subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout)


@pytest.mark.skipif(platform.machine() not in _xla.MACHINES, reason="has no such kernels")
def test_no_product_of_a_program_is_theirs_unless_they_are_asked_for():
    assert counted("") == 0
    asked = f"--{_xla.OPTION}=LIBRARY_FUSION_TYPE_DOT"
    assert counted(asked) > 0  # so that the one before says something


@pytest.mark.parametrize(
    ("version", "machine", "given", "then"),
    [
        ("0.10.2", "x86_64", "", f"--{_xla.OPTION}="),
        ("0.12.0.1", "AMD64", "--xla_other=1", f"--xla_other=1 --{_xla.OPTION}="),
        ("0.11.0", "x86_64", f"--{_xla.OPTION}=LIBRARY_FUSION_TYPE_DOT", None),
        ("0.9.2", "x86_64", "", None),
        ("0.13.0", "x86_64", "", None),
        ("0.10.2", "arm64", "", None),
    ],
)
def test_flags_are_added_where_they_are_known_and_not_given(
    version, machine, given, then, monkeypatch
):
    monkeypatch.setattr(_xla, "jaxlib_version", version)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setenv("XLA_FLAGS", given)
    _xla.avoid_ynn()
    assert os.environ["XLA_FLAGS"] == (given if then is None else then)
