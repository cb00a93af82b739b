"""Trained thetas, each with the result of the run that it is of."""

from .._checked import check_public as _check_public
from ._load import NAMES as NAMES
from ._load import Pretrained as Pretrained
from ._load import load as load

_check_public(globals())
