"""Text of several sources, made by a small grammar: some like the target domain, some not."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Annotated, NamedTuple, TypeAlias

import numpy as np

from .._must import Must, Seed

ALPHABET = "abcdefghijklmnopqrstuvwxyz ."
SOURCES = ("clean", "typos", "garbled", "shuffled", "copies", "foreign", "random")
TYPOS, GARBLED, COPIED, DISTINCT = 0.1, 0.4, 0.01, 12  # rates of noise; sentences in "copies"


class Language(NamedTuple):
    """Words of each class, the endings of the plural (noun, verb), and where the verb stands."""

    determiners: tuple[str, str]
    adjectives: list[str]
    nouns: list[str]
    verbs: list[str]
    endings: tuple[str, str]
    verb_first: bool


class Texts(NamedTuple):
    """Texts as numbers of letters.

    `train` has shape (sources, chars); the target's `trusted`, `valid`, `test` (chars / 4 each) are
    of the grammar of the "clean" source, drawn apart.
    """

    train: np.ndarray
    trusted: np.ndarray
    valid: np.ndarray
    test: np.ndarray


Chars: TypeAlias = Annotated[
    int, Must("at least 1,000", lambda n: n >= 1000, "sources would be alike")
]


def texts(seed: Seed, chars: Chars = 200_000) -> Texts:
    """Seven sources of text, one of which is like the target domain.

    A sentence of the target is a subject, a verb that agrees with it in number, and an object;
    its words are made of syllables. The sources, all over one alphabet of 28 characters:

    | source   | what it is                                                        |
    |----------|-------------------------------------------------------------------|
    | clean    | the target's grammar and words                                    |
    | typos    | clean text, a tenth of its characters drawn anew                  |
    | garbled  | the same with four tenths                                         |
    | shuffled | clean sentences, the words of each in random order                |
    | copies   | twelve clean sentences again and again, with 1% typos             |
    | foreign  | another language: other words and endings, the verb first         |
    | random   | characters drawn uniformly                                        |

    Args:
        seed: draws the languages and all texts.
        chars: of each source; at least 1,000.

    Example:
        >>> made = texts(0, 1000)
        >>> made.train.shape, made.test.shape
        ((7, 1000), (250,))
        >>> decoded(made.train[0, :40])
        'co lozeti lijegej jocegion co qoce riqot'
    """
    draw, noise = Random(int(seed)), np.random.default_rng(seed)
    home, abroad = language(draw, False), language(draw, True)
    speak = lambda: sentence(draw, home)
    few = [speak() for _ in range(DISTINCT)]
    train = (
        _text(speak, chars),
        with_typos(noise, _text(speak, chars), TYPOS),
        with_typos(noise, _text(speak, chars), GARBLED),
        _text(lambda: _shuffled(draw, speak()), chars),
        with_typos(noise, _text(lambda: draw.choice(few), chars), COPIED),
        _text(lambda: sentence(draw, abroad), chars),
        noise.integers(0, len(ALPHABET), chars, np.uint8),
    )
    held_out = (_text(speak, chars // 4) for _ in range(3))
    return Texts(np.stack(train), *held_out)


def decoded(text: np.ndarray) -> str:
    """The characters of a text of numbers."""
    return "".join(ALPHABET[i] for i in text)


def with_typos(noise: np.random.Generator, text: np.ndarray, rate: float) -> np.ndarray:
    """The text with each character drawn anew, uniformly, at this rate."""
    anew = noise.integers(0, len(ALPHABET), text.shape, np.uint8)
    return np.where(noise.random(text.shape) < rate, anew, text)


def language(draw: Random, verb_first: bool) -> Language:
    """A language of its own sounds: 8 of the consonants, 3 of the vowels; no word is used twice."""
    consonants, vowels = draw.sample("bcdfghjklmnpqrstvwxz", 8), draw.sample("aeiouy", 3)
    syllable = lambda: draw.choice(consonants) + draw.choice(vowels)
    words: list[str] = []
    while len(words) < 92:
        # The two determiners are short.
        word = "".join(syllable() for _ in range(1 if len(words) < 2 else draw.choice((2, 3))))
        if word not in words:
            words.append(word)
    endings = (draw.choice(consonants), draw.choice(vowels) + "n")
    return Language(
        (words[0], words[1]), words[2:22], words[22:62], words[62:], endings, verb_first
    )


def sentence(draw: Random, spoken: Language) -> str:
    """A subject, a verb that agrees with it, and an object, without the full stop."""
    plural = draw.randrange(2)
    subject, verb, object_ = (
        _noun(draw, spoken, plural),
        draw.choice(spoken.verbs) + (spoken.endings[1] if plural else ""),
        _noun(draw, spoken, draw.randrange(2)),
    )
    return " ".join((verb, subject, object_) if spoken.verb_first else (subject, verb, object_))


def _noun(draw: Random, spoken: Language, plural: int) -> str:
    noun = draw.choice(spoken.nouns) + (spoken.endings[0] if plural else "")
    adjective = [draw.choice(spoken.adjectives)] if draw.randrange(2) else []
    return " ".join([spoken.determiners[plural], *adjective, noun])


def _shuffled(draw: Random, sentence: str) -> str:
    words = sentence.split()
    return " ".join(draw.sample(words, len(words)))


def _text(speak: Callable[[], str], chars: int) -> np.ndarray:
    sentences, length = [], 0
    while length < chars:
        sentences.append(speak() + ". ")
        length += len(sentences[-1])
    numbers = {letter: i for i, letter in enumerate(ALPHABET)}
    return np.array([numbers[letter] for letter in "".join(sentences)[:chars]], np.uint8)
