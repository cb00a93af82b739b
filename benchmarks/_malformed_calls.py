"""A valid call of everything public that runs in JAX, to be spoilt one argument at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax

import metacontrast as mc
from metacontrast import accuracy, brain, credit, nets, slow

# Public, and not called by users with arguments of their own: results and containers of whatever a
# tree holds, what is subclassed or only annotates, and errors.
NOT_CALLED = {
    *(
        "Diagnosis",
        "Influence",
        "MetaGradient",
        "Phases",
        "Flags",
        "Data",
        "Task",
        "Solution",
        "State",
    ),
    *("Synapse", "Stencil", "Estimator", "Solver", "Objective", "Constants", "Record"),
    *("Suggestion", "Rule", "ConvNet", "Net", "Response", "Weights", "HeadTheta", "Splits"),
    *(
        "Modulation",
        "Images",
        "Pulled",
        "MeanMetaGradient",
        "Trained",
        "CollapsedError",
        "Callback",
        "Look",
    ),
    *("Tuned", "ContrastiveSearchCV"),  # which, as scikit-learn asks, checks its arguments in fit
    *("DivergedError", "FlaggedError", "LostProcessError", "RESULT", "optional"),
}


@dataclass(frozen=True)
class Call:
    """A call that works.

    Args:
        module: public, of which the rates are printed.
        name: of what is called; "f()" is what f returns.
        function: which is it.
        arguments: valid ones, by name.
        kinds: of parameters, what their annotations do not tell; see `malformed`.
        ranges: numbers outside of the documented range, where the name alone does not tell.
        works: whether the valid call can be made here, by which the table is checked.
    """

    module: str
    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)
    kinds: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    works: bool = True


mse = lambda w, data: jnp.mean((data.x @ w - data.y) ** 2)
problem = mc.Problem(
    init=lambda theta, task: jnp.zeros(3) + 0 * theta["omega"],
    inner=lambda phi, theta, task: mse(phi, task.train) + mc.Synapse(**theta).pull(phi),
    outer=lambda phi, theta, task: mse(phi, task.test),
)
x = jax.random.normal(jax.random.key(0), (6, 3))
task = mc.Task(mc.Data(x, x @ jnp.ones(3)), mc.Data(x + 1, x @ jnp.ones(3)))
theta = {"omega": jnp.full(3, 0.5), "log_lam": jnp.array(0.0)}
Arguments: TypeAlias = dict[str, Any]
key, solver, rule = jax.random.key(0), mc.descend(optax.sgd(0.01), 2), mc.Contrastive(0.1)
LEARNED = {"theta": "learned", "z": "task", "key": "key"}
on = {"problem": problem, "solver": solver, "theta": theta, "z": task, "key": key}


def core() -> Iterator[Call]:
    """Of `metacontrast` itself."""
    call = lambda name, function=None, **more: Call(
        "metacontrast", name, function or getattr(mc, name), **more
    )
    of: Arguments = {"problem": problem, "solver": solver, "estimator": rule}
    where = {"theta": theta, "z": task, "key": key}
    yield call("check", arguments={"problem": problem, **where}, kinds=LEARNED)
    yield call("diagnose", arguments={**on, "estimator": rule, "features": None}, kinds=LEARNED)
    yield call("solve_inner", arguments=on, kinds={**LEARNED, "theta": "tree", "z": "tree"})
    yield call("meta_gradient", arguments={**of, "by_z": None})
    yield call("meta_loss", arguments=of)
    starts = {"starts": None}
    made = mc.meta_gradient(**of)
    yield call("meta_gradient()", made, arguments=where | starts, kinds=LEARNED)
    yield call("meta_loss()", mc.meta_loss(**of), arguments=where, kinds=LEARNED)
    inner: Arguments = {"inner": problem.inner, "solver": solver, "beta": 0.1, "init": problem.init}
    more = {"scheme": "symmetric", "order": None, "damping": None, "nudged": None, "sample": None}
    yield call("argmin", arguments=inner | more)
    yield call("argmin()", mc.argmin(**inner), arguments=where, kinds=LEARNED)
    yield call("influence", arguments=_weighed(), kinds={**LEARNED, "theta": "tree", "z": "tree"})
    yield call("tune", arguments=_tuned(), kinds={"params": "any", "state": "any", **SPLITS})
    yield from _estimators(call)
    yield from _solvers(call)
    functions = {"init": problem.init, "inner": problem.inner, "outer": problem.outer}
    sampled = {"sample": lambda z, key: z, "views": 2, "state": None}
    yield call("Problem", arguments=functions | sampled)
    residual = lambda phi, theta, example: example.x @ phi - example.y
    parts = {"residual": residual, "data": lambda z: z.train, "prior": None}
    yield call("LeastSquares", arguments=parts)
    yield from _losses(call)


SPLITS = {"theta": "learned", "train": "task", "valid": "task", "stop": "task"}


def _tuned() -> Arguments:
    """What tunes the penalty of three weights."""
    valid_loss = lambda w, theta, batch: mse(w, mc.Data(*batch))
    losses: Arguments = {
        "train_loss": lambda w, theta, batch: valid_loss(w, theta, batch) + theta * w @ w,
        "valid_loss": valid_loss,
    }
    split = (x, x @ jnp.ones(3))
    data = {"params": jnp.zeros(3), "theta": 0.1, "train": split, "valid": split, "stop": split}
    of: Arguments = {"optimizer": optax.sgd(0.1), "steps": 2, "batch_size": 3, "state": None}
    more: Arguments = {"meta_steps": 1, "meta_optimizer": optax.sgd(0.1), "estimator": rule}
    rest: Arguments = {"look_every": 1, "patience": 1, "seed": 0, "out": None, "resume": False}
    rest |= {"callbacks": ()}
    return losses | data | of | more | rest | {"progress": False, "diagnose": False}


def _weighed() -> Arguments:
    """What asks for the influence of six examples."""
    inner = lambda phi, theta, z: jnp.mean(z["w"] * (x @ phi - theta["omega"][0]) ** 2)
    learned = mc.Problem(lambda theta, z: jnp.zeros(3), inner, lambda phi, theta, z: 0.0)
    asked = {"query": lambda phi, theta, z: (x @ phi) ** 2, "weights": lambda z: z["w"]}
    more = {"method": "trajectory", "key": key, "query_batch_size": 3}
    of: Arguments = {"problem": learned, "solver": solver, "theta": theta, "z": {"w": jnp.ones(6)}}
    return of | asked | more


def _estimators(call: Callable[..., Call]) -> Iterator[Call]:
    more: Arguments = {
        "order": None,
        "nudge": "outer",
        "damping": None,
        "nudged": None,
        "control": False,
    }
    yield call("Contrastive", arguments={"beta": 0.1, "scheme": "forward", **more})
    yield call("Contrastive.scaled", rule.scaled, arguments={"factor": 0.5})
    yield call("Evolution", arguments={"sigma": 0.1, "pairs": 2})
    more = {"damping": 0.0, "rate": None, "hessian_free": False}
    yield call("Implicit", arguments={"method": "cg", "iterations": 5, **more})
    yield call("Trajectory", arguments={"product": "secant", "h": 0.1, "keep": "all"})
    yield call("Unrolled", arguments={"truncate": 1, "remat": False})
    yield call("FirstOrder")
    yield call("Reptile")


def _solvers(call: Callable[..., Call]) -> Iterator[Call]:
    sgd = optax.sgd(0.1)
    yield call("descend", arguments={"optimizer": sgd, "steps": 2})
    yield call("lbfgs", arguments={"tol": 1e-3, "max_steps": 2, "pairs": 2})
    yield call("until_converged", arguments={"optimizer": sgd, "tol": 1e-3, "max_steps": 2})
    noisy = {"sigma": 0.1, "pairs": 2, "seed": 0}
    yield call("evolve", arguments={"optimizer": sgd, "steps": 2, **noisy})
    plain = lambda loss, phi: phi
    yield call("as_solver", arguments={"solver": plain, "samples": None, "holomorphic": False})
    positive = {"damping": (0.0, -1.0)}
    yield call("gauss_newton", arguments={"steps": 2, "damping": 1.0}, ranges=positive)
    yield call("closed_form", arguments={"iterations": 5})
    yield call("newton_cg", arguments={"tol": 1e-3, "max_steps": 2, "iterations": 2})
    switches = {"precondition": False, "recycle": True, "central": False, "views": 2}
    yield call("secant_cg", arguments={"iterations": 2, "tol": 1e-3, **switches})
    some = {"rate": 0.1, "tol": 1e-3, "max_steps": 2, "differences": 2}
    yield call("anderson", arguments=some)


def _losses(call: Callable[..., Call]) -> Iterator[Call]:
    loss, phi = mc.Loss(problem, theta, task), jnp.zeros(3)
    rest = {"nudge": None, "by_z": True, "state": None, "is_view": False}
    # Not before it is called does a loss look at what it is of.
    kinds = {"theta": "any", "z": "any", "key": "key", "state": "any"}
    where = {"theta": theta, "z": task, "key": key}
    yield call("Loss", arguments={"problem": problem, **where, **rest}, kinds=kinds)
    at_phi, phi_kind = {"phi": phi}, {"phi": "tree"}
    for name in ("inner", "outer"):
        yield call(f"Loss.{name}", getattr(loss, name), arguments=at_phi, kinds=phi_kind)
    yield call("Loss()", loss.__call__, arguments=at_phi, kinds=phi_kind)
    yield call("Loss.at", loss.at, arguments={"theta": theta, "z": task}, kinds=kinds)
    synapse = mc.Synapse(jnp.ones(3), jnp.zeros(3))
    for name in ("pull", "strengths", "resting_point"):
        yield call(f"Synapse.{name}", getattr(synapse, name), arguments=at_phi, kinds=phi_kind)
    phases = {"phi_0": phi, "phi_beta": phi, "beta": 0.1}
    kinds = dict.fromkeys(("phi_0", "phi_beta"), "tree")
    yield call("Synapse.contrast", synapse.contrast, arguments=phases, kinds=kinds)
    points: Arguments = {"scheme": "symmetric", "order": 2, "beta": 0.1}
    yield call("stencil", arguments=points)
    yield call("Stencil.scaled", mc.stencil(**points).scaled, arguments={"size": 2.0},
               ranges={"size": ()})  # fmt: skip
    parts = {"loss": loss, "phi_0": phi, "solver": solver, "stencil": mc.stencil(**points)}
    nudge = mc._loss.OuterNudge
    more = {"nudge": nudge, "control": False, "starts": None, "inverse": None}
    yield call("contrast", arguments=parts | more, kinds={"phi_0": "tree"})


def of_accuracy() -> Iterator[Call]:
    """Of `metacontrast.accuracy`."""
    call = lambda name, **more: Call("accuracy", name, getattr(accuracy, name), **more)
    constants = accuracy.Constants(1.0, 1.0, 2.0)
    errors = {"delta": 0.01, "delta_prime": 0.01, "constants": constants}
    yield call("bound", arguments={**errors, "beta": 0.1}, ranges={"beta": (0.0, -1.0)})
    yield call("best_beta", arguments=errors)
    judged = lambda phi, theta, task: mse(phi, task.test) + jnp.sum((phi - theta["omega"]) ** 2)
    drawn = lambda phi, theta, task: mse(phi, task.train) + jnp.sum((phi - theta["omega"]) ** 2)
    bilinear = mc.Problem(problem.init, drawn, judged)
    quadratic = {"problem": bilinear, "theta": {"omega": jnp.zeros(3)}, "z": task}
    yield call("quadratic_constants", arguments=quadratic, kinds=LEARNED)
    one = {"estimators": {"rule": rule}, "exact": theta, "repeats": 1}
    yield call("compare", arguments=on | one, kinds=LEARNED | {"exact": "learned"})
    yield call("print_records", arguments={"records": [], "title": "title"})
    some = {"scheme": "forward", "order": None, "nudged": None, "trials": 10}
    yield call("suggest_beta", arguments=on | some, kinds=LEARNED)


def of_nets() -> Iterator[Call]:
    """Of `metacontrast.nets`."""
    call = lambda name, function=None, **more: Call(
        "nets", name, function or getattr(nets, name), **more
    )
    image, filters = jnp.ones((1, 16, 16, 1)), jnp.ones((3, 3, 1, 2))
    some = {"stride": 1, "padding": 1, "precision": "highest", "lowering": None}
    arrays = {"x": "array", "w": "array"}
    yield call("conv", arguments={"x": image, "w": filters, **some}, kinds=arrays)
    large = {"size": (8,)}
    end = {"precision": "highest", "lowering": None}
    more = {"strided": False, "channels": 1, "size": 16, "classes": 2, "norm": "batch"}
    yield call("conv4", arguments={"filters": 2, **more, **end}, ranges=large)
    more = {"channels": 1, "batch_norm": False, "size": 16}
    yield call("lenet5", arguments={"classes": 2, **more, **end}, ranges=large)
    sizes: Arguments = {"inputs": 1, "width": 3, "depth": 2, "outputs": 1}
    more = {"activation": jnp.tanh, "precision": "highest"}
    yield call("mlp", arguments=sizes | more, ranges={"depth": (-1,)})
    mlp = nets.mlp(**sizes)
    phi, kinds = mlp.init(key), {"phi": "tree", "x": "array", "key": "key"}
    yield call("mlp().init", mlp.init, arguments={"key": key}, kinds=kinds)
    yield call("mlp().apply", mlp.apply, arguments={"phi": phi, "x": jnp.ones(1)}, kinds=kinds)
    import equinox as eqx

    make = lambda key: eqx.nn.Linear(2, 1, key=key)
    yield call("net", arguments={"make": make, "precision": "highest"})
    sizes = {"inputs": 3, "neurons": 4, "outputs": 1}
    more = {"surrogate": nets.triangle, "alpha": 0.9, "kappa": 0.9, "threshold": 0.1}
    yield call("Spiking", arguments={**sizes, **more, "gains": (0.1, 0.01, 0.1)})
    spiking = nets.Spiking(**sizes)
    yield call("Spiking.init", spiking.init, arguments={"key": key}, kinds=kinds)
    spikes = {"phi": spiking.init(key), "x": jnp.ones((5, 3))}
    yield call("Spiking.apply", spiking.apply, arguments=spikes, kinds=kinds)
    yield call("fast_sigmoid", arguments={"u": jnp.ones(2)})
    yield call("triangle", arguments={"u": jnp.ones(2)})
    sizes = {"symbols": 3, "length": 4, "width": 4, "depth": 1, "heads": 2}
    yield call("transformer", arguments={**sizes, "precision": "highest"})


def of_credit() -> Iterator[Call]:
    """Of `metacontrast.credit`."""
    call = lambda name, **more: Call("credit", name, getattr(credit, name), **more)
    spiking, phi = nets.Spiking(3, 4, 1), nets.mlp(1, 3, 2, 1).init(key)
    more = {"feedback": jnp.ones((1, 4)), "online": False}
    yield call("eprop", arguments={"net": spiking, **more}, kinds={"feedback": "array"})
    energy = {"gamma": 0.5, "sweeps": 2, "activation": jnp.tanh}
    yield call("equilibrium", arguments=energy)
    positive = {"beta": (0.0, -1.0)}
    yield call("equilibrium_propagation", arguments={"beta": 0.1, **energy}, ranges=positive)
    fixed = {"feedback": [jnp.ones((3, 3))], "activation": jnp.tanh}
    yield call("feedback_alignment", arguments=fixed)
    yield call("direct_feedback_alignment", arguments=fixed)
    drawn = {"key": key, "phi": phi, "direct": False}
    yield call("random_feedback", arguments=drawn, kinds={"key": "key", "phi": "tree"})
    noise = {"scale": 0.1, "samples": 2, "activation": jnp.tanh}
    yield call("node_perturbation", arguments=noise)
    coding = {"nudge": 0.1, "sweeps": 2, "activation": jnp.tanh}
    yield call("predictive_coding", arguments=coding)
    own = credit.credit_rule(lambda phi, x: phi * x, lambda phi, x, error, key: error * x)
    two = {"apply": lambda phi, x: phi * x, "backward": lambda phi, x, error, key: error * x}
    yield call("credit_rule", arguments=two)
    with_rule = {"solver": solver, "problem": lambda apply: problem, "rule": own}
    yield call("with_credit_rule", arguments=with_rule)


def of_slow() -> Iterator[Call]:
    """Of `metacontrast.slow`."""
    call = lambda name, **more: Call("slow", name, getattr(slow, name), **more)
    weights = nets.mlp(1, 3, 2, 1).init(key)
    kinds = {"weights": "tree"}
    yield call("ridge_head", arguments={"classes": 2})
    yield call("ridge_newton", arguments={"steps": 1})
    yield call("modulation", arguments={"weights": weights}, kinds=kinds)
    both = {"phi": slow.modulation(weights), "weights": weights}
    yield call("modulated", arguments=both, kinds={**kinds, "phi": "tree"})


def of_brain() -> Iterator[Call]:
    """Of `metacontrast.brain`."""
    call = lambda name, function=None, **more: Call(
        "brain", name, function or getattr(brain, name), **more
    )
    memory: Arguments = {"capacity": 2, "noise": 0.1, "nudge": "gain"}
    yield call("Hippocampus", arguments=memory, ranges={"nudge": ()})
    hippocampus = brain.Hippocampus(**memory)
    kinds = {"task": "tree", "key": "key"}
    stored = {"task": task, "key": key}
    yield call("Hippocampus.store", hippocampus.store, arguments=stored, kinds=kinds)
    loss = lambda phi, item: (phi - item.y) ** 2
    more = {"rate": 0.1, "hippocampus": hippocampus, "steps": 2}
    yield call("Plasticity", arguments={"loss": loss, **more})
    online = {"beta": 0.1, "nudged": brain.Plasticity(loss, 0.1, steps=2), "decay": 0.0}
    yield call("Tagged", arguments={**online, "noise": 0.0, "jitter": 0, "at_once": 0.0},
               ranges={"decay": (-0.5, 1.0)})  # fmt: skip
    theta, phi = mc.Synapse(jnp.ones(3), jnp.zeros(3)), jnp.zeros(3)
    moved = {"theta": theta, "tags": theta, "rate": 0.1}
    kinds = dict.fromkeys(("theta", "tags", "phi", "omega", "lam"), "tree")
    yield call("consolidate", arguments=moved, kinds=kinds, ranges={"rate": ()})
    read = {"tags": theta, "phi": phi, "omega": phi, "lam": phi, "sign": 1.0, "beta": 0.1}
    yield call("tag", arguments=read, kinds=kinds)


def in_jax() -> Iterator[Call]:
    """All of these."""
    for part in (core, of_accuracy, of_nets, of_credit, of_slow, of_brain):
        yield from part()
