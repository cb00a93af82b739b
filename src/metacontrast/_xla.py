"""A fault of XLA's on CPUs, which is kept out of this process."""

from __future__ import annotations

import os
import platform

from jaxlib.version import __version__ as jaxlib_version

# Which float32 products and sums are left to these kernels; where none is named, none.
OPTION = "xla_cpu_experimental_ynn_fusion_type"
# Those that were tried; a jaxlib that does not know the option would end at it.
FIRST, BEHIND = (0, 10), (0, 13)
MACHINES = ("x86_64", "AMD64")


def avoid_ynn() -> None:
    """Have XLA compute float32 products and sums on CPUs without the kernels named YNN.

    With them the same run with the same seed is right in one process, and in another one all of it
    is not finite, or stands still (docs/results/devices.md). To be called before JAX computes,
    by `XLA_FLAGS`: what these say of `--xla_cpu_experimental_ynn_fusion_type` already is kept.
    """
    given = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in jaxlib_version.split(".")[:2])
    if FIRST <= version < BEHIND and platform.machine() in MACHINES and OPTION not in given:
        os.environ["XLA_FLAGS"] = f"{given} --{OPTION}=".strip()
