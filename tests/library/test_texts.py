"""Sources of text are what they claim; a transformer that reads them does not look ahead."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.nets import transformer
from metacontrast.tasks import texts
from metacontrast.tasks._text import ALPHABET, COPIED, DISTINCT, GARBLED, SOURCES, TYPOS, decoded

CHARS = 40_000
MADE = texts(3, CHARS)
TEXT = dict(zip(SOURCES, map(decoded, MADE.train), strict=True))
TARGET = [decoded(text) for text in (MADE.trusted, MADE.valid, MADE.test)]


def words(text):
    """Those that are whole: without the last, which may be cut, and without stops."""
    return text.replace(".", "").split()[:-1]


def sentences(text):
    return text.split(". ")[:-1]


def test_the_clean_source_speaks_as_the_target_but_says_other_things():
    lexicon = set(words(TEXT["clean"]))
    for text in TARGET:
        assert set(words(text)) <= lexicon
        assert len(set(sentences(text)) & set(sentences(TEXT["clean"]))) < 5  # of hundreds
    assert len({*TARGET, TEXT["clean"][: CHARS // 4]}) == 4


def test_verbs_agree_with_their_subjects():
    one, many = {}, {}
    for said in sentences(TEXT["clean"]):
        first, *rest = said.split()
        at = next(i for i, w in enumerate(rest) if w in DETERMINERS)
        (one if first == DETERMINERS[0] else many).setdefault(rest[at - 1], 0)
    assert DETERMINERS[0] != DETERMINERS[1] and one and many
    assert not one.keys() & many.keys()


DETERMINERS = sorted({said.split()[0] for said in sentences(TEXT["clean"])})


@pytest.mark.parametrize(("name", "rate"), [("typos", TYPOS), ("garbled", GARBLED)])
def test_typos_come_at_their_rate(name, rate):
    # In clean text a stop is followed by a space. Both are kept with 1 - rate (1 - 1/28), and a
    # space comes about by a typo with rate / 28; so does a typo that leaves what was there.
    kept = 1 - rate * (1 - 1 / len(ALPHABET))
    wrong = rate / len(ALPHABET)
    clean = CHARS / np.mean([len(said) + 2 for said in sentences(TEXT["clean"])])  # stops
    pairs = TEXT[name].count(". ")
    # Stops kept before a kept space, and made before any space; five standard errors.
    spaces = TEXT["clean"].count(" ") / CHARS
    expected = clean * kept**2 + (CHARS - clean) * wrong * (spaces * kept + (1 - spaces) * wrong)
    assert abs(pairs - expected) < 5 * np.sqrt(expected) + 0.03 * clean  # other texts, other stops


def test_shuffled_sentences_have_the_words_but_not_the_order():
    assert set(words(TEXT["shuffled"])) <= set(words(TEXT["clean"]))
    pairs = lambda text: {p for s in sentences(text) for p in zip(s.split(), s.split()[1:])}  # noqa: B905
    assert all(first in DETERMINERS for first in (s.split()[0] for s in sentences(TEXT["clean"])))
    last = lambda text: {s.split()[-1] for s in sentences(text)}
    assert not last(TEXT["clean"]) & set(DETERMINERS) and set(DETERMINERS) <= last(TEXT["shuffled"])
    assert len(pairs(TEXT["shuffled"]) - pairs(TEXT["clean"])) > 1000


def test_copies_are_few_sentences_with_few_typos():
    said = sentences(TEXT["copies"])
    common = sorted(set(said), key=said.count)[-DISTINCT:]
    assert set(words(" ".join(common) + " x")) <= set(words(TEXT["clean"]))
    # A sentence of n characters is unchanged with (1 - rate 27/28)^n.
    n = np.mean([len(s) for s in common])
    unchanged = (1 - COPIED * 27 / 28) ** (n + 2)
    share = sum(s in common for s in said) / len(said)
    assert abs(share - unchanged) < 5 * np.sqrt(unchanged * (1 - unchanged) / len(said)) + 0.02


def test_the_foreign_language_shares_no_words_and_the_random_source_none_at_all():
    assert len(set(words(TEXT["foreign"])) & set(words(TEXT["clean"]))) <= 2  # by chance
    counts = np.bincount(MADE.train[SOURCES.index("random")], minlength=len(ALPHABET))
    expected = CHARS / len(ALPHABET)
    chi2 = np.sum((counts - expected) ** 2 / expected)
    assert chi2 < 27 + 5 * np.sqrt(2 * 27)  # 27 degrees of freedom


def test_texts_follow_from_their_seed():
    again, other = texts(3, 2000), texts(4, 2000)
    assert np.array_equal(again.train, texts(3, 2000).train)
    assert not np.array_equal(again.train, other.train)
    with pytest.raises(ValueError, match=r"^chars: must be at least 1,000, not 10"):
        texts(0, 10)


@pytest.mark.thorough
def test_a_transformer_does_not_look_ahead():
    net = transformer(28, 10, 8, 2, 2)
    answer = jax.jit(partial(net.apply, net.init(jax.random.key(0))))
    x = jnp.arange(10)
    logits, changed = answer(x), answer(x.at[6].set(20))
    np.testing.assert_array_equal(logits[:6], changed[:6])
    assert np.all(np.any(np.asarray(logits[6:] != changed[6:]), axis=1))
    # and looks back, with places of its own
    assert not np.allclose(logits[9], answer(x[::-1].at[9].set(9))[9])
    with pytest.raises(ValueError, match=r"^width: must be a multiple of heads=3, not 8"):
        transformer(28, 10, 8, 2, 3)
