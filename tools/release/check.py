"""Is it fit to be released? `make release-check`.

    .venv/bin/python -m tools.release.check

The wheel and the sdist are built and checked, and the conda recipe is rendered. The wheel, and once
the sdist, is installed into environments of its own, on every supported Python at hand, with the
newest and with the oldest direct dependencies that pyproject.toml allows; there every package is
imported, the command run, and the README's example. What is built stays in build/dist.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.pythons import ROOT, example, find, supported

DIST = ROOT / "build" / "dist"
BIN = ROOT / ".venv" / "bin"
EXTRAS = "optimistix,plots,sklearn"  # PyTorch's build for CPUs is not where the others are
RESOLUTIONS = ("highest", "lowest-direct")
IMPORTS = """
import importlib, metacontrast
for name in metacontrast._SUBPACKAGES:
    if name != "torch":
        importlib.import_module(f"metacontrast.{name}")
"""


def main() -> None:
    """All of it; a failure ends it."""
    wheel, sdist = build()
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    render_recipe()
    found = {version: path for version in supported() if (path := find(version))}
    for version, python in found.items():
        for resolution in RESOLUTIONS:
            try_out(wheel, python, resolution)
            print(f"wheel, Python {version}, {resolution} dependencies: right", flush=True)
    try_out(sdist, next(iter(found.values())), "highest")
    absent = sorted(set(supported()) - set(found))
    print(f"sdist: right. Pythons not at hand: {', '.join(absent) or 'none'}.")


def build() -> tuple[Path, Path]:
    """Both, of the version that `_version.py` says."""
    run(BIN / "uv", "build", "--quiet", "--clear", "--out-dir", DIST, cwd=ROOT)
    version = re.findall(r'"(.+)"', (ROOT / "src/metacontrast/_version.py").read_text())[-1]
    made = (
        DIST / f"metacontrast-{version}-py3-none-any.whl",
        DIST / f"metacontrast-{version}.tar.gz",
    )
    if lacking := [path.name for path in made if not path.is_file()]:
        sys.exit(f"build: made no {', nor '.join(lacking)}, but {sorted(DIST.iterdir())}")
    return made


def render_recipe() -> None:
    """As rattler-build does before it builds."""
    from rattler_build import Stage0Recipe, VariantConfig

    text = (Path(__file__).parent / "recipe.yaml").read_text()
    (variant,) = Stage0Recipe.from_yaml(text).render(VariantConfig())
    print(f"conda recipe: {variant}")


def try_out(built: Path, python: str, resolution: str) -> None:
    """Install it alone, and use it, in a folder where no source is."""
    with tempfile.TemporaryDirectory() as folder:
        inside = Path(folder) / "env" / "bin"
        run(BIN / "uv", "venv", "--quiet", "--python", python, inside.parent)
        options: list[str | Path] = [
            "--quiet",
            "--resolution",
            resolution,
            "--python",
            inside / "python",
        ]
        # A version without a wheel for this Python is not one that it supports.
        options += ["--only-binary", ":all:"] if built.suffix == ".whl" else []
        run(BIN / "uv", "pip", "install", *options, f"metacontrast[{EXTRAS}] @ {built.as_uri()}")
        run(BIN / "uv", "pip", "check", "--quiet", "--python", inside / "python")
        run(inside / "metacontrast", "--version", cwd=folder)
        run(inside / "metacontrast", "data", "--help", cwd=folder, stdout=subprocess.DEVNULL)
        run(inside / "python", "-c", IMPORTS + example(), cwd=folder, stdout=subprocess.DEVNULL)


def run(*command: str | Path, cwd: str | Path | None = None, stdout: int | None = None) -> None:
    """Runs a command, and ends with what it ends with."""
    ended = subprocess.run(command, cwd=cwd, stdout=stdout)
    if ended.returncode:
        sys.exit(f"{' '.join(map(str, command[:6]))} ... failed, see above.")


if __name__ == "__main__":
    main()
