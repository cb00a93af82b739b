"""float64, in which the mathematics is exact, and no broadcasting that nobody asked for."""

import os

import jax
from hypothesis import settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", 4)  # the first is the default; see test_devices.py
jax.config.update("jax_numpy_rank_promotion", "raise")

# Tests compile afresh, unless they are about what is kept.
os.environ["METACONTRAST_COMPILED"] = "off"

# The same examples every time; and the first one compiles, so there is no deadline.
settings.register_profile("steady", derandomize=True, deadline=None, max_examples=25)
settings.load_profile("steady")
