"""Meta-training of one long task, whose phases go on from one meta-step to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from .._check import check
from .._problem import Problem, PyTree
from .._solve import Solver
from .._warm import Warm, warm
from ._block import Line, Reached, block
from ._folder import Folder, claim
from ._mesh import check_tasks, constrained, gathered, held, resolved, split_phi, whole
from ._meta_step import Advance, DivergedError, Draw, State, owned
from ._processes import by_first, is_first, together
from ._settings import checked_settings

# Of the diagnostics, those that take no further gradient.
_CHEAP = ("inner", "outer", "nudged_inner", "nudged_outer", "distance")


class WarmTrained(NamedTuple):
    """The last theta, the learner's last `phi` (of the free phase), and the lines of metrics."""

    theta: PyTree
    phi: PyTree
    metrics: tuple[Line, ...]

    @property
    def seconds(self) -> float:
        """The time that the meta-steps took, with their compilation."""
        return sum(line["seconds"] for line in self.metrics)


def warm_train(
    problem: Problem,
    solve: Solver,
    estimator: Any,
    draw: Draw,
    theta: PyTree,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    seed: int,
    out: str | Path | None = None,
    resume: bool = False,
    config: Mapping[str, Any] | None = None,
    every: int = 100,
    chunk: int = 10,
    watch: Callable[[PyTree, PyTree], Mapping[str, Any]] | None = None,
    fresh: bool = False,
    progress: bool = True,
    mesh: Mesh | None = None,
) -> WarmTrained:
    """Meta-learn theta while one long task is learned, by phases that are never started anew.

    As `meta_train`, but each meta-step has one task, a fresh part of the same long one (batches of
    its data), and its phases go on from where they stopped at the last: see `warm`. For learners so
    large that they are trained once. Nothing but the state is held, and that is donated.

    Args:
        problem: what is learned; where it samples, each meta-step has a key of its own.
        solve: the steps of a phase in one meta-step.
        estimator: as `warm` takes it.
        draw: `key -> task`, the data of one meta-step.
        theta: where meta-training starts.
        optimizer: of theta, any of optax.
        steps: how many meta-steps.
        seed: a whole number.
        out, resume, config, every, chunk, progress: as `meta_train` takes them.
        mesh: as `meta_train` takes it; of one row, since there is one task: only split parameters.
        watch: `(theta, phi) -> numbers` to add to each line of metrics as `valid_...`.
        fresh: as `warm` takes it: the nudged phases start where the free one has got to.

    Raises:
        ValueError: bad input (see `check`), or an `out` with anything in it but this run.
        DivergedError: the meta-loss or theta is not finite. Checkpoints are kept.

    Example: the penalty at which a ridge of one weight, `phi = 2 / (1 + theta^2)`, comes to be 1.
        >>> import jax.numpy as jnp, optax, metacontrast as mc
        >>> problem = mc.Problem(
        ...     init=lambda theta, task: jnp.zeros(()),
        ...     inner=lambda phi, theta, task: (phi - task) ** 2 + theta**2 * phi**2,
        ...     outer=lambda phi, theta, task: (phi - 1.0) ** 2,
        ... )
        >>> trained = warm_train(
        ...     problem, mc.descend(optax.sgd(0.1), 1), mc.Contrastive(beta=0.1),
        ...     draw=lambda key: jnp.array(2.0), theta=jnp.array(0.5), optimizer=optax.sgd(0.1),
        ...     steps=400, seed=0, progress=False,
        ... )
        >>> round(float(trained.theta), 2), round(float(trained.phi), 2)
        (1.0, 1.0)
    """
    own = dict(steps=steps, tasks=1, seed=seed, every=every, chunk=chunk, polyak=None)
    settings = checked_settings(config, own)
    mesh = resolved(mesh)
    check_tasks(1, mesh)
    if out is not None:
        by_first(partial(claim, Path(out), settings, resume))
    task_key, learning = _keys(seed, 0)
    check(problem, theta, draw(task_key))
    loop = warm(split_phi(problem, mesh), solve, estimator, fresh=fresh)
    theta = owned(theta)
    phases = jax.jit(loop.init)(theta, draw(task_key), learning)
    first = State(theta, (owned(optimizer.init(theta)), phases))
    advance = _stepper(loop, draw, optimizer, seed, mesh)
    with together():
        folder = None if out is None else Folder(Path(out), settings)
        at, lines = _run(advance, first, folder, watch, steps, every, chunk, progress, mesh)
        theta, phi = gathered((at.state.theta, _free(at)))
    return WarmTrained(theta, phi, tuple(lines))


def _keys(seed: int, t: Any) -> tuple[jax.Array, jax.Array]:
    drawing, learning = jax.random.split(jax.random.fold_in(jax.random.key(seed), t))
    return drawing, learning


def _free(at: Reached) -> PyTree:
    return at.state.optimizer[1].phases[0][0]


def _stepper(
    loop: Warm,
    draw: Draw,
    optimizer: optax.GradientTransformation,
    seed: int,
    mesh: Mesh | None,
) -> Advance:
    """`advance(state, t, n) -> (state, metrics)`, as that of tasks that start anew."""
    update = optax.with_extra_args_support(optimizer).update

    def step(state: State, t: jax.Array) -> tuple[State, dict[str, jax.Array]]:
        drawing, learning = _keys(seed, t)
        moments, phases = state.optimizer
        (loss, said), grad, phases = loop.value_and_grad(
            phases, state.theta, draw(drawing), learning
        )
        updates, moments = update(grad, moments, state.theta, value=loss)
        theta = optax.apply_updates(state.theta, updates)
        metrics = {k: jnp.mean(jnp.asarray(said[k])) for k in _CHEAP if k in said}
        good = jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves((loss, theta))])
        metrics |= {"meta_loss": loss, "diverged": ~jnp.all(good)}
        return constrained(State(theta, (moments, phases)), mesh), whole(metrics, mesh)

    @partial(jax.jit, static_argnums=2, donate_argnums=0)
    def chunk(state: State, t: Any, n: int) -> tuple[State, dict[str, jax.Array]]:
        return jax.lax.scan(step, state, t + jnp.arange(n))

    def advance(state: State, t: int, n: int) -> tuple[State, dict[str, np.ndarray]]:
        state, metrics = chunk(state, t, n)
        metrics = jax.device_get(metrics)
        if metrics["diverged"].any():
            raise DivergedError(
                f"meta-step {t + int(np.argmax(metrics['diverged'])) + 1}: the meta-loss or theta "
                "is not finite. Lower the inner or the outer learning rate, or clip in them "
                "(optax.clip_by_global_norm); or lower |beta|."
            )
        return state, metrics

    return advance


def _run(
    advance: Advance,
    first: State,
    folder: Folder | None,
    watch: Any,
    steps: int,
    every: int,
    chunk: int,
    progress: bool,
    mesh: Mesh | None,
) -> tuple[Reached, list[Line]]:
    at = Reached(0, first, ())
    saved, lines = (at, []) if folder is None else folder.restore(at)
    at = saved.continued(mesh)
    progress = progress and is_first()
    with tqdm(total=steps, initial=at.step, unit="step", disable=not progress) as bar:
        while at.step < steps:
            at, line = block(advance, at, min(every, steps - at.step), chunk, bar)
            if watch is not None:
                seen = watch(held(at.state.theta), gathered(_free(at)))
                line |= {f"valid_{name}": float(x) for name, x in seen.items()}
            lines.append(line)
            if folder is not None:
                folder.add(line, gathered(at))
    return at, lines
