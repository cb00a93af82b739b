"""Credit rules: against backpropagation, implicit differentiation, and orders of accuracy."""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import EPS, relative_error, slope

import metacontrast as mc
from metacontrast import credit
from metacontrast.nets import mlp

NET = mlp(2, 5, 2, 3)
PHI = jax.tree.map(lambda p: p.astype(float), NET.init(jax.random.key(0)))
X, Y = jnp.array([0.7, -1.2]), jnp.array([0.5, 1.0, -2.0])
FEEDBACK = credit.random_feedback(jax.random.key(1), PHI)
DIRECT = credit.random_feedback(jax.random.key(1), PHI, direct=True)
NOISY = credit.node_perturbation(1e-2, 20)
RULES = {
    "feedback alignment": credit.feedback_alignment(FEEDBACK),
    "direct feedback alignment": credit.direct_feedback_alignment(DIRECT),
    "node perturbation": NOISY,
    "predictive coding": credit.predictive_coding(0.1),
    "equilibrium propagation": credit.equilibrium_propagation(0.1, 0.1),
}


def gradient(rule, phi=PHI, key=None):
    """Of a loss that is not a sum of squares: nothing about the loss is built into a rule."""
    loss = lambda phi: jnp.sum(jnp.logaddexp(0.0, _apply(rule, phi, key) - Y))
    return jax.jit(jax.grad(loss))(phi)


def _apply(rule, phi, key):
    return rule(phi, X) if key is None else rule(phi, X, key)


# Against backpropagation


def test_feedback_alignment_with_the_forward_weights_is_backpropagation():
    rule = credit.feedback_alignment([layer.weight for layer in PHI.layers[1:]])
    assert relative_error(gradient(rule), gradient(NET.apply)) < 100 * EPS


def test_direct_feedback_with_the_forward_weights_is_backpropagation_below_one_hidden_layer():
    net = mlp(2, 5, 1, 3)
    phi = net.init(jax.random.key(0))
    rule = credit.direct_feedback_alignment([phi.layers[1].weight])
    assert relative_error(gradient(rule, phi), gradient(net.apply, phi)) < 100 * EPS


def test_direct_feedback_reaches_each_layer_by_its_own_matrix():
    # The product of the weights above is what the error of a linear network meets on its way.
    identity = lambda a: a
    weights = [layer.weight for layer in PHI.layers]
    direct = credit.direct_feedback_alignment([weights[2] @ weights[1], weights[2]], identity)
    exact = credit.feedback_alignment(weights[1:], identity)
    assert relative_error(gradient(direct), gradient(exact)) < 100 * EPS


def test_predictive_coding_is_backpropagation_to_first_order_in_the_nudge():
    nudges = [0.1, 0.05, 0.025, 0.0125]
    exact = gradient(NET.apply)
    errors = [relative_error(gradient(credit.predictive_coding(c, 10)), exact) for c in nudges]
    # The slope's own error is the next order's, at most the nudge times a number of order one.
    assert slope(nudges, errors) == pytest.approx(1.0, abs=0.1)


def test_predictive_coding_with_fixed_predictions_is_backpropagation_at_any_nudge():
    rule = credit.predictive_coding(10.0, sweeps=1)
    assert relative_error(gradient(rule), gradient(NET.apply)) < 100 * EPS


def energy(phi, a, error, nudge):
    """Of predictive coding, as it is written in the docstring."""
    below = [X, *(jnp.tanh(u) for u in a[:-1])]
    errors = [
        u - layer.weight @ h - layer.bias for u, layer, h in zip(a, phi.layers, below, strict=True)
    ]
    return sum(jnp.sum(e**2) for e in errors) / 2 + nudge * error @ a[-1]


def test_predictive_coding_rests_where_a_gradient_flow_on_its_energy_rests():
    nudge, error = 0.3, jnp.array([1.0, -0.5, 0.2])
    h1 = PHI.layers[0].weight @ X + PHI.layers[0].bias
    h2 = PHI.layers[1].weight @ jnp.tanh(h1) + PHI.layers[1].bias
    start = [h1, h2, PHI.layers[2].weight @ jnp.tanh(h2) + PHI.layers[2].bias]
    flow = mc.learn(
        mc.Problem(
            lambda th, z: start, lambda a, th, z: energy(PHI, a, error, nudge), lambda *_: 0
        ),
        mc.until_converged(optax.sgd(0.3), 1e-13),
        None,
        None,
    )
    assert flow.converged
    expected = jax.grad(energy)(PHI, flow.phi, error, nudge)
    rule = credit.predictive_coding(nudge, 30)
    found = jax.grad(lambda phi: rule(phi, X) @ error)(PHI)
    # The energy's minimum is nearly that of |a|^2 / 2: a is as far away as its gradient is long.
    assert relative_error(jax.tree.map(lambda g: g * nudge, found), expected) < 1e-11


# Equilibrium propagation


def implicit(gamma):
    """The gradient of a loss of the equilibrium, by the implicit function theorem."""
    shapes = [layer.bias for layer in PHI.layers]
    _, unravel = ravel_pytree(shapes)

    def hopfield(phi, s):
        below = [X, *s[:-1]]
        entropy = [jnp.sum(u * jnp.arctanh(u) + jnp.log1p(-(u**2)) / 2) for u in s[:-1]]
        rest = [*entropy, jnp.sum(s[-1] ** 2) / 2]
        pairs = zip(s, phi.layers, below, strict=True)
        drive = [u @ (layer.weight @ h + layer.bias) for u, layer, h in pairs]
        return sum(gamma**i * (r - d) for i, (r, d) in enumerate(zip(rest, drive, strict=True)))

    force = lambda phi, flat: jax.grad(lambda flat: hopfield(phi, unravel(flat)))(flat)
    s = [jnp.zeros_like(b) for b in shapes]
    for _ in range(300):
        h1 = PHI.layers[0].weight @ X + PHI.layers[0].bias
        s[0] = jnp.tanh(h1 + gamma * PHI.layers[1].weight.T @ s[1])
        h2 = PHI.layers[1].weight @ s[0] + PHI.layers[1].bias
        s[1] = jnp.tanh(h2 + gamma * PHI.layers[2].weight.T @ s[2])
        s[2] = PHI.layers[2].weight @ s[1] + PHI.layers[2].bias
    flat = ravel_pytree(s)[0]
    assert jnp.max(jnp.abs(force(PHI, flat))) < 100 * EPS
    loss = lambda flat: jnp.sum(jnp.logaddexp(0.0, unravel(flat)[-1] - Y))
    adjoint = jnp.linalg.solve(jax.jacobian(force, 1)(PHI, flat), jax.grad(loss)(flat))
    return jax.tree.map(jnp.negative, jax.vjp(lambda phi: force(phi, flat), PHI)[1](adjoint)[0])


def test_equilibrium_propagation_is_implicit_differentiation_to_second_order_in_beta():
    betas = [0.8, 0.4, 0.2, 0.1]
    exact = implicit(gamma=0.5)
    rules = [credit.equilibrium_propagation(beta, 0.5, 40) for beta in betas]
    errors = [relative_error(gradient(rule), exact) for rule in rules]
    # The next order is beta^2 relative to this one.
    assert slope(betas, errors) == pytest.approx(2.0, abs=0.1)
    # And far enough down, before round-off, that nothing else is left.
    last = relative_error(gradient(credit.equilibrium_propagation(1e-3, 0.5, 40)), exact)
    assert last < errors[-1] * 1e-3


def test_the_derivative_of_an_equilibrium_is_implicit_differentiation():
    assert relative_error(gradient(credit.equilibrium(0.5, 40)), implicit(0.5)) < 1e-12


def test_without_feedback_an_equilibrium_is_the_feedforward_pass_to_first_order():
    gammas = [0.1, 0.05, 0.025]
    expected = NET.apply(PHI, X)
    far = [jnp.linalg.norm(credit.equilibrium(g, 20)(PHI, X) - expected) for g in gammas]
    assert slope(gammas, far) == pytest.approx(1.0, abs=0.1)
    assert relative_error(credit.equilibrium(0.1, 1)(PHI, X), expected) < 10 * EPS


# Node perturbation


def test_node_perturbation_is_unbiased():
    n = 4000
    rule = credit.node_perturbation(1e-3, 1)
    keys = jax.random.split(jax.random.key(2), n)
    flat = lambda key: ravel_pytree(gradient(rule, key=key))[0]
    found = jax.jit(jax.vmap(flat))(keys)
    z = (jnp.mean(found, 0) - ravel_pytree(gradient(NET.apply))[0]) / (
        jnp.std(found, 0, ddof=1) / jnp.sqrt(n)
    )
    # 5 standard errors are passed by chance once in 1.7 million; the bias, of order scale^2 = 1e-6,
    # is far below one of them. A wrong factor would be seen: its own size is many of them.
    assert jnp.max(jnp.abs(z)) < 5
    assert jnp.max(jnp.abs(jnp.mean(found, 0)) / jnp.std(found, 0) * jnp.sqrt(n)) > 20


def test_more_samples_are_less_noise():
    def spread(samples):
        rule = credit.node_perturbation(1e-3, samples)
        keys = jax.random.split(jax.random.key(3), 400)
        found = jax.jit(jax.vmap(lambda key: ravel_pytree(gradient(rule, key=key))[0]))(keys)
        return jnp.sum(jnp.var(found, 0))

    # A ratio of two sums of variances, each of 400 draws: off by a tenth or so.
    assert spread(1) / spread(16) == pytest.approx(16, rel=0.4)


# Under a solver


def squares(apply, phi, data):
    return jnp.sum((jax.vmap(partial(apply, phi))(data.x) - data.y) ** 2)


def problem(apply):
    return mc.Problem(
        init=lambda theta, task: theta[0],
        inner=lambda phi, theta, task: squares(apply, phi, task.train) + mc.attraction(phi, *theta),
        outer=lambda phi, theta, task: squares(apply, phi, task.test),
    )


def setting(name):
    equilibrium = name == "equilibrium propagation"
    exact = problem(credit.equilibrium(0.1) if equilibrium else NET.apply)
    data = [
        mc.Data(jax.random.normal(jax.random.key(i), (4, 2)), jnp.ones((4, 1)) * Y[None])
        for i in (7, 8)
    ]
    theta = (PHI, jax.tree.map(lambda p: jnp.full_like(p, -1.0), PHI))
    return exact, theta, mc.Task(*data)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns(name):
    exact, theta, task = setting(name)
    solve = credit.by(mc.descend(optax.sgd(1e-2), 100), problem, RULES[name])
    loss = exact.loss(theta, task)
    phi = jax.jit(lambda key: mc.learn(exact, solve, theta, task, key).phi)(jax.random.key(4))
    assert loss(phi) < 0.5 * loss(PHI)


def test_the_pull_to_omega_and_the_nudge_are_exact():
    # Where the network itself is answered exactly, the twin's gradient is the exact one.
    exact, theta, task = setting("predictive coding")
    rule = credit.feedback_alignment([layer.weight for layer in PHI.layers[1:]])
    seen = []

    def spy(loss, phi0):
        seen.append(jax.jit(jax.grad(loss))(phi0))
        return phi0

    loss = exact.loss(theta, task, beta=-0.7)
    credit.by(spy, problem, rule)(loss, PHI)
    assert relative_error(seen[0], jax.jit(jax.grad(loss))(PHI)) < 100 * EPS


def record(noise):
    """A solver that takes three steps and says what gradients it met."""

    def solve(loss, phi0):
        step = jax.jit(jax.grad(loss.at))
        noise.append([step(phi0, t) for t in range(3)])
        return phi0

    return solve


def test_every_phase_draws_the_same_noise_and_every_step_its_own():
    exact, theta, task = setting("node perturbation")
    task = task._replace(test=task.train)  # so that a nudge of 1 doubles the errors
    met = []
    solve = credit.by(record(met), problem, NOISY)
    estimator = mc.Contrastive(1.0, nudged=solve)
    estimator.value_and_grad(exact, solve, theta, task, jax.random.key(5))
    free, nudged = met
    for f, n in zip(free, nudged, strict=True):
        # phi is omega, where nothing pulls: the same noise answers errors twice as large.
        assert relative_error(n, jax.tree.map(lambda g: 2 * g, f)) < 1e3 * EPS
    for one, other in pairwise(free):
        assert relative_error(one, other) > 0.1


def test_noise_follows_an_example_whatever_its_place():
    heard = lambda x: jax.grad(lambda phi: jnp.sum(NOISY(phi, x, jax.random.key(6))))(PHI)
    rule = jax.jit(jax.vmap(heard))
    one, other = jnp.array([0.3, 1.0]), jnp.array([1.0, 0.3])
    there, back = (rule(jnp.stack(pair)) for pair in ((one, other), (other, one)))
    same = jax.tree.map(lambda leaf: leaf[::-1], back)
    assert relative_error(there, same) < 100 * EPS
    # The output's bias hears nothing but its own noise, times the outcome.
    noise = there.layers[-1].bias
    assert jnp.linalg.norm(noise[0] - noise[1]) > 0.1 * jnp.linalg.norm(noise[0])


def test_a_problem_that_samples_still_does():
    exact, theta, task = setting("node perturbation")
    drawn = mc.Problem(
        exact.init,
        exact.inner,
        exact.outer,
        sample=lambda z, key: z._replace(train=jax.tree.map(lambda leaf: leaf[:1], z.train)),
    )
    rule = credit.predictive_coding(1.0, sweeps=1)  # backpropagation
    solve = mc.descend(optax.sgd(1e-2), 3)
    expected, found = (
        mc.learn(drawn, s, theta, task, jax.random.key(0)).phi
        for s in (solve, credit.by(solve, problem, rule))
    )
    assert relative_error(found, expected) < 100 * EPS


@pytest.mark.parametrize("name", RULES)
def test_training_can_be_differentiated_through_the_rule(name):
    exact, theta, task = setting(name)
    solve = credit.by(mc.descend(optax.sgd(1e-2), 3), problem, RULES[name])
    loss = mc.meta_loss(exact, solve, mc.Unrolled())
    key = jax.random.key(9)
    flat, unravel = ravel_pytree(theta)
    along = jax.random.normal(jax.random.key(10), flat.shape)
    both = jax.jit(jax.value_and_grad(lambda t: loss(unravel(flat + t * along), task, key)))
    h = EPS ** (1 / 3)
    # Central differences: h^2 of truncation and EPS / h of round-off, times what the loss is like;
    # the contrast inside (over beta gamma^2, over scale) magnifies round-off by 1e4.
    difference = (both(h)[0] - both(-h)[0]) / (2 * h)
    np.testing.assert_allclose(both(0.0)[1], difference, rtol=1e-5)


@pytest.mark.parametrize("name", RULES)
def test_tasks_are_learned_side_by_side(name):
    exact, theta, task = setting(name)
    tasks = jax.tree.map(lambda leaf: jnp.stack([leaf, 0.5 * leaf]), task)
    keys = jax.random.split(jax.random.key(11), 2)
    solve = credit.by(mc.descend(optax.sgd(1e-2), 2), problem, RULES[name])
    learn = lambda task, key: mc.learn(exact, solve, theta, task, key).phi
    both, single = jax.jit(jax.vmap(learn))(tasks, keys), jax.jit(learn)
    for i in range(2):
        alone = single(jax.tree.map(lambda leaf, i=i: leaf[i], tasks), keys[i])
        one = jax.tree.map(lambda leaf, i=i: leaf[i], both)
        # Sums in another order; the inner contrast divides round-off by 2 beta gamma^2 = 2e-3.
        assert relative_error(one, alone) < 1e3 * EPS / 2e-3


# Bad input


def test_an_error_is_not_carried_back_to_the_input():
    rule = RULES["feedback alignment"]
    with pytest.raises(TypeError, match="x: a credit rule carries no error back"):
        jax.grad(lambda x: jnp.sum(rule(PHI, x)))(X)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: credit.node_perturbation(0.0, 1), "scale: must be positive"),
        (lambda: credit.node_perturbation(1.0, 0), "samples: must be a whole number"),
        (lambda: credit.predictive_coding(0.0), "nudge: must be positive"),
        (lambda: credit.predictive_coding(0.1, 0), "sweeps: must be a whole number"),
        (lambda: credit.equilibrium_propagation(0.0, 0.5), "beta: must be positive"),
        (lambda: credit.equilibrium_propagation(0.1, 1.5), "gamma: must be in"),
        (lambda: credit.equilibrium(0.0), "gamma: must be in"),
        (lambda: credit.equilibrium(0.5, 0), "sweeps: must be a whole number"),
        (lambda: gradient(NOISY), "key: node perturbation draws noise"),
        (lambda: gradient(credit.feedback_alignment(DIRECT)), "feedback: must have the shapes"),
        (lambda: gradient(credit.direct_feedback_alignment(FEEDBACK)), "feedback: must have"),
        (lambda: NOISY([jnp.ones(3)], X), "phi: must have the leaves"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_loss_that_is_none_of_a_problem_is_refused():
    solve = credit.by(mc.descend(optax.sgd(0.1), 1), problem, NOISY)
    with pytest.raises(TypeError, match="loss: a credit rule needs the loss of a Problem"):
        solve(lambda phi: 0.0, PHI)
