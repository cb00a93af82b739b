"""Learners outside JAX: the same rule for anything that can be fitted twice."""

from .._checked import check_public as _check_public
from ._black_box import black_box as black_box
from ._black_box import nelder_mead as nelder_mead
from ._diagnose import diagnose as diagnose
from ._parallel import MeanMetaGradient as MeanMetaGradient
from ._parallel import mean_meta_gradient as mean_meta_gradient
from ._rule import Learner as Learner
from ._rule import meta_gradient as meta_gradient
from ._sklearn import reweighted as reweighted

_check_public(globals())
