"""Omniglot: 1,623 characters of 50 alphabets, each drawn by 20 people."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .._must import Count
from ._cache import cache_folder, choose, load
from ._images import Images, frozen, resized
from ._structure import BACKGROUND, DRAWINGS, SIDE

PARTS = ("train", "valid", "test")
# The split of Vinyals et al., 2016, as published with prototypical networks (Snell et al., 2017),
# without its rotations: whole alphabets, but for one, whose last four characters are test.
VINYALS_VALID = ("Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)")
VINYALS_TEST = (
    *("Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian", "Old_Church_Slavonic_(Cyrillic)"),
    *("Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar", "Tibetan", "ULOG"),
)
CUT_ALPHABET, CUT_AFTER = "Gurmukhi", 41
# Ours: three whole background alphabets, 109 characters, are set apart to choose settings on.
BACKGROUND_VALID = ("Armenian", "Bengali", "Early_Aramaic")


def omniglot(part: str, split: str = "vinyals", size: Count = 28) -> Images:
    """Handwritten characters, ink 255 on paper 0, 20 drawings of each.

    Args:
        part: "train", "valid" or "test". No character is in two of them.
        split: "vinyals", that of most few-shot results: 1,028, 172 and 423 characters. Each is a
            class; the published classes are their four rotations, see `episodes`. Or "background",
            the data set's own: 855 and 109 of the 964 background characters to train and validate
            (three whole alphabets, our choice), and its 659 evaluation characters to test.
        size: of the square images; drawn at 105, made smaller by Lanczos' filter.

    Returns:
        `Images` with one channel; a name is "alphabet/character01". In memory after the first call.

    Raises:
        FileNotFoundError: the data are not in the cache; the message says how to get them.
        ValueError: a bad argument, or a damaged file.

    Reference: Lake, Salakhutdinov, Tenenbaum, 2015; the split: Vinyals et al., 2016.
    """
    choose("part", part, PARTS)
    choose("split", split, ("vinyals", "background"))
    return _omniglot(cache_folder(), part, split, size)


@cache
def _omniglot(folder: Path, part: str, split: str, size: int) -> Images:
    z = load(folder, "omniglot.npz")
    alphabets = z["alphabet_names"][z["alphabet"]]
    where = vinyals if split == "vinyals" else background
    order = np.lexsort((z["drawer"], z["char_id"]))  # 20 drawings of one character in a row
    first = order[::DRAWINGS]
    classes = [
        i
        for i, row in enumerate(first)
        if where(str(alphabets[row]), int(z["character"][row]), int(z["char_id"][row])) == part
    ]
    rows = order.reshape(-1, DRAWINGS)[classes]
    ink = 255 * (1 - np.unpackbits(z["bits"][rows], axis=-1, count=SIDE))  # 1 is paper there
    pixels = [resized(Image.fromarray(drawing), size) for drawing in ink.reshape(-1, SIDE, SIDE)]
    names = tuple(f"{alphabets[i]}/character{z['character'][i]:02d}" for i in rows[:, 0])
    return Images(frozen(np.reshape(pixels, (*rows.shape, size, size, 1))), names)


def vinyals(alphabet: str, character: int, char_id: int) -> str:
    """The part that a character is in."""
    if alphabet in VINYALS_VALID:
        return "valid"
    cut_off = alphabet == CUT_ALPHABET and character > CUT_AFTER
    return "test" if alphabet in VINYALS_TEST or cut_off else "train"


def background(alphabet: str, character: int, char_id: int) -> str:
    """The part that a character is in."""
    if char_id > BACKGROUND:
        return "test"
    return "valid" if alphabet in BACKGROUND_VALID else "train"
