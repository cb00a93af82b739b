"""Figures of speed and memory: against the bare learner, other libraries, and size."""

from ._run import PARTS as PARTS
from ._run import bench as bench
