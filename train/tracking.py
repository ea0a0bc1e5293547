"""Where a run's numbers go beside its own folder: TensorBoard, MLflow. Their packages are imported when asked for."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from train.settings import flat

log = logging.getLogger(__name__)

NAMES = ("tensorboard", "mlflow")
BATCH = 100  # parameters or metrics in one message to MLflow, which allows no more parameters


class Tracker(Protocol):
    """Takes what happens in a run."""

    def log(self, record: Mapping[str, Any], epoch: int) -> None:
        """The numbers of ``record``; what is no number is left out."""

    def artifact(self, path: Path) -> None:
        """A file that the run has written."""

    def close(self, *, failed: bool = False) -> None:
        """The run has ended."""


def open_trackers(
    names: Sequence[str], run: Path, settings: Mapping[str, Any], uri: str | None = None
) -> list[Tracker]:
    """Trackers of the run in the folder ``run``, which may be one that goes on.

    ``uri``: MLflow's server or database. Default: ``MLFLOW_TRACKING_URI``, else ``mlflow.db`` beside the run's folder.

    Raises:
        ValueError: for an unknown name, a package that is missing, or an MLflow that cannot be reached.
    """
    if unknown := sorted(set(names) - set(NAMES)):
        raise ValueError(f"unknown tracker {', '.join(unknown)}; there are: {', '.join(NAMES)}")
    run.mkdir(parents=True, exist_ok=True)
    trackers: list[Tracker] = []
    try:
        if "tensorboard" in names:
            trackers.append(TensorBoard(run))
        if "mlflow" in names:
            trackers.append(MLflow(run, settings, uri))
    except ImportError as error:
        package = (error.name or "").partition(".")[0]
        raise ValueError(f"{package} is not installed; pip install -e '.[tracking]'") from None
    return trackers


class TensorBoard:
    """Scalars in ``run/tensorboard``; `tensorboard --logdir` shows many runs together."""

    def __init__(self, run: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer_of = SummaryWriter
        self._folder = run / "tensorboard"
        self._writer: Any = None

    def log(self, record: Mapping[str, Any], epoch: int) -> None:
        """See :class:`Tracker`."""
        if self._writer is None:  # here the first epoch is known: what an interrupted run wrote from there on is void
            self._writer = self._writer_of(str(self._folder), purge_step=epoch)
        for key, value in numbers(record):
            self._writer.add_scalar(key, value, epoch)
        self._writer.flush()

    def artifact(self, path: Path) -> None:
        """Nothing: TensorBoard keeps no files."""

    def close(self, *, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        if self._writer is not None:
            self._writer.close()


class MLflow:
    """One MLflow run for each folder; the experiment is named after the data set. ``run/mlflow_run_id`` finds it again.

    A server that does not answer costs the numbers no more than time: they are sent again with the next epoch's.
    """

    def __init__(self, run: Path, settings: Mapping[str, Any], uri: str | None = None) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it would report its use to its makers
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # training waits meanwhile
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        self._metric, self._param, self._error = Metric, Param, MlflowException
        self._pending: list[Any] = []
        self._marker = run / "mlflow_run_id"
        uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
        local = None if uri else run.resolve().parent
        uri = uri or f"sqlite:///{local}/mlflow.db"
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # else it tells of each table that it creates
        try:
            with warnings.catch_warnings():  # MLflow 3.17 on SQLAlchemy 2.1, which deprecates what MLflow uses
                warnings.filterwarnings("ignore", message="The ``noload`` loader strategy is deprecated")
                self._client = MlflowClient(tracking_uri=uri)
                self._run_id, self._done = self._open(run, settings, local)
        except MlflowException as error:
            remedy = f"give the tracking URI that the run began with, or delete {self._marker}"
            if not self._marker.exists():
                remedy = "give another tracking URI"
            raise ValueError(f"MLflow at {uri}: {_first_line(error)}; {remedy}") from None

    def log(self, record: Mapping[str, Any], epoch: int) -> None:
        """See :class:`Tracker`. An epoch that is there already, of an interrupted run, is not sent again."""
        if epoch <= self._done:
            return
        now = int(time.time() * 1000)
        self._pending += [self._metric(key, value, now, epoch) for key, value in numbers(dict(record, epoch=epoch))]
        try:
            while self._pending:
                self._client.log_batch(self._run_id, metrics=self._pending[:BATCH])
                del self._pending[:BATCH]
        except self._error as error:
            log.warning("MLflow: %s; the numbers are kept and sent again with the next epoch", _first_line(error))

    def artifact(self, path: Path) -> None:
        """See :class:`Tracker`."""
        try:
            self._client.log_artifact(self._run_id, str(path))
        except (self._error, OSError) as error:
            log.warning("MLflow does not take %s: %s", path, _first_line(error))

    def close(self, *, failed: bool = False) -> None:
        """See :class:`Tracker`."""
        try:
            self._client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")
        except self._error as error:
            log.warning("MLflow: %s", _first_line(error))

    def _open(self, run: Path, settings: Mapping[str, Any], local: Path | None) -> tuple[str, int]:
        """The run's id and the last epoch that it has."""
        if self._marker.exists():
            run_id = self._marker.read_text(encoding="utf-8").strip()
            self._client.update_run(run_id, status="RUNNING")
            history = self._client.get_metric_history(run_id, "epoch")
            return run_id, max((metric.step for metric in history), default=0)
        name = str(settings.get("data") or "edge-listen")
        experiment = self._client.get_experiment_by_name(name)
        place = (local / "mlartifacts").as_uri() if local else None  # else it would be the current folder
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment(name, place)
        run_id = self._client.create_run(experiment_id, run_name=run.resolve().name).info.run_id
        params = [self._param(key, str(value)[:500]) for key, value in flat(settings)]
        for first in range(0, len(params), BATCH):
            self._client.log_batch(run_id, params=params[first : first + BATCH])
        self._marker.write_text(run_id, encoding="utf-8")
        return run_id, 0


def numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """The numbers of a record."""
    for key, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield key, float(value)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
