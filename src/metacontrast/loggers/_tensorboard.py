"""Event files for TensorBoard, by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .._optional import optional, require

EVENTS = "events.out.tfevents.*"


class TensorBoard:
    """A callback that writes scalars for `tensorboard --logdir FOLDER`.

    Args:
        folder: of the event files; a run that is resumed adds one.

    Raises:
        ImportError: tensorboardX is not installed; it comes with the extra `tensorboard`.
    """

    def __init__(self, folder: str | Path) -> None:
        require("tensorboardX", "tensorboard")
        self._folder = Path(folder)
        self._writer: Any = None

    def last_step(self) -> int:
        """The last step in the event files; 0 without any."""
        return max((step for path in self._folder.glob(EVENTS) for step in steps(path)), default=0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write a scalar for each number that is finite, and leave nothing in memory."""
        if self._writer is None:
            tensorboardx = optional("tensorboardX", "tensorboard")
            # Named by the second alone, the next leg of a quick run would write over this one.
            leg = len(list(self._folder.glob(EVENTS)))
            self._writer = tensorboardx.SummaryWriter(str(self._folder), filename_suffix=f".{leg}")
        for name, value in values.items():
            if math.isfinite(value):  # of others it would complain, and draw none
                self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def steps(path: Path) -> Iterator[int]:
    """The steps of the scalars in an event file, up to its end or where it was torn.

    A record is its length in 8 bytes, a checksum of 4, the event, and another checksum of 4.
    """
    event: Any = optional("tensorboardX.proto.event_pb2", "tensorboard").Event
    data, at = path.read_bytes(), 0
    while at + 12 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        at += 12 + length + 4
        if at > len(data):
            return
        found = event.FromString(data[at - 4 - length : at - 4])
        if found.HasField("summary"):
            yield found.step
