"""Speed and memory: against the bare learner, other libraries, and size. `python -m benchmarks`."""
