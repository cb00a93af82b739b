"""The command line: `python -m benchmarks [PART] [--quick] [--out DIR] [--resume]`."""

from __future__ import annotations

import argparse
from pathlib import Path

from metacontrast.cli import ends_in_words

from ._run import PARTS, run_parts


def main() -> None:
    """Run what the command line asks for; what cannot be measured ends with exit status 2."""
    parts = "\n".join(f"  {name:9} {about}" for name, (about, _) in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Speed and memory.\n\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("part", nargs="?", choices=PARTS, help="default: all, one after the other")
    parser.add_argument("--quick", action="store_true", help="small sizes, in about a minute")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"), help="folder of the tables")
    parser.add_argument("--resume", action="store_true", help="only parts that are not in OUT yet")
    options = parser.parse_args()
    names = list(PARTS) if options.part is None else [options.part]
    with ends_in_words("benchmarks"):
        run_parts(names, options.quick, options.out, options.resume)


if __name__ == "__main__":
    main()
