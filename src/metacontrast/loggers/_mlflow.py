"""MLflow, into files of its own unless a server is named."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .._optional import optional, require

RUN = "metacontrast-run.txt"  # its id


class MLflow:
    """A callback that logs metrics to MLflow: `mlflow ui --backend-store-uri FOLDER/mlruns`.

    MLflow calls its store of files legacy, and asks for MLFLOW_ALLOW_FILE_STORE=true in the
    environment, which this callback sets for its process; `mlflow ui` asks for it too.

    Args:
        folder: where the id of the run is kept, and its files.
        experiment: the name under which MLflow files the run.
        config: the settings of the run, which MLflow shows as its parameters.
        uri: of another store: a server, or `sqlite:///FILE` with the whole of mlflow installed.

    Raises:
        ImportError: mlflow is not installed; mlflow-skinny comes with the extra `mlflow`.
    """

    def __init__(
        self,
        folder: str | Path,
        experiment: str = "metacontrast",
        config: Mapping[str, Any] | None = None,
        uri: str | None = None,
    ) -> None:
        require("mlflow", "mlflow")
        self._folder, self._experiment, self._uri = Path(folder), experiment, uri
        self._config, self._run = dict(config or {}), ""
        self._client: Any = None

    def last_step(self) -> int:
        """The last step in MLflow's store; 0 without any."""
        if not (self._folder / RUN).is_file():
            return 0
        self._begin()
        names = self._client.get_run(self._run).data.metrics
        past = [self._client.get_metric_history(self._run, name) for name in list(names)[:1]]
        return max((metric.step for history in past for metric in history), default=0)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        if self._client is None:
            self._begin()
        entities, now = optional("mlflow.entities", "mlflow"), int(1000 * time.time())
        metrics = [entities.Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics)

    def close(self) -> None:
        """Mark the run as finished."""
        if self._client is not None:
            self._client.set_terminated(self._run)
            self._client = None

    def _begin(self) -> None:
        """Find the run that was begun, or begin it."""
        self._folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        if self._uri is None:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        tracking = optional("mlflow.tracking", "mlflow")
        uri = self._uri or (self._folder / "mlruns").resolve().as_uri()
        self._client, kept = tracking.MlflowClient(tracking_uri=uri), self._folder / RUN
        if kept.is_file():
            self._run = kept.read_text(encoding="utf-8").strip()
            self._client.update_run(self._run, status="RUNNING")
            return
        found = self._client.get_experiment_by_name(self._experiment)
        where = found.experiment_id if found else self._client.create_experiment(self._experiment)
        self._run = self._client.create_run(where).info.run_id
        for name, value in self._config.items():
            self._client.log_param(self._run, name, value)
        kept.write_text(self._run + "\n", encoding="utf-8")
