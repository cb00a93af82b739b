"""The contrastive rule for plain PyTorch: fills `.grad` of an `nn.Module`'s slow parameters."""

from .._checked import check_public as _check_public
from .._optional import optional as _optional

_optional("torch", extra="torch")  # before the files below need it, with a word on how to get it

from ._backward import backward as backward  # noqa: E402
from ._backward import solve_inner as solve_inner  # noqa: E402
from ._batches import Batches as Batches  # noqa: E402
from ._diagnose import diagnose as diagnose  # noqa: E402
from ._problem import Problem as Problem  # noqa: E402
from ._solver import descend as descend  # noqa: E402
from ._synapse import Synapse as Synapse  # noqa: E402

_check_public(globals())
