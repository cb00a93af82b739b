"""Few-shot tasks are what they say, for every key."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast import Data
from metacontrast.tasks import Images, episodes

CLASSES, EACH, SIDE = 12, 9, 4
# The first pixel of each image says which it is; the corner beside it tells how it was turned.
PIXELS = np.zeros((CLASSES, EACH, SIDE, SIDE, 2), np.uint8)
PIXELS[..., 0] = np.arange(CLASSES)[:, None, None, None]
PIXELS[..., 1] = np.arange(EACH)[:, None, None]
PIXELS[:, :, 0, 0] += 100
IMAGES = Images(PIXELS, tuple("abcdefghijkl"))
N = 5000
KEYS = jax.random.split(jax.random.key(0), N)
CORNERS = {(0, 0): 0, (-1, 0): 1, (-1, -1): 2, (0, -1): 3}  # where 0, 1, ... quarters bring it


def identities(data):
    """Of each image: its class, its number in it, and the quarters by which it was turned."""
    pixels = np.rint(np.asarray(data.x) * 255).astype(int)
    marked = [[pixels[:, i, j, 0] >= 100] for i, j in CORNERS]
    turns = np.argmax(np.concatenate(marked), axis=0)
    return pixels[:, 1, 1, 0], pixels[:, 1, 1, 1], turns


def one_of(tasks, i):
    return jax.tree.map(lambda leaf: leaf[i], tasks)


@cache
def draw_many(way, shot, query, rotations):
    """`keys -> tasks`, in numpy."""
    draw = jax.jit(jax.vmap(episodes(IMAGES, way, shot, query, rotations=rotations)))
    return lambda keys: jax.tree.map(np.asarray, draw(keys))


@pytest.mark.parametrize(
    ("way", "shot", "query", "rotations"),
    [(12, 4, 5, False), (5, 1, 3, True), (1, 1, 1, True)],
)
def test_a_task(way, shot, query, rotations):
    tasks = draw_many(way, shot, query, rotations)(KEYS)
    for task in (one_of(tasks, i) for i in range(50)):
        classes_and_turns = []
        examples = set()
        for data, each in ((task.train, shot), (task.test, query)):
            assert data.x.shape == (way * each, SIDE, SIDE, 2)
            assert (data.x.dtype, data.y.dtype) == (jnp.float32, jnp.int32)
            np.testing.assert_array_equal(data.y, np.repeat(np.arange(way), each))
            classes, numbers, turns = (row.reshape(way, each) for row in identities(data))
            for row in (classes, turns):  # one class, and one turn, under one label
                np.testing.assert_array_equal(row, np.repeat(row[:, :1], each, axis=1))
            examples |= {(label, number) for label in range(way) for number in numbers[label]}
            classes_and_turns.append([*zip(classes[:, 0], turns[:, 0], strict=True)])
        assert len(examples) == way * (shot + query)  # distinct, and the two halves disjoint
        assert classes_and_turns[0] == classes_and_turns[1]
        assert len({*classes_and_turns[0]}) == way
        assert rotations or not turns.any()


def test_turns_are_counterclockwise_and_keep_the_pixels():
    task = one_of(draw_many(5, 1, 3, True)(KEYS), 7)
    for x, c, number, turn in zip(np.asarray(task.test.x), *identities(task.test), strict=True):
        # XLA multiplies by 1 / 255, which is rounded: at most two units in the last place.
        expected = np.rot90(PIXELS[c, number], turn) / 255
        np.testing.assert_allclose(x, expected, rtol=2 * np.finfo(np.float32).eps)


def test_the_key_alone_decides():
    draw = draw_many(5, 1, 3, True)
    tasks, reversed_ = draw(KEYS), draw(KEYS[::-1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[::-1], b), tasks, reversed_)
    assert np.any(tasks.train.x[0] != tasks.train.x[1])


def test_classes_turns_and_examples_are_uniform():
    tasks = draw_many(5, 1, 3, True)(KEYS)
    drawn = identities(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tasks.train))
    n = N * 5
    for values, kinds in zip(drawn, (CLASSES, EACH, 4), strict=True):
        share = np.bincount(values, minlength=kinds) / n
        # 5 standard deviations; distinct classes in a task only make the counts steadier
        assert np.abs(share - 1 / kinds).max() < 5 * np.sqrt((1 - 1 / kinds) / kinds / n)


@pytest.mark.parametrize(
    ("numbers", "named"),
    [
        ((0, 1, 1), "way"),
        ((5, 0, 1), "shot"),
        ((5, 1, 0), "query"),
        ((13, 1, 1), "way"),
        ((5, 4, 6), "query"),
    ],
)
def test_what_the_images_do_not_have_is_refused(numbers, named):
    with pytest.raises(ValueError, match=f"^{named}: "):
        episodes(IMAGES, *numbers)


def test_rotations_are_classes():
    draw = episodes(IMAGES, 48, 1, 1, rotations=True)
    assert jax.eval_shape(draw, jax.random.key(0)).train.y.shape == (48,)
    with pytest.raises(ValueError, match=r"^way: 49 of 48 classes"):
        episodes(IMAGES, 49, 1, 1, rotations=True)
    with pytest.raises(ValueError, match=r"^rotations: .*not square"):
        episodes(Images(PIXELS[:, :, :2], IMAGES.names), 5, 1, 1, rotations=True)


# Examples of one's own: classes a, b and c of 5, 3 and 9, in no order, told by their numbers.
SIZES = {"a": 5, "b": 3, "c": 9}
LABELS = np.random.default_rng(0).permutation([c for c, n in SIZES.items() for _ in range(n)])
OWN = Data(np.arange(17.0)[:, None] * [1.0, -0.5], LABELS)


def test_own_vectors_of_unequal_classes_keep_their_units():
    n = 3000
    tasks = jax.vmap(episodes(OWN, 2, 1, 2))(jax.random.split(jax.random.key(0), n))
    rows = np.concatenate([tasks.train.x.reshape(n, 2, 1, 2), tasks.test.x.reshape(n, 2, 2, 2)], 2)
    assert rows.dtype == OWN.x.dtype
    np.testing.assert_array_equal(rows[..., 1], -0.5 * rows[..., 0])
    labels = LABELS[rows[..., 0].astype(int)]
    np.testing.assert_array_equal(labels, np.repeat(labels[..., :1], 3, axis=2))
    assert np.all(labels[:, 0, 0] != labels[:, 1, 0])
    assert all(len({*row}) == 3 for task in rows[:100, ..., 0] for row in task)
    for c, size in SIZES.items():  # a class is in two tasks of three, and each of its rows as often
        drawn = rows[labels == c][:, 0]
        share = np.unique(drawn, return_counts=True)[1] / len(drawn)
        assert len(share) == size
        assert np.abs(share - 1 / size).max() < 5 * np.sqrt(1 / size / len(drawn))


@pytest.mark.parametrize(
    ("data", "more", "named"),
    [
        (OWN, {"query": 3}, r"query: 1 \+ 3 .* the 3 of the smallest \(1 are so\)"),
        (OWN, {"way": 4}, "way: 4 of 3 classes"),
        (OWN, {"distort": 1.0}, r"distort: is for images .* \(2,\)"),
        (OWN._replace(x=OWN.x[:, 0]), {}, r"examples.x: .*not float64 of shape \(17,\)"),
        (OWN._replace(y=LABELS[1:]), {}, "examples.y: must be 17 labels"),
        (OWN._replace(x=np.full((17, 2), np.nan)), {}, "examples.x: has NaN"),
    ],
)
def test_own_examples_that_will_not_do_are_named(data, more, named):
    with pytest.raises(ValueError, match=f"^{named}"):
        episodes(data, **{"way": 2, "shot": 1, "query": 2, **more})


def test_bytes_of_ones_own_are_those_of_images():
    flat = Data(PIXELS.reshape(-1, SIDE, SIDE, 2), np.repeat(np.arange(CLASSES), EACH))
    own, images = (episodes(x, 5, 1, 3, rotations=True)(KEYS[0]) for x in (flat, IMAGES))
    jax.tree.map(np.testing.assert_array_equal, own, images)
