"""Reweighting: its meta-gradient, its final model, and runs from its command."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import reweight
from _language_model import Training, errors, judge_of, train, windows
from reweight import METHODS

import metacontrast as mc
from metacontrast.nets import Net
from metacontrast.tasks import texts
from metacontrast.tasks._text import SOURCES

S = replace(
    METHODS["cml"], length=12, width=8, depth=1, heads=2, decay=0.02, chars=4000, inner_steps=3
)
DATA = texts(3, 40_000)

# The mathematics, with a learner whose loss is strictly convex: logits by the last character

BIGRAM = Net(lambda key: jnp.zeros((28, 28)), lambda phi, x: phi[x])
CONVEX = reweight.problem(BIGRAM, jnp.zeros((28, 28)), S)
BATCH = reweight.task_sampler(DATA, replace(S, batch=8, trusted=16))(jax.random.key(0))
THETA = jnp.linspace(-1.0, 1.0, len(SOURCES))


@pytest.mark.thorough
def test_the_inner_loss_is_the_weighted_mean_over_sources():
    phi = jax.random.normal(jax.random.key(1), (28, 28))
    weights = np.exp(THETA) / np.exp(THETA).sum()
    logits = lambda x: phi[x] - jax.nn.logsumexp(phi[x], axis=-1, keepdims=True)
    nats = lambda s: -np.mean([logits(x[:-1])[np.arange(len(x) - 1), x[1:]] for x in s])
    expected = sum(w * nats(s) for w, s in zip(weights, np.asarray(BATCH.sources), strict=True))
    expected += S.decay * np.sum(np.square(phi))
    np.testing.assert_allclose(CONVEX.inner(phi, THETA, BATCH), expected, rtol=1e-12)
    np.testing.assert_allclose(
        CONVEX.outer(phi, THETA, BATCH), nats(np.asarray(BATCH.trusted)), rtol=1e-12
    )


@pytest.fixture(scope="module")
def exact():
    """The meta-gradient at theta by central differences of the converged learner's outer loss."""
    solver = mc.lbfgs(1e-12, 500)
    learned = jax.jit(
        lambda theta: CONVEX.outer(mc.solve_inner(CONVEX, solver, theta, BATCH).phi, theta, BATCH)
    )
    h, eye = 1e-4, np.eye(len(SOURCES))
    return np.array([(learned(THETA + h * e) - learned(THETA - h * e)) / (2 * h) for e in eye])


def test_the_contrast_is_the_exact_gradient_of_the_weights(exact):
    # The differences err by O(h^2) = 1e-8, relative to third derivatives of about the gradient's
    # size, and by the learner's 1e-12 over h; the contrast by O(beta^2).
    solver = mc.lbfgs(1e-10, 500)
    rule = lambda beta: mc.meta_gradient(CONVEX, solver, mc.Contrastive(beta, "symmetric"))
    gradient = jax.jit(lambda beta: rule(beta)(THETA, BATCH).by_theta)  # one program for both
    error = [np.linalg.norm(gradient(beta) - exact) for beta in (0.2, 0.1)]
    assert error[1] < 0.05 * np.linalg.norm(exact)
    assert error[0] / error[1] == pytest.approx(4, rel=0.1)  # of second order


@pytest.mark.thorough
def test_the_warm_phases_come_to_the_exact_gradient(exact):
    whole = replace(CONVEX, sample=None)
    solver = mc.descend(optax.sgd(1.0, 0.9), 5)
    step = mc.meta_gradient(whole, solver, mc.Contrastive(0.02, "symmetric"))
    phases, errs = None, []
    for _ in range(120):
        meta = step(THETA, BATCH, None, phases)
        phases = meta.phases
        errs.append(np.linalg.norm(meta.by_theta - exact) / np.linalg.norm(exact))
    # What is left is the nudge's, a hundredth of that of 0.2.
    assert errs[-1] < 2e-3 < errs[0]


# The final model


def test_the_final_model_learns_from_its_mixture_alone():
    judge = judge_of(BIGRAM, DATA.test, 50, S.length)
    training = Training(steps=60, batch=16, length=S.length, rate=0.3, log_every=50)
    sources = np.stack([np.zeros_like(DATA.train[0]), *DATA.train[1:]])
    model = lambda mixture: train(BIGRAM, jnp.zeros((28, 28)), sources, mixture, judge, training, 0)
    only = model(np.eye(7)[0])
    # There was nothing to see but "a" after "a".
    assert np.argmax(only.phi[0]) == 0 and np.all(only.phi[1:] == 0)
    assert np.mean(judge(model(np.eye(7)[1]).phi)) < np.log(28) - 0.3
    assert [step for step, _ in only.curve] == [50, 60]


def test_windows_are_of_the_text():
    text = jnp.arange(50)
    cut = np.asarray(windows(jax.random.key(0), text, 200, 9))
    assert cut.shape == (200, 10) and np.all(np.diff(cut) == 1)
    assert cut.min() == 0 and cut.max() == 49  # of 41 places, missed with (40/41)^200 < 1%
    assert errors(BIGRAM, jnp.zeros((28, 28)), jnp.zeros((3, 5), int)) == pytest.approx(np.log(28))


def test_a_judge_reads_all_of_a_text_and_nothing_else():
    text = np.repeat([3, 5], 30)
    (first, *_, last) = judge_of(BIGRAM, text, 4, 9)(jnp.zeros((28, 28)).at[3, 3].set(100.0))
    assert first == 0 and last == pytest.approx(np.log(28))


# Runs


def test_the_transformer_gives_a_logit_a_letter():
    net = reweight.network(S)
    logits = lambda key: net.apply(net.init(key), jnp.zeros(S.length, int))
    assert jax.eval_shape(logits, jax.random.key(0)).shape == (S.length, 28)


@pytest.mark.thorough
def test_runs_from_its_command(start, monkeypatch, tmp_path, capsys):
    small = replace(S, steps=40, final_steps=20, outer_rate=0.1, decay=0.0, valid_sequences=8)
    few = {"cml": small, "uniform": replace(small, method="uniform", steps=0)}
    monkeypatch.setattr(reweight, "METHODS", few)
    monkeypatch.setattr(reweight, "network", lambda s: BIGRAM)  # which learns in fewer steps
    monkeypatch.setattr(reweight, "EXPERIMENT", replace(reweight.EXPERIMENT, methods=few))
    assert start(reweight, "--method", "all", "--seed", 1, "--out", tmp_path) == 0
    results = {
        name: json.loads((tmp_path / name / "seed1" / "result.json").read_text()) for name in few
    }
    learned = results["cml"]["weights"]
    assert sum(learned.values()) == pytest.approx(1)
    assert min(learned["clean"], learned["typos"]) > learned["random"]
    assert results["uniform"]["weights"] == dict.fromkeys(SOURCES, pytest.approx(1 / 7))
    assert [results[name]["meta_steps"] for name in few] == [40, 0]
    reweight.overview(tmp_path)
    assert (tmp_path / "reweight.png").stat().st_size > 0
    assert "clean" in capsys.readouterr().out
