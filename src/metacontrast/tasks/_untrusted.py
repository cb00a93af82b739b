"""Files that nobody vouches for: which are opened at all, and what their parsers' errors become."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_LONGEST = 200  # characters of what a parser says


class Refused(ValueError):
    """A file is not what it should be; the message names it and says what to do."""


@dataclass(frozen=True)
class Untrusted:
    """A file, or what is inside of one, and how it is spoken of.

    Args:
        argument: begins every message.
        what: the file's path, or what else a message should name.
        remedy: ends the message on a file that is not what it should be.
        absent: ends the message on a file that is not there.
    """

    argument: str
    what: Path | str
    remedy: str = "get it again from its official place"
    absent: str = "name the folder that holds it"

    def refused(self, why: str) -> Refused:
        """The error on a file that is not what it should be, in one line that can be printed."""
        return Refused(f"{self.argument}: {plain(str(self.what))} {plain(why)}; {self.remedy}.")

    @contextmanager
    def parsing(self) -> Iterator[None]:
        """Turns whatever a parser raises into one `Refused`.

        A damaged file can make a parser raise nearly anything, `MemoryError` among it.
        """
        try:
            yield
        except Refused:
            raise
        except Exception as error:
            said = str(error)[:_LONGEST] or type(error).__name__
            raise self.refused(f"cannot be read ({said})") from error

    @contextmanager
    def opened(self, largest: int) -> Iterator[BinaryIO]:
        """The file, to be parsed: a regular one, or a link to one, of at most `largest` bytes.

        Raises:
            FileNotFoundError: it is not there.
            Refused: it is something else, a device or a pipe, or too large; or parsing it failed.
        """
        if not os.path.exists(self.what):
            raise FileNotFoundError(
                f"{self.argument}: {plain(str(self.what))} is not there; {self.absent}."
            )
        with self.parsing():
            found = os.stat(self.what)
            if not stat.S_ISREG(found.st_mode):
                raise self.refused("is no regular file")
            if found.st_size > largest:
                raise self.refused(f"has {found.st_size:,} bytes, more than it can have")
            with open(self.what, "rb") as file:
                yield file


def plain(text: str) -> str:
    """The text without line ends and what else could steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
