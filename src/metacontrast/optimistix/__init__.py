"""The contrast as an adjoint of optimistix, for anything that it minimises."""

from .._optional import optional

optional("optimistix", extra="optimistix")  # before the file below needs it

from ._adjoint import ContrastiveAdjoint as ContrastiveAdjoint  # noqa: E402
