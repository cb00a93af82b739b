"""One small problem for all solvers and all estimators; its minimisers and gradients by hand.

A least-squares learner of three weights, `y ~ a + bend sin(a)` with `a = w'x + b`, whose `bend` is
part of the task: with 0 it is quadratic and with 0.5 it is not, and both are one program.
"""

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from problems import at_omega

import metacontrast as mc


class Bent(NamedTuple):
    """A task: what to learn, how it is judged, and how far from linear the learner is."""

    train: mc.Data
    test: mc.Data
    bend: jax.Array


def residual(phi, theta, row):
    x, y, bend = row
    a = phi["w"] @ x + phi["b"]
    return (a + bend * jnp.sin(a) - y) / 2


def outer_residual(phi, theta, row):
    """Depends on theta directly too."""
    return residual(phi, theta, row) - 0.2 * theta.omega["w"][0]


def rows(data, bend):
    return data.x, data.y, jnp.broadcast_to(bend, data.y.shape)


def shuffled(z, key):
    """A view that has the rows to learn from in another order, and so the same losses."""
    return z._replace(train=jax.tree.map(lambda leaf: jax.random.permutation(key, leaf), z.train))


problem = mc.Problem(
    init=at_omega,
    inner=mc.LeastSquares(residual, lambda z: rows(z.train, z.bend), prior=lambda theta: theta),
    outer=mc.LeastSquares(outer_residual, lambda z: rows(z.test, z.bend)),
)
sampled = mc.Problem(problem.init, problem.inner, problem.outer, sample=shuffled)

THETA = mc.Synapse(
    {"w": jnp.array([0.3, -0.4]), "b": jnp.array(0.1)},
    {"w": jnp.array([-0.5, 0.2]), "b": jnp.array(-0.2)},
)


def _task(bend):
    rng = np.random.default_rng(0)
    x, noise = rng.normal(size=(8, 2)), rng.normal(size=8)
    y = x @ np.array([1.0, -0.6]) + 0.3 * noise
    return jax.tree.map(
        jnp.asarray, Bent(mc.Data(x[:4], y[:4]), mc.Data(x[4:], y[4:]), np.float64(bend))
    )


# Inner curvatures from 1.9 to 8, outer ones up to 14.
TASKS = {"quadratic": _task(0.0), "bent": _task(0.5)}
RATE = 0.2

START, unravel = ravel_pytree(THETA.omega)


class Added(NamedTuple):
    """What is added to the inner loss: `outer L_out + line'x + damping/2 |x - centre|^2`."""

    outer: complex = 0.0
    line: jax.Array = np.zeros(3)
    damping: float = 0.0
    centre: jax.Array = np.zeros(3)


def total(x, theta, z, added):
    phi, way = unravel(x), x - added.centre
    nudge = added.outer * problem.outer(phi, theta, z) + added.line @ x
    return problem.inner(phi, theta, z) + nudge + added.damping / 2 * way @ way


@partial(jax.jit, static_argnames="kind")
def _newton(theta, z, added, kind):
    loss = lambda x: total(x, theta, z, added)
    holomorphic = jnp.issubdtype(kind, jnp.complexfloating)
    slope, hessian = (f(loss, holomorphic=holomorphic) for f in (jax.grad, jax.hessian))
    step = lambda _, x: x - jnp.linalg.solve(hessian(x), slope(x))
    return jax.lax.fori_loop(0, 8, step, START.astype(kind))


def minimiser(theta, z, added=Added()):  # noqa: B008 - never changed
    """Where `total` is stationary, as a vector, by Newton's method with dense Hessians."""
    kind = "complex128" if np.iscomplexobj(added.outer + added.line) else "float64"
    added = jax.tree.map(lambda leaf: np.asarray(leaf, kind), added)
    return _newton(theta, z, added, kind)


@jax.jit
def _combined(theta, z, xs, weights, outers):
    def combined(theta, z):
        term = lambda x, w, b: w * total(x, theta, z, Added(b))
        return jnp.real(jnp.sum(jax.vmap(term)(xs, weights, outers)))

    return jax.grad(combined, (0, 1))(theta, z)


def combined(z, xs, weights, outers):
    """`d/d(theta, z) sum_k w_k [L_in + b_k L_out](x_k)` at fixed x_k; six terms at most."""
    pad = lambda a: np.resize(np.asarray(a, complex), (6, *np.shape(a)[1:]))
    weights = np.append(np.asarray(weights, complex), np.zeros(6 - len(weights)))
    return _combined(THETA, z, pad(xs), weights, pad(outers))


def value(loss, x, theta, z):
    return loss(unravel(x), theta, z)


@jax.jit
def outer_slope(x, theta, z):
    """`dL_out/dx`."""
    return jax.grad(value, 1)(problem.outer, x, theta, z)


@jax.jit
def pulled_back(x, u, theta, z):
    """`dL_out/d(theta, z) - (d2L_in / dx d(theta, z))' u`, at any x and u."""

    def pulled(theta, z):
        bend = jax.jvp(lambda x: value(problem.inner, x, theta, z), (x,), (u,))[1]
        return value(problem.outer, x, theta, z) - bend

    return jax.grad(pulled, (0, 1))(theta, z)


@jax.jit
def implicit(x, theta, z):
    """Implicit differentiation at any x, with a dense Hessian."""
    hessian = jax.hessian(value, 1)(problem.inner, x, theta, z)
    return pulled_back(x, jnp.linalg.solve(hessian, outer_slope(x, theta, z)), theta, z)


@cache
def truth(name):
    """The gradients by theta and by z of the outer loss at the minimiser."""
    return implicit(minimiser(THETA, TASKS[name]), THETA, TASKS[name])


@jax.jit
def _sensitivities(x, theta, z):
    flat, back = ravel_pytree((theta, z))
    mixed = lambda loss: jax.jacfwd(jax.grad(lambda f, x: value(loss, x, *back(f))), 1)(flat, x)
    steep = jax.jacfwd(lambda x: ravel_pytree(implicit(x, theta, z))[0])(x)
    return [jnp.linalg.norm(m, 2) for m in (mixed(problem.inner), mixed(problem.outer), steep)]


@cache
def sensitivities(name):
    """How fast dL_in/d(theta, z), dL_out/d(theta, z) and the implicit gradient change with phi."""
    found = _sensitivities(minimiser(THETA, TASKS[name]), THETA, TASKS[name])
    return [float(norm) for norm in found]
