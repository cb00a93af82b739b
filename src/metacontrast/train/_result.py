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
    finite = values[np.isfinite(values)]
    n = len(finite)
    enough = n > 0 and 2 * n >= len(values)
    std = float(finite.std(ddof=1)) if enough and n > 1 else None
    return {
        **facts,
        "value": float(finite.mean()) if enough else None,
        "std": std,
        "ci95": None if std is None else half_width(finite),
        "n_tasks": len(values),
        "diverged": len(values) - n,
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

    Of several processes, only the first one writes.

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
        write_json(path, result)
    return path


def read_result(out: str | Path) -> dict[str, Any]:
    """The `result.json` of the folder `out`.

    Raises:
        FileNotFoundError: if there is none: the run has not finished.
    """
    path = Path(out) / RESULT
    if not path.is_file():
        raise FileNotFoundError(f"out: {path} is not there; finish the run, or resume it.")
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
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
