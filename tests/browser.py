"""A real browser without a window, for tests of pages: Chromium, by way of chromedriver.

    with browser() as chromium:
        problems = chromium.problems("file:///tmp/page.html")

The protocol is WebDriver's (https://www.w3.org/TR/webdriver2), plain JSON over HTTP.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

PHONE, DESKTOP = 390, 1280  # widths of a page, in px
SCHEMES = ("light", "dark")
HEIGHT = 900
LEAST_CONTRAST = 4.5  # of text on its ground, WCAG 2.2, 1.4.3 (AA); 3 of large text
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage",
)  # fmt: skip
# What is loaded in the page itself, to be asked there.
LOOK = (Path(__file__).parent / "browser.js").read_text(encoding="utf-8")


class Problem(NamedTuple):
    """What is wrong with a page, at which width and in which colours."""

    width: int
    scheme: str
    what: str


class Browser:
    """A browser that was started; see `browser`."""

    def __init__(self, address: str) -> None:
        self._address = address

    def _ask(self, method: str, path: str, content: Any = None) -> Any:
        data = None if method == "GET" else json.dumps(content or {}).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with _DIRECT.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            raise RuntimeError(f"browser: {path}: {said.splitlines()[0][:500]}") from error

    def _emulate(self, command: str, **parameters: Any) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def size(self, width: int, scheme: str = "light", height: int = HEIGHT) -> None:
        """Be so wide, and have the user prefer these colours."""
        self._emulate(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        preferred = [{"name": "prefers-color-scheme", "value": scheme}]
        self._emulate("Emulation.setEmulatedMedia", features=preferred)

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self._ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self._ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def errors(self) -> list[str]:
        """What the console has said since it was last asked: errors, and requests that failed."""
        lines = self._ask("POST", "/se/log", {"type": "browser"})
        return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]

    def screenshot(self, path: Path, is_whole: bool = True) -> Path:
        """Save a picture of the page, from its top to its end, or of what is in view."""
        if is_whole:
            tall = self.run("return document.documentElement.scrollHeight")
            wide = self.run("return window.innerWidth")
            self._emulate(
                "Emulation.setDeviceMetricsOverride",
                width=wide, height=min(tall, 12_000), deviceScaleFactor=1, mobile=wide < 600,
            )  # fmt: skip
        path.write_bytes(base64.b64decode(self._ask("GET", "/screenshot")))
        return path

    def problems(
        self, url: str, widths: tuple[int, ...] = (PHONE, DESKTOP), contrast: bool = True
    ) -> list[Problem]:
        """What is wrong with a page at these widths, light and dark: nothing, if all is well.

        Errors on the console, anything wider than the page, text of too little contrast, pictures
        that are broken or without a text in their place, a page without title or language.
        """
        found: list[Problem] = []
        self.errors()  # of other pages
        for width in widths:
            for scheme in SCHEMES:
                self.size(width, scheme)
                self.open(url)
                said = [f"console: {line}" for line in self.errors()]
                seen = self.run(f"{LOOK}; return look(...arguments)", width, LEAST_CONTRAST)
                said += [text for text in seen if contrast or not text.startswith("contrast")]
                found += [Problem(width, scheme, text) for text in said]
        return found


# Never by way of a proxy: the browser is on this machine.
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def missing() -> str | None:
    """Why no browser can be started here, if so: for `pytest.mark.skipif`."""
    absent = [name for name in ("chromium", "chromedriver") if shutil.which(name) is None]
    return f"there is no {' nor '.join(absent)} on PATH" if absent else None


@contextmanager
def browser() -> Iterator[Browser]:
    """Start a browser with a profile of its own, which ends with the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        port = _free_port()
        driver = subprocess.Popen(
            [shutil.which("chromedriver") or "chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address)
            session = Browser(address)._ask("POST", "/session", _wanted(Path(profile)))
            opened = Browser(f"{address}/session/{session['sessionId']}")
            try:
                yield opened
            finally:
                opened._ask("DELETE", "")
        finally:
            driver.terminate()
            driver.wait(10)


def _wanted(profile: Path) -> dict[str, Any]:
    options = {
        "binary": shutil.which("chromium"),
        "args": [*FLAGS, f"--user-data-dir={profile}"],
    }
    asked = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
    return {"capabilities": {"alwaysMatch": asked}}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _wait_for(address: str, seconds: float = 20.0) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            if Browser(address)._ask("GET", "/status")["ready"]:
                return
        except (urllib.error.URLError, ConnectionError):
            pass
        if time.monotonic() > until:
            raise RuntimeError(f"browser: chromedriver did not answer within {seconds:g} s.")
        time.sleep(0.05)
