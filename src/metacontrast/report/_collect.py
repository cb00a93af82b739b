"""Small files of results, to be kept where the folders of runs are not."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..train import RESULT, read_result
from ._runs import checked_result

Result = dict[str, Any]
# Fields of a result that all runs of a method share, or that say nothing of a single run.
_SHARED = ("experiment", "method", "metric", "reference", "rows", "settings", "command", "versions")
_DIGITS = 6  # significant ones that are kept


def find_results(runs: str | Path) -> dict[str, list[Result]]:
    """Every result.json below the folder `runs`, by experiment, in the order of their paths.

    Raises:
        FileNotFoundError: there is none.
    """
    experiments: dict[str, list[Result]] = {}
    for path in sorted(Path(runs).rglob(RESULT)):
        result = checked_result(read_result(path.parent), path)
        experiments.setdefault(result["experiment"], []).append(result)
    if not experiments:
        raise FileNotFoundError(
            f"runs: no {RESULT} is below {runs}; finish a run, or name the folder that holds it."
        )
    return experiments


def collect(runs: str | Path, out: str | Path) -> list[Path]:
    """Write `EXPERIMENT.json` into the folder `out` for each experiment that has results.

    A file has `experiment`, `metric`, the `versions` that were at work, for each of the `methods`
    its command, settings and published figure, and a line for each of the `runs`: all else that
    its result says, with the revision of the sources, and no path. Runs that the file has already
    stay, unless one of the same method and seeds comes anew.

    Args:
        runs: where to look for results, at any depth.
        out: is made if it is not there.

    Returns:
        The files, one an experiment.

    Raises:
        FileNotFoundError: there is no result.
        ValueError: runs of one method whose settings differ by more than the seed.
    """
    files: dict[Path, Result] = {}
    for name, results in find_results(runs).items():
        path = Path(out) / f"{name}.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        files[path] = _merged(known, results)
    for path, fields in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_as_lines(fields), encoding="utf-8")
    return list(files)


def _merged(known: Result, results: list[Result]) -> Result:
    methods: dict[str, Result] = dict(known.get("methods", {}))
    versions = list(known.get("versions", []))
    rows = {_key(run): run for run in known.get("runs", [])}
    for result in map(_rounded, results):
        own = _of_method(result)
        _check_alike(result, methods.setdefault(result["method"], own), own)
        if result["versions"] not in versions:
            versions.append(result["versions"])
        rest = {k: x for k, x in result.items() if k not in _SHARED}
        rows[_key(result)] = {"method": result["method"], **rest}
    first = results[0]
    return {
        "experiment": first["experiment"], "metric": first["metric"], "versions": versions,
        "methods": methods, "runs": [rows[key] for key in sorted(rows, key=_in_order(methods))],
    }  # fmt: skip


def _of_method(result: Result) -> Result:
    """What the runs of a method have in common."""
    settings = {k: x for k, x in result.get("settings", {}).items() if k != "seed"}
    command = result.get("command", "").replace(f"--seed {result['seeds'][0]}", "--seed SEED")
    return {"command": command, "published": result["reference"], "settings": settings}


def _check_alike(result: Result, known: Result, own: Result) -> None:
    for name in known["settings"] | own["settings"]:
        there, here = known["settings"].get(name), own["settings"].get(name)
        if there != here:
            raise ValueError(
                f"runs: {result['method']} with seeds {result['seeds']} has {name}={here}, where "
                f"others have {there}; collect the runs of one setting, or each into a folder of "
                "its own."
            )


def _key(run: Result) -> tuple[str, tuple[int, ...]]:
    return run["method"], tuple(run["seeds"])


def _in_order(methods: Iterable[str]) -> Any:
    """Methods in the order in which they came, and their seeds upwards."""
    place = {method: i for i, method in enumerate(methods)}
    return lambda key: (place[key[0]], key[1])


def _rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _rounded(value) for k, value in x.items()}
    if isinstance(x, list):
        return [_rounded(value) for value in x]
    return float(f"{x:.{_DIGITS}g}") if isinstance(x, float) else x


def _as_lines(fields: Result) -> str:
    """JSON with a line for each member of a field that is a list or a dict."""
    return (
        "{\n" + ",\n".join(f" {json.dumps(k)}: {_members(x)}" for k, x in fields.items()) + "\n}\n"
    )


def _members(x: Any) -> str:
    if isinstance(x, list) and x:
        return "[\n" + ",\n".join(f"  {json.dumps(one)}" for one in x) + "\n ]"
    if isinstance(x, dict) and x:
        each = (f"  {json.dumps(k)}: {json.dumps(one)}" for k, one in x.items())
        return "{\n" + ",\n".join(each) + "\n }"
    return json.dumps(x)
