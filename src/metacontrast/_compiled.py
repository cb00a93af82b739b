"""Programs compiled by earlier commands, kept on disk so that the next one starts at once."""

from __future__ import annotations

import hashlib
import os
import platform
from pathlib import Path

import jax
from jaxlib.version import __version__ as jaxlib_version

from ._user_cache import user_cache
from ._warn import warn

VARIABLE = "METACONTRAST_COMPILED"


def keep_compiled() -> Path | None:
    """Turn JAX's persistent compilation cache on, for this process; the command line does.

    The folder is `$METACONTRAST_COMPILED`, else `compiled` in the user's cache, and in it one for
    each jaxlib and kind of processor: a program compiled for another one may crash. Whole folders
    can be deleted at any time; a damaged file costs a warning and a compilation. A setting of
    JAX's own (`JAX_COMPILATION_CACHE_DIR`, `JAX_ENABLE_COMPILATION_CACHE=false`) is respected.

    Returns:
        The folder; None where `$METACONTRAST_COMPILED` is "off", or JAX has a folder already, or
        the folder cannot be made, which warns.
    """
    given = os.environ.get(VARIABLE)
    known = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if given == "off" or known:
        return None
    base = Path(given).expanduser() if given else user_cache() / "compiled"
    folder = base / _machine()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        warn(
            f"Compiled programs are not kept, since their folder cannot be made ({error}); point "
            f"{VARIABLE} at another one, or set it to off.",
            UserWarning,
        )
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # By default JAX keeps what took a second to compile; a run has dozens that take less.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return folder


def _machine() -> str:
    """The jaxlib, and the processor with its features, where the system tells them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    kind = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    digest = hashlib.sha256("\n".join([platform.processor(), *kind]).encode()).hexdigest()
    return f"jaxlib-{jaxlib_version}-{platform.machine()}-{digest[:12]}"
