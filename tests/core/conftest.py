"""What these tests cost is compilation, of small programs that run for milliseconds."""

import os

import jaxlib

# The compiler is told not to try hard, which takes it less than half of the time. In the environment,
# because programs that tests start and pytest's other processes are to do the same.
FLAGS = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 12):  # newer ones abort on it
    FLAGS += ["--xla_cpu_use_fusion_emitters=false"]
os.environ.setdefault("XLA_FLAGS", " ".join(FLAGS))
