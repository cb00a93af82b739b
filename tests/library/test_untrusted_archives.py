"""Archives and pickles that once took time or memory, or ended in an error of a parser's own."""

import gzip
import re
import struct
import tarfile
import zipfile

import archives
import numpy as np
import pytest
from bounded import bounded, refused

from metacontrast.tasks import _sources
from metacontrast.tasks._archive import gunzipped, tar_members, zip_members
from metacontrast.tasks._import_labelled import cifar10_arrays
from metacontrast.tasks._unpickle import unpickled
from metacontrast.tasks._untrusted import Untrusted

HERE = Untrusted("source", "here")
ANY_NAME = re.compile(".*", re.DOTALL)


# tar


def tarred(path, kind, content, name="x", **fields):
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    block = info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    path.write_bytes(gzip.compress(block + bytes(1024), 1))
    return Untrusted("source", path)


def members(archive):
    return list(tar_members(archive, ANY_NAME, 1 << 24))


def test_a_pax_header_of_digits_takes_no_time(tmp_path):
    archive = tarred(tmp_path / "a.tar.gz", tarfile.XHDTYPE, b"9" * (1 << 22))
    with bounded():  # tarfile takes 0.4 s for 20,000 digits, and four times that for twice as many
        assert list(tar_members(archive, re.compile("no"), 1 << 24)) == []


SPECIAL = {
    "sparse": tarfile.GNUTYPE_SPARSE,
    "hard link": tarfile.LNKTYPE,
    "symbolic link": tarfile.SYMTYPE,
    "device": tarfile.CHRTYPE,
    "pipe": tarfile.FIFOTYPE,
    "long name": tarfile.GNUTYPE_LONGNAME,
    "long link": tarfile.GNUTYPE_LONGLINK,
    "unknown": b"?",
}


@pytest.mark.parametrize("kind", SPECIAL.values(), ids=SPECIAL)
def test_members_that_are_no_files(tmp_path, kind):
    path = tmp_path / "a.tar.gz"
    refused("has x, neither a file nor a folder", members, tarred(path, kind, b"", linkname="/dev"))


def test_a_member_that_says_it_is_larger_than_the_archive(tmp_path):
    path = tmp_path / "a.tar.gz"
    tarred(path, tarfile.REGTYPE, b"abc")
    tar = bytearray(gzip.decompress(path.read_bytes()))
    for size in (b"77777777777\0", b"\x80" + b"\xff" * 11, b"\xff" * 12):  # 8 GB, 2^88, -1
        tar[124:136] = size
        tar[148:156] = b"%06o\0 " % (sum(tar[:148]) + 256 + sum(tar[156:512]))
        path.write_bytes(gzip.compress(tar))
        refused("truncated or altered", members, Untrusted("source", path))


def test_a_folder_has_no_bytes(tmp_path):
    archive = tarred(tmp_path / "a.tar.gz", tarfile.DIRTYPE, b"abc")
    refused("has x, neither a file nor a folder", members, archive)


def test_a_member_that_is_there_twice(tmp_path):
    path = tmp_path / "a.tar.gz"
    tarred(path, tarfile.REGTYPE, b"abc")
    once = gzip.decompress(path.read_bytes())[:1024]
    path.write_bytes(gzip.compress(once * 2 + bytes(1024)))
    refused("has x twice", members, Untrusted("source", path))


def test_more_members_than_any_data_set(tmp_path):
    heads = b"".join(tarfile.TarInfo(str(i)).tobuf(tarfile.GNU_FORMAT) for i in range(1001))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(heads + bytes(1024)))
    refused("more members", members, Untrusted("source", tmp_path / "a.tar.gz"))


def test_names_that_steer_a_terminal_are_not_printed(tmp_path):
    archive = tarred(tmp_path / "a.tar.gz", b"?", b"", name="\x1b[2J\n\udcff")
    refused(r"has \?\[2J\?\?, neither", members, archive)


# gzip


def test_every_bit_of_the_trailer_counts(tmp_path):
    path = tmp_path / "a.gz"
    good = gzip.compress(bytes(1000))
    for bit in range(64):
        bad = bytearray(good)
        bad[-8 + bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        refused("cannot be read", gunzipped, Untrusted("source", path), 1 << 20)
    for missing in range(1, 9):
        path.write_bytes(good[:-missing])
        refused("is truncated", gunzipped, Untrusted("source", path), 1 << 20)
    for rest in (b"\0", good, gzip.compress(b"") * 9999):
        path.write_bytes(good + rest)
        refused("goes on after its end", gunzipped, Untrusted("source", path), 1 << 20)
    path.write_bytes(good)
    assert gunzipped(Untrusted("source", path), 1000) == bytes(1000)
    refused("unpacks to more", gunzipped, Untrusted("source", path), 999)


# zip


def unzipped(path):
    return list(zip_members(Untrusted("source", path), ANY_NAME, 1 << 20, 1 << 24))


def test_compressions_that_take_memory_of_their_own(tmp_path):
    for kind in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
            archive.writestr("x", bytes(100))
        refused("has x in another compression", unzipped, tmp_path / "a.zip")


def test_a_zip_whose_list_of_members_is_too_long(tmp_path):
    path = tmp_path / "a.zip"
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", *[0] * 5, 0, 0, 0, 0, 1, *[0] * 6)
    n = (1 << 23) // len(entry)
    size = (len(entry) + 1) * n
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, n % 65536, n % 65536, size, 0, 0)
    path.write_bytes((entry + b"x") * n + end)
    refused("too long a list of members", unzipped, path)


@pytest.mark.parametrize("change", ["more", "fewer", "before", "after", "comment"])
def test_a_zip_ends_with_what_it_says(tmp_path, change):
    path = tmp_path / "a.zip"
    archives.zipped(path, [("x", b"abc")])
    good = bytearray(path.read_bytes())
    if change in ("more", "fewer"):
        for count in (-14, -12):  # on this disk, in all
            good[count] += 1 if change == "more" else -1
    bad = {"before": b"?" + good, "after": good + b"?", "comment": good[:-2] + b"\1\0"}
    path.write_bytes(bad.get(change, good))
    refused("another (end|beginning) than its own", unzipped, path)


def test_a_zip_member_of_another_length_than_it_says(tmp_path):
    path = tmp_path / "a.zip"
    archives.zipped(path, [("x", b"abc")])
    changed = bytearray(path.read_bytes())
    changed[changed.index(b"PK\1\2") + 24] += 1
    path.write_bytes(changed)
    refused("has x in another length than it says", unzipped, path)


# pickle

PICKLES = {
    "a string of 1 TB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
    "an array of 1 TB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b".",
    "a frame of 1 TB": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40),
    "a number of 5,000 digits": b"L" + b"9" * 5000 + b"L\n.",
    "a key so deep that its hash overflows the stack": b"})" + b"\x85" * 130_000 + b"Ns.",
    "a program that is too long": b"(" + b"N" * 140_000 + b"t.",
    "another's object": b"Pid\n.",
    "an instance": b"(ios\nsystem\n.",
    "a class": b"cnumpy\ndtype\n)\x81.",
    "a call of a string": b"U\x05dtype)R.",
    "a state for a list": b"]Nb.",
    "no mark": b"NNt.",
    "an empty stack": b"R.",
    "two values": b"NN.",
    "nothing": b"",
}


@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES)
def test_pickles(pickled):
    refused("source: here cannot be read", unpickled, HERE, pickled)


def test_a_place_in_memory_takes_no_memory():
    with bounded():  # pickle takes 2.4 GB for the 2^28 places before
        assert unpickled(HERE, b"\x80\x02K\x07r\0\0\0\x10.") == 7


@pytest.mark.parametrize(
    "fault",
    [
        {"labels": archives.listed([archives.string(b"1")] * 10)},
        {"filenames": archives.listed([archives.string(b"x" * 300)] * 10)},
        {"filenames": archives.listed([archives.string(b"\x1b[2J")] * 10)},
        {"data": archives.array(np.zeros((10, 3072), np.uint8)).replace(b"(J\n", b"(J\xf6", 1)},
    ],
    ids=["labels of text", "a long name", "a name that steers", "a shape of -10"],
)
def test_batches(tmp_path, fault):
    numbers = archives.listed([archives.integer(i) for i in range(10)])
    names = archives.listed([archives.string(b"%d" % i) for i in range(10)])
    pixels = archives.array(np.zeros((10, 3072), np.uint8))
    fields = {"labels": numbers, "data": pixels, "filenames": names} | fault
    archives.cifar10(tmp_path, change={"data_batch_3": archives.dictionary(**fields)})
    refused("^source: ", cifar10_arrays, tmp_path)


# Checksums that are published


@pytest.mark.parametrize("name", ["cifar10", "mnist", "omniglot"])
def test_an_official_file_is_compared_with_its_published_checksum(tmp_path, name):
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    {"cifar10": archives.cifar10, "mnist": archives.mnist, "omniglot": archives.omniglot}[name](
        source
    )
    match = rf"^source: {source}/[\w.-]+ has the checksum \w+, not \w+ as published; get it again"
    refused(match, _sources.import_, name, source, cache)
    if name == "cifar10":  # which may be named itself
        refused(match, _sources.import_, name, source / "cifar-10-python.tar.gz", cache)
    else:
        with pytest.raises(FileNotFoundError, match="is not there; name the folder that holds it"):
            _sources.import_(name, next(source.iterdir()), cache)
    assert not cache.exists()
