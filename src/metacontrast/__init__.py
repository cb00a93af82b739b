"""Meta-learning by contrast: the gradient of how well a learner learned, from two runs of it."""

from ._check import check as check
from ._contrastive import Contrastive as Contrastive
from ._first_order import FirstOrder as FirstOrder
from ._gauss_newton import LeastSquares as LeastSquares
from ._gauss_newton import gauss_newton as gauss_newton
from ._meta_loss import Estimator as Estimator
from ._meta_loss import meta_loss as meta_loss
from ._problem import Data as Data
from ._problem import Loss as Loss
from ._problem import Problem as Problem
from ._problem import Task as Task
from ._solve import Solution as Solution
from ._solve import Solver as Solver
from ._solve import descend as descend
from ._solve import learn as learn
from ._solve import until_converged as until_converged
from ._stencil import stencil as stencil
from ._unrolled import Unrolled as Unrolled
from .slow import attraction as attraction
from .slow import synapse_contrast as synapse_contrast
