"""Few-shot tasks are what they say, for every key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metacontrast.tasks import Images, episodes

CLASSES, EACH, SIDE = 12, 9, 4
# The first pixel of each image says which it is; the corner beside it tells how it was turned.
PIXELS = np.zeros((CLASSES, EACH, SIDE, SIDE, 2), np.uint8)
PIXELS[..., 0] = np.arange(CLASSES)[:, None, None, None]
PIXELS[..., 1] = np.arange(EACH)[:, None, None]
PIXELS[:, :, 0, 0] += 100
IMAGES = Images(PIXELS, tuple("abcdefghijkl"))
CORNERS = {(0, 0): 0, (-1, 0): 1, (-1, -1): 2, (0, -1): 3}  # where 0, 1, ... quarters bring it


def identities(data):
    """Of each image: its class, its number in it, and the quarters by which it was turned."""
    pixels = np.rint(np.asarray(data.x) * 255).astype(int)
    marked = [[pixels[:, i, j, 0] >= 100] for i, j in CORNERS]
    turns = np.argmax(np.concatenate(marked), axis=0)
    return pixels[:, 1, 1, 0], pixels[:, 1, 1, 1], turns


def one_of(tasks, i):
    return jax.tree.map(lambda leaf: leaf[i], tasks)


@pytest.mark.parametrize("rotations", [False, True])
@pytest.mark.parametrize(("way", "shot", "query"), [(5, 1, 3), (12, 4, 5), (1, 1, 1)])
def test_a_task(way, shot, query, rotations):
    draw = episodes(IMAGES, way, shot, query, rotations=rotations)
    tasks = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 50))
    for task in (one_of(tasks, i) for i in range(50)):
        classes_and_turns = []
        seen = set()
        for data, each in ((task.train, shot), (task.test, query)):
            assert data.x.shape == (way * each, SIDE, SIDE, 2)
            assert (data.x.dtype, data.y.dtype) == (jnp.float32, jnp.int32)
            np.testing.assert_array_equal(data.y, np.repeat(np.arange(way), each))
            classes, numbers, turns = (row.reshape(way, each) for row in identities(data))
            for row in (classes, turns):  # one class, and one turn, under one label
                np.testing.assert_array_equal(row, np.repeat(row[:, :1], each, axis=1))
            seen |= {(label, number) for label in range(way) for number in numbers[label]}
            classes_and_turns.append([*zip(classes[:, 0], turns[:, 0], strict=True)])
        assert len(seen) == way * (shot + query)  # distinct, and the two halves disjoint
        assert classes_and_turns[0] == classes_and_turns[1]
        assert len({*classes_and_turns[0]}) == way
        assert rotations or not turns.any()


def test_turns_are_counterclockwise_and_keep_the_pixels():
    task = episodes(IMAGES, 12, 1, 8, rotations=True)(jax.random.key(0))
    for x, c, number, turn in zip(np.asarray(task.test.x), *identities(task.test), strict=True):
        # XLA multiplies by 1 / 255, which is rounded: at most two units in the last place.
        expected = np.rot90(PIXELS[c, number], turn) / 255
        np.testing.assert_allclose(x, expected, rtol=2 * np.finfo(np.float32).eps)


def test_the_key_alone_decides():
    draw = episodes(IMAGES, 5, 2, 3, rotations=True)
    keys = jax.random.split(jax.random.key(7), 3)
    tasks = jax.jit(jax.vmap(draw))(keys)
    for i, key in enumerate(keys):
        close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2 * np.finfo(np.float32).eps)
        jax.tree.map(close, draw(key), one_of(tasks, i))
    assert np.any(tasks.train.x[0] != tasks.train.x[1])


def test_classes_turns_and_examples_are_uniform():
    draw = jax.jit(jax.vmap(episodes(IMAGES, 4, 1, 1, rotations=True)))
    tasks = draw(jax.random.split(jax.random.key(0), 6000))
    found = identities(jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tasks.train))
    n = 6000 * 4
    for values, kinds in zip(found, (CLASSES, EACH, 4), strict=True):
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
    episodes(IMAGES, 48, 1, 1, rotations=True)(jax.random.key(0))
    with pytest.raises(ValueError, match=r"^way: 49 of 48 classes"):
        episodes(IMAGES, 49, 1, 1, rotations=True)
    with pytest.raises(ValueError, match=r"^rotations: .*not square"):
        episodes(Images(PIXELS[:, :, :2], IMAGES.names), 5, 1, 1, rotations=True)
