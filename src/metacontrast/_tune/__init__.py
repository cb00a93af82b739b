"""`metacontrast.tune`: the whole way from a model of one's own to meta-parameters for it."""

from .._checked import check_public as _check_public
from ._tune import Tuned as Tuned
from ._tune import tune as tune

_check_public(globals())
