"""Small caches of CIFAR-10, and a linear learner of coarse pixels in place of LeNet-5."""

import io

import jax
import numpy as np
from PIL import Image

from metacontrast.nets import ConvNet
from metacontrast.tasks._import_images import packed


def _init(key):
    return {"matrix": 0.3 * jax.random.normal(key, (12, 10))}


def _apply(phi, x):
    coarse = x.reshape(len(x), 2, 16, 2, 16, 3).mean((2, 4)).reshape(len(x), 12)
    return 10 * coarse @ phi["matrix"]  # coarse pixels vary by about a tenth


NET = ConvNet(_init, _apply, None)


def _png(pixels):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def save(folder, part, n, seed):
    """`n` images of noise, a tenth of each class, whose tints are faint."""
    tints = np.random.default_rng(0).integers(0, 25, (10, 2, 2, 3), np.uint8)
    labels = [i % 10 for i in range(n)]
    pixels = np.random.default_rng(seed).integers(0, 231, (n, 32, 32, 3), np.uint8)
    pixels += tints[labels].repeat(16, axis=1).repeat(16, axis=2)
    files = packed([_png(x) for x in pixels], labels, list("abcdefghij"), [*map(str, range(n))])
    np.savez(folder / f"cifar10_{part}.npz", **files)
