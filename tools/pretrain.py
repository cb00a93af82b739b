"""Puts the theta of a finished run into the package: `metacontrast.pretrained.load(NAME)`.

    python -m tools.pretrain NAME RUN [--theta FILE]

RUN is the folder of the run: the first seed of those that a table reports. FILE is the theta in it
that its result is of: `theta.npz`, unless told otherwise.
"""

from __future__ import annotations

import json
from pathlib import Path

import tyro
from tyro.conf import Positional

import metacontrast.pretrained
from metacontrast.train import load_theta, read_result, write_json

FOLDER = Path(metacontrast.pretrained.__file__).parent
LARGEST = 2**20  # bytes of a file: all of them are in everyone's wheel


def main(name: Positional[str], run: Positional[Path], theta: Path = Path("theta.npz")) -> None:
    """Copy theta and result of a run.

    Args:
        name: by which it is loaded.
        run: its folder.
        theta: the file in it that the result is of.
    """
    result, file = read_result(run), run / theta
    load_theta(file)  # which checks it
    if file.stat().st_size > LARGEST:
        raise SystemExit(f"theta: {file} has more than {LARGEST} bytes; train a smaller network.")
    rows = ("rows", "reference")  # of the whole table
    write_json(FOLDER / f"{name}.json", {k: v for k, v in result.items() if k not in rows})
    (FOLDER / f"{name}.npz").write_bytes(file.read_bytes())
    print(json.dumps({"name": name, "value": result["value"], "bytes": file.stat().st_size}))


if __name__ == "__main__":
    tyro.cli(main)
