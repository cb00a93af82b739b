"""Make the tables of README.md and docs/*.md of what is in results/.

    python -m tools.tables [--check]

With --check no page is written; the exit status is 1 where one is not as it would be.
"""

from __future__ import annotations

import argparse
import sys

from . import PAGES, ROOT, TABLES, written


def main() -> int:
    """The command."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    ask.add_argument("--check", action="store_true", help="write nothing")
    is_check, stale = ask.parse_args().check, 0
    for path in PAGES:
        page = path.read_text()
        new = written(page, TABLES)
        if new == page:
            continue
        stale += 1
        where = path.relative_to(ROOT)
        print(
            f"{where}: its tables are not those of results/; run python -m tools.tables."
            if is_check
            else f"{where}: written"
        )
        if not is_check:
            path.write_text(new)
    return int(is_check and stale > 0)


if __name__ == "__main__":
    sys.exit(main())
