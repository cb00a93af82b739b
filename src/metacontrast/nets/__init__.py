"""Networks, as functions of fast weights."""

from ._conv import conv as conv
from ._conv_net import ConvNet as ConvNet
from ._image_nets import conv4 as conv4
from ._image_nets import lenet5 as lenet5
from ._net import Net as Net
from ._net import mlp as mlp
from ._net import net as net
