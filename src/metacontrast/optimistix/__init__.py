"""The contrast as an adjoint of optimistix, for anything that it minimises."""

from .._checked import check_public as _check_public
from .._optional import optional as _optional

_optional("optimistix", extra="optimistix")  # before the file below needs it

from ._adjoint import ContrastiveAdjoint as ContrastiveAdjoint  # noqa: E402

_check_public(globals())
