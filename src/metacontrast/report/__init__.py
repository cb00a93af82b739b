"""Tables and figures of finished runs, and a page of all of them."""

from .._checked import check_public as _check_public
from ._collect import collect as collect
from ._figure import figure as figure
from ._live import watch as watch
from ._page import write_page as write_page
from ._style import Look as Look
from ._style import look as look
from ._table import print_report as print_report

_check_public(globals())
