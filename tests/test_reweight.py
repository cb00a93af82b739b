"""Reweighting: its sources of text, its meta-gradient, its loop, and runs from the command line."""

import json
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from command import command

import metacontrast as mc
from metacontrast.experiments import reweight
from metacontrast.experiments._reweight_final import judged, train
from metacontrast.experiments._reweight_problem import (
    Settings,
    drawer,
    errors,
    problem,
    windows,
)
from metacontrast.nets import Net, transformer
from metacontrast.tasks import texts
from metacontrast.tasks._text import ALPHABET, COPIED, DISTINCT, GARBLED, SOURCES, TYPOS, decoded
from metacontrast.train import DivergedError, warm_train

CHARS = 40_000
MADE = texts(3, CHARS)
TEXT = dict(zip(SOURCES, map(decoded, MADE.train), strict=True))
TARGET = [decoded(text) for text in (MADE.trusted, MADE.valid, MADE.test)]
SETTINGS = Settings(length=12, width=8, depth=1, heads=2, decay=0.02, chars=4000, inner_steps=3)


def words(text):
    """Those that are whole: without the last, which may be cut, and without stops."""
    return text.replace(".", "").split()[:-1]


def sentences(text):
    return text.split(". ")[:-1]


# The sources are what they claim


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


# The transformer


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


# The mathematics, with a learner whose loss is strictly convex: logits by the last character

BIGRAM = Net(lambda key: jnp.zeros((28, 28)), lambda phi, x: phi[x])
CONVEX = problem(BIGRAM, jnp.zeros((28, 28)), SETTINGS)
BATCH = drawer(MADE, replace(SETTINGS, batch=8, trusted=16))(jax.random.key(0))
THETA = jnp.linspace(-1.0, 1.0, len(SOURCES))


def test_the_inner_loss_is_the_weighted_mean_over_sources():
    phi = jax.random.normal(jax.random.key(1), (28, 28))
    weights = np.exp(THETA) / np.exp(THETA).sum()
    logits = lambda x: phi[x] - jax.nn.logsumexp(phi[x], axis=-1, keepdims=True)
    nats = lambda s: -np.mean([logits(x[:-1])[np.arange(len(x) - 1), x[1:]] for x in s])
    expected = sum(w * nats(s) for w, s in zip(weights, np.asarray(BATCH.sources), strict=True))
    expected += SETTINGS.decay * np.sum(np.square(phi))
    np.testing.assert_allclose(CONVEX.inner(phi, THETA, BATCH), expected, rtol=1e-12)
    np.testing.assert_allclose(
        CONVEX.outer(phi, THETA, BATCH), nats(np.asarray(BATCH.trusted)), rtol=1e-12
    )


@pytest.fixture(scope="module")
def exact():
    """The meta-gradient at theta by central differences of the converged learner's outer loss."""
    solve = mc.lbfgs(1e-12, 500)
    learned = jax.jit(
        lambda theta: CONVEX.outer(mc.learn(CONVEX, solve, theta, BATCH).phi, theta, BATCH)
    )
    h, eye = 1e-4, np.eye(len(SOURCES))
    return np.array([(learned(THETA + h * e) - learned(THETA - h * e)) / (2 * h) for e in eye])


def test_the_contrast_is_the_exact_gradient_of_the_weights(exact):
    # The differences err by O(h^2) = 1e-8, relative to third derivatives of about the gradient's
    # size, and by the learner's 1e-12 over h; the contrast by O(beta^2).
    rule = lambda beta: mc.Contrastive(beta, "symmetric").value_and_grad(
        CONVEX, mc.lbfgs(1e-10, 500), THETA, BATCH
    )[1]
    error = [np.linalg.norm(jax.jit(rule, static_argnums=0)(b) - exact) for b in (0.2, 0.1)]
    assert error[1] < 0.05 * np.linalg.norm(exact)
    assert error[0] / error[1] == pytest.approx(4, rel=0.1)  # of second order


def test_the_warm_phases_come_to_the_exact_gradient(exact):
    whole = replace(CONVEX, sample=None)
    loop = mc.warm(whole, mc.descend(optax.sgd(1.0, 0.9), 5), mc.Contrastive(0.02, "symmetric"))
    step = jax.jit(loop.value_and_grad)
    state, errs = loop.init(THETA, BATCH), []
    for _ in range(120):
        _, grad, state = step(state, THETA, BATCH)
        errs.append(np.linalg.norm(grad - exact) / np.linalg.norm(exact))
    # What is left is the nudge's, a hundredth of that of 0.2.
    assert errs[-1] < 2e-3 < errs[0]


# The loop


def drawn(key):
    return jnp.array(2.0) + 0.1 * jax.random.normal(key)


RIDGE = mc.Problem(
    init=lambda theta, task: jnp.zeros(()),
    inner=lambda phi, theta, task: (phi - task) ** 2 + theta**2 * phi**2,
    outer=lambda phi, theta, task: (phi - 1.0) ** 2,
)


def ridge(problem=RIDGE, **changes):
    arguments = dict(steps=12, seed=5, every=4, chunk=2, progress=False)
    rule, solve = mc.Contrastive(0.1), mc.descend(optax.sgd(0.1, 0.5), 2)
    return warm_train(
        problem, solve, rule, drawn, jnp.array(0.5), optax.adam(0.1), **(arguments | changes)
    )


def test_warm_training_is_the_loop_by_hand():
    loop = mc.warm(RIDGE, mc.descend(optax.sgd(0.1, 0.5), 2), mc.Contrastive(0.1))
    keys = lambda t: jax.random.split(jax.random.fold_in(jax.random.key(5), t))
    theta, meta = jnp.array(0.5), optax.adam(0.1)
    state, moments = loop.init(theta, drawn(keys(0)[0])), meta.init(theta)
    for t in range(12):
        _, grad, state = loop.value_and_grad(state, theta, drawn(keys(t)[0]))
        updates, moments = meta.update(grad, moments, theta)
        theta = theta + updates
    trained = ridge()
    np.testing.assert_allclose(trained.theta, theta, rtol=1e-12)
    np.testing.assert_allclose(trained.phi, state.phases[0][0], rtol=1e-12)
    assert [line["step"] for line in trained.metrics] == [4, 8, 12]


def test_a_warm_run_that_stopped_and_resumed_is_the_run_that_did_not(tmp_path):
    seen = lambda theta, phi: {"theta": theta, "phi": phi}
    whole = ridge(watch=seen)
    ridge(watch=seen, steps=8, out=tmp_path / "run")
    resumed = ridge(watch=seen, out=tmp_path / "run", resume=True)
    assert resumed.theta == whole.theta and resumed.phi == whole.phi
    assert resumed.metrics[-1]["valid_phi"] == float(whole.phi)
    with pytest.raises(ValueError, match=r"^out: .*seed is 5 there and 6 now"):
        ridge(out=tmp_path / "run", resume=True, seed=6)


def test_a_warm_run_that_diverges_says_so():
    steep = replace(RIDGE, inner=lambda phi, theta, task: 1e6 * (phi - task - theta) ** 2)
    with pytest.raises(DivergedError, match=r"^meta-step \d+: the meta-loss or theta is not"):
        ridge(steep, steps=200)


# Runs


def test_the_final_model_learns_from_its_mixture_alone():
    settings = replace(SETTINGS, final_steps=60, rate=0.3)
    made = MADE._replace(train=np.stack([np.zeros_like(MADE.train[0]), *MADE.train[1:]]))
    only = train(BIGRAM, jnp.zeros((28, 28)), np.eye(7)[0], made, settings, 0)
    # It has seen nothing but "a" after "a".
    assert np.argmax(only.phi[0]) == 0 and np.all(only.phi[1:] == 0)
    other = train(BIGRAM, jnp.zeros((28, 28)), np.eye(7)[1], made, settings, 0)
    assert np.mean(judged(BIGRAM, made.test, settings, 50)(other.phi)) < np.log(28) - 0.3
    assert [step for step, _ in only.curve] == [50, 60]


def test_windows_are_of_the_text():
    text = jnp.arange(50)
    cut = np.asarray(windows(jax.random.key(0), text, 200, 9))
    assert cut.shape == (200, 10) and np.all(np.diff(cut) == 1)
    assert cut.min() == 0 and cut.max() == 49  # of 41 places, missed with (40/41)^200 < 1%
    assert errors(BIGRAM, jnp.zeros((28, 28)), jnp.zeros((3, 5), int)) == pytest.approx(np.log(28))


@pytest.fixture
def tiny(monkeypatch):
    small = replace(SETTINGS, steps=40, final_steps=20, outer_rate=0.1, decay=0.0)
    for name, method in reweight.METHODS.items():
        monkeypatch.setitem(reweight.METHODS, name, method._replace(settings=small))
    monkeypatch.setattr(reweight, "METHODS", {n: reweight.METHODS[n] for n in ("cml", "uniform")})


def test_runs_from_the_command_line(tiny, monkeypatch, tmp_path, capsys):
    run = lambda *words: command(
        monkeypatch, "run", "reweight", "--seed", 1, "--out", tmp_path, *words
    )
    assert run("--method", "all") == 0
    results = {
        name: json.loads((tmp_path / name / "seed1" / "result.json").read_text())
        for name in ("cml", "uniform")
    }
    learned = results["cml"]["weights"]
    assert sum(learned.values()) == pytest.approx(1)
    assert min(learned["clean"], learned["typos"]) > learned["random"]
    assert results["uniform"]["weights"] == dict.fromkeys(SOURCES, pytest.approx(1 / 7))
    assert (tmp_path / "reweight.png").stat().st_size > 0
    assert "clean" in capsys.readouterr().out
    assert run("--method", "all", "--resume") == 0  # nothing is left to do
    assert run("--method", "nonsense") == 2
