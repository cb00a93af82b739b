"""Ways to damage an archive, of which each takes its bytes, a place and a number.

Trailers are made right again where a reader that looked at them alone would take the damage.
"""

import gzip
import io
import pickletools
import struct
import tarfile
import zipfile
import zlib

# Any file


def with_bit_flipped(data, place, number):
    changed = bytearray(data)
    changed[place % len(data)] ^= 1 << number % 8
    return bytes(changed)


def with_byte_set(data, place, number):
    changed = bytearray(data)
    changed[place % len(data)] = number % 256
    return bytes(changed)


def cut(data, place, number):
    return data[: place % len(data)]


def without_a_part(data, place, number):
    at = place % len(data)
    return data[:at] + data[at + 1 + number % 64 :]


def with_a_part_twice(data, place, number):
    at = place % len(data)
    return data[: at + 1 + number % 64] + data[at:]


def with_junk(data, place, number):
    at = place % (len(data) + 1)
    return data[:at] + bytes([number % 256]) * (1 + number % 999) + data[at:]


def going_on(data, place, number):
    ends = (bytes(1 + place % 1000), data, gzip.compress(b""), gzip.compress(bytes(9999)), b"PK")
    return data + ends[number % len(ends)]


def of_another_format(data, place, number):
    return (b"", zlib.compress(data), gzip.compress(data), b"BZh9", b"\xfd7zXZ\0", data[::-1])[
        number % 6
    ]


ANY = (
    *(with_bit_flipped, with_byte_set, cut, without_a_part, with_a_part_twice, with_junk),
    *(going_on, of_another_format),
)

# gzip


def with_other_gzip_header(data, place, number):
    changed = bytearray(data)
    changed[place % 10] = (0, 1, 2, 4, 8, 16, 31, 255)[number % 8]
    return bytes(changed)


def with_other_gzip_trailer(data, place, number):
    changed = bytearray(data)
    changed[-1 - place % 8] ^= 1 + number % 255
    return bytes(changed)


GZIP = (*ANY, with_other_gzip_header, with_other_gzip_trailer)
BIG = (0, 1, 2, 27, 29, 255, 256, 1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


def with_other_idx_header(data, place, number):
    content = bytearray(gzip.decompress(data))
    if place % 2:
        at = 4 * (place // 2 % (1 + content[3]))
        content[at : at + 4] = struct.pack(">I", BIG[number % len(BIG)])
    else:
        content[place // 2 % 4] = number % 256
    return gzip.compress(bytes(content), 1)


IDX = (*GZIP, with_other_idx_header)

# tar

TAR_FIELDS = (
    *((0, 100), (100, 8), (108, 8), (124, 12), (136, 12), (148, 8), (156, 1), (157, 100)),
    *((257, 6), (265, 32), (329, 8), (345, 155), (386, 12), (482, 1), (483, 12)),
)
TAR_VALUES = (
    *(b"", b"\xff", b"\x80" + bytes(10) + b"\x01", b"\x80" + b"\x7f" * 11, b"\xff" * 12),
    *(b"7" * 11, b"9" * 8, b"00000001000", b"-1", b"../../evil", b"/evil", b"S", b"1", b"2", b"3"),
    *(b"5", b"6", b"x", b"g", b"L", b"\xd8\x00\x1b[2J", b"cifar-10-batches-py/test_batch"),
)
EXTRA = (
    b"22 path=../../../evil\n",
    b"9" * 5000,
    b"30 GNU.sparse.size=99999999999\n31 GNU.sparse.realsize=99999999\n",
    b"20 size=99999999999\n",
    b"25 GNU.sparse.major=1\n25 GNU.sparse.minor=0\n",
    b"a" * 3000,
    b"99999999999999999999 a=b\n",
    b"\xff\xfe\n\0",
)
TYPES = tuple(bytes([kind]) for kind in b"012345679xgXLKSDMNV\0\xff")


def tar_headers(tar):
    """Where they are."""
    at, found = 0, []
    while any(tar[at : at + 512]):
        found.append(at)
        at += 512 + -(-int(tar[at + 124 : at + 135], 8) // 512) * 512
    return found


def summed(header):
    """The header with its checksum."""
    spaces = header[:148] + b" " * 8 + header[156:]
    return header[:148] + b"%06o\0 " % sum(spaces) + header[156:]


def with_other_tar_field(data, place, number):
    tar = gzip.decompress(data)
    heads = tar_headers(tar)
    at = heads[place % len(heads)]
    header = bytearray(tar[at : at + 512])
    first, length = TAR_FIELDS[place // 16 % len(TAR_FIELDS)]
    value = TAR_VALUES[number % len(TAR_VALUES)][:length]
    header[first : first + length] = value.ljust(length, b"\0")
    header = bytes(header) if first == 148 else summed(bytes(header))
    return gzip.compress(tar[:at] + header + tar[at + 512 :], 1)


def with_another_member(data, place, number):
    tar = gzip.decompress(data)
    heads = tar_headers(tar)
    at = heads[place % len(heads)]
    info = tarfile.TarInfo(("extra", "./PaxHeaders/x", "cifar-10-batches-py/test_batch")[place % 3])
    info.type = TYPES[number % len(TYPES)]
    content = (*EXTRA, data[:2000], tar[:1024])[number // 32 % (len(EXTRA) + 2)]
    info.linkname = ("", "/dev/zero", "cifar-10-batches-py/data_batch_1")[number // 16 % 3]
    info.size = len(content)
    block = info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)
    return gzip.compress(tar[:at] + block + tar[at:], 1)


# Pickles, in the members of CIFAR-10's archive

FRAGMENTS = (
    *(b"cos\nsystem\n", b"cposix\nsystem\nU\x02idoR", b"cbuiltins\neval\n", b"cnumpy\nload\n"),
    *(b"U\x02osU\x06system\x93", b"ios\nsystem\n", b"o", b"\x81", b"\x92", b"\x82\x01"),
    *(b"\x84\xff\xff\xff\x7f", b"P1\n", b"Q", b"R", b"b", b"\x93"),
    # Places in memory, and lengths, of which there is nothing.
    *(b"r\0\0\0\x10", b"r\xff\xff\xff\xff", b"q\xff", b"j\xff\xff\xff\x0f", b"h\xff", b"\x94"),
    *(b"\x8e" + struct.pack("<Q", 1 << 40), b"\x8d" + struct.pack("<Q", 1 << 33)),
    *(b"\x96" + struct.pack("<Q", 1 << 36), b"\x95" + struct.pack("<Q", 1 << 60)),
    *(b"T\xff\xff\xff\x7f", b"B\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8b\xff\xff\xff\x7f"),
    # Text that takes long to read, and depth.
    *(b"L" + b"9" * 5000 + b"L\n", b"I" + b"9" * 3000 + b"\n", b"V\\ud800\n", b"S'\n", b"F1e999\n"),
    *(b"(" * 500, b")" + b"\x85" * 5000),
    *(bytes([step]) for step in b"012.}](Nsuaetdl\x98\x8f\x91"),
    *(b"\x80\x05", b"\x80\xff"),
)


def operations(pickled):
    """Where each begins, and where the last one ends."""
    return [at for _, _, at in pickletools.genops(pickled)] + [len(pickled)]


def with_other_pickle(data, place, number):
    """One operation is left out, doubled, or another; or something is put before it."""
    tar = gzip.decompress(data)
    heads = [at for at in tar_headers(tar) if b"batch" in tar[at + 20 : at + 60]]
    at = heads[place % len(heads)]
    size = int(tar[at + 124 : at + 135], 8)
    pickled = tar[at + 512 : at + 512 + size]
    places = operations(pickled)
    k = place // 8 % (len(places) - 1)
    first, end = places[k], places[k + 1]
    step = (
        b"",
        pickled[first:end] * 2,
        bytes([number // 4 % 256]) + pickled[first + 1 : end],
        FRAGMENTS[number // 4 % len(FRAGMENTS)] + pickled[first:end],
    )[number % 4]
    content = pickled[:first] + step + pickled[end:]
    header = tar[at : at + 124] + b"%011o\0" % len(content) + tar[at + 136 : at + 512]
    rest = tar[at + 512 + size + -size % 512 :]
    body = content + bytes(-len(content) % 512)
    return gzip.compress(tar[:at] + summed(header) + body + rest, 1)


TAR = (*GZIP, *(with_other_tar_field, with_another_member) * 3, *(with_other_pickle,) * 6)

# zip

ZIP_FIELDS = {
    b"PK\x03\x04": ((4, 2), (6, 2), (8, 2), (10, 2), (14, 4), (18, 4), (22, 4), (26, 2), (28, 2)),
    b"PK\x01\x02": (
        *((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2)),
        *((32, 2), (34, 2), (36, 2), (38, 4), (42, 4)),
    ),
    b"PK\x05\x06": ((4, 2), (6, 2), (8, 2), (10, 2), (12, 4), (16, 4), (20, 2)),
}


def with_other_zip_field(data, place, number):
    kind = list(ZIP_FIELDS)[place % 3]
    starts = [i for i in range(len(data)) if data.startswith(kind, i)]
    at = starts[place // 3 % len(starts)]
    first, length = ZIP_FIELDS[kind][place // 64 % len(ZIP_FIELDS[kind])]
    values = (0, 1, 8, 9, 12, 14, 95, 99, 2048, 0xFFFF, 1 << 20, 1 << 31, 0xFFFFFFFF)
    value = values[number % len(values)] % (1 << 8 * length)
    changed = bytearray(data)
    changed[at + first : at + first + length] = value.to_bytes(length, "little")
    return bytes(changed)


ZIP_NAMES = (
    *("../evil.png", "/evil.png", "C:evil.png", "..\\evil.png", "images_background/", "a\0b"),
    *("images_background/Greek/character01/0001_03.png", "__MACOSX/._0001_01.png", "\x1b[2J"),
    *("images_background/Greek/character\u0661\u0661/0001_01.png", "images_background.zip"),
    "x" * 9999,
)


def with_another_zip_member(data, place, number):
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a") as archive:
        info = zipfile.ZipInfo(ZIP_NAMES[number % len(ZIP_NAMES)])
        info.external_attr = (0, 0o120777 << 16, 0o010666 << 16)[place % 3]  # a link, a pipe
        info.compress_type = (0, 8, 12, 14)[place // 3 % 4]
        archive.writestr(info, (b"", b"/dev/zero", bytes(1 << 18), data)[place // 12 % 4])
    return out.getvalue()


ZIP = (*ANY, *(with_other_zip_field,) * 6, *(with_another_zip_member,) * 2)
