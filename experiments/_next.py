"""The core's names, for experiments that were moved before they came: this file goes."""

from metacontrast import Synapse as Synapse
from metacontrast import solve_inner as solve_inner
from metacontrast.train import meta_train as meta_train
