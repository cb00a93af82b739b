"""A valid call of everything public about runs, data and learners outside JAX."""

from __future__ import annotations

import atexit
import functools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import metacontrast as mc
from metacontrast import external, loggers, report, tasks, train

from ._malformed_calls import Arguments, Call, key, problem, rule, solver, task, theta

folder = TemporaryDirectory()
atexit.register(folder.cleanup)
there = Path(folder.name)


def of_train() -> Iterator[Call]:
    """Of `metacontrast.train`."""
    call = lambda name, function=None, **more: Call(
        "train", name, function or getattr(train, name), **more
    )
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), task)
    judged = {"metric": None, "batch": 2, "features": None, "mesh": None}
    learned: Arguments = {"problem": problem, "solver": solver}
    where = {"theta": theta, "tasks": several, "seed": 0}
    kinds = {"theta": "learned", "tasks": "tree"}
    yield call("evaluate", arguments=learned | where | judged, kinds=kinds)
    yield call("evaluator", arguments=learned | judged)
    yield call("evaluator()", train.evaluator(**learned), arguments=where, kinds=kinds)
    what = {"estimator": rule, "sample_task": lambda key: task, "theta": theta}
    count = {"optimizer": optax.sgd(0.1), "steps": 1, "tasks": 1, "seed": 0}
    files = {"out": None, "resume": False, "config": None, "log_every": 1}
    more = {"steps_per_dispatch": 1, "validate": None, "average_from": None}
    rest = {"task_batch_size": None, "features": None, "warm_start": None, "progress": False}
    end: Arguments = {
        "mesh": None,
        "callbacks": (),
        "on_flag": "warn",
        "on_collapse": "ignore",
        "diagnose": False,
    }
    everything = learned | what | count | files | more | rest | end
    yield call("meta_train", arguments=everything, kinds={"theta": "learned"})
    yield call("device_mesh", arguments={"tasks": 1, "parameters": 1})
    group: Arguments = {
        "distributed": False,
        "coordinator": None,
        "processes": None,
        "process": None,
    }
    group |= {"timeout": 60}
    yield call("use_devices", arguments={"devices": 1, "mesh": None, **group}, works=False)
    yield from _files(call)
    yield call("keep_compiled", works=False)
    yield call("is_first")
    yield call("by_first", arguments={"act": lambda: 1})


def _files(call: Any) -> Iterator[Call]:
    facts = {"experiment": "none", "method": "none", "metric": "error", "seeds": [0]}
    more = {"meta_steps": 1, "seconds": 1.0, "reference": None}
    result = train.summarise([1.0, 3.0], **facts, **more)
    train.write_result(there / "read", result)
    yield call("read_metrics", arguments={"folder": there / "read"})
    yield call("read_result", arguments={"out": there / "read"})
    yield call("write_result", arguments={"out": there / "written", "result": result})
    opened = {"out": there / "opened", "settings": {"seed": 0}, "resume": True}
    yield call("open_folder", arguments=opened)
    yield call("write_json", arguments={"path": there / "a.json", "content": {}})
    kept = train.save_theta(there / "theta.npz", theta)
    saved = {"path": there / "new.npz", "theta": theta}
    yield call("save_theta", arguments=saved)
    yield call("load_theta", arguments={"path": kept, "like": None})
    yield call("describe", arguments={"result": result})
    yield call("half_width", arguments={"values": np.array([1.0, 2.0])})
    yield call("provenance", arguments={"packages": ("jax",)})
    yield call("summarise", arguments={"values": [1.0]}, kinds={"facts": "any"})
    yield call("validation", arguments={"losses": [1.0]})


def of_tasks() -> Iterator[Call]:
    """Of `metacontrast.tasks`. Data sets need files that need not be here."""
    call = lambda name, **more: Call("tasks", name, getattr(tasks, name), **more)
    keyed = {"key": "key", "x": "array"}
    image = jnp.ones((2, 8, 8, 1))
    moved = {"key": key, "x": image, "strength": 1.0, "mirror": False}
    yield call("distorted", arguments=moved, kinds=keyed)
    images = tasks.Images(np.ones((4, 6, 8, 8), np.uint8), ("a", "b", "c", "d"))
    sizes = {"way": 2, "shot": 1, "query": 1}
    more = {"rotations": False, "distort": 0.0, "mirror": False}
    yield call("episodes", arguments={"examples": images, **sizes, **more}, works=False)
    for name in ("cifar10", "mnist"):
        yield call(name, arguments={"part": "train"}, works=False)
    part = {"part": "train", "size": 84}
    yield call("miniimagenet", arguments=part, works=False)
    yield call("omniglot", arguments={"part": "train", "split": "vinyals", "size": 28}, works=False)
    curves = {"neurons": 3, "steps": 2, "variance": 0.1}
    numbers = {"key": key, "x": jnp.ones((2, 1)), "low": 0.0, "high": 1.0}
    yield call("population", arguments=numbers | curves, kinds=keyed)
    yield call("sine", arguments={"key": key, "shots": 2, "queries": 2}, kinds=keyed)
    few = {"chars": (0, -1, 999)}
    yield call("texts", arguments={"seed": 0, "chars": 1000}, ranges=few)
    pulls = {"key": key, "pulls": 4, "queries": 2, "fewest": 2}
    yield call("wheel", arguments=pulls, kinds=keyed)


def of_external() -> Iterator[Call]:
    """Of `metacontrast.external`, scikit-learn's part too."""
    call = lambda name, function=None, **more: Call(
        "external", name, function or getattr(external, name), **more
    )
    solve = lambda theta, task, beta, start: (task + theta["a"] + beta) / (2 + beta)
    inner = lambda phi, theta, task: float(np.sum((phi - task) ** 2 + (phi - theta["a"]) ** 2))
    outer = lambda phi, theta, task: float(np.sum((phi - 1.0) ** 2))
    parts: Arguments = {"solve": solve, "inner": inner, "outer": outer}
    yield call("Learner", arguments={**parts, "slope": None, "nudged": None, "phi_slope": None})
    learner, at = external.Learner(**parts), {"a": np.full(2, 0.5)}
    where = {"learner": learner, "theta": at, "task": np.ones(2), "rule": rule}
    kinds = {"theta": "learned", "task": "any", "tasks": "any"}
    yield call("meta_gradient", arguments=where, kinds=kinds)
    yield call("diagnose", arguments=where, kinds=kinds)
    many = {"learner": learner, "theta": at, "tasks": [np.ones(2)], "rule": rule, "n_jobs": 1}
    yield call("mean_meta_gradient", arguments=many, kinds={"theta": "learned"})
    black = {"init": lambda theta, task: np.zeros(2), "inner": inner, "outer": outer}
    minimise = external.nelder_mead(1e-3)
    yield call("black_box", arguments={**black, "minimise": minimise, "slope": None})
    yield call("nelder_mead", arguments={"tol": 1e-3, "max_values": 100})
    yield from _scikit_learn(call)


def _scikit_learn(call: Any) -> Iterator[Call]:
    from sklearn.linear_model import Lasso, LogisticRegression, Ridge

    rows = np.random.default_rng(0).normal(size=(6, 3))
    data = mc.Data(rows, rows @ np.ones(3))
    yield call("reweighted", arguments={"estimator": Ridge()}, ranges={"estimator": (Lasso(),)})
    for estimator, y in ((Ridge(), data.y), (LogisticRegression(), data.y > 0)):
        both = mc.Task(data._replace(y=y), data._replace(y=y))
        where = {"theta": {"log_lam": np.zeros(3)}, "task": both, "rule": rule}
        kinds = {"theta": "learned", "task": "task"}
        name = f"meta_gradient (of {type(estimator).__name__})"
        learned = {"learner": external.reweighted(estimator)}
        yield call(name, external.meta_gradient, arguments=learned | where, kinds=kinds)


def of_report() -> Iterator[Call]:
    """Of `metacontrast.report`."""
    call = lambda name, **more: Call("report", name, getattr(report, name), **more)
    grid = {"path": there / "figure", "draw": lambda axes: None, "rows": 1, "columns": 1}
    yield call("figure", arguments={**grid, "size": (1.0, 1.0)}, ranges={"size": ()})
    yield call("print_report", arguments={"runs": there})
    yield call("write_page", arguments={"runs": there, "page": there / "page.html"})
    yield call("watch", arguments={"runs": [there], "every": 1.0})
    yield call("look", arguments={"method": "maml"})
    yield call("collect", arguments={"runs": there, "out": there / "collected"})


def of_loggers() -> Iterator[Call]:
    """Of `metacontrast.loggers`. Most need a package that need not be here."""
    call = lambda name, **more: Call("loggers", name, getattr(loggers, name), **more)
    told = {"step": 1, "values": {"meta_loss": 1.0}}
    table = loggers.CSV(there / "table.csv")
    yield call("CSV", arguments={"path": there / "table.csv"})
    yield Call("loggers", "CSV.log", table.log, arguments=told)
    yield call("TensorBoard", arguments={"folder": there / "tb"}, works=False)
    named: Arguments = {"config": {"rate": 0.1}}
    offline = {"folder": there / "wandb", "project": "p", "mode": "offline"}
    yield call("WandB", arguments=named | offline, works=False)
    filed = {"folder": there / "mlflow", "experiment": "e", "uri": None}
    yield call("MLflow", arguments=named | filed, works=False)


def of_optimistix() -> Iterator[Call]:
    """Of `metacontrast.optimistix`."""
    from metacontrast import optimistix

    some = {"beta": 0.1, "scheme": "symmetric", "order": None, "damping": None, "nudged": None}
    positive = {"beta": (0.0, -1.0)}
    make = optimistix.ContrastiveAdjoint
    arguments = {**some, "throw": True}
    yield Call("optimistix", "ContrastiveAdjoint", make, arguments, ranges=positive)


def of_torch() -> Iterator[Call]:
    """Of `metacontrast.torch`."""
    import torch

    import metacontrast.torch as mct

    call = lambda name, function=None, **more: Call(
        "torch", name, function or getattr(mct, name), **more
    )
    optimizer = functools.partial(torch.optim.SGD, lr=0.01)
    scheduler = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=1)
    descent: Arguments = {"optimizer": optimizer, "steps": 2, "scheduler": scheduler}
    yield call("descend", arguments=descent)
    module = mct.Synapse(torch.nn.Linear(3, 1))
    loss = lambda net, data: ((net(data.x)[:, 0] - data.y) ** 2).mean()
    losses: Arguments = {
        "inner": lambda net, task: loss(net, task.train) + net.pull(),
        "outer": lambda net, task: loss(net, task.test),
    }
    meta: Arguments = {
        "meta": ["omega.*", "log_lam.*"],
        "init": mct.Synapse.reset,
        "outer_mode": "eval",
    }
    yield call("Problem", arguments={"module": module, **losses, **meta})
    yield call("Synapse", arguments={"fast": torch.nn.Linear(3, 1), "lam": 1.0})
    yield call("Batches", arguments={"loader": [torch.ones(2)]})
    rows = torch.ones(4, 3)
    both = mc.Task(mc.Data(rows, rows[:, 0]), mc.Data(rows + 1, rows[:, 0]))
    learned = {"problem": mct.Problem(module, **losses, **meta), "solver": mct.descend(**descent)}
    run = learned | {"rule": rule, "nudged": None}
    yield call("backward", arguments={**run, "tasks": [both]}, kinds={"tasks": "torch"})
    yield call("diagnose", arguments={**run, "task": both}, kinds={"task": "torch"})

    def solve(**arguments: Any) -> None:
        with mct.solve_inner(**arguments):
            pass

    entered = functools.update_wrapper(solve, mct.solve_inner)
    yield call("solve_inner", entered, arguments={**learned, "task": both}, kinds={"task": "torch"})


def beside_jax() -> Iterator[Call]:
    """All of these."""
    parts = (of_train, of_tasks, of_external, of_report, of_loggers, of_optimistix, of_torch)
    for part in parts:
        yield from part()
