"""Features of a slow body, in the loop and in the evaluator, are composition."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import EPS, forbidden

import metacontrast as mc
from metacontrast.train import DivergedError, evaluator, meta_train

# Phases of three steps have not converged.
pytestmark = pytest.mark.filterwarnings("ignore:Of .* tasks of")
SEED, TASKS, STEPS = 3, 4, 3
THETA = {"head": jnp.array([0.2, -0.3]), "body": jnp.array([[0.5, 0.1], [-0.2, 0.4]])}
SOLVER = mc.descend(optax.sgd(0.1), 3)
RULE = mc.Contrastive(0.1)


class Example(NamedTuple):
    """A point, the side on which it lies, and a key: of which only the first is floating."""

    x: jax.Array
    label: jax.Array
    key: jax.Array


def sample_task(key):
    x = jax.random.normal(key, (2,))
    return Example(x, (x[0] > 0).astype(int), key)


def features(theta, task):
    """The head alone learns, on what the body makes of the point."""
    return theta["head"], task._replace(x=theta["body"] @ task.x)


def sign(z):
    return 2.0 * z.label - 1 + 0.1 * jax.random.uniform(z.key)


problem = mc.Problem(
    init=lambda theta, z: theta,
    inner=lambda phi, theta, z: (phi @ z.x - sign(z)) ** 2 + jnp.sum((phi - theta) ** 2),
    outer=lambda phi, theta, z: jnp.logaddexp(0.0, -sign(z) * (phi @ z.x)),
)


def run(**changes):
    arguments = dict(
        problem=problem, solver=SOLVER, estimator=RULE, sample_task=sample_task, theta=THETA,
        optimizer=optax.sgd(0.5), steps=STEPS, tasks=TASKS, seed=SEED, log_every=STEPS,
        steps_per_dispatch=STEPS, features=features, progress=False,
        on_flag="warn",
    )  # fmt: skip
    return meta_train(**(arguments | changes))


@cache
def drawn(t):
    drawing, _ = jax.random.split(jax.random.fold_in(jax.random.key(SEED), t))
    return jax.vmap(sample_task)(jax.random.split(drawing, TASKS))


def test_features_are_composition():
    loss = mc.meta_loss(problem, SOLVER, RULE)
    mean = lambda theta, tasks: jnp.mean(jax.vmap(lambda task: loss(*features(theta, task)))(tasks))
    gradient, theta = jax.jit(jax.grad(mean)), THETA
    for t in range(STEPS):
        theta = jax.tree.map(lambda x, g: x - 0.5 * g, theta, gradient(theta, drawn(t)))
    trained = run()
    assert not np.allclose(theta["body"], THETA["body"], atol=1e-3)
    # The contrast divides rounding by beta.
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e4 * EPS)
    jax.tree.map(close, trained.theta, theta)
    assert trained.diverged == 0


def test_divergence_that_stays_finite_is_seen_behind_features():
    with pytest.raises(DivergedError, match="meta-step 1: every task diverged"):
        run(theta=THETA | {"body": 100 * THETA["body"]})


def test_the_evaluator_learns_and_judges_on_features():
    tasks = drawn(0)
    metric = lambda phi, theta, z: phi @ z.x + theta.sum()
    scores = evaluator(problem, SOLVER, features=features, metric=metric)(THETA, tasks)
    for i, score in enumerate(scores):
        theta, z = features(THETA, jax.tree.map(lambda leaf, i=i: leaf[i], tasks))
        phi = mc.solve_inner(problem, SOLVER, theta, z).phi
        np.testing.assert_allclose(score, metric(phi, theta, z), rtol=100 * EPS)


def test_an_estimator_without_a_gradient_by_the_task_is_refused(tmp_path):
    with pytest.raises(TypeError, match=r"^z: FirstOrder\(\) gives no gradient by the task"):
        run(estimator=mc.FirstOrder(), solver=forbidden, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_of_theta_must_be_such_as_can_be_learned():
    # Also what the problem itself does not see.
    with pytest.raises(ValueError, match=r"^theta: leaf \['count'\] is int64"):
        run(theta=THETA | {"count": jnp.array(1)}, solver=forbidden)
