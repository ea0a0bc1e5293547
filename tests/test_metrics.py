"""Metrics as Prometheus reads them: values, promtool's lint, a real server that scrapes, and a port that is taken."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from edge.errors import SettingsError, SinkError
from edge.session import Plan, Session
from edge.settings import settings_of
from edge.sinks.metrics import Metrics, MetricsConfig
from edge.sources.file import SoundFile

pytest.importorskip("prometheus_client")


NOTHING = dict.fromkeys(("clipped", "dc_offset", "dead_channels", "drift_ppm"))  # of a source that is no device


@pytest.fixture
def metrics():
    served = Metrics(MetricsConfig(port=0), lambda: {"mqtt": {"delivered": 7, "dropped": 2, "failed": 1, "queued": 3}})
    yield served
    served.close()


def scraped(metrics):
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
        return answer.read().decode()


def values(text):
    lines = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


@pytest.fixture
def heard(metrics, classifier, demo):
    """The records of the demo, all of which passed."""
    records = list(Session(SoundFile(demo), classifier, Plan(), "yard").records())
    for record in records:
        metrics.write(record)
    return records


def test_what_was_heard_is_counted(metrics, heard):
    found = values(scraped(metrics))
    windows = [r for r in heard if r["type"] == "window"]
    sirens = [r for r in heard if r["type"] == "event" and r["label"] == "siren" and r["phase"] == "begin"]
    assert found['edge_audio_windows_total{source="yard"}'] == len(windows)
    assert found['edge_audio_events_total{label="siren",source="yard"}'] == len(sirens) == 1
    assert found['edge_audio_decision_latency_seconds_count{source="yard"}'] == len(windows)
    total = sum(r["latency_ms"] for r in windows) / 1000
    assert found['edge_audio_decision_latency_seconds_sum{source="yard"}'] == pytest.approx(total)
    assert found['edge_audio_level_dbfs{source="yard"}'] == windows[-1]["level_dbfs"]
    assert found['edge_audio_lost_samples_total{source="yard"}'] == 0
    assert time.time() - found['edge_audio_last_window_timestamp_seconds{source="yard"}'] < 60
    model = next(name for name in found if name.startswith("edge_audio_model_info"))
    assert 'precision="int8"' in model
    assert found['edge_audio_sink_dropped_total{sink="mqtt"}'] == 2
    assert found['edge_audio_sink_queued{sink="mqtt"}'] == 3


def test_counts_of_a_status_add_up_and_never_fall(metrics):
    def status(overflows, lost):
        base = {"type": "status", "source": "yard", "silent": False, "load": 0.01, "late": 0, **NOTHING}
        metrics.write(base | {"overflows": overflows, "lost_samples": lost})
        found = values(scraped(metrics))
        return found['edge_audio_overflows_total{source="yard"}'], found['edge_audio_lost_samples_total{source="yard"}']

    assert status(1, 100) == (1, 100)
    assert status(1, 100) == (1, 100)
    assert status(3, 250) == (3, 250)
    assert status(0, 0) == (3, 250)  # the source has begun anew
    assert status(1, 50) == (4, 300)


def test_silence_has_no_level(metrics):
    window = {"type": "window", "source": "a", "unknown": False, "latency_ms": 1, "time": "2030-01-01T00:00:00.000Z"}
    metrics.write(window | {"level_dbfs": None})
    assert values(scraped(metrics))['edge_audio_level_dbfs{source="a"}'] == float("-inf")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
def test_promtool_finds_nothing_to_complain_of(metrics, heard):
    done = subprocess.run(["promtool", "check", "metrics"], input=scraped(metrics), text=True, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_scrapes_it(metrics, heard, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scrape = {"job_name": "edge", "static_configs": [{"targets": [f"127.0.0.1:{metrics.port}"]}]}
    (tmp_path / "prometheus.yml").write_text(
        json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": [scrape]})
    )
    command = ["prometheus", f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data"]
    query = f"http://127.0.0.1:{port}/api/v1/query?query=edge_audio_windows_total"
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL) as server:
        try:
            result, deadline = [], time.monotonic() + 60
            while not result and time.monotonic() < deadline:
                time.sleep(0.5)
                try:
                    with urllib.request.urlopen(query, timeout=5) as answer:
                        result = json.load(answer)["data"]["result"]
                except OSError:
                    continue
        finally:
            server.terminate()
    windows = sum(r["type"] == "window" for r in heard)
    assert [r["value"][1] for r in result] == [str(windows)]


def test_a_port_that_is_taken(metrics):
    with pytest.raises(SinkError, match="metrics cannot be served on") as raised:
        Metrics(MetricsConfig(port=metrics.port))
    assert not raised.value.retry
    with pytest.raises(SettingsError, match=r"metrics\.port is 70000"):
        settings_of(MetricsConfig, {"port": 70_000}, "sinks.metrics")
