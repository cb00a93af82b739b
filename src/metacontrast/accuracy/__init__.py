"""How accurate is a meta-gradient, at what cost, and which beta makes it most accurate."""

from .._checked import check_public as _check_public
from ._bound import Constants as Constants
from ._bound import best_beta as best_beta
from ._bound import bound as bound
from ._bound import quadratic_constants as quadratic_constants
from ._compare import Record as Record
from ._compare import compare as compare
from ._compare import print_records as print_records
from ._suggest import Suggestion as Suggestion
from ._suggest import suggest_beta as suggest_beta

_check_public(globals())
