"""Metrics as Prometheus reads them: values, promtool's lint, a real server that scrapes, and a port that is taken."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from edge.board import Board
from edge.errors import SettingsError, SinkError
from edge.health import REASONS, Health
from edge.rules import EventConfig
from edge.session import Plan, Session
from edge.settings import settings_of
from edge.sinks.device import Device
from edge.sinks.metrics import Metrics, MetricsConfig, _Outages
from edge.sources.file import SoundFile
from tests.conftest import not_emulated

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


def test_each_label_that_events_may_have_is_there_before_the_first_one(metrics, classifier, demo):
    """A rate needs the 0 before the 1."""
    rules = EventConfig(groups={"pet": ("dog", "cat")}, only=("dog", "cat", "siren"), report=("unknown",))
    start = next(Session(SoundFile(demo), classifier, Plan(rules), "yard").records())
    metrics.write(start)
    events = {name: value for name, value in values(scraped(metrics)).items() if name.startswith("edge_audio_events_t")}
    labels = ("pet", "siren", "unknown")
    assert events == {f'edge_audio_events_total{{label="{label}",source="yard"}}': 0 for label in labels}


def test_what_becomes_of_clips_is_counted(metrics, heard):
    def clips():
        found = values(scraped(metrics))
        states = ("written", "withheld", "dropped", "pruned")
        return [found[f'edge_audio_clips_total{{source="yard",state="{state}"}}'] for state in states]

    assert clips() == [0, 0, 0, 0]  # though none are asked for: a rate needs that
    for state in ("written", "written", "pruned", "dropped"):
        metrics.write({"type": "clip", "source": "yard", "state": state})
    assert clips() == [2, 0, 1, 1]


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


def test_late_windows_and_what_the_device_delivers(metrics):
    base = {"type": "status", "source": "yard", "silent": False, "load": 0.01, "overflows": 0, "lost_samples": 0}
    metrics.write(base | {"late": 3, "clipped": 0.25, "dc_offset": -0.1, "dead_channels": [0, 2], "drift_ppm": 12.5})
    found = values(scraped(metrics))
    assert found['edge_audio_late_windows_total{source="yard"}'] == 3
    assert found['edge_audio_clipped_ratio{source="yard"}'] == 0.25
    assert found['edge_audio_dc_offset_ratio{source="yard"}'] == -0.1
    assert found['edge_audio_dead_channels{source="yard"}'] == 2
    assert found['edge_audio_clock_drift_ratio{source="yard"}'] == pytest.approx(12.5e-6)
    metrics.write(base | {"late": 3, **NOTHING})  # nothing is known any more, and nothing is claimed
    assert 'edge_audio_clipped_ratio{source="yard"}' not in values(scraped(metrics))


def test_health_is_one_state_and_its_reasons(metrics):
    def now(state, *reasons):
        metrics.write({"type": "health", "source": "yard", "state": state, "reasons": list(reasons), "message": ""})
        found = values(scraped(metrics))
        assert {key for key in found if key.startswith("edge_audio_health_reason{")} == {
            f'edge_audio_health_reason{{reason="{reason}",source="yard"}}' for reason in REASONS
        }
        on = [key for key, value in found.items() if key.startswith("edge_audio_health") and value == 1]
        assert f'edge_audio_health{{source="yard",state="{state}"}}' in on
        assert len(on) == 1 + len(reasons)
        return found['edge_audio_outages_total{source="yard"}'], found['edge_audio_outage_seconds_total{source="yard"}']

    assert now("starting") == (0, 0)
    assert now("degraded", "clipping", "late") == (0, 0)
    assert now("lost", "missing")[0] == 1
    assert now("lost", "busy")[0] == 1  # the same outage
    count, lasted = now("listening")
    assert (count, lasted) == (1, pytest.approx(lasted))
    assert lasted > 0
    assert now("degraded", "sink") == (1, lasted)  # it is over
    metrics.write({"type": "end", "source": "yard", "reason": "end of input"})
    assert 1 not in {v for k, v in values(scraped(metrics)).items() if k.startswith("edge_audio_health{")}


def test_the_seconds_of_an_outage_grow_while_it_lasts():
    now = 0.0
    outages = _Outages(lambda: now)

    def seconds():
        count, total = outages.collect()
        return count.samples[0].value, total.samples[0].value

    outages.change("a", lost=True)
    now = 5.0
    assert seconds() == (1, 5)
    outages.change("a", lost=False)
    now = 9.0
    assert seconds() == (1, 5)
    outages.change("a", lost=True)
    now = 10.0
    assert seconds() == (2, 6)


def test_the_computer_is_looked_at(tmp_path):
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61500\n")
    counts = tmp_path / "root/sys/devices/system/cpu/cpu0/thermal_throttle"
    counts.mkdir(parents=True)
    (counts / "core_throttle_count").write_text("7\n")
    odd = tmp_path / os.fsdecode(b"caf\xe9")  # a name that is no text
    device = Device([tmp_path, tmp_path / "not/yet/there", odd, tmp_path], tmp_path / "root")

    def found():
        return {(s.name, s.labels.get("folder")): s.value for family in device.collect() for s in family.samples}

    first = found()
    assert first["edge_device_temperature_celsius", None] == 61.5
    assert first["edge_device_throttled", None] == 0
    (counts / "core_throttle_count").write_text("9\n")
    assert found()["edge_device_throttled", None] == 1
    assert found()["edge_device_throttled", None] == 0
    usage = shutil.disk_usage(tmp_path)
    for folder in (tmp_path, tmp_path / "not/yet/there", rf"{tmp_path}/caf\udce9"):
        assert first["edge_device_disk_size_bytes", str(folder)] == usage.total
        assert first["edge_device_disk_free_bytes", str(folder)] == pytest.approx(usage.free, rel=0.1)


@not_emulated
def test_the_process_is_seen(metrics):
    found = values(scraped(metrics))
    assert found["process_resident_memory_bytes"] > 1e6
    assert found["process_open_fds"] > 3


def test_a_slow_client_keeps_nobody_waiting(metrics, monkeypatch):
    with socket.create_connection(("127.0.0.1", metrics.port)) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")  # and no end
        with socket.create_connection(("127.0.0.1", metrics.port)) as dumb:
            dumb.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")  # its answer is not read
            started = time.monotonic()
            assert values(scraped(metrics))
            metrics.close()
            assert time.monotonic() - started < 2


def test_a_client_that_says_nothing_is_hung_up_on(monkeypatch):
    monkeypatch.setattr("edge.sinks.endpoints._Handler.timeout", 0.2)
    served = Metrics(MetricsConfig(port=0))
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as slow:
        slow.sendall(b"GET /metrics HTTP/1.1\r\n")
        while slow.recv(4096):  # whatever it says, it ends
            pass
    served.close()


def test_readiness_and_life(capfd):
    board = Board()
    served = Metrics(MetricsConfig(port=0), board=board)

    def code(path, method="GET"):
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as refused:
            return refused.code

    assert (code("/healthz"), code("/readyz")) == (200, 503)
    board.show("yard", Health("degraded", ("clipping",), "too loud"))
    board.promise("yard", 60.0)
    assert (code("/healthz"), code("/readyz"), code("/readyz", "HEAD")) == (200, 200, 200)
    board.show("hall", Health("lost", ("missing",)))
    assert (code("/healthz"), code("/readyz")) == (200, 503)
    board.promise("yard", -1.0)
    assert (code("/healthz"), code("/readyz")) == (503, 503)
    assert code("/metrics") == 200
    assert code("/x") == 404
    served.close()
    assert capfd.readouterr() == ("", "")


def test_it_is_served_over_ipv6():
    try:
        served = Metrics(MetricsConfig(address="::1", port=0))
    except SinkError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with urllib.request.urlopen(f"http://[::1]:{served.port}/healthz", timeout=5) as answer:
        assert answer.status == 200
    served.close()


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
