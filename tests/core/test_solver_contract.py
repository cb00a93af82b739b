"""What holds for every solver, and what is said of one that breaks the contract."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from matrix_problem import RATE, TASKS, THETA, problem, sampled

import metacontrast as mc
from metacontrast._solver._base import Start, advance, run_solver

SOLVERS = {
    "descend": mc.descend(optax.adam(0.1), 5),
    "until_converged": mc.until_converged(optax.sgd(RATE, 0.5), 1e-12, 5),
    "lbfgs": mc.lbfgs(1e-9, 5),
    "anderson": mc.anderson(RATE, 1e-12, 5),
    "newton_cg": mc.newton_cg(1e-12, 5),
    "gauss_newton": mc.gauss_newton(5),
    "evolve": mc.evolve(optax.sgd(0.05), 5, sigma=0.1),
}
LOSS = mc.Loss(problem, THETA, TASKS["bent"])
START = jnp.array([2.0, -1.0, 0.5])


@pytest.mark.parametrize("name", SOLVERS)
def test_parts_are_the_whole(name):
    # Views that change from step to step tell whether the second part counts on from the first.
    solver = SOLVERS[name]
    loss = mc.Loss(sampled, THETA, TASKS["bent"], jax.random.key(0))

    @jax.jit
    def run(phi):
        first, taken = advance(solver, loss, solver.init(loss, phi), 0, 2)
        return advance(solver, loss, first, taken, 3)[0].phi, run_solver(solver, loss, Start(phi))

    in_parts, whole = run(START)
    np.testing.assert_allclose(in_parts, whole.phi, rtol=1e-10)
    assert whole.steps == 5
    # A line search or a Newton method must not go on with what it knows of another loss.
    assert (whole.memory is None) == (not solver.carries)
    assert jnp.linalg.norm(whole.phi - START) > 0.1


def test_a_solver_is_a_function_of_a_loss_and_a_start():
    found = mc.descend(optax.sgd(0.25), 3)(lambda phi: jnp.sum(phi**2), jnp.array([8.0, -16.0]))
    np.testing.assert_array_equal(found.phi, [1.0, -2.0])
    of_a_task = mc.descend(optax.sgd(RATE), 1)(LOSS, START)
    np.testing.assert_allclose(of_a_task.phi, START - RATE * jax.grad(LOSS)(START), rtol=1e-12)


WORDS = {
    mc.descend(optax.sgd(0.1), 7): ["Descend", "steps=7"],
    mc.until_converged(optax.sgd(0.1), 0.25): ["Descend", "tol=0.25"],
    mc.lbfgs(0.25, pairs=3): ["LBFGS", "tol=0.25", "pairs=3"],
    mc.anderson(0.5, 0.25): ["Anderson", "rate=0.5", "tol=0.25"],
    mc.newton_cg(0.25): ["NewtonCG", "tol=0.25"],
    mc.closed_form(): ["ClosedForm"],
    mc.gauss_newton(7, damping=0.5): ["GaussNewton", "steps=7", "damping=0.5"],
    mc.evolve(optax.sgd(0.1), 7, sigma=0.5): ["Evolve", "steps=7", "sigma=0.5"],
    mc.Contrastive(0.5, "symmetric", nudge="linear"): ["Contrastive", "0.5", "symmetric", "linear"],
    mc.Contrastive(0.5, nudged=mc.closed_form()): ["Contrastive", "ClosedForm"],
    mc.Implicit("neumann", rate=0.5): ["Implicit", "neumann", "0.5"],
    mc.Unrolled(truncate=7): ["Unrolled", "truncate=7"],
    mc.FirstOrder(): ["FirstOrder()"],
    mc.Reptile(): ["Reptile()"],
    mc.Evolution(0.5, 7): ["Evolution", "sigma=0.5", "pairs=7"],
}


@pytest.mark.parametrize("thing", WORDS, ids=lambda thing: type(thing).__name__)
def test_what_is_printed_tells_what_it_is(thing):
    assert all(word in repr(thing) for word in WORDS[thing])
    assert " at 0x" not in repr(thing)


@dataclass(frozen=True)
class Given(mc.Solver):
    """Makes of a state what it is told."""

    change: object

    def step(self, loss, state, t):
        return self.change(state)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda s: s._replace(phi=s.phi[:2]), "phi"),
        (lambda s: s._replace(phi={"phi": s.phi}), "phi"),
        (lambda s: s._replace(phi=s.phi.astype("float32")), "phi"),
        (lambda s: s._replace(memory=jnp.zeros(2)), "a State"),
        (lambda s: s._replace(residual=jnp.zeros(())), "a State"),
    ],
    ids=["shape", "structure", "type", "memory", "residual"],
)
def test_a_step_that_returns_something_else_is_named(change, what):
    with pytest.raises(ValueError, match=rf"^solver: Given\(.* returned {what} as .*but was given"):
        jax.eval_shape(partial(Given(change, steps=3), LOSS), START)


def test_what_a_single_step_adds_to_its_state_is_taken():
    told = lambda s: s._replace(memory=jnp.zeros(2), residual=jnp.ones(()))
    for rule in (mc.Unrolled(), mc.Unrolled(remat=True)):
        gradient = mc.meta_gradient(problem, Given(told, steps=1), rule)
        meta = jax.eval_shape(gradient, THETA, TASKS["bent"])
        assert jax.tree.map(jnp.shape, meta.by_theta) == jax.tree.map(jnp.shape, THETA)


def test_an_init_that_changes_phi_is_named():
    @dataclass(frozen=True)
    class Narrow(Given):
        def init(self, loss, phi, memory=None):
            return mc.State(phi.astype("float32"))

    with pytest.raises(ValueError, match=r"^solver: .*Narrow\(.* returned phi as float32"):
        jax.eval_shape(partial(Narrow(lambda s: s, steps=3), LOSS), START)


def test_a_tolerance_needs_a_residual():
    with pytest.raises(TypeError, match=r"^solver: Given\(.* has a tol, but .*no residual"):
        jax.eval_shape(partial(Given(lambda s: s, steps=3, tol=0.1), LOSS), START)


def open_ended(loss, phi):
    return jax.lax.while_loop(lambda p: p[0] > 0, lambda p: p - 0.1 * jax.grad(loss)(p), phi)


@pytest.mark.parametrize(
    "solver",
    [mc.closed_form(iterations=3), mc.descend(optax.lbfgs(), 3), mc.as_solver(open_ended)],
    ids=["conjugate gradient", "a line search", "a while_loop"],
)
def test_unrolling_what_has_no_fixed_number_of_turns_names_both(solver):
    gradient = mc.meta_gradient(problem, solver, mc.Unrolled())
    kind = type(solver).__name__
    with pytest.raises(
        TypeError, match=rf"^solver: Unrolled .* {kind}\(.*no fixed number of turns"
    ):
        jax.eval_shape(gradient, THETA, TASKS["bent"])
