"""Networks, as functions of fast weights."""

from .._checked import check_public as _check_public
from ._conv import conv as conv
from ._conv_net import ConvNet as ConvNet
from ._image_nets import conv4 as conv4
from ._image_nets import lenet5 as lenet5
from ._net import Net as Net
from ._net import mlp as mlp
from ._net import net as net
from ._spiking import Response as Response
from ._spiking import Spiking as Spiking
from ._spiking import Weights as Weights
from ._spiking import fast_sigmoid as fast_sigmoid
from ._spiking import triangle as triangle
from ._transformer import transformer as transformer

_check_public(globals())
