"""Networks, as functions of fast weights."""

from ._net import Net as Net
from ._net import mlp as mlp
from ._net import net as net
