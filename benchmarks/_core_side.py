"""One side of `core.py`, run by its path in a process of its own: a meta-gradient, again and again.

It knows the names of the first edition too, so that the library on the path may be of either. It
prints the norm of the first result and the processor seconds to it; then, at each line on stdin,
the seconds of a call.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

import metacontrast
from metacontrast.nets import conv4, mlp
from metacontrast.tasks import sine

mc: Any = metacontrast  # of either edition
NEW = "meta_gradient" in vars(mc)
BETA, BLOCK = 0.05, 0.2  # seconds of a block, at least
NET = mlp(1, 40, 2, 1, jnp.tanh)

# A problem, the solvers of its phases, a scheme, theta and stacked tasks.
Case = tuple[Any, Any, Any, str, Any, Any]


def synapse(omega: Any, lam: float) -> Any:
    """omega, and the logarithm of equal strengths."""
    log_lam = jax.tree.map(lambda x: jnp.full(x.shape, math.log(lam)), omega)
    return mc.Synapse(omega, log_lam) if NEW else (omega, log_lam)


def pull(phi: Any, theta: Any) -> Any:
    """Of a complex synapse."""
    return theta.pull(phi) if NEW else mc.attraction(phi, *theta)


def nesterov(rate: float, steps: int) -> Any:
    """Its rate falls on a cosine."""
    falling = optax.cosine_decay_schedule(rate, steps, 0.01)
    return mc.descend(optax.sgd(falling, 0.9, nesterov=True), steps)


def sines(queries: int) -> tuple[Any, Any]:
    """theta, and 25 tasks of 10 points."""
    keys = jax.random.split(jax.random.key(1), 25)
    tasks = jax.vmap(lambda key: sine(key, shots=10, queries=queries))(keys)
    return synapse(NET.init(jax.random.key(0)), 5.0), tasks


def sine_gauss_newton() -> Case:
    """`cml-gn`: 10 free and 4 nudged steps, forward."""
    residual = lambda phi, theta, example: NET.apply(phi, example.x) - example.y
    problem = mc.Problem(
        lambda theta, task: theta[0],
        mc.LeastSquares(residual, lambda task: task.train, prior=lambda theta: theta),
        mc.LeastSquares(residual, lambda task: task.test),
    )
    return problem, mc.gauss_newton(10), mc.gauss_newton(4), "forward", *sines(20)


def sine_descent() -> Case:
    """`cml-gd`: 100 free and twice 50 nudged steps, symmetric."""

    def squares(phi: Any, data: Any) -> Any:
        return jnp.sum((jax.vmap(lambda x: NET.apply(phi, x))(data.x) - data.y) ** 2)

    problem = mc.Problem(
        lambda theta, task: theta[0],
        lambda phi, theta, task: squares(phi, task.train) + pull(phi, theta),
        lambda phi, theta, task: squares(phi, task.test),
    )
    return problem, nesterov(1e-3, 100), nesterov(1e-3, 50), "symmetric", *sines(10)


def small_conv4() -> Case:
    """A narrow Conv4 learns noise: 5 images, 25 judges, 20 free and twice 10 steps, symmetric."""
    net = conv4(8, strided=True, classes=5)

    def error(phi: Any, data: Any) -> Any:
        logits = net.apply(phi, data.x)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, data.y))

    problem = mc.Problem(
        lambda theta, task: theta[0],
        lambda phi, theta, task: error(phi, task.train) + pull(phi, theta),
        lambda phi, theta, task: error(phi, task.test),
    )
    keys, sizes = jax.random.split(jax.random.key(1)), (5, 25)
    images = [jax.random.uniform(k, (1, n, 28, 28, 1)) for k, n in zip(keys, sizes, strict=True)]
    task = mc.Task(*(mc.Data(x, jnp.arange(x.shape[1])[None] % 5) for x in images))
    theta = synapse(net.init(jax.random.key(0)), 0.25)
    return problem, nesterov(1e-2, 20), nesterov(1e-2, 10), "symmetric", theta, task


CASES: dict[str, Callable[[], Case]] = {
    "sine, gauss_newton": sine_gauss_newton,
    "sine, momentum": sine_descent,
    "Conv4, momentum": small_conv4,
}


def mean_gradient(case: Case) -> Callable[[], Any]:
    """The mean of the tasks' meta-gradients by theta."""
    problem, free, nudged, scheme, theta, tasks = case
    estimator = mc.Contrastive(BETA, scheme, nudged=nudged)
    if NEW:
        gradient = mc.meta_gradient(problem, free, estimator, by_z=False)
        one = lambda theta, task: gradient(theta, task).by_theta
    else:
        one = lambda theta, task: estimator.value_and_grad(problem, free, theta, task)[1]
    over_tasks = jax.vmap(one, (None, 0))
    program = jax.jit(lambda *args: jax.tree.map(lambda g: g.mean(0), over_tasks(*args)))
    return lambda: jax.block_until_ready(program(theta, tasks))


def seconds_of(compute: Callable[[], Any], calls: int) -> float:
    """Of one call."""
    began = time.perf_counter()
    for _ in range(calls):
        compute()
    return (time.perf_counter() - began) / calls


def main(name: str) -> None:
    """The first result, and blocks of calls as they are asked for."""
    compute = mean_gradient(CASES[name]())
    print(float(optax.tree.norm(compute())), time.process_time(), flush=True)
    calls = 2
    for _ in sys.stdin:
        seconds = seconds_of(compute, calls)
        print(seconds, flush=True)
        calls = max(1, math.ceil(BLOCK / seconds))


if __name__ == "__main__":
    main(sys.argv[1])
