"""Runs in TensorBoard and MLflow: written for real, and read back."""

import logging
import shutil
import sys

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from train.tracking import MLflow, open_trackers

SETTINGS = {"data": "tones", "epochs": 4, "init": "", "augment": {"mix": 0.5}, "labels": ["long"] * 200}


def record(epoch, loss=0.5):
    return {"epoch": epoch, "loss": loss, "accuracy": epoch / 10, "name": "no number", "done": True}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A database of MLflow without runs: its tables take seconds to make."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        open_trackers(["mlflow"], folder / "run", {"data": "other"})
    return folder / "mlflow.db"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "runs" / "first"


@pytest.fixture
def stored(run, empty_store):
    """A run whose MLflow database is there already."""
    run.mkdir(parents=True)
    shutil.copy(empty_store, run.parent / "mlflow.db")
    return run


def track(names, run, epochs, **options):
    trackers = open_trackers(names, run, SETTINGS, **options)
    for epoch in epochs:
        for tracker in trackers:
            tracker.log(record(epoch), epoch)
    return trackers


def scalars(run):
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def client_of(run):
    return MlflowClient(tracking_uri=f"sqlite:///{run.parent}/mlflow.db")


def test_tensorboard_is_written_and_read_back(run):
    for tracker in track(["tensorboard"], run, [1, 2]):
        tracker.close()
    assert set(scalars(run)) == {"epoch", "loss", "accuracy"}
    assert scalars(run)["loss"] == [(1, 0.5), (2, 0.5)]


def test_a_resumed_run_has_each_epoch_once_in_tensorboard(run):
    track(["tensorboard"], run, [1, 2, 3])  # killed: never closed
    for tracker in track(["tensorboard"], run, [2, 3, 4]):
        tracker.close()
    assert [step for step, _ in scalars(run)["loss"]] == [1, 2, 3, 4]


def test_mlflow_is_written_and_read_back(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tracker in track(["mlflow"], run, [1, 2]):
        (run / "report.html").write_text("page")
        tracker.artifact(run / "report.html")
        tracker.close()
    client = client_of(run)
    experiment = client.get_experiment_by_name("tones")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "first"
    assert found.info.status == "FINISHED"
    assert found.data.params["augment.mix"] == "0.5"
    assert found.data.params["init"] == ""
    assert set(found.data.metrics) == {"epoch", "loss", "accuracy"}
    history = client.get_metric_history(found.info.run_id, "accuracy")
    assert [(m.step, m.value) for m in history] == [(1, 0.1), (2, 0.2)]
    assert [a.path for a in client.list_artifacts(found.info.run_id)] == ["report.html"]
    assert not (tmp_path / "mlruns").exists()  # nothing beside the run's parent
    assert {p.name for p in run.parent.iterdir()} == {"first", "mlflow.db", "mlartifacts"}


def test_a_resumed_run_is_the_same_mlflow_run(stored):
    (tracker,) = track(["mlflow"], stored, [1, 2, 3])
    tracker.close(failed=True)
    client = client_of(stored)
    run_id = (stored / "mlflow_run_id").read_text()
    assert client.get_run(run_id).info.status == "FAILED"
    (tracker,) = track(["mlflow"], stored, [3])
    assert client.get_run(run_id).info.status == "RUNNING"
    tracker.log(record(4), 4)
    tracker.close()
    assert (stored / "mlflow_run_id").read_text() == run_id
    assert [m.step for m in client.get_metric_history(run_id, "loss")] == [1, 2, 3, 4]
    other = stored.parent / "second"
    other.mkdir()
    track(["mlflow"], other, [1])
    assert (other / "mlflow_run_id").read_text() != run_id


def test_a_server_that_fails_loses_no_numbers(stored, caplog):
    tracker = MLflow(stored, SETTINGS)
    send = tracker._client.log_batch

    def fail(*_, **__):
        raise MlflowException("no route to host")

    tracker._client.log_batch = fail
    with caplog.at_level(logging.WARNING):
        tracker.log(record(1), 1)
    assert "no route to host; the numbers are kept" in caplog.text
    tracker._client.log_batch = send
    tracker.log(record(2), 2)
    steps = [m.step for m in client_of(stored).get_metric_history(tracker._run_id, "loss")]
    assert steps == [1, 2]


def test_the_place_is_an_option_or_of_the_environment(run, empty_store, tmp_path, monkeypatch):
    for name in ("environment", "option"):
        shutil.copy(empty_store, tmp_path / f"{name}.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/environment.db")
    track(["mlflow"], run, [1])
    track(["mlflow"], run.parent / "second", [1], uri=f"sqlite:///{tmp_path}/option.db")
    for name, folder in (("environment", run), ("option", run.parent / "second")):
        client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/{name}.db")
        assert client.get_run((folder / "mlflow_run_id").read_text()).info.run_name == folder.name
    assert not (run.parent / "mlflow.db").exists()


def test_a_run_of_another_place_is_named(stored, empty_store, tmp_path):
    track(["mlflow"], stored, [1])
    shutil.copy(empty_store, tmp_path / "elsewhere.db")
    with pytest.raises(ValueError, match=r"elsewhere\.db: .*not found; give the tracking URI that the run began"):
        open_trackers(["mlflow"], stored, SETTINGS, uri=f"sqlite:///{tmp_path}/elsewhere.db")


def test_what_is_missing_is_named(run, monkeypatch):
    with pytest.raises(ValueError, match="unknown tracker wandb; there are: tensorboard, mlflow"):
        open_trackers(["wandb"], run, SETTINGS)
    for name, importer in (("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow.entities")):
        monkeypatch.delitem(sys.modules, importer, raising=False)
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ValueError, match=rf"{name} is not installed; pip install -e '\.\[tracking\]'"):
            open_trackers([name], run, SETTINGS)
    assert open_trackers([], run, SETTINGS) == []
