"""The built site in a real browser, as a reader has it: `make site-check`.

    .venv/bin/python -m tools.site.check [--pictures FOLDER]

Every page at the width of a phone and of a desk, light and dark: no error on the console, nothing
wider than the page, contrast, pictures; nothing is asked of another host; and search finds what it
should.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.browser import DESKTOP, PHONE, Browser, browser

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "site"
# What a reader may look for, and a page that is to be among what is found.
SEARCHES = {
    "secant": "choosing",
    "batch norm": "faq",
    "suggest_beta": "api/accuracy",
    "DataLoader": "tutorials/pytorch",
}
LINKS = "[...document.querySelectorAll('#search-results li a')]"
LISTED = f"return {LINKS}.map(a => a.getAttribute('href'))"
HOSTS = "return performance.getEntriesByType('resource').map(e => new URL(e.name).host)"
PICTURED = ("index", "tutorials/noisy-labels", "choosing", "api/rule", "gallery", "faq")


class Quiet(SimpleHTTPRequestHandler):
    """A server that keeps no log."""

    def log_message(self, *_: object) -> None:
        """Nothing."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder, on this machine alone."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


def pages() -> list[str]:
    """Without `.html`."""
    return sorted(
        str(path.relative_to(SITE).with_suffix(""))
        for path in SITE.rglob("*.html")
        if "_static" not in path.parts
    )


def search(chromium: Browser, address: str, words: str, wanted: str) -> list[str]:
    """What is wrong with what is found."""
    chromium.open(f"{address}/search.html?q={words.replace(' ', '+')}")
    until = time.monotonic() + 10
    while time.monotonic() < until:
        found = chromium.run(LISTED)
        if any(link.startswith(f"{wanted}.html") for link in found):
            return []
        time.sleep(0.1)
    return [f"search: {words!r} does not find {wanted}, but {found[:8]}"]


def look(chromium: Browser, address: str, page: str) -> list[str]:
    """What is wrong with a page."""
    url = f"{address}/{page}.html"
    seen = chromium.problems(url)
    # The theme's icons, in buttons that have a name; figures here are pictures.
    wrong = [f"{p.width} px, {p.scheme}: {p.what}" for p in seen if "of an svg" not in p.what]
    others = {host for host in chromium.run(HOSTS) if host and not address.endswith(host)}
    return wrong + [f"asks {host}" for host in sorted(others)]


def main() -> None:
    """All pages; ends with what is wrong, if anything is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of some pages")
    parser.add_argument("--pages", nargs="*", help="these alone")
    given = parser.parse_args()
    wrong: list[str] = []
    with served(SITE) as address, browser() as chromium:
        for words, wanted in SEARCHES.items():
            wrong += search(chromium, address, words, wanted)
        for page in given.pages or pages():
            wrong += [f"{page}: {what}" for what in look(chromium, address, page)]
        if given.pictures:
            draw(chromium, address, given.pictures, given.pages or PICTURED)
    print("\n".join(wrong) or f"{len(pages())} pages, {len(SEARCHES)} searches: all is well.")
    sys.exit(bool(wrong))


def draw(chromium: Browser, address: str, folder: Path, chosen: Sequence[str]) -> None:
    """Pictures of some pages at both widths."""
    folder.mkdir(parents=True, exist_ok=True)
    for page in chosen:
        for width in (PHONE, DESKTOP):
            chromium.size(width, height=1100)
            chromium.open(f"{address}/{page}.html")
            chromium.screenshot(folder / f"{page.replace('/', '-')}-{width}.png", is_whole=False)


if __name__ == "__main__":
    main()
