"""Tables and figures of finished runs."""

from .._checked import check_public as _check_public
from ._collect import collect as collect
from ._figure import figure as figure
from ._table import print_report as print_report

_check_public(globals())
