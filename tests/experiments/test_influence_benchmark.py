"""The benchmark of influence measures what it says, and its networks are those of its rivals."""

import jax
import numpy as np
import pytest

from benchmarks import influence
from benchmarks._influence_learners import LEARNERS, first


@pytest.mark.thorough
@pytest.mark.parametrize("learner", LEARNERS, ids=lambda learner: learner.name)
def test_the_networks_of_the_rivals_are_ours(learner):
    torch = pytest.importorskip("torch")
    from benchmarks._torch_influence import ported

    phi = first(learner.name, jax.random.key(0))
    phi = {n: a + 0.1 * np.sin(np.arange(a.size)).reshape(a.shape) for n, a in phi.items()}
    phi, x = jax.tree.map(np.float32, phi), np.float32(np.random.default_rng(0).random((3, 64)))
    with jax.numpy_rank_promotion("allow"):
        ours = learner.logits(phi, x)
    theirs = ported(learner.name, phi)(torch.tensor(x)).detach().numpy()
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_score_is_the_rank_correlation_of_sums_and_losses(monkeypatch):
    monkeypatch.setattr(influence, "QUERIES", 2)
    draw = np.random.default_rng(0)
    halves, scores = draw.integers(0, 2, (30, 6)), draw.normal(size=(2, 6))
    losses = np.exp(halves @ scores.T)
    assert influence.score(scores, halves, losses) == pytest.approx(1.0)
    losses[:, 1] *= -1
    assert influence.score(scores, halves, losses) == pytest.approx(0.0)
