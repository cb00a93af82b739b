"""Families of tasks to learn to learn on."""

from .._checked import check_public as _check_public
from ._distort import distorted as distorted
from ._episodes import episodes as episodes
from ._images import Images as Images
from ._labelled import cifar10 as cifar10
from ._labelled import mnist as mnist
from ._miniimagenet import miniimagenet as miniimagenet
from ._omniglot import omniglot as omniglot
from ._population import population as population
from ._sine import sine as sine
from ._text import texts as texts
from ._wheel import Pulled as Pulled
from ._wheel import wheel as wheel

_check_public(globals())
