"""Who is compared on the sine task, and with which of our gradients each must agree."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc

from ..experiments import sine
from ._sine import Case, Step, arguments, case, contrastive, flat, ours

CG, DAMPING = 20, 10.0  # where learning stops early the Hessian is indefinite
# All agree to round-off, 1e-15, but conjugate gradients, whose directions lose their orthogonality.
AGREE = 1e-6


class Rival(NamedTuple):
    """A way to the meta-gradient of the sine task.

    `make(case)` builds it, `needs` names the packages to import, and `like` the subject among ours
    that gives the same numbers.
    """

    make: Callable[[Case], Step]
    needs: tuple[str, ...] = ()
    like: str = ""


def cg(at: Case) -> Any:
    """Conjugate gradient on the damped Hessian."""
    return mc.Implicit("cg", CG, damping=DAMPING)


def jaxopt_implicit(at: Case) -> Step:
    """JAXopt's optax solver, differentiated implicitly by its conjugate gradient."""
    import jaxopt

    problem, (theta, tasks) = sine.METHODS["cml-gd"].problem, arguments(at)
    learner = jaxopt.OptaxSolver(
        problem.inner,
        optax.sgd(at.rate, at.momentum, nesterov=True),
        maxiter=at.steps,
        tol=0.0,
        implicit_diff=True,
        implicit_diff_solve=partial(
            jaxopt.linear_solve.solve_cg, ridge=DAMPING, maxiter=CG, tol=0.0
        ),
    )

    def judged(theta: Any, task: mc.Task) -> jax.Array:
        phi = learner.run(problem.init(theta, task), theta, task).params
        return problem.outer(phi, theta, task)

    def mean(theta: Any, tasks: mc.Task) -> jax.Array:
        return jnp.mean(jax.vmap(partial(judged, theta))(tasks))

    program = jax.jit(jax.grad(mean))
    return lambda: flat(jax.tree.leaves(program(theta, tasks)))


def _in_torch(name: str) -> Callable[[Case], Step]:
    def make(at: Case) -> Step:
        adapter = getattr(import_module("._torch_sine", __package__), name)
        return threaded(lambda at: adapter(at), at)

    return make


def threaded(adapter: Callable[[Case], Step], at: Case) -> Step:
    """With as many threads as are faster on a small case: one, or all."""
    import torch

    from ._measure import interleaved

    def on(threads: int, at: Case) -> Step:
        step = adapter(at)

        def run() -> np.ndarray:
            torch.set_num_threads(threads)
            return step()

        return run

    (x, y), (x_test, y_test) = at.train, at.test
    small = at._replace(train=(x[:2], y[:2]), test=(x_test[:2], y_test[:2]), steps=3, nudged=3)
    counts = sorted({1, torch.get_num_threads()})
    trial = interleaved({str(n): on(n, small) for n in counts}, rounds=3, least=0.0)
    return on(min(counts, key=lambda n: float(np.median(trial[str(n)]))), at)


OURS, UNROLLED, IMPLICIT = "contrastive", "JAX unrolled", "JAX implicit, CG"
HIGHER, TORCHOPT = ("torch", "higher"), ("torch", "torchopt")
RIVALS = {
    OURS: Rival(partial(ours, contrastive)),
    UNROLLED: Rival(partial(ours, lambda at: mc.Unrolled())),
    IMPLICIT: Rival(partial(ours, cg)),
    "JAXopt implicit, CG": Rival(jaxopt_implicit, ("jaxopt",), IMPLICIT),
    "PyTorch eager, contrastive": Rival(_in_torch("eager_contrastive"), ("torch",), OURS),
    "PyTorch vmap, contrastive": Rival(_in_torch("vmap_contrastive"), ("torch",), OURS),
    "PyTorch eager, unrolled": Rival(_in_torch("eager_unrolled"), ("torch",), UNROLLED),
    "PyTorch vmap, unrolled": Rival(_in_torch("vmap_unrolled"), ("torch",), UNROLLED),
    "higher, unrolled": Rival(_in_torch("higher_unrolled"), HIGHER, UNROLLED),
    "TorchOpt, unrolled": Rival(_in_torch("torchopt_unrolled"), TORCHOPT, UNROLLED),
    "TorchOpt vmap, unrolled": Rival(_in_torch("torchopt_vmap"), TORCHOPT, UNROLLED),
}


def present() -> tuple[dict[str, Rival], dict[str, str]]:
    """Those whose packages are installed; and of the others why they are absent."""
    here, absent = {}, {}
    for name, rival in RIVALS.items():
        missing = [package for package in rival.needs if find_spec(package) is None]
        if missing:
            absent[name] = f"{', '.join(missing)} not installed"
        else:
            here[name] = rival
    if find_spec("learn2learn") is None:
        absent["learn2learn"] = (
            "not installed: the C file in its source distribution (0.2.0) includes longintrepr.h, "
            "which CPython has moved since 3.11, so that it does not build"
        )
    return here, absent


def disagreement(name: str, at: Case) -> float:
    """Relative distance of a rival's meta-gradient from that of ours which it must equal."""
    expected = RIVALS[RIVALS[name].like].make(at)()
    return float(np.linalg.norm(RIVALS[name].make(at)() - expected) / np.linalg.norm(expected))


def small_case() -> Case:
    """Two tasks and thirty steps in float64, where all agree to round-off."""
    return case(2, 30, np.float64)
