"""Weights & Biases, without an account or a network unless asked for."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from .._optional import optional, require
from ..train._folder import write_json

KEPT = "metacontrast.json"  # the run's id, and the last step that it was told


class WandB:
    """A callback that logs to Weights & Biases; offline, to be sent later by `wandb sync`.

    Args:
        folder: where the files of the run are kept, below `wandb`. A run that is resumed adds an
            `offline-run-...` of the same id there; `wandb sync` sends them in turn.
        project: the name of the project.
        config: the settings of the run, which it shows beside the curves.
        mode: "offline", or "online", for which one must be logged in.

    Raises:
        ImportError: wandb is not installed; it comes with the extra `wandb`.
    """

    def __init__(
        self,
        folder: str | Path,
        project: str = "metacontrast",
        config: Mapping[str, Any] | None = None,
        mode: Literal["offline", "online"] = "offline",
    ) -> None:
        require("wandb", "wandb")
        self._folder, self._project, self._mode = Path(folder), project, mode
        self._config = dict(config or {})
        self._run: Any = None

    def last_step(self) -> int:
        """The last step that it was told; 0 if none."""
        step: int = self._kept()["step"]
        return step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        name = self._kept()["run"]
        if self._run is None:
            self._run = self._begin(name)
        self._run.log(dict(values), step=step)
        write_json(self._folder / KEPT, {"run": name, "step": step})

    def close(self) -> None:
        """Finish the run."""
        if self._run is not None:
            self._run.finish()
            self._run = None

    def _kept(self) -> dict[str, Any]:
        path = self._folder / KEPT
        if not path.is_file():
            return {"run": uuid.uuid4().hex[:8], "step": 0}
        kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return kept

    def _begin(self, name: str) -> Any:
        wandb = optional("wandb", "wandb")
        (self._folder / "wandb").mkdir(parents=True, exist_ok=True)
        # It is to watch the numbers that it is given, not what else this machine does.
        settings = wandb.Settings(
            silent=True, console="off", disable_git=True, disable_code=True,
            x_disable_stats=True,
        )  # fmt: skip
        return wandb.init(
            project=self._project, dir=str(self._folder), id=name, config=self._config,
            mode=self._mode, settings=settings,
            resume="allow" if self._mode == "online" else None,
        )  # fmt: skip
