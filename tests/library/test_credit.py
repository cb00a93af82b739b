"""Credit rules: against backpropagation, implicit differentiation, and orders of accuracy."""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import EPS, relative_error, slope

import metacontrast as mc
from metacontrast import credit
from metacontrast.credit._perturbation import _fingerprint
from metacontrast.nets import mlp

NET = mlp(2, 4, 2, 3)
PHI = jax.tree.map(lambda p: p.astype(float), jax.jit(NET.init)(jax.random.key(0)))
W = [layer.weight for layer in PHI.layers]
X, Y = np.array([0.7, -1.2]), np.array([0.5, 1.0, -2.0])
FEEDBACK = credit.random_feedback(jax.random.key(1), PHI)
DIRECT = credit.random_feedback(jax.random.key(1), PHI, direct=True)


def identity(a):
    return a


def cost(rule, phi, *key):
    """A loss that is not a sum of squares: nothing about the loss is built into a rule."""
    return jnp.sum(jnp.logaddexp(0.0, rule(phi, X, *key) - Y))


def gradient(rule, phi=PHI, key=()):
    return jax.jit(jax.grad(partial(cost, rule)))(phi, *key)


def gradients(rules, phi=PHI):
    """By each of the rules, in one program."""
    return jax.jit(lambda phi: [jax.grad(partial(cost, rule))(phi) for rule in rules])(phi)


@cache
def backpropagation():
    return gradient(NET.apply)


# Against backpropagation


def test_with_the_forward_weights_feedback_is_backpropagation():
    direct_linear = credit.direct_feedback_alignment([W[2] @ W[1], W[2]], identity)
    found = gradients(
        [
            credit.feedback_alignment(W[1:]),
            # The product of the weights above is what the error of a linear network meets.
            direct_linear,
            credit.feedback_alignment(W[1:], identity),
        ]
    )
    assert relative_error(found[0], backpropagation()) < 100 * EPS
    assert relative_error(found[1], found[2]) < 100 * EPS


def test_direct_feedback_with_the_forward_weights_is_backpropagation_below_one_hidden_layer():
    net = mlp(2, 4, 1, 3)
    phi = jax.jit(net.init)(jax.random.key(0))
    rule = credit.direct_feedback_alignment([phi.layers[1].weight])
    assert relative_error(*gradients([rule, net.apply], phi)) < 100 * EPS


def test_predictive_coding_is_backpropagation_to_first_order_in_the_nudge():
    nudges = [0.1, 0.05, 0.025]
    found = gradients([credit.predictive_coding(c, 6) for c in nudges])
    errors = [relative_error(each, backpropagation()) for each in found]
    # The slope's own error is the next order's, at most the nudge times a number of order one.
    assert slope(nudges, errors) == pytest.approx(1.0, abs=0.1)


def test_predictive_coding_with_fixed_predictions_is_backpropagation_at_any_nudge():
    rule = credit.predictive_coding(10.0, sweeps=1)
    assert relative_error(gradient(rule), backpropagation()) < 100 * EPS


def energy(phi, a, error, nudge):
    """Of predictive coding, as it is written in the docstring."""
    below = [X, *(jnp.tanh(u) for u in a[:-1])]
    errors = [
        u - layer.weight @ h - layer.bias for u, layer, h in zip(a, phi.layers, below, strict=True)
    ]
    return sum(jnp.sum(e**2) for e in errors) / 2 + nudge * error @ a[-1]


def test_predictive_coding_rests_where_a_gradient_flow_on_its_energy_rests():
    nudge, error = 0.3, np.array([1.0, -0.5, 0.2])
    rule = credit.predictive_coding(nudge, 20)

    @jax.jit
    def run(phi):
        h1 = phi.layers[0].weight @ X + phi.layers[0].bias
        h2 = phi.layers[1].weight @ jnp.tanh(h1) + phi.layers[1].bias
        start = [h1, h2, phi.layers[2].weight @ jnp.tanh(h2) + phi.layers[2].bias]
        flow = mc.until_converged(optax.sgd(0.3), 1e-13)(
            lambda a: energy(phi, a, error, nudge), start
        )
        by_rule = jax.grad(lambda phi: rule(phi, X) @ error)(phi)
        return flow.converged, jax.grad(energy)(phi, flow.phi, error, nudge), by_rule

    converged, expected, by_rule = run(PHI)
    assert converged
    # The energy's minimum is nearly that of |a|^2 / 2: a is as far away as its gradient is long.
    assert relative_error(jax.tree.map(lambda g: g * nudge, by_rule), expected) < 1e-11


# Equilibrium propagation: weights and feedback are weak enough that 16 sweeps reach round-off.

GAMMA, SWEEPS = 0.2, 16


@jax.jit
def implicit(phi):
    """The gradient of a loss of the equilibrium, by the implicit function theorem."""
    shapes = [layer.bias for layer in phi.layers]
    unravel = ravel_pytree(shapes)[1]

    def hopfield(phi, s):
        below = [X, *s[:-1]]
        entropy = [jnp.sum(u * jnp.arctanh(u) + jnp.log1p(-(u**2)) / 2) for u in s[:-1]]
        rest = [*entropy, jnp.sum(s[-1] ** 2) / 2]
        pairs = zip(s, phi.layers, below, strict=True)
        drive = [u @ (layer.weight @ h + layer.bias) for u, layer, h in pairs]
        return sum(GAMMA**i * (r - d) for i, (r, d) in enumerate(zip(rest, drive, strict=True)))

    def sweep(_, s):
        h1 = phi.layers[0].weight @ X + phi.layers[0].bias
        first = jnp.tanh(h1 + GAMMA * phi.layers[1].weight.T @ s[1])
        h2 = phi.layers[1].weight @ first + phi.layers[1].bias
        second = jnp.tanh(h2 + GAMMA * phi.layers[2].weight.T @ s[2])
        return [first, second, phi.layers[2].weight @ second + phi.layers[2].bias]

    force = lambda phi, flat: jax.grad(lambda flat: hopfield(phi, unravel(flat)))(flat)
    s = jax.lax.fori_loop(0, 300, sweep, jax.tree.map(jnp.zeros_like, shapes))
    flat = ravel_pytree(s)[0]
    loss = lambda flat: jnp.sum(jnp.logaddexp(0.0, unravel(flat)[-1] - Y))
    adjoint = jnp.linalg.solve(jax.jacobian(force, 1)(phi, flat), jax.grad(loss)(flat))
    pulled_back = jax.vjp(lambda phi: force(phi, flat), phi)[1](adjoint)[0]
    return jax.tree.map(jnp.negative, pulled_back), jnp.max(jnp.abs(force(phi, flat)))


def test_equilibrium_propagation_is_implicit_differentiation_to_second_order_in_beta():
    betas = [0.4, 0.1, 1e-3]
    exact, force = implicit(PHI)
    assert force < 100 * EPS
    rules = [credit.equilibrium_propagation(beta, GAMMA, SWEEPS) for beta in betas]
    *found, derivative = gradients([*rules, credit.equilibrium(GAMMA, SWEEPS)])
    errors = [relative_error(each, exact) for each in found]
    # The next order is beta^2 relative to this one.
    assert slope(betas[:2], errors[:2]) == pytest.approx(2.0, abs=0.1)
    # And far enough down, before round-off, that nothing else is left.
    assert errors[2] < errors[1] * 1e-3
    # What JAX makes of the sweeps is the same.
    assert relative_error(derivative, exact) < 1e-12


def test_without_feedback_an_equilibrium_is_the_feedforward_pass_to_first_order():
    gammas = [0.1, 0.05, 0.025]
    networks = [NET.apply, credit.equilibrium(0.1, 1), *(credit.equilibrium(g, 8) for g in gammas)]
    expected, single, *rest = jax.jit(lambda phi: [apply(phi, X) for apply in networks])(PHI)
    assert relative_error(single, expected) < 10 * EPS
    far = [relative_error(each, expected) for each in rest]
    assert slope(gammas, far) == pytest.approx(1.0, abs=0.1)


# Node perturbation


def draws(samples, n):
    """The gradients of n keys, (n, weights)."""
    rule = credit.node_perturbation(1e-3, samples)
    grad = jax.grad(partial(cost, rule))
    flat = jax.jit(jax.vmap(lambda key: ravel_pytree(grad(PHI, key))[0]))
    return np.asarray(flat(jax.random.split(jax.random.key(2), n)))


def test_node_perturbation_is_unbiased_and_less_noisy_with_more_samples():
    n = 4000
    single = draws(1, n)
    mean, error = single.mean(0), single.std(0, ddof=1) / np.sqrt(n)
    # 5 standard errors are passed by chance once in 1.7 million; the bias, of order scale^2 = 1e-6,
    # is far below one of them. A wrong factor would be seen: its own size is many of them.
    assert np.max(np.abs(mean - ravel_pytree(backpropagation())[0]) / error) < 5
    assert np.max(np.abs(mean) / error) > 20
    # A ratio of two sums of variances, one of 400 draws: off by a tenth or so.
    ratio = single.var(0).sum() / draws(16, 400).var(0).sum()
    assert ratio == pytest.approx(16, rel=0.4)


def test_noise_follows_an_example_whatever_its_place():
    noisy = credit.node_perturbation(1e-2, 5)
    grad = lambda x: jax.grad(lambda phi: jnp.sum(noisy(phi, x, jax.random.key(6))))(PHI)
    rule = jax.jit(jax.vmap(grad))
    one, other = np.array([0.3, 1.0]), np.array([1.0, 0.3])
    there, back = (rule(np.stack(pair)) for pair in ((one, other), (other, one)))
    same = jax.tree.map(lambda leaf: leaf[::-1], back)
    assert relative_error(there, same) < 100 * EPS
    # The output's bias gets nothing but its own noise, times the outcome.
    noise = np.asarray(there.layers[-1].bias)
    assert np.linalg.norm(noise[0] - noise[1]) > 0.1 * np.linalg.norm(noise[0])


def test_noise_is_told_apart_by_every_entry():
    x = np.array([0.3, -1.0, 0.0, 2.5], np.float32)
    odd = np.array([1, 3, 5, 7], np.uint64)
    by_hand = int(np.sum(x.view(np.uint32).astype(np.uint64) * odd) % 2**32)
    found = _fingerprint(jnp.asarray(x))
    assert (int(found), found.dtype) == (by_hand, jnp.uint32)


# Every rule under a solver


RULES = {
    "feedback alignment": credit.feedback_alignment(FEEDBACK),
    "direct feedback alignment": credit.direct_feedback_alignment(DIRECT),
    "node perturbation": credit.node_perturbation(1e-2, 20),
    "predictive coding": credit.predictive_coding(0.1, 2),
    "equilibrium propagation": credit.equilibrium_propagation(0.1, 0.1, 2),
}


def squares(apply, phi, data):
    return jnp.sum((jax.vmap(partial(apply, phi))(data.x) - data.y) ** 2)


def problem(apply):
    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=lambda phi, theta, task: squares(apply, phi, task.train) + theta.pull(phi),
        outer=lambda phi, theta, task: squares(apply, phi, task.test),
    )


@cache
def tasks():
    """Two of them, stacked."""
    rng = np.random.default_rng(7)
    half = lambda: mc.Data(rng.normal(size=(2, 4, 2)), np.tile(Y, (2, 4, 1)))
    return mc.Task(half(), half())


THETA = mc.Synapse(PHI, jax.tree.map(lambda p: np.full(p.shape, -1.0), PHI))


@pytest.mark.parametrize("name", RULES)
def test_every_rule_learns_alone_and_side_by_side_and_can_be_differentiated_through(name):
    is_equilibrium = name == "equilibrium propagation"
    exact = problem(credit.equilibrium(0.1, 2) if is_equilibrium else NET.apply)
    learner = lambda n: credit.with_credit_rule(
        mc.descend(optax.sgd(1e-2), n), problem, RULES[name]
    )
    keys = jax.random.split(jax.random.key(11), 2)
    flat, unravel = ravel_pytree(THETA)
    along = jax.random.normal(jax.random.key(10), flat.shape)
    unrolled = mc.meta_loss(exact, learner(3), mc.Unrolled())

    @jax.jit
    def run(tasks, keys, t):
        first = jax.tree.map(lambda leaf: leaf[0], tasks)
        learn = lambda task, key: mc.solve_inner(exact, learner(60), THETA, task, key).phi
        pair = jax.vmap(learn)(tasks, keys)
        alone = learn(first, keys[0])
        losses = [mc.Loss(exact, THETA, first)(phi) for phi in (PHI, alone)]
        moved = lambda t: unrolled(unravel(flat + t * along), first, keys[0])
        return pair, alone, losses, jax.value_and_grad(moved)(t)

    h = EPS ** (1 / 3)
    pair, alone, (before, after), (_, derivative) = run(tasks(), keys, 0.0)
    assert after < 0.6 * before
    one = jax.tree.map(lambda leaf: leaf[0], pair)
    # Sums in another order; the inner contrast divides round-off by 2 beta gamma^2 = 2e-3.
    assert relative_error(one, alone) < 1e4 * EPS / 2e-3
    # Central differences: h^2 of truncation and EPS / h of round-off, times what the loss is like;
    # the contrast inside (over beta gamma^2, over scale) magnifies round-off by 1e4.
    ahead, behind = (run(tasks(), keys, t)[-1][0] for t in (h, -h))
    np.testing.assert_allclose(derivative, (ahead - behind) / (2 * h), rtol=1e-5)


# A rule keeps the abilities of the solver: one that is backpropagation changes nothing.


def neuron(phi, x):
    return jnp.tanh(phi @ x)


def exact_backward(phi, x, error, key):
    return jax.vjp(lambda phi: neuron(phi, x), phi)[1](error)[0]


def crude_backward(phi, x, error, key):
    """Blind to the slope of tanh and to how large x is."""
    return error * jnp.sign(x)


EXACT = credit.credit_rule(neuron, exact_backward)
CRUDE = credit.credit_rule(neuron, crude_backward)


def least_squares(apply):
    residual = lambda phi, theta, example: apply(phi, example.x) - example.y
    return mc.Problem(
        init=lambda theta, task: theta.omega,
        inner=mc.LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta),
        outer=mc.LeastSquares(residual, lambda task: task.test),
        sample=None,
    )


def one_example(task, key):
    i = jax.random.randint(key, (), 0, len(task.train.x))
    return task._replace(train=jax.tree.map(lambda leaf: 4 * leaf[i][None], task.train))


def sampled(apply):
    whole = least_squares(apply)
    return mc.Problem(whole.init, whole.inner, whole.outer, sample=one_example)


@cache
def neuron_task():
    rng = np.random.default_rng(1)
    half = lambda: mc.Data(rng.normal(size=(4, 3)), rng.uniform(-0.9, 0.9, 4))
    theta = mc.Synapse(rng.normal(size=3), rng.uniform(-0.5, 0.5, 3))
    return jax.tree.map(jnp.asarray, (theta, mc.Task(half(), half())))


def own_loop(loss, phi):
    for t in range(2):
        phi = phi - 0.05 * jax.grad(loss.view(t))(phi)
    return phi


SGD = mc.descend(optax.sgd(0.05, momentum=0.5), 5)
OUTER = mc.Contrastive(0.1)
LINEAR = mc.Contrastive(0.1, "symmetric", nudge="linear", damping=0.2)
CASES = {
    "unrolled": (least_squares, SGD, mc.Unrolled()),
    "truncated, with checkpoints": (least_squares, SGD, mc.Unrolled(truncate=3, remat=True)),
    "a control": (least_squares, SGD, mc.Contrastive(0.1, control=True)),
    "a linear nudge": (least_squares, SGD, LINEAR),
    "views": (sampled, SGD, OUTER),
    "views and a linear nudge": (sampled, SGD, LINEAR),
    "own function": (sampled, mc.as_solver(own_loop, samples=True), OUTER),
    "until converged": (least_squares, mc.until_converged(optax.sgd(0.1), 1e-9), OUTER),
    "gauss-newton": (least_squares, mc.gauss_newton(4), OUTER),
    "newton-cg": (least_squares, mc.newton_cg(1e-9), mc.Implicit("exact")),
    "evolution": (least_squares, SGD, mc.Evolution(0.1, 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_that_is_backpropagation_changes_nothing(name):
    make, solver, estimator = CASES[name]
    credited = credit.with_credit_rule(solver, make, EXACT)
    assert (credited.steps, credited.tol, credited.carries) == (
        solver.steps,
        solver.tol,
        solver.carries,
    )
    steps = [mc.meta_gradient(make(neuron), s, estimator) for s in (credited, solver)]
    key = jax.random.key(3)

    @jax.jit
    def run(theta, task):
        results = []
        for step in steps:
            result = step(theta, task, key)
            if name == "a control":  # and go on from there, with momentum
                result = step(theta, task, key, result.phases)
            results.append((result.value, result.by_theta, result.by_z, result.aux))
        return results

    found, expected = run(*neuron_task())
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        # Sums in another order, over beta; residuals are what is left of numbers of order one.
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-9)


def test_a_damped_nudge_stays_where_the_rule_stopped():
    # The slope that is taken out is that of the rule: with the exact one it would go on learning.
    theta, task = neuron_task()
    for make in (least_squares, sampled):
        solver = credit.with_credit_rule(SGD, make, CRUDE)
        step = mc.meta_gradient(
            make(neuron), solver, mc.Contrastive(1e-6, nudge="linear", damping=0.1)
        )
        result = step(theta, task, jax.random.key(0))
        # At most steps times rate times the nudge, if nothing else pulls.
        assert result.aux["distance"][0] < 2 * 5 * 0.05 * 1e-6 / (1 - 0.5)


@dataclass(frozen=True)
class Recorder(mc.Solver):
    """Stays where it is, and remembers the gradients that it met."""

    def init(self, loss, phi, memory=None):
        return mc.State(phi, jax.tree.map(lambda p: jnp.zeros((self.steps, *p.shape)), phi))

    def step(self, loss, state, t):
        add = lambda rows, g: rows.at[t].set(g)
        return state._replace(memory=jax.tree.map(add, state.memory, jax.grad(loss)(state.phi)))


@pytest.mark.filterwarnings("ignore:the meta-gradient may be wrong")
def test_every_phase_draws_the_same_noise_and_every_step_its_own():
    task = jax.tree.map(lambda leaf: leaf[0], tasks())
    task = task._replace(test=task.train)  # so that a nudge of 1 doubles the errors
    solver = credit.with_credit_rule(
        Recorder(steps=3, carries=True), problem, RULES["node perturbation"]
    )
    step = mc.meta_gradient(problem(NET.apply), solver, mc.Contrastive(1.0), by_z=False)
    phases = step(THETA, task, jax.random.key(5)).phases
    free, nudged = phases.free.memory, phases.nudged[0].memory
    # phi is omega, where nothing pulls: the same noise answers errors twice as large.
    assert relative_error(nudged, jax.tree.map(lambda g: 2 * g, free)) < 1e3 * EPS
    rows = [jax.tree.map(lambda leaf, i=i: leaf[i], free) for i in range(3)]
    for i, j in ((0, 1), (1, 2), (0, 2)):
        assert relative_error(rows[i], rows[j]) > 0.1


def test_a_function_that_takes_its_own_views_draws_the_same_noise():
    noisy = credit.credit_rule(neuron, lambda phi, x, error, key: jax.random.normal(key, phi.shape))
    theta, task = neuron_task()
    plain = mc.descend(optax.sgd(0.05), 2)
    solvers = [
        credit.with_credit_rule(solver, sampled, noisy)
        for solver in (mc.as_solver(own_loop, samples=True), plain)
    ]
    run = partial(mc.solve_inner, sampled(neuron))
    phis = jax.jit(lambda key: [run(solver, theta, task, key).phi for solver in solvers])
    one, other = phis(jax.random.key(1))
    assert relative_error(one, other) < 100 * EPS
    # Without views it is asked to say so, as it is without a rule.
    solver = credit.with_credit_rule(lambda loss, phi: phi, sampled, noisy)
    with pytest.raises(ValueError, match="solver: this problem samples"):
        run(solver, theta, task, jax.random.key(1))


# Bad input


def test_an_error_is_not_carried_back_to_the_input():
    with pytest.raises(TypeError, match="x: a credit rule carries no error back"):
        jax.grad(lambda x: EXACT(jnp.ones(3), x))(jnp.ones(3))


def test_a_rule_does_not_learn_in_complex_numbers():
    solver = credit.with_credit_rule(SGD, least_squares, EXACT)
    step = mc.meta_gradient(least_squares(neuron), solver, mc.Contrastive(0.1, "holomorphic"))
    with pytest.raises(TypeError, match=r"solver: the holomorphic scheme .*WithCreditRule"):
        step(*neuron_task())


def test_noise_needs_a_key():
    solver = credit.with_credit_rule(SGD, problem, RULES["node perturbation"])
    task = jax.tree.map(lambda leaf: leaf[0], tasks())
    with pytest.raises(ValueError, match="key: node perturbation draws noise"):
        mc.solve_inner(problem(NET.apply), solver, THETA, task)


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
        (lambda: gradient(credit.feedback_alignment(DIRECT)), "feedback: must have the shapes"),
        (lambda: gradient(credit.direct_feedback_alignment(FEEDBACK)), "feedback: must have"),
        (lambda: RULES["node perturbation"]([jnp.ones(3)], X), "phi: must have the leaves"),
    ],
)
def test_bad_input_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
