"""beartype as type checkers read annotations: an int is a float, and a float complex."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
