"""The rule as a brain might run it: online, local, with a memory that replays."""

from ._hippocampus import Hippocampus as Hippocampus
from ._plasticity import Plasticity as Plasticity
from ._tagged import Tagged as Tagged
from ._tags import consolidated as consolidated
from ._tags import tagged as tagged
