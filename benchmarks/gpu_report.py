"""The tables of docs/results/devices.md and collapse.md, from what `gpu.sh` left in results/.

python -m benchmarks.gpu_report
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import conv_lowering, gpu_speed

RESULTS = Path(__file__).parents[1] / "results"


def load(name: str) -> Any:
    """A committed result."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def lowerings() -> str:
    """Convolutions as patches and a product, and as XLA's own."""
    rows = load("gpu-lowering")["rows"]
    return "\n".join([conv_lowering.HEADER, *map(conv_lowering.line, rows)])


def speeds() -> str:
    """Of meta-steps."""
    rows = load("gpu-speed")["rows"]
    return "\n".join([gpu_speed.HEADER, *map(gpu_speed.line, rows)])


def training() -> str:
    """Every look at validation classes, and the test."""
    lines = ["       meta-steps  meta-loss  validation (%)  residual"]
    for run in load("gpu-omniglot")["runs"]:
        kind = run["method"].split()[0]
        lines += [
            f"{kind:5}  {x['step']:10}  {x['meta_loss']:9.3f}  {x['valid_accuracy']:14.2f}  "
            f"{x['residual']:8.2f}"
            for x in run["looks"]
        ]
        test = f"{run['value']:.2f} +- {run['ci95']:.2f}"
        lines.append(f"{kind:5}  test, of the best theta: {test}")
    return "\n".join(lines)


def choices() -> str:
    """Settings side by side: validation at some meta-steps, and the last residual."""
    found = load("gpu-omniglot")["settings_side_by_side"]
    picked = [i for i, step in enumerate(found["steps"]) if step in (200, 600, 1000, 1200, 1400)]
    steps = "".join(f"{found['steps'][i]:7}" for i in picked)
    lines = [f"{'validation (%) at meta-step':54}{steps}  residual"]
    for row in found["rows"]:
        values = "".join(f"{row['valid_accuracy'][i]:7.1f}" for i in picked)
        lines.append(f"{row['setting']:54}{values}  {row['residual'][-1]:8.2f}")
    return "\n".join(lines)


def collapse() -> str:
    """What grows until learning no longer converges; and the same weights with centred features."""
    lines = [
        "                                 top curvature  residual       left undone, worst",
        "meta-step  gain  shift  |mean f|2  as is  centred  as is  centred  as is  centred",
    ]
    for r in load("collapse")["static"]:
        a, b = r["plain"], r["centred"]
        lines.append(
            f"{r['step']:9}  {r['gain']:4.2f}  {r['shift']:5.2f}  {r['mean_squared']:9.0f}  "
            f"{a['top_curvature']:5.0f}  {b['top_curvature']:7.0f}  {a['residual']:5.2f}  "
            f"{b['residual']:7.2f}  {a['worst_linear_residual']:5.1f}  "
            f"{b['worst_linear_residual']:7.1f}"
        )
    return "\n".join(lines)


def course() -> str:
    """The run that collapsed, one that went on with centred features, and two from the start."""
    found = load("collapse")
    lines = ["                          meta-step  validation (%)  residual  left undone, worst"]
    parts = {
        "documented": ("as documented", (1500, 1750, 2000, 2250)),
        "centred_from_1900": ("centred from 1,900 on", (2000, 2100, 2200, 2250, 2300)),
        "small": ("16 filters, bounded", (100, 200, 300)),
        "small_centred": ("the same, centred", (100, 200, 300)),
    }
    for key, (name, steps) in parts.items():
        lines += [
            f"{name:24}  {x['step']:9}  {x['valid_accuracy']:14.1f}  {x['residual']:8.2f}  "
            f"{x['largest_linear_residual']:18.1f}"
            for x in found[key]
            if x["step"] in steps
        ]
    return "\n".join(lines)


# In the order of the page.
TABLES = (lowerings, speeds, collapse, course, choices, training)


def main() -> None:
    """Print them all."""
    print("\n\n".join(table() for table in TABLES))


if __name__ == "__main__":
    main()
