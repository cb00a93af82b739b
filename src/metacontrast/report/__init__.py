"""Tables and figures of finished runs."""

from ._figure import figure as figure
from ._table import print_report as print_report
