"""Learners outside JAX: the same rule for anything that can be fitted twice."""

from ._black_box import black_box as black_box
from ._black_box import nelder_mead as nelder_mead
from ._parallel import MetaGradient as MetaGradient
from ._parallel import meta_gradient as meta_gradient
from ._rule import Learner as Learner
from ._rule import value_and_grad as value_and_grad
from ._sklearn import reweighted as reweighted
