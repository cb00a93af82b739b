"""Value function against time: one l2 penalty a feature of logistic regression, five methods.

SOBA and SABA (Dagreou, Ablin, Vaiter, Moreau, 2022), AmIGO (Arbel and Mairal, 2022), F2SA (Kwon,
Kwon, Wright, Nowak, 2023); and, on all data, warm L-BFGS with a warm `secant_cg`. Each at the best
of a grid of inner and outer rates, which fall or do not, and theta by plain steps or by Adam.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

EXAMPLES, FEATURES, BATCH = 4096, 64, 64
BATCHES = EXAMPLES // BATCH
FIRST = -4.0  # log lambda
SECONDS, CHUNK = 1.0, 16  # of processor time of a run; steps between two looks at the clock
INNER = (0.1, 0.5)
OUTER = {False: (1.0, 10.0, 100.0), True: (0.03, 0.1, 0.3, 1.0)}  # of plain steps, and of Adam's
FALLS = (0.0, 0.4)  # powers of the step by which rates fall
GAPS = (1e-1, 1e-2, 1e-3)  # of the value, over how far it falls from the first theta
Step = Callable[[Any, jax.Array], Any]


class Problem(NamedTuple):
    """Losses of weights and log lambdas, on batches that are rows of the data by their numbers."""

    train: mc.Data
    test: mc.Data

    def g(self, w: jax.Array, x: jax.Array, data: mc.Data) -> jax.Array:
        """The inner loss."""
        return self.f(w, data) + 0.5 * jnp.sum(jnp.exp(x) * w**2)

    def f(self, w: jax.Array, data: mc.Data) -> jax.Array:
        """The outer loss, and the inner one without its penalty."""
        return jnp.mean(jnp.logaddexp(0.0, -data.y * (data.x @ w)))


def draw(seed: int) -> Problem:
    """Features of scales from 1 to 0.1, of which one in ten means something; noisy labels."""
    keys = jax.random.split(jax.random.key(seed), 4)
    scales = jnp.logspace(0, -1, FEATURES)
    w = jax.random.normal(keys[0], (FEATURES,)) * (jnp.arange(FEATURES) % 10 == 0) / 2
    x = jax.random.normal(keys[1], (2 * EXAMPLES, FEATURES)) * scales[None]
    y = jnp.where(jax.random.uniform(keys[2], (len(x),)) < jax.nn.sigmoid(x @ w), 1.0, -1.0)
    return Problem(*(mc.Data(x[i::2], y[i::2]) for i in range(2)))


class Outer(NamedTuple):
    """theta on its way, by plain steps or by Adam's."""

    x: jax.Array
    moments: Any = None

    @classmethod
    def begin(cls, adam: bool) -> Outer:
        """Where every method starts."""
        x = jnp.full(FEATURES, FIRST)
        return cls(x, optax.scale_by_adam().init(x) if adam else None)

    def step(self, slope: jax.Array, rate: jax.Array | float) -> Outer:
        """One step."""
        moments = self.moments
        if moments is not None:
            slope, moments = optax.scale_by_adam().update(slope, moments)
        return Outer(self.x - rate * slope, moments)


def rows(data: mc.Data, i: jax.Array) -> mc.Data:
    """Batch i."""
    return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, i * BATCH, BATCH), data)


def directions(p: Problem, w: Any, v: Any, x: Any, i: Any, j: Any) -> tuple[Any, Any, Any]:
    """Of SOBA's three variables, on batch i to learn from and j to judge."""
    train, test = rows(p.train, i), rows(p.test, j)
    slope = lambda w, x: jax.grad(p.g)(w, x, train)
    by_w, pulled = jax.vjp(slope, w, x)
    hessian, cross = pulled(v)  # H v, and (d2g / dx dw) v
    return by_w, hessian + jax.grad(p.f)(w, test), cross


def soba(p: Problem, adam: bool, inner: float, outer: float, falls: float) -> tuple[Any, Step]:
    """One step of each variable at a time."""

    def step(state: Any, key: jax.Array) -> Any:
        w, v, at, t = state
        i, j = jax.random.randint(key, (2,), 0, BATCHES)
        by_w, by_v, by_x = directions(p, w, v, at.x, i, j)
        down = (1 + t) ** -falls
        at = at.step(by_x, outer * down)
        return w - inner * down * by_w, v - inner * down * by_v, at, t + 1

    zero = jnp.zeros(FEATURES)
    return (zero, zero, Outer.begin(adam), 0.0), step


def saba(p: Problem, adam: bool, inner: float, outer: float, falls: float) -> tuple[Any, Step]:
    """The same with the variance taken out, as SAGA does, by what every batch gave last.

    A direction is a part by the batch to learn from and one by that to judge, each with a table.
    """

    def parts(w: Any, v: Any, x: Any, i: Any, j: Any) -> tuple[Any, Any]:
        slope = lambda w, x: jax.grad(p.g)(w, x, rows(p.train, i))
        by_w, pulled = jax.vjp(slope, w, x)
        return jnp.stack([by_w, *pulled(v)]), jax.grad(p.f)(w, rows(p.test, j))

    def step(state: Any, key: jax.Array) -> Any:
        w, v, at, t, tables, means = state
        i, j = jax.random.randint(key, (2,), 0, BATCHES)
        new = parts(w, v, at.x, i, j)
        old = tables[0][i], tables[1][j]
        learn, judge = (n - o + m for n, o, m in zip(new, old, means, strict=True))
        means = tuple(m + (n - o) / BATCHES for n, o, m in zip(new, old, means, strict=True))
        tables = tables[0].at[i].set(new[0]), tables[1].at[j].set(new[1])
        down = (1 + t) ** -falls
        w, v = w - inner * down * learn[0], v - inner * down * (learn[1] + judge)
        return w, v, at.step(learn[2], outer * down), t + 1, tables, means

    zero, at = jnp.zeros(FEATURES), Outer.begin(adam)
    numbers = jnp.arange(BATCHES)
    tables = jax.vmap(lambda i: parts(zero, zero, at.x, i, i))(numbers)
    return (zero, zero, at, 0.0, tables, tuple(table.mean(0) for table in tables)), step


def amigo(p: Problem, adam: bool, inner: float, outer: float, falls: float) -> tuple[Any, Step]:
    """Ten steps of w, ten of v, both from where they were, and one of x."""

    def step(state: Any, key: jax.Array) -> Any:
        w, v, outer_at, t = state
        x = outer_at.x
        batches = jax.random.randint(key, (21, 2), 0, BATCHES)
        down = (1 + t) ** -falls

        def learn(w: Any, at: Any) -> Any:
            return w - inner * jax.grad(p.g)(w, x, rows(p.train, at[0])), None

        w, _ = jax.lax.scan(learn, w, batches[:10])

        def solve(v: Any, at: Any) -> Any:
            return v - inner * directions(p, w, v, x, *at)[1], None

        v, _ = jax.lax.scan(solve, v, batches[10:20])
        return w, v, outer_at.step(directions(p, w, v, x, *batches[20])[2], outer * down), t + 1

    zero = jnp.zeros(FEATURES)
    return (zero, zero, Outer.begin(adam), 0.0), step


def f2sa(p: Problem, adam: bool, inner: float, outer: float, falls: float) -> tuple[Any, Step]:
    """First derivatives alone: y minimises f + m g and w minimises g, ten steps each; m grows."""

    def step(state: Any, key: jax.Array) -> Any:
        w, y, outer_at, t = state
        x = outer_at.x
        m = 1.0 + 0.5 * jnp.sqrt(t)
        batches = jax.random.randint(key, (11, 2), 0, BATCHES)

        def learn(both: Any, at: Any) -> Any:
            w, y = both
            train, test = rows(p.train, at[0]), rows(p.test, at[1])
            by_y = jax.grad(p.g)(y, x, train) + jax.grad(p.f)(y, test) / m
            return (w - inner * jax.grad(p.g)(w, x, train), y - inner * by_y), None

        (w, y), _ = jax.lax.scan(learn, (w, y), batches[:10])
        by_x = m * 0.5 * jnp.exp(x) * (y**2 - w**2)
        down = (1 + t) ** -falls
        return w, y, outer_at.step(by_x, outer * down), t + 1

    zero = jnp.zeros(FEATURES)
    return (zero, zero, Outer.begin(adam), 0.0), step


RIVALS = {"SOBA": soba, "SABA": saba, "AmIGO": amigo, "F2SA": f2sa}


def chunk_of(make: Any, p: Problem, adam: bool) -> Callable[[Any, jax.Array, Any], Any]:
    """Some steps of a rival; of all its rates one program."""

    @jax.jit
    def chunk(state: Any, key: jax.Array, setting: Any) -> Any:
        _, step = make(p, adam, *setting)
        keys = jax.random.split(key, CHUNK)
        return jax.lax.scan(lambda s, k: (step(s, k), None), state, keys)[0]

    return chunk


def rival(chunk: Any, state: Any, setting: tuple[float, ...], seed: int) -> Iterator[np.ndarray]:
    """x, after every chunk of steps; the first one is compiled before it counts."""
    key = jax.random.key(seed)
    jax.block_until_ready(chunk(state, key, setting))
    yield np.asarray(state[2].x)
    for n in itertools.count():
        state = jax.block_until_ready(chunk(state, jax.random.fold_in(key, n), setting))
        yield np.asarray(state[2].x)


def ours(p: Problem) -> Callable[[Outer, Any, float], tuple[Outer, Any]]:
    """One meta-step: warm L-BFGS, warm secants."""
    problem = mc.Problem(
        init=lambda x, z: jnp.zeros(FEATURES),
        inner=lambda w, x, z: p.g(w, x, z.train),
        outer=lambda w, x, z: p.f(w, z.test),
    )
    rule = mc.Contrastive(None, "symmetric", nudge="linear", nudged=mc.secant_cg(10, 0.03))
    gradient = mc.meta_gradient(problem, mc.lbfgs(1e-5, 20), rule, by_z=False)
    task = mc.Task(p.train, p.test)

    @jax.jit
    def step(at: Outer, starts: Any, rate: float) -> tuple[Outer, Any]:
        meta = gradient(at.x, task, None, starts)
        return at.step(meta.by_theta, rate), meta.phases

    return step


def our_run(step: Any, setting: tuple[float, float], adam: bool) -> Iterator[np.ndarray]:
    """x, after every meta-step; all programs are compiled before it counts."""
    outer, falls = setting
    at, starts = Outer.begin(adam), None
    for _ in range(3):
        at, starts = jax.block_until_ready(step(at, starts, outer))
    at, starts = Outer.begin(adam), None
    yield np.asarray(at.x)
    for t in itertools.count():
        at, starts = jax.block_until_ready(step(at, starts, outer * (1 + t) ** -falls))
        yield np.asarray(at.x)


def timed(run: Iterator[np.ndarray], seconds: float) -> tuple[list[float], list[np.ndarray]]:
    """The x of a run, and when each was there."""
    xs, times, began = [next(run)], [0.0], time.process_time()
    while times[-1] < seconds:
        xs.append(next(run))
        times.append(time.process_time() - began)
    return times, xs


def value_of(p: Problem) -> Callable[[np.ndarray], float]:
    """The value function, by Newton's method to the end."""

    @jax.jit
    def value(x: jax.Array) -> jax.Array:
        loss = lambda w: p.g(w, x, p.train)
        s = lambda w: p.train.x @ w

        def newton(_: int, w: jax.Array) -> jax.Array:
            q = jax.nn.sigmoid(s(w))
            h = (p.train.x * (q * (1 - q))[:, None]).T @ p.train.x / EXAMPLES
            return w - jnp.linalg.solve(h + jnp.diag(jnp.exp(x)), jax.grad(loss)(w))

        return p.f(jax.lax.fori_loop(0, 8, newton, jnp.zeros(FEATURES)), p.test)

    return lambda x: float(value(jnp.asarray(x)))


def bilevel(seed: int) -> dict[str, Any]:
    """Seconds of each method, at its best rates, to within each gap of the best value of all."""
    p = draw(seed)
    value = value_of(p)
    runs: dict[str, list[Any]] = {name: [] for name in ("ours", *RIVALS)}
    meta_step = ours(p)
    for adam, rates in OUTER.items():
        for setting in itertools.product(rates, FALLS):
            run = timed(our_run(meta_step, setting, adam), SECONDS)
            runs["ours"].append(((adam, *setting), run))
        for name, make in RIVALS.items():
            chunk = chunk_of(make, p, adam)
            for grid in itertools.product(INNER, rates, FALLS):
                run = timed(rival(chunk, make(p, adam, *grid)[0], grid, seed), SECONDS)
                runs[name].append(((adam, *grid), run))
    curves = {
        name: [(setting, times, thinned(times, xs, value)) for setting, (times, xs) in of_method]
        for name, of_method in runs.items()
    }
    every = [v for of_method in curves.values() for *_, (_, values) in of_method for v in values]
    first, best = value(np.full(FEATURES, FIRST)), float(np.nanmin(every))
    found: dict[str, Any] = {"first": first, "best": best, "examples": EXAMPLES}
    for name, of_method in curves.items():
        found[name] = {}
        for gap in GAPS:
            level = best + gap * (first - best)
            reached = [
                (next((t for t, v in zip(*curve, strict=True) if v <= level), None), setting)
                for setting, _, curve in of_method
            ]
            there = [pair for pair in reached if pair[0] is not None]
            found[name][f"{gap:g}"] = min(there) if there else None
        found[name]["best"] = float(np.nanmin([v for *_, (_, values) in of_method for v in values]))
    return found


def thinned(
    times: list[float], xs: list[np.ndarray], value: Any
) -> tuple[list[float], list[float]]:
    """Times and values, at no more than 25 points that lie evenly in the logarithm of time."""
    grid = np.unique(np.searchsorted(times, np.geomspace(max(times[1], 1e-4), times[-1], 25)))
    picked = [0, *(int(i) for i in grid if i < len(xs))]
    return [times[i] for i in picked], [value(xs[i]) for i in picked]
