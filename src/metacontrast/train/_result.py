"""The result of a run: result.json."""

from __future__ import annotations

import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from ._collapse import finite
from ._folder import write_json
from ._processes import is_first

RESULT = "result.json"
PACKAGES = ("jax", "numpy", "optax", "metacontrast")
FIELDS = (
    *("experiment", "method", "metric", "value", "std", "ci95", "n_tasks", "diverged", "seeds"),
    *("meta_steps", "seconds", "reference", "versions", "revision"),
)


def summarise(values: Any, **facts: Any) -> dict[str, Any]:
    """A result from the values of its tasks, with what it was computed by.

    Args:
        values: one a task, of any shape (seeds by tasks, say). Those that are not finite are
            counted as `diverged` and left out of the figures.
        facts: the further fields: experiment, method, metric, seeds, meta_steps, seconds and
            reference.

    Returns:
        The facts with `value` (the mean), `std` (over tasks), `ci95` (half the width of the 95%
        confidence interval, by Student's t), `n_tasks`, `diverged`, `versions`, `revision` (of
        the checkout this package lies in, or None). A figure that there are too few tasks for is
        None; all of them are where more than half of the tasks diverged, for the mean of the others
        would be that of the easy ones.

    Example:
        >>> result = summarise([1.0, 3.0, float("nan")], method="maml")
        >>> result["method"], result["value"], result["n_tasks"], result["diverged"]
        ('maml', 2.0, 3, 1)
    """
    values = np.asarray(values, np.float64).ravel()
    finite = _learned(values)
    several = finite if finite is not None and len(finite) > 1 else None
    return {
        **facts,
        "value": None if finite is None else float(finite.mean()),
        "std": None if several is None else float(several.std(ddof=1)),
        "ci95": None if several is None else half_width(several),
        "n_tasks": len(values),
        "diverged": int(np.sum(~np.isfinite(values))),
        **provenance(),
    }


def describe(result: Mapping[str, Any]) -> str:
    """The value of a result that `summarise` made, its interval, and what was left out of it.

    Example:
        >>> describe(summarise([1.0, 3.0, float("nan")], metric="error"))
        '2 +- 13 (error; 1 of 3 tasks diverged and is left out)'
        >>> describe(summarise([1.0, float("nan"), float("nan")], metric="error"))
        'no value (error; 2 of 3 tasks diverged)'
    """
    n, of = result["diverged"], f"{result['diverged']} of {result['n_tasks']} tasks diverged"
    if result["value"] is None:
        return f"no value ({result['metric']}; {of})"
    left_out = f"; {of} and {'is' if n == 1 else 'are'} left out" if n else ""
    half = "" if result["ci95"] is None else f" +- {result['ci95']:.2g}"
    return f"{result['value']:.4g}{half} ({result['metric']}{left_out})"


def validation(losses: Any) -> dict[str, float]:
    """What `meta_train(validate=...)` is to return of the losses of held-out tasks.

    Tasks that diverged are left out of the mean as they are in `summarise`: it is NaN, by which no
    theta is chosen, where they are more than half; and counted.

    Args:
        losses: one a task, as `evaluator` returns them.

    Example:
        >>> validation([1.0, 3.0, float("nan")])
        {'loss': 2.0, 'diverged': 1.0}
        >>> validation([1.0, float("inf"), float("nan")])
        {'loss': nan, 'diverged': 2.0}
    """
    values = np.asarray(losses, np.float64).ravel()
    finite = _learned(values)
    loss = math.nan if finite is None else float(finite.mean())
    return {"loss": loss, "diverged": float(np.sum(~np.isfinite(values)))}


def _learned(values: np.ndarray) -> np.ndarray | None:
    """Those of the tasks that did not diverge; None where more than half of them did."""
    finite = values[np.isfinite(values)]
    return finite if len(finite) and 2 * len(finite) >= len(values) else None


def half_width(values: np.ndarray) -> float:
    """Half the 95% confidence interval of the mean of independent numbers, by Student's t (1908).

    Args:
        values: two or more, as an array.

    Example:
        >>> round(half_width(np.array([1.0, 2.0, 3.0])), 3)
        2.484
    """
    from scipy.special import stdtrit

    n = len(values)
    return float(stdtrit(n - 1, 0.975) * values.std(ddof=1) / math.sqrt(n))


def provenance(packages: Sequence[str] = PACKAGES) -> dict[str, Any]:
    """What computed a result: `versions` of Python and of packages, `revision` of the checkout."""
    versions = {package: _version(package) for package in packages}
    return {"versions": {"python": platform.python_version()} | versions, "revision": _revision()}


def write_result(out: str | Path, result: dict[str, Any]) -> Path:
    """Write `result.json` into the folder `out`, atomically; returns its path.

    Arrays are written as lists, and numbers that are not finite as null, as in `metrics.jsonl`, at
    any depth. Of several processes, only the first one writes.

    Raises:
        ValueError: if the result lacks one of the fields that every result has.
    """
    if missing := [field for field in FIELDS if field not in result]:
        raise ValueError(
            f"result: lacks {', '.join(missing)}; give them to summarise(values, ...), None where "
            "there is none."
        )
    path = Path(out) / RESULT
    if is_first():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, plain(result))
    return path


def plain(x: Any) -> Any:
    """With lists for arrays, and None for what is not finite, which JSON lacks.

    So that no run is lost to one of its facts.
    """
    if isinstance(x, dict):
        return {key: plain(each) for key, each in x.items()}
    if isinstance(x, np.ndarray):
        return plain(x.tolist())
    if isinstance(x, (list, tuple)):
        return [plain(each) for each in x]
    return finite(x) if isinstance(x, float) else x


def read_result(out: str | Path) -> dict[str, Any]:
    """The `result.json` of the folder `out`.

    Raises:
        FileNotFoundError: if there is none: the run has not finished.
        ValueError: if it is damaged.
    """
    path = Path(out) / RESULT
    if not path.is_file():
        raise FileNotFoundError(f"out: {path} is not there; finish the run, or resume it.")
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"out: {path} is damaged ({error}); delete it, and resume the run, which writes it."
        ) from error
    return result


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _revision() -> str | None:
    here = Path(__file__).resolve()
    # A package installed somewhere below another checkout (its .venv, say) is not tracked by it.
    if _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return None
    return _git(here.parent, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *command: str) -> str | None:
    try:
        done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
