"""Members of archives that nobody vouches for, read in memory and never written by their names."""

from __future__ import annotations

import io
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from ._untrusted import Refused, Untrusted

_BLOCK = 1 << 20
_LARGEST_GZIP = 1 << 28
_DIRECTORY = 1 << 23  # bytes of a zip's list of members: Omniglot's 20,000 take a third of it
_END_RECORD = 22  # bytes of a zip's last record, without a comment
_MEMBERS = 1000  # of a tar
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
# The headers of pax are passed over: what they could say, no official archive needs.
_PASSED_OVER = (tarfile.DIRTYPE, tarfile.XHDTYPE, tarfile.XGLTYPE)


def zip_members(
    archive: Untrusted, wanted: re.Pattern[str], largest: int, total: int
) -> Iterator[tuple[re.Match[str], bytearray]]:
    """The members of a zip whose whole name is `wanted`.

    Args:
        archive: of at most `total` bytes itself.
        wanted: the others are passed over.
        largest: bytes that one of them may have.
        total: bytes that all of them may have; a small archive can unfold to any size.

    Raises:
        ValueError: a limit is passed; a name is there twice or points out of the archive; or it is
            damaged.
    """
    found: set[str] = set()
    with archive.opened(total) as plain, zipfile.ZipFile(_Stepwise(plain.fileno())) as unpacked:
        _whole(archive, plain, unpacked)
        for info in unpacked.infolist():
            _once(archive, info.filename, found)
            if match := wanted.fullmatch(info.filename):
                # bzip2 and LZMA take memory and time that no limit on bytes bounds.
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise archive.refused(f"has {info.filename} in another compression")
                data = _member(archive, unpacked, info, min(largest, total))
                total -= len(data)
                yield match, data


def _whole(archive: Untrusted, file: BinaryIO, unpacked: zipfile.ZipFile) -> None:
    """Raise unless the archive is all of the file, and its last record says what it has."""
    file.seek(-_END_RECORD - len(unpacked.comment), io.SEEK_END)
    end = struct.unpack("<4s4H2LH", file.read(_END_RECORD))
    n = len(unpacked.infolist())
    if end[:5] != (b"PK\5\6", 0, 0, n, n) or end[-1] != len(unpacked.comment):
        raise archive.refused("has another end than its own")
    if n and min(info.header_offset for info in unpacked.infolist()) != 0:
        raise archive.refused("has another beginning than its own")


def _member(
    archive: Untrusted, unpacked: zipfile.ZipFile, info: zipfile.ZipInfo, largest: int
) -> bytearray:
    """All of one member, up to its end, where its checksum is compared."""
    data = bytearray()
    with unpacked.open(info) as member:
        while block := member.read(_BLOCK):
            data += block
            if len(data) > largest:
                raise too_large(archive)
    if len(data) != info.file_size:
        raise archive.refused(f"has {info.filename} in another length than it says")
    return data


class _Stepwise(io.FileIO):
    """A file that gives a bounded part of itself at a time: a zip says how long its list is."""

    def __init__(self, opened: int) -> None:
        super().__init__(opened, closefd=False)

    def read(self, size: int | None = -1) -> bytes:
        most = _DIRECTORY + 1
        data = super().read(most if size is None or size < 0 else min(size, most)) or b""
        if len(data) == most:
            raise ValueError("too long a list of members")
        return data


def tar_members(
    archive: Untrusted, wanted: re.Pattern[str], total: int
) -> Iterator[tuple[str, bytes]]:
    """The files of a gzipped tar whose whole name is `wanted`, and their names; see `zip_members`.

    `total` counts all that has to be unpacked, which includes what is passed over. The standard
    library reads each header and nothing more: its reader of whole archives takes quadratic time on
    a pax header, and any memory on a sparse member.
    """
    data, at, found = memoryview(gunzipped(archive, total)), 0, set[str]()
    for _ in range(_MEMBERS):
        header = _header(archive, bytes(data[at : at + tarfile.BLOCKSIZE]))
        if header is None:
            return
        at += tarfile.BLOCKSIZE
        if not 0 <= header.size <= len(data) - at:
            raise archive.refused("is truncated or altered")
        if header.type in _FILES:
            _once(archive, header.name, found)
        if wanted.fullmatch(header.name):
            if header.type not in _FILES:
                raise archive.refused(f"has {header.name}, which is no file")
            yield header.name, bytes(data[at : at + header.size])
        at += -(-header.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    raise archive.refused("has more members than the data set")


def _header(archive: Untrusted, block: bytes) -> tarfile.TarInfo | None:
    """A member's header, or None where zeros end the archive."""
    if len(block) == tarfile.BLOCKSIZE and not any(block):
        return None
    with archive.parsing():
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    folder_of_bytes = header.type == tarfile.DIRTYPE and header.size
    if header.type not in _FILES + _PASSED_OVER or folder_of_bytes:
        raise archive.refused(f"has {header.name}, neither a file nor a folder")
    inside(archive, header.name)
    return header


def gunzipped(archive: Untrusted, largest: int) -> bytearray:
    """The content of one gzipped file of at most so many bytes; checksum and length must be right.

    A second one after it, which the format allows, is refused: no official archive has any, and
    empty ones take time without bytes.
    """
    data, inflate = bytearray(), zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    with archive.opened(_LARGEST_GZIP) as file:
        while not inflate.eof and (block := file.read(_BLOCK)):
            data += inflate.decompress(block, largest + 1 - len(data))
            if len(data) > largest:
                raise too_large(archive)
        if not inflate.eof:
            raise archive.refused("is truncated")
        if inflate.unused_data or file.read(1):
            raise archive.refused("goes on after its end")
    return data


def _once(archive: Untrusted, name: str, found: set[str]) -> None:
    """Raise if a member's name has been `found` before, or points out of the archive."""
    inside(archive, name)
    if name in found:
        raise archive.refused(f"has {name} twice")
    found.add(name)


def inside(archive: Untrusted, name: str) -> None:
    """Raise unless a member's name stays in the folder that it would be unpacked to."""
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or re.match("[A-Za-z]:", name):
        raise archive.refused(
            f"has a member {name}, outside of itself, which no official archive has"
        )


def too_large(archive: Untrusted) -> Refused:
    """The error on an archive that unfolds to more than its data set."""
    return archive.refused("unpacks to more than the data set has")
