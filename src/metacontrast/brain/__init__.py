"""The rule as a brain might run it: online, local, with a memory that replays."""

from .._checked import check_public as _check_public
from ._hippocampus import Hippocampus as Hippocampus
from ._plasticity import Plasticity as Plasticity
from ._tagged import Tagged as Tagged
from ._tags import consolidate as consolidate
from ._tags import tag as tag

_check_public(globals())
