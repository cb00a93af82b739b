"""Tables of the pages, made of what is in `results/`."""

from ._pages import PAGES as PAGES
from ._pages import ROOT as ROOT
from ._pages import loose_numbers as loose_numbers
from ._pages import written as written
from ._tables import TABLES as TABLES
from ._tables import load as load
from ._tables import markdown as markdown
