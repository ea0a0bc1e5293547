"""The pick: what is chosen, kept, used, and not used any more."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge import tuning
from edge.cli.bench import main as bench
from edge.cli.classify import run as classify
from edge.errors import EdgeError
from edge.models import BUNDLED, resolve
from edge.tuning import MARGIN, Candidate, Setup, best, keep, pick, tune
from tests.conftest import FP32, NOT_TO_BE_ENTERED, run_module

pytestmark = pytest.mark.timed

ASSETS = BUNDLED.parent


def candidate(file=BUNDLED.name, hop=1.0, *, threads=1, provider="cpu", folder=ASSETS):
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return Candidate(file, digest, "int8" if "int8" in file else "fp32", provider, threads, hop, hop)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """An empty folder for picks."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_the_default_stays_unless_it_is_slower_by_the_margin():
    default = candidate()
    assert best([default, candidate(FP32.name, 1.2)]) == default
    assert best([default, candidate(FP32.name, 1 / MARGIN + 0.001)]) == default
    faster = candidate(FP32.name, 0.96)
    assert best([default, faster]) == faster


def test_another_core_must_pay_for_itself():
    default = candidate()
    assert best([default, candidate(threads=2, hop=0.7)]) == default
    quick = candidate(threads=2, hop=0.5)
    assert best([default, quick]) == quick
    # The second core is not worth it, and fp32 is: one must not hide the other.
    fp32 = candidate(FP32.name, 0.9)
    assert best([default, candidate(threads=2, hop=0.7), fp32]) == fp32


def test_tuning_measures_each_file_on_one_thread_and_on_two(monkeypatch):
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    found = tune([BUNDLED, FP32], rounds=10)
    ways = [(c.file, c.threads) for c in found if c.provider == "cpu"]
    assert ways == [(BUNDLED.name, 1), (FP32.name, 1), (BUNDLED.name, 2), (FP32.name, 2)]
    assert all(c.hop_ms >= c.hot_ms * 0.5 > 0 for c in found)


def test_the_pick_is_what_was_measured_fastest(state):
    """With whatever this machine measures."""
    candidates = tune([BUNDLED, FP32], rounds=10)
    keep(BUNDLED, candidates)
    chosen, default = best(candidates), candidates[0]
    assert chosen.hop_ms <= default.hop_ms
    setup = pick()
    assert (setup.model or BUNDLED).name == chosen.file
    assert (setup.provider, setup.threads) == (chosen.provider, chosen.threads)


def test_without_a_pick_all_is_as_named(state):
    assert pick() == Setup(BUNDLED, "auto", 1)
    assert pick(FP32, "cpu", 3) == Setup(FP32, "cpu", 3)


def test_what_is_named_wins(state):
    keep(BUNDLED, [candidate(), candidate(FP32.name, 0.5), candidate(FP32.name, 0.2, threads=2)])
    assert pick() == Setup(FP32, "cpu", 2)
    assert pick(threads=1) == Setup(FP32, "cpu", 1)
    assert pick(threads=4) == Setup(BUNDLED, "auto", 4)  # never measured
    assert pick(BUNDLED) == Setup(BUNDLED, "cpu", 1)  # named: fp32 is out of question
    assert pick(provider="cuda") == Setup(BUNDLED, "cuda", 1)
    assert pick(Path("tiny")) == Setup(resolve("tiny"), "auto", 1)  # another model, another pick
    assert pick(FP32) == Setup(FP32, "auto", 1)


def test_a_provider_that_is_gone_is_not_picked(state):
    keep(BUNDLED, [candidate(), candidate(hop=0.1, provider="tensorrt")])
    assert pick() == Setup(BUNDLED, "cpu", 1)


def test_each_package_has_its_own_pick(state, tmp_path):
    """Their files have the same names."""
    folders = [tmp_path / name for name in ("a", "b")]
    for folder, int8 in zip(folders, (BUNDLED, resolve("tiny")), strict=True):
        folder.mkdir()
        shutil.copy(int8, folder / "model.int8.onnx")
        shutil.copy(FP32, folder / "model.onnx")

    def measured(folder, fp32):
        default, other = (
            candidate(name, hop, folder=folder) for name, hop in (("model.int8.onnx", 1.0), ("model.onnx", fp32))
        )
        keep(folder / default.file, [default, other])

    measured(folders[0], fp32=0.5)
    measured(folders[1], fp32=2.0)
    assert pick(folders[0]) == Setup(folders[0] / "model.onnx", "cpu", 1)
    assert pick(folders[1]) == Setup(folders[1] / "model.int8.onnx", "cpu", 1)


def test_the_oldest_picks_are_forgotten(state, monkeypatch):
    """Each release of a model that is tuned leaves one."""
    monkeypatch.setattr(tuning, "MOST_KEPT", 3)
    first = keep(BUNDLED, [candidate()])
    for age in range(5):
        old = first.with_name(f"model.int8-{age}.json")
        old.write_text("{}")
        os.utime(old, (1e9 - age, 1e9 - age))
    keep(BUNDLED, [candidate()])
    assert {path.name for path in first.parent.iterdir()} == {first.name, "model.int8-0.json", "model.int8-1.json"}
    assert pick() == Setup(BUNDLED, "cpu", 1)


def test_a_pick_of_another_file_is_ignored(state, tmp_path, caplog):
    for path in (BUNDLED, FP32):
        shutil.copy(path, tmp_path)
    model = tmp_path / BUNDLED.name
    keep(model, [candidate(), candidate(FP32.name, 0.5, threads=2)])
    assert pick(model) == Setup(model, "cpu", 1)
    with (tmp_path / FP32.name).open("ab") as file:
        file.write(b"changed")
    assert pick(model) == Setup(model, "auto", 1)
    assert "edge-bench --tune measures anew" in caplog.text
    (tmp_path / FP32.name).unlink()
    assert pick(model) == Setup(model, "auto", 1)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:50],
        lambda text: "[]",
        lambda text: text.replace('"schema_version": 1', '"schema_version": 99'),
        lambda text: text.replace('"threads": 1', '"threads": 0'),
        lambda text: text.replace('"hop_ms": 1.0', '"hop_ms": "fast"'),
        lambda text: text.replace('"provider"', '"vendor"'),
        lambda text: text.replace(f'"{BUNDLED.name}"', "7"),
        lambda text: text.replace(BUNDLED.name, f"../{BUNDLED.name}"),
    ],
)
def test_a_damaged_pick_is_ignored(state, caplog, damage):
    path = keep(BUNDLED, [candidate()])
    damaged = damage(path.read_text())
    assert damaged != path.read_text()
    path.write_text(damaged)
    assert pick() == Setup(BUNDLED, "auto", 1)
    assert "cannot be used" in caplog.text


def test_another_processor_has_another_pick(state, monkeypatch):
    keep(BUNDLED, [candidate(), candidate(FP32.name, 0.5)])
    monkeypatch.setattr("edge.bench.machine.cpu_name", lambda: "another")
    assert pick() == Setup(BUNDLED, "auto", 1)


def test_a_pick_is_kept_whole_or_not_at_all(state, monkeypatch):
    path = keep(BUNDLED, [candidate()])
    before = path.read_text()
    assert json.loads(before)["candidates"]
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    monkeypatch.setenv("XDG_STATE_HOME", "/dev/null")
    with pytest.raises(EdgeError, match=r"cannot be kept in /dev/null.*XDG_STATE_HOME"):
        keep(BUNDLED, [candidate()])
    assert path.read_text() == before


def test_without_a_home_there_is_no_pick(monkeypatch):
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(tuning.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert pick() == Setup(BUNDLED, "auto", 1)
    with pytest.raises(EdgeError, match="no home folder"):
        keep(BUNDLED, [candidate()])


def test_in_a_home_that_may_not_be_entered_there_is_no_pick(monkeypatch, caplog):
    monkeypatch.setenv("XDG_STATE_HOME", NOT_TO_BE_ENTERED)
    assert pick() == Setup(BUNDLED, "auto", 1)
    assert not caplog.records


def test_edge_listen_uses_the_pick_and_says_so(state, demo):
    keep(BUNDLED, [candidate(), candidate(FP32.name, 0.5)])
    listen = ("edge.cli.listen", "--input", demo, "--output", "jsonl", "--duration", 1)
    done = run_module(*listen, "-v")
    assert json.loads(done.stdout.splitlines()[0])["precision"] == "fp32"
    assert "pick of edge-bench --tune: edge-listen.onnx, 1 thread, cpu" in done.stderr
    named = run_module(*listen, "--model", BUNDLED)
    assert json.loads(named.stdout.splitlines()[0])["precision"] == "int8"


def test_edge_classify_uses_the_pick_of_one_thread(state, demo, caplog):
    caplog.set_level(logging.INFO)
    keep(BUNDLED, [candidate(), candidate(FP32.name, 0.5), candidate(threads=2, hop=0.1)])
    (row,) = classify((demo,))
    assert row["label"]
    assert "edge-listen.onnx, 1 thread, cpu" in caplog.text


def test_tune_keeps_and_shows(state):
    done = run_module("edge.cli.bench", "--tune", "--output", "json", "--model", "tiny", timeout=120)
    found = json.loads(done.stdout)
    kept = json.loads(Path(found["file"]).read_text())
    assert found["candidates"] == kept["candidates"]
    assert found["pick"] in found["candidates"]
    assert found["file"].startswith(str(state / "edge-listen" / "tuning" / "edge-listen-tiny.int8-"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--provider", "cpu"], "does not use --provider: .*leave out it"),
        (["--threads", "2", "--rounds", "10"], "does not use --rounds, --threads: .*leave out them"),
        (["--compare", "x.onnx", "--compare-rate", "8000"], "does not use --compare, --compare-rate"),
        (["--seconds", "1", "--hops", "10"], "does not use --seconds, --hops"),
        (["--output", "html"], "prints no html; allowed: --output md or json"),
    ],
)
def test_tune_refuses_what_it_would_ignore(state, monkeypatch, arguments, words):
    monkeypatch.setattr("edge.cli.bench.log_to_stderr", lambda verbose: None)  # it is this process's as well
    monkeypatch.setattr("edge.cli.bench.choose", lambda *_: pytest.fail("measured"))
    done = CliRunner().invoke(bench, ["--tune", *arguments])
    assert done.exit_code == 2
    assert re.search(words, " ".join(done.output.split()))


def test_what_the_environment_says_for_all_runs_is_no_mistake_of_tune(state, monkeypatch, tmp_path):
    monkeypatch.setattr("edge.cli.bench.log_to_stderr", lambda verbose: None)  # it is this process's as well
    monkeypatch.setattr("edge.cli.bench.choose", lambda *_: {"pick": None})
    monkeypatch.setenv("EDGE_BENCH_ROUNDS", "10")
    config = tmp_path / "bench.toml"
    config.write_text("threads = 2\n")
    named = ["--config", str(config), "--output", "json", "--model", "tiny", "--hop", "0.48", "-v"]
    assert CliRunner().invoke(bench, ["--tune", *named]).exit_code == 0
    monkeypatch.setenv("EDGE_BENCH_TUNE", "1")
    assert "does not use --rounds:" in CliRunner().invoke(bench, named).output


def test_reading_a_pick_loads_nothing_heavy(state):
    """edge-listen pays for it at every start."""
    keep(BUNDLED, [candidate()])
    code = "import sys, edge.tuning; edge.tuning.pick(); print('edge.bench.subjects' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
