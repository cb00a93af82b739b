"""The error bound with constants that are derived, on problems that are not quadratic.

The theorem bounds the error of the forward contrast by

    B_in (delta + delta') / beta + B_out delta' + C beta / (1 + beta),

where L_in and L_out are strongly convex and smooth, and C is said to exist. Here it is made of the
losses' constants. Let phi_0 be the minimiser of L_in, phi_b that of L_in + beta L_out, d their
difference, g = dL_out/dphi and P = d2L_in/dphi dtheta at phi_0, H the Hessian of L_in there, and

    mu, nu      the least curvatures of L_in and L_out; m is the lesser,
    A           the largest curvature of L_out,
    rho, M      Lipschitz constants of L_in's Hessian and of d2L_in/dphi dtheta,
    B_in, B_out Lipschitz constants of dL_in/dtheta and dL_out/dtheta, all in phi.

1. `dL_in/dphi (phi_b) = -beta dL_out/dphi (phi_b)`, and both slopes are strongly monotone:
   `mu |d|^2 <= -beta nu |d|^2 - beta g'd`, so `|d| <= beta |g| / (mu + beta nu)`, which is at most
   `beta / (1 + beta) |g| / m`.
2. Along the way from phi_0 to phi_b, `dL_in/dphi` becomes `H d + r` with `|r| <= rho |d|^2 / 2`,
   and `dL_out/dphi` becomes `g + K d`, where K is a mean Hessian, between nu and A. So
   `(H + beta K) d = -beta g - r`, and
   `d / beta + H^-1 g = beta (H + beta K)^-1 K H^-1 g - (H + beta K)^-1 r / beta`.
3. Without solver error, the estimate less the truth is
   `[dL_in/dtheta (phi_b) - dL_in/dtheta (phi_0)] / beta + P' H^-1 g`, and what dL_out/dtheta has
   changed. The bracket is `P' d + s` with `|s| <= M |d|^2 / 2`. With 1, 2 and
   `|(H + beta K)^-1| <= 1 / (m (1 + beta))` its norm is at most `C beta / (1 + beta)`,

    C = (|P| A |H^-1 g| + B_out |g|) / m + (|P| rho / m + M) |g|^2 / (2 m^2).

4. Phases that end at a distance of delta and delta' add `B_in (delta + delta') / beta + B_out
   delta'`, by the definition of B_in and B_out.

Of quadratic losses, rho = M = 0, and C is that of `accuracy.quadratic_constants`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from _theory_measure import CONVERGED
from _theory_problems import Case
from jax.flatten_util import ravel_pytree

import metacontrast as mc
from metacontrast._contrast import contrast_at
from metacontrast._loss import OuterNudge
from metacontrast.accuracy import Constants, bound


class Link(NamedTuple):
    """A convex function of one number, with the suprema of |f'|, f'' and |f'''|."""

    f: Callable[[jax.Array], jax.Array]
    slope: float
    curvature: float
    bend: float


LINKS = {
    # With the logistic function s: f'' = s (1 - s), f''' = f'' (1 - 2 s).
    "softplus": Link(jax.nn.softplus, 1.0, 1 / 4, 1 / (6 * 3**0.5)),
    # f'' = 1 - tanh^2, f''' = -2 tanh f''.
    "log-cosh": Link(lambda u: jax.nn.softplus(2 * u) - u, 1.0, 1.0, 4 / (3 * 3**0.5)),
    # f'' = (1 + u^2)^(-3/2), and |f'''| = 3 |u| (1 + u^2)^(-5/2) is largest at u = 1/2.
    "pseudo-huber": Link(lambda u: jnp.sqrt(1 + u**2), 1.0, 1.0, 1.5 * 0.8**2.5),
}


class Theta(NamedTuple):
    """Where phi is pulled to, and the logits of the weights of what it learns from."""

    omega: jax.Array
    logits: jax.Array


class Regression(NamedTuple):
    """A task: examples to learn from and to be judged on, and the strengths of both pulls.

    The outer loss pulls phi to `gamma omega + shift`.
    """

    train: mc.Data
    test: mc.Data
    lam: jax.Array
    kappa: jax.Array
    gamma: jax.Array
    shift: jax.Array


def problem(link: str) -> mc.Problem:
    """Regression that is strongly convex, and not quadratic, with theta in both losses.

    L_in  = mean_i s(logits_i) f(x_i phi - y_i) + lam |phi - omega|^2
    L_out = mean_i f(x_i phi - y_i) + kappa |phi - gamma omega - shift|^2
    """
    f = LINKS[link].f

    def inner(phi: jax.Array, theta: Theta, task: Regression) -> jax.Array:
        errors = f(task.train.x @ phi - task.train.y)
        pull = task.lam * jnp.sum((phi - theta.omega) ** 2)
        return jnp.mean(jax.nn.sigmoid(theta.logits) * errors) + pull

    def outer(phi: jax.Array, theta: Theta, task: Regression) -> jax.Array:
        pull = phi - task.gamma * theta.omega - task.shift
        return jnp.mean(f(task.test.x @ phi - task.test.y)) + task.kappa * jnp.sum(pull**2)

    return mc.Problem(lambda theta, task: jnp.zeros_like(theta.omega), inner, outer)


def draw(
    key: jax.Array, examples: int, size: int, gamma: jax.Array | float
) -> tuple[Theta, Regression]:
    """Random theta, examples and strengths."""
    keys = iter(jax.random.split(key, 9))
    normal = lambda *shape: jax.random.normal(next(keys), shape)
    data = lambda: mc.Data(normal(examples, size), 2 * normal(examples))
    strength = lambda: 10 ** jax.random.uniform(next(keys), minval=-1.0, maxval=0.5)
    task = Regression(data(), data(), strength(), strength(), jnp.asarray(gamma), normal(size))
    return Theta(normal(size), normal(examples)), task


def with_slope(link: str, theta: Theta, task: Regression, slope: jax.Array | float) -> Regression:
    """The task with another shift, such that the outer loss has a slope of this length at phi_0.

    A small one is that of the end of meta-learning: C goes with it, and does not hide B_out.
    """
    learner = problem(link)
    phi_0 = mc.solve_inner(learner, CONVERGED, theta, task).phi
    g = jax.grad(learner.outer)(phi_0, theta, task)
    return task._replace(shift=task.shift + (1 - slope / jnp.linalg.norm(g)) * g / (2 * task.kappa))


def constants(link: str, theta: Theta, task: Regression, phi_0: jax.Array) -> Constants:
    """B_in, B_out and C of the problem, by the suprema of its link: see the top of this file."""
    case = Case(problem(link), theta, task)
    _, slope, curvature, bend = LINKS[link]
    x, n = task.train.x, len(task.train.y)
    weight = jax.nn.sigmoid(theta.logits)
    size, long = jnp.linalg.norm(x, 2), jnp.linalg.norm(x, axis=1)
    by_logit = weight * (1 - weight) / n
    b_in = jnp.hypot(2 * task.lam, jnp.max(by_logit) * slope * size)
    b_out = 2 * task.kappa * task.gamma
    mixed_bend = curvature * size * jnp.max(by_logit * long)
    hessian_bend = bend * size**2 * jnp.max(weight * long) / n
    steepest = curvature * jnp.linalg.norm(task.test.x, 2) ** 2 / n + 2 * task.kappa
    least = 2 * jnp.minimum(task.lam, task.kappa)
    g, h, p = _derivatives(case, phi_0)
    norm = jnp.linalg.norm
    p_norm = norm(p, 2)
    c = (p_norm * steepest * norm(jnp.linalg.solve(h, g)) + b_out * norm(g)) / least
    c += (p_norm * hessian_bend / least + mixed_bend) * jnp.sum(g**2) / (2 * least**2)
    return Constants(b_in, b_out, c)


def _derivatives(case: Case, phi: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """dL_out/dphi, the Hessian of L_in, and d2L_in/dphi dtheta (phi, theta)."""
    learner, theta, task = case
    flat, unravel = ravel_pytree(theta)
    slope = jax.grad(lambda phi, flat: learner.inner(phi, unravel(flat), task))
    h, p = jax.jacfwd(slope, (0, 1))(phi, flat)
    return jax.grad(learner.outer)(phi, theta, task), h, p


class Errors(NamedTuple):
    """Of one problem over nudges and phases that end elsewhere (betas, phases), and their bounds.

    Attributes:
        plain: errors of the contrast as it stands, whose dL_out/dtheta is taken at phi_beta.
        at_free: with dL_out/dtheta at the free phase's end instead.
        bound: of the theorem.
        without: the same without B_out delta'.
    """

    plain: jax.Array
    at_free: jax.Array
    bound: jax.Array
    without: jax.Array


def errors(
    link: str, theta: Theta, task: Regression, betas: jax.Array, phases: jax.Array, key: jax.Array
) -> Errors:
    """Errors and bounds, where phases end off their minima by `phases` (n, 2), in random ways."""
    case = Case(problem(link), theta, task)
    free, start = mc.Loss(*case), case.problem.init(theta, task)
    phi_0 = CONVERGED(free, start).phi
    of = constants(link, theta, task, phi_0)
    g, h, p = _derivatives(case, phi_0)
    slope_out = lambda phi: _flat(jax.grad(case.problem.outer, 1)(phi, theta, task))
    exact = slope_out(phi_0) - p.T @ jnp.linalg.solve(h, g)
    ways = jax.random.normal(key, (len(phases), 2, *start.shape))
    ways /= jnp.linalg.norm(ways, axis=-1, keepdims=True)

    def at(beta: jax.Array) -> Errors:
        nudged = free.nudged(OuterNudge(beta))
        phi_beta = CONVERGED(nudged, phi_0).phi
        # Strong convexity says how far off the minima the solver may have ended by itself.
        missed = [_missed(loss, phi, task) for loss, phi in ((free, phi_0), (nudged, phi_beta))]

        def one(delta: jax.Array, way: jax.Array) -> Errors:
            stops = [phi_0 + delta[0] * way[0], phi_beta + delta[1] * way[1]]
            by_theta = contrast_at([free, nudged], (-1 / beta, 1 / beta), stops)[0]
            plain = _flat(by_theta)
            at_free = plain + slope_out(stops[0]) - slope_out(stops[1])
            ends = delta + jnp.stack(missed)
            whole = jnp.asarray(bound(ends[0], ends[1], beta, of))
            error = lambda estimate: jnp.linalg.norm(estimate - exact)
            return Errors(error(plain), error(at_free), whole, whole - of.b_out * delta[1])

        return jax.vmap(one)(phases, ways)

    return jax.lax.map(at, betas)


def _missed(loss: mc.Loss, phi: jax.Array, task: Regression) -> jax.Array:
    return jnp.linalg.norm(jax.grad(loss)(phi)) / (2 * task.lam)


def _flat(tree: Theta) -> jax.Array:
    return ravel_pytree(tree)[0]
