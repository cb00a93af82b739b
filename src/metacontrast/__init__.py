"""Meta-learning by contrast: the gradient of how well a learner learned, from two runs of it."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from ._argmin import argmin as argmin
from ._check import check as check
from ._checked import check_public as _check_public
from ._contrast import contrast as contrast
from ._diagnose import Diagnosis as Diagnosis
from ._diagnose import diagnose as diagnose
from ._estimator._base import Estimator as Estimator
from ._estimator._base import MetaGradient as MetaGradient
from ._estimator._base import Phases as Phases
from ._estimator._contrastive import Contrastive as Contrastive
from ._estimator._evolution import Evolution as Evolution
from ._estimator._first_order import FirstOrder as FirstOrder
from ._estimator._first_order import Reptile as Reptile
from ._estimator._implicit import Implicit as Implicit
from ._estimator._trajectory import Trajectory as Trajectory
from ._estimator._unrolled import Unrolled as Unrolled
from ._flags import Flags as Flags
from ._influence import Influence as Influence
from ._influence import influence as influence
from ._loss import Loss as Loss
from ._meta_loss import meta_gradient as meta_gradient
from ._meta_loss import meta_loss as meta_loss
from ._problem import Data as Data
from ._problem import LeastSquares as LeastSquares
from ._problem import Objective as Objective
from ._problem import Problem as Problem
from ._problem import Task as Task
from ._solver._anderson import anderson as anderson
from ._solver._base import Solution as Solution
from ._solver._base import Solver as Solver
from ._solver._base import State as State
from ._solver._descend import descend as descend
from ._solver._descend import lbfgs as lbfgs
from ._solver._descend import until_converged as until_converged
from ._solver._evolve import evolve as evolve
from ._solver._function import as_solver as as_solver
from ._solver._function import solve_inner as solve_inner
from ._solver._gauss_newton import gauss_newton as gauss_newton
from ._solver._newton import closed_form as closed_form
from ._solver._newton import newton_cg as newton_cg
from ._solver._secant_cg import secant_cg as secant_cg
from ._stencil import Stencil as Stencil
from ._stencil import stencil as stencil
from ._synapse import Synapse as Synapse
from ._version import __version__ as __version__

if _TYPE_CHECKING:
    from ._tune import Tuned as Tuned
    from ._tune import tune as tune

_check_public(globals())

# Attributes of the package that are imported when they are asked for: some need an extra.
_SUBPACKAGES = (
    "accuracy", "brain", "credit", "external", "loggers", "nets", "optimistix", "pretrained",
    "report", "sklearn", "slow", "tasks", "torch", "train",
)  # fmt: skip
if _TYPE_CHECKING:  # as what they are, not as some module
    from . import accuracy as accuracy
    from . import brain as brain
    from . import credit as credit
    from . import external as external
    from . import loggers as loggers
    from . import nets as nets
    from . import optimistix as optimistix
    from . import pretrained as pretrained
    from . import report as report
    from . import sklearn as sklearn
    from . import slow as slow
    from . import tasks as tasks
    from . import torch as torch
    from . import train as train


# Of `_tune`, which needs `train`.
_TUNE = ("tune", "Tuned")


def __getattr__(name: str) -> _Any:
    if name in _TUNE:
        return getattr(_import_module("._tune", __name__), name)
    if name not in _SUBPACKAGES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _import_module(f".{name}", __name__)


def __dir__() -> list[str]:
    return sorted([*globals(), *_SUBPACKAGES, *_TUNE])
