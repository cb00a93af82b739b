"""What is meta-learned besides synapses: slow weights with fast gains, and a fast head."""

from .._checked import check_public as _check_public
from ._head import HeadTheta as HeadTheta
from ._head import Splits as Splits
from ._head import ridge_head as ridge_head
from ._head import ridge_newton as ridge_newton
from ._modulation import Modulation as Modulation
from ._modulation import modulated as modulated
from ._modulation import modulation as modulation

_check_public(globals())
