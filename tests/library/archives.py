"""Miniature data sets in the layouts of the official archives."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
from PIL import Image

from metacontrast.tasks import _structure

ALPHABETS = {"background": {"Greek": (1, 2), "Arcadian": (3,)}, "evaluation": {"Oriya": (4,)}}
CLASSES = {"train": ("n01", "n02"), "val": ("n03",), "test": ("n04",)}
random = np.random.default_rng(0)


def png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def drawing(char_id, drawer):
    """Paper but for one pixel that tells which it is."""
    paper = np.full((105, 105), True)
    paper[char_id, drawer] = False
    return paper


def omniglot_members(part):
    for alphabet, ids in ALPHABETS[part].items():
        for character, char_id in enumerate(ids, 1):
            for drawer in range(1, 21):
                file = f"{char_id:04d}_{drawer:02d}.png"
                yield (
                    f"images_{part}/{alphabet}/character{character:02d}/{file}",
                    png(drawing(char_id, drawer)),
                )


def zipped(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)


def omniglot(folder):
    for part in ALPHABETS:
        extra = [(f"images_{part}/", b""), ("__MACOSX/._images", b"?")]
        zipped(folder / f"images_{part}.zip", extra + list(omniglot_members(part)))
    return folder


def mnist(folder, train=6, test=2):
    """Returns the arrays."""
    arrays = {}
    for part, n in (("train", train), ("t10k", test)):
        x = random.integers(0, 256, (n, 28, 28), np.uint8)
        y = random.integers(0, 10, n).astype(np.uint8)
        heads = struct.pack(">4B3I", 0, 0, 8, 3, *x.shape), struct.pack(">4BI", 0, 0, 8, 1, n)
        for kind, head, array in zip(("images-idx3", "labels-idx1"), heads, (x, y), strict=True):
            path = folder / f"{part}-{kind}-ubyte.gz"
            path.write_bytes(gzip.compress(head + array.tobytes()))
        arrays |= {f"x_{part}": x, f"y_{part}": y}
    return arrays


# Pickles as Python 2 wrote them, which Python 3 cannot: strings are of bytes (opcode T).


def string(text):
    return b"T" + struct.pack("<I", len(text)) + text


def integer(number):
    return b"J" + struct.pack("<i", number)


def listed(items):
    return b"](" + b"".join(items) + b"e"


def array(pixels, dtype=b"u1"):
    state = b"".join(
        (
            b"(" + integer(1) + b"(" + b"".join(map(integer, pixels.shape)) + b"t",
            b"cnumpy\ndtype\n" + string(dtype) + integer(0) + integer(1) + b"\x87R",
            b"(" + integer(3) + string(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb",
            b"\x89" + string(pixels.tobytes()) + b"t",
        )
    )
    made = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integer(0) + b"\x85"
    return made + string(b"b") + b"tR" + state + b"b"


def dictionary(**items):
    pairs = b"".join(string(key.encode()) + value for key, value in items.items())
    return b"\x80\x02}(" + pairs + b"u."


def cifar10_members(each=10, change=None):
    """Images of which each has every class; returns the pixels (n, 32, 32, 3), and the members."""
    members, pixels = {}, {}
    for batch in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        x = pixels[batch] = random.integers(0, 256, (each, 32, 32, 3), np.uint8)
        names = [string(f"{batch}_{i}.png".encode()) for i in range(each)]
        members[batch] = dictionary(
            batch_label=string(b"a batch"),
            labels=listed([integer(i % 10) for i in range(each)]),
            data=array(x.transpose(0, 3, 1, 2).reshape(each, -1)),
            filenames=listed(names),
        )
    meta = listed([string(f"class{i}".encode()) for i in range(10)])
    members["batches.meta"] = dictionary(label_names=meta, num_vis=integer(3072))
    return pixels, members | (change or {})


def tarred(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def cifar10(folder, **changes):
    """Returns the pixels of each batch."""
    pixels, members = cifar10_members(**changes)
    members = {f"cifar-10-batches-py/{name}": data for name, data in members.items()}
    tarred(folder / "cifar-10-python.tar.gz", members | {"cifar-10-batches-py/readme.html": b"hi"})
    return pixels


def miniimagenet(folder, size=84):
    """Three images a class, among others that no split names."""
    (folder / "images").mkdir(parents=True)
    for part, classes in CLASSES.items():
        rows = [(f"{label}0000{i}.jpg", label) for label in classes for i in range(3)]
        for filename, _ in rows:
            pixels = random.integers(0, 256, (size, size + size // 84 - 1, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / filename, quality=90)
        lines = ["filename,label", *(",".join(row) for row in rows)]
        (folder / f"{part}.csv").write_text("\n".join(lines) + "\n")
    return folder


SIZES = {
    "omniglot.npz": 80,
    "mnist.npz": 8,
    "cifar10_train.npz": 50,
    "cifar10_test.npz": 10,
    "miniimagenet_train.npz": 6,
    "miniimagenet_val.npz": 3,
    "miniimagenet_test.npz": 3,
}
NUMBERS_OF_CLASSES = {
    "miniimagenet_train.npz": 2,
    "miniimagenet_val.npz": 1,
    "miniimagenet_test.npz": 1,
}


def expected(monkeypatch):
    """The library expects these miniatures, in place of the complete data sets."""
    for file, n in SIZES.items():
        monkeypatch.setitem(_structure.COUNTS, file, n)
    for file, n in NUMBERS_OF_CLASSES.items():
        monkeypatch.setitem(_structure.CLASSES, file, n)
