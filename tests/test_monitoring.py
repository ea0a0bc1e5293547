"""What watches the devices: rules by promtool, and every query, whose metrics must be those that are served."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import suppress
from functools import partialmethod
from pathlib import Path

import pytest

from edge.session import Plan, Session
from edge.sinks.device import Device
from edge.sinks.metrics import Metrics, MetricsConfig
from edge.sources.file import SoundFile
from tests.receivers import wait_until

promql = pytest.importorskip("promql_parser")
yaml = pytest.importorskip("yaml")
pytest.importorskip("prometheus_client")

ROOT = Path(__file__).parents[1]
MONITORING = ROOT / "deployment" / "monitoring"
DOCS = ROOT / "docs" / "monitoring.md"
RULES = sorted((MONITORING / "rules").glob("*.yml"))
DASHBOARD = MONITORING / "grafana" / "dashboards" / "edge-listen.json"
OF_PROMETHEUS = {"up", "ALERTS"}  # what Prometheus makes by itself

OF_A_DEVICE = {"clipped": 0.01, "dc_offset": 0.001, "dead_channels": [1], "drift_ppm": 12.5, "late": 2}  # of a status
LOST = {"state": "lost", "reasons": ["missing"], "message": "no microphone"}

needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def rules():
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules() if "alert" in rule}
RECORDED = {rule["record"] for rule in rules() if "record" in rule}


def dashboard_queries():
    """Each query of the dashboard, with its variables filled in as Grafana does: what it is for → PromQL."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel {panel['title']} {target['refId']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        yield f"annotation {annotation['name']}", annotation["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            series = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            yield f"variable {variable['name']}", series[1]


def filled(query):
    query = query.replace("$__rate_interval", "1m")
    assert set(re.findall(r"\$\w+", query)) <= {"$instance", "$source"}, query
    return re.sub(r"\$(instance|source)", ".*", query)


QUERIES = {name: filled(query) for name, query in dashboard_queries()} | {
    f"rule {rule.get('alert') or rule['record']}": rule["expr"] for rule in rules()
}


def selectors(query):
    """The metrics that a query reads, each with the labels it is asked for. Raises ValueError for one that is none."""
    found = []

    def visit(node):
        if isinstance(node, promql.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        if isinstance(node, promql.MatrixSelector):
            visit(node.vector_selector)
        elif isinstance(node, promql.Call):
            for argument in node.args:
                visit(argument)
        elif isinstance(node, promql.BinaryExpr):
            visit(node.lhs)
            visit(node.rhs)
        else:
            for child in (getattr(node, "expr", None), getattr(node, "param", None)):
                if child is not None:
                    visit(child)

    visit(promql.parse(query))
    return found


@pytest.fixture(scope="module")
def metrics(classifier, demo, tmp_path_factory):
    """What a listener serves, after the records of a recording, on a computer with a thermometer."""
    computer = tmp_path_factory.mktemp("computer")
    for path, text in (
        ("sys/class/thermal/thermal_zone0/temp", "48312"),
        ("sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count", "0"),
    ):
        (computer / path).parent.mkdir(parents=True)
        (computer / path).write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Device, "__init__", partialmethod(Device.__init__, root=computer))
        metrics = Metrics(MetricsConfig(port=0), lambda: {"mqtt": {}}, folders=[computer])
    try:
        for record in Session(SoundFile(demo), classifier, Plan(), "yard").records():
            metrics.write(record)
            if record["type"] == "status":  # with what only a device has
                metrics.write(record | OF_A_DEVICE)
        metrics.write({"type": "health", "source": "yard", "time": record["time"]} | LOST)
        yield metrics
    finally:
        metrics.close()


@pytest.fixture(scope="module")
def exposed(metrics):
    """Every metric that is served, and its labels."""
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics.port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, labels = line.rpartition(" ")[0].partition("{")
            found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_asks_for_metrics_that_are_served(name, exposed):
    for metric, labels in selectors(QUERIES[name]):
        if metric in OF_PROMETHEUS | RECORDED:
            continue
        assert metric in exposed, f"{name} asks for {metric}"
        assert labels <= exposed[metric] | {"instance", "job", "__name__"}, f"{name} asks for labels of {metric}"


def test_the_reader_of_queries_finds_what_is_wrong():
    query = 'sum by (x) (rate(a_total{s="1"}[5m])) / on (x) quantile(0.5, b offset 1d) > max_over_time(c[1d:1h])'
    assert selectors(query) == [("a_total", {"s"}), ("b", set()), ("c", set())]
    with pytest.raises(ValueError, match=r".+"):
        selectors("rate(a_total[5m]")


def test_each_dashboard_panel_has_a_place_of_its_own():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"]
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    taken = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


@needs_promtool
def test_configuration_and_rules_are_clean():
    for what, *files in (["config", "prometheus.yml"], ["rules", *(f"rules/{path.name}" for path in RULES)]):
        done = subprocess.run(["promtool", "check", what, *files], cwd=MONITORING, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "FAILED" not in done.stdout + done.stderr


RULE_TESTS = sorted((MONITORING / "rule_tests").glob("*.yml"))


def test_the_series_of_rule_tests_are_those_that_are_served(exposed):
    """Each has the labels of the real one, and no others."""
    for test in (test for path in RULE_TESTS for test in yaml.safe_load(path.read_text())["tests"]):
        series = [selector for given in test["input_series"] for selector in selectors(given["series"])]
        for metric, labels in series:
            if metric not in OF_PROMETHEUS:
                assert metric in exposed, test["name"]
                assert labels - {"instance", "job"} == exposed[metric], f"{test['name']}: {metric}"


SLOW = ("events",)  # five days


@needs_promtool
@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in SLOW else []) for p in RULE_TESTS],
)
def test_rules_fire_where_they_should(path):
    done = subprocess.run(["promtool", "test", "rules", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_is_tested_and_has_a_remedy_and_a_section():
    tested = "".join(path.read_text() for path in RULE_TESTS)
    headings = {line.lstrip("# ").lower() for line in DOCS.read_text().splitlines() if line.startswith("#")}
    for name, rule in ALERTS.items():
        assert f'alertname="{name}"' in tested, f"no test makes {name} fire"
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        assert len(rule["annotations"]["description"]) > 40
        page, _, section = rule["annotations"]["runbook_url"].partition("#")
        assert page.endswith("/docs/monitoring.md")
        assert section == name.lower()
        assert section in headings


def query_of(port, query):
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.load(answer)["data"]["result"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_a_real_prometheus_answers_every_query(metrics, exposed, tmp_path):
    for part in ("rules", "targets"):
        shutil.copytree(MONITORING / part, tmp_path / part)
    (tmp_path / "targets" / "devices.yml").write_text(f"- targets: ['127.0.0.1:{metrics.port}']")
    configuration = (MONITORING / "prometheus.yml").read_text().replace("15s", "500ms")
    (tmp_path / "prometheus.yml").write_text(configuration)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    listen, storage = f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={tmp_path / 'data'}"
    command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}", listen, storage, "--log.level=error"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 40
        answered = False
        while not answered:
            assert time.monotonic() < deadline, "prometheus has scraped nothing"
            time.sleep(0.2)
            with suppress(OSError):
                answered = bool(query_of(port, "rate(edge_audio_windows_total[1m])"))
        for name, query in QUERIES.items():
            try:
                query_of(port, query)
                if name.startswith("panel") and all(metric in exposed for metric, _ in selectors(query)):
                    # Nothing is known for a moment where a busy machine has missed a scrape.
                    wait_until(lambda: query_of(port, query), what=f"{name} shows nothing")  # noqa: B023
            except urllib.error.HTTPError as error:
                pytest.fail(f"{name}: {error.read().decode()}")
    finally:
        server.terminate()
        server.wait(20)
