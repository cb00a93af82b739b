"""The library on the Pythons at hand that `.venv` is not of: `make test-pythons`.

    .venv/bin/python tools/pythons.py

On each supported one the README's example runs, with the versions of requirements.lock; on the
newest with those of requirements-newest.lock, and so do tests of the core, `CORE`. What is not at
hand is named and passed over. The environments stay, `.venv-3.12` and so on, until their lock
changes.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Tests of what a newer JAX may take another way; the mathematics no version changes.
CORE = ("test_held.py", "test_check.py", "test_unseen.py")
# Where pyenv and uv keep theirs, which need not be on the path.
FOLDERS = (".pyenv/versions/{0}.*/bin", ".local/share/uv/python/cpython-{0}.*/bin")
# The compiler optimises nothing: its time is that of the example.
FAST = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}
SAID = """
import sys
print("README: error", after, "on Python", sys.version.split()[0], "with JAX", jax.__version__)
"""


def main() -> None:
    """All of it; a failure ends it."""
    this = f"{sys.version_info[0]}.{sys.version_info[1]}"
    others = {
        version: path for version in supported() if version != this if (path := find(version))
    }
    print("Python at hand:", ", ".join([this, *others]), "of", ", ".join(supported()), flush=True)

    newer = [version for version in others if number(version) > number(this)]
    newest = max(newer, key=number) if newer else None
    locks = {version: ROOT / ".venv" / "most.txt" for version in others}
    if newest is not None:
        locks[newest] = ROOT / "requirements-newest.lock"

    def tried(version: str) -> Path:
        python = environment(version, others[version], locks[version])
        diagnose = {} if version == newest else {"METACONTRAST_DIAGNOSE": "off"}
        with tempfile.TemporaryDirectory() as folder:  # for the file that it saves
            run(python, "-c", example() + SAID, cwd=Path(folder), **FAST, **diagnose)
        return python

    with ThreadPoolExecutor(2) as pool:  # each compiles on one core
        pythons = dict(zip(others, pool.map(tried, others), strict=True))
    if newest is None:
        print(f"No Python newer than {this} is at hand: the core is not tested on one.")
        return
    run(pythons[newest], "-m", "pytest", *(f"tests/core/{name}" for name in CORE))


def example() -> str:
    """The README's Python as it stands; what it computes is tested by the suite."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return str(code)


def supported() -> list[str]:
    """As pyproject.toml says in its classifiers, oldest first."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    said = "\n".join(project["classifiers"])
    return sorted(re.findall(r"Python :: (3\.\d+)$", said, re.MULTILINE), key=number)


def number(version: str) -> tuple[int, ...]:
    """3.9 comes before 3.10."""
    return tuple(int(part) for part in version.split("."))


def find(version: str) -> str | None:
    """A Python of this version that starts: pyenv's stand-ins, on the path, need not."""
    name = f"python{version}"
    inside = [at for f in FOLDERS for at in Path.home().glob(f.format(version) + f"/{name}")]
    for path in (shutil.which(name), *map(str, inside)):
        asked = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            ended = subprocess.run([path or "", "-c", asked], capture_output=True, text=True)
        except OSError:
            continue
        if ended.stdout.strip() == version:
            return path
    return None


def environment(name: str, python: str, lock: Path) -> Path:
    """The Python of `.venv-NAME`, which is made anew if the lock has changed."""
    folder, now = ROOT / f".venv-{name}", hashlib.sha256(lock.read_bytes()).hexdigest()
    ready = folder / "ready"
    if not ready.is_file() or ready.read_text() != now:
        uv = str(ROOT / ".venv" / "bin" / "uv")
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", python, folder], check=True)
        options = ["--quiet", "--no-deps", "--require-hashes", "--python", str(folder)]
        subprocess.run([uv, "pip", "install", *options, "--requirement", lock], check=True)
        ready.write_text(now)
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, cwd: Path = ROOT, **variables: str) -> None:
    """With the sources of the checkout."""
    env = os.environ | {"PYTHONPATH": str(ROOT / "src")} | variables
    ended = subprocess.run([python, *arguments], cwd=cwd, env=env)
    if ended.returncode:
        sys.exit(f"{python.relative_to(ROOT)}: {' '.join(arguments)[:40]}... failed, see above.")


if __name__ == "__main__":
    main()
