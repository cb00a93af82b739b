"""What is learned from, validated on and tested on are apart: streams of tasks, and data."""

from dataclasses import replace
from importlib import import_module

import _few_shot
import frame
import jax
import jax.numpy as jnp
import numpy as np
import photographs
import pytest
from test_held_out import images, settings

import metacontrast as mc
from metacontrast.train._setup import MetaStep


def keys_of(tasks):
    """The keys of stacked tasks that are but their keys, as pairs of numbers."""
    return {tuple(pair) for pair in np.asarray(tasks).reshape(-1, 2).tolist()}


def test_keys_of_training_validation_and_tests_are_apart_on_every_seed():
    """A task is drawn from its key alone; here it is its key."""
    held = [keys_of(frame.stack_tasks(jax.random.key_data, part, 1000)) for part in frame.SEEDS]
    # What draws, at random and around those of held-out tasks, and up to the largest seed.
    around = [seed + i for seed in frame.SEEDS.values() for i in (-1, 1)]
    seeds = np.array([*range(50), *set(around) - set(frame.SEEDS.values()), 2**32 - 1])

    def trained(seed):
        step = MetaStep(*[None] * 5, tasks=25, seed=seed)
        drawing, _ = jax.vmap(step.keys)(jnp.arange(200))
        first = jax.random.fold_in(jax.random.key(seed), 2**31)  # as of `frame.first_key`
        return jax.random.key_data(drawing), jax.random.key_data(first)

    drawn, first = map(keys_of, jax.jit(jax.vmap(trained))(jnp.asarray(seeds, jnp.uint32)))
    streams, n = [*held, drawn, first], len(seeds)
    assert list(map(len, streams)) == [1000, 1000, 200 * 25 * n, n]
    assert len(set().union(*streams)) == sum(map(len, streams))


@pytest.mark.parametrize("seed", frame.SEEDS.values())
def test_no_run_has_the_seed_of_held_out_tasks(seed):
    sine = import_module("sine").EXPERIMENT
    with pytest.raises(ValueError, match=f"seed: {seed} draws held-out tasks"):
        sine.folder(replace(sine.methods["maml"], seed=seed))


def distinct(x, turned=False):
    """The examples as bytes, to about the last bit of a pixel; `turned`: whichever way up."""
    flat = np.rint(255 * np.asarray(x, np.float64)).reshape(len(x), -1)
    return {row.tobytes() for row in (np.sort(flat, axis=1) if turned else flat)}


def parts_of(name, s, module, monkeypatch, folder):
    """What an experiment learns from, validates on and is tested on."""
    parts = ("train", "valid", "test")
    match name:
        case "cifar10_l2":
            for part, n in (("train", 60), ("test", 20)):
                photographs.save(folder, part, n, seed=n)
            photos = module.photographs(s)
            test = module.others("test", photos.statistics)
            return [distinct(data.x) for data in (photos.learned, photos.valid, test)]
        case "hypercleaning":
            pixels = np.random.default_rng(0).integers(0, 256, (2, 12, 28, 28))
            digits = lambda part: (pixels[int(part == "test")], np.zeros(12, np.int32))
            monkeypatch.setattr(module, "mnist", digits)
            (learned, valid), _, mean = module.images(s)
            test = module.others("test", mean)
            return [distinct(np.asarray(data.x) + mean) for data in (learned, valid, test)]
        case "denoise":
            pytest.importorskip("sklearn")
            return [distinct(module.photograph(part).T) for part in parts]  # columns of pixels
        case "reweight":
            texts, n = module.texts(s.seed, s.chars), s.length + 1
            cut = lambda text: np.lib.stride_tricks.sliding_window_view(text, n)
            learned = np.concatenate([*map(cut, texts.train), cut(texts.trusted)])
            three = learned, cut(texts.valid), cut(texts.test)
            return [{row.tobytes() for row in x} for x in three]
    if name == "complementary_characters":
        monkeypatch.setattr(module, "omniglot", images)
        s = replace(s, side=16)  # as these are
        tasks = [module.sampler(s, part, 3)(jax.random.key(0)) for part in parts]
    else:
        classes = _few_shot.Classes(images, rotate_train=True, rotate_held_out=True)
        tasks = [next(classes.held_out(part, s, 2, 3)()) for part in parts[1:]]
        x = images("train").pixels
        tasks = [mc.Task(mc.Data(x / 255, None), mc.Data(x / 255, None)), *tasks]
    of = lambda data: distinct(np.asarray(data.x).reshape(-1, 16, 16), turned=True)
    return [of(task.train) | of(task.test) for task in tasks]


FROM_DATA = (
    "cifar10_l2", "complementary_characters", "denoise", "hypercleaning", "omniglot", "reweight",
)  # fmt: skip


@pytest.mark.parametrize("name", FROM_DATA)
def test_no_example_is_in_two_parts(name, monkeypatch, tmp_path):
    monkeypatch.setenv("METACONTRAST_DATA", str(tmp_path))
    module = import_module(name)
    s = settings(name, module, next(iter(module.EXPERIMENT.methods)), tmp_path)
    parts = parts_of(name, s, module, monkeypatch, tmp_path)
    assert min(map(len, parts)) > 3
    assert len(set().union(*parts)) == sum(map(len, parts))
