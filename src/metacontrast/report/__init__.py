"""Tables and figures of finished runs."""

from ._figure import figure as figure
from ._table import half_width as half_width
from ._table import print_table as print_table
