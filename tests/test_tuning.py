"""The pick: what is chosen, kept, used, and not used any more."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from edge import tuning
from edge.cli.bench import choose, tuning_table
from edge.cli.bench import main as bench
from edge.cli.classify import run as classify
from edge.errors import EdgeError
from edge.models import BUNDLED, resolve
from edge.tuning import MARGIN, Candidate, Setup, best, doubt, keep, pick, tune
from tests.conftest import FP32, NOT_TO_BE_ENTERED, run_module

pytestmark = pytest.mark.timed

ASSETS = BUNDLED.parent


def candidate(file=BUNDLED.name, hop=1.0, *, hot=None, threads=1, provider="cpu", folder=ASSETS):
    digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    return Candidate(
        file, digest, "int8" if "int8" in file else "fp32", provider, threads, hop, hop if hot is None else hot
    )


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


def test_what_is_cheaper_cold_and_dearer_hot_is_not_picked():
    """Other work made the default look dear: fp32 does not cost a fifth of int8."""
    default, outlier = candidate(hop=4.797, hot=0.253), candidate(FP32.name, 1.033, hot=0.5)
    assert best([default, outlier]) == default
    assert doubt([default, outlier]) == (
        "edge-listen.onnx, 1 thread, cpu: it is the pick by cold hops, and not by hot ones"
    )
    lucky = candidate(threads=2, hop=1.0, hot=0.25)  # a second core must pay for itself hot as well
    assert best([default, lucky]) == default
    assert "int8.onnx, 2 threads, cpu: it is the pick by cold hops" in doubt([default, lucky])
    two = candidate(threads=2, hop=2.0, hot=0.15)
    assert best([default, outlier, two]) == two  # which nothing speaks against
    warm = candidate(threads=2, hop=5.0, hot=0.1)
    assert best([default, warm]) == default
    assert doubt([default, warm]).endswith(
        "2 threads, cpu: it is the pick by hot hops, and dearer than edge-listen.int8.onnx by cold ones"
    )
    assert doubt([default, two]) is doubt([default]) is None


class Processor:
    """Simulated: its clock in seconds, the costs of (file, threads) cold and hot in ms, and other work."""

    def __init__(self, costs):
        self.costs = costs
        self.now, self.last = 0.0, None
        self.other = lambda subject, cold: 0.0  # ms that other work adds to a hop

    def hop(self, subject):
        cold, self.last = self.last is not subject, subject
        of_cold, of_hot = self.costs[subject.key]
        self.now += ((of_cold if cold else of_hot) + self.other(subject, cold)) / 1000


@pytest.fixture
def processor(monkeypatch):
    """In the place of this one, with int8 and fp32 on one thread and on two."""
    made = Processor({
        (BUNDLED.name, 1): (1.0, 0.25), (FP32.name, 1): (1.3, 0.5),
        (BUNDLED.name, 2): (1.1, 0.24), (FP32.name, 2): (1.3, 0.4),
    })  # fmt: skip

    class Simulated:
        def __init__(self, model, sound, *, threads, **settings):
            self.key = (model.name, threads)
            provenance = SimpleNamespace(precision="int8" if "int8" in model.name else "fp32")
            self.classifier = SimpleNamespace(path=model, spec=SimpleNamespace(provenance=provenance))
            self.stages = {"hop": lambda: made.hop(self)}

    monkeypatch.setattr("edge.bench.subjects.OurModel", Simulated)
    monkeypatch.setattr("edge.classifier.available_providers", lambda: ["cpu"])
    monkeypatch.setattr("edge.bench.rounds.time", SimpleNamespace(perf_counter=lambda: made.now))
    monkeypatch.setattr("edge.bench.rounds.COLD_BYTES", 1)
    monkeypatch.setattr(tuning.os, "cpu_count", lambda: 2)
    return made


def picked(candidates):
    return best(candidates).precision, best(candidates).threads


def test_what_is_cheaper_is_picked_on_a_quiet_machine(processor):
    found = tune([BUNDLED, FP32])
    assert picked(found) == ("int8", 1)
    assert doubt(found) is None
    assert [(c.hop_ms, c.hot_ms) for c in found] == [pytest.approx(cost) for cost in processor.costs.values()]
    processor.costs[FP32.name, 1] = (0.8, 0.2)
    assert picked(tune([BUNDLED, FP32])) == ("fp32", 1)
    processor.costs[BUNDLED.name, 2] = (0.5, 0.1)
    assert picked(tune([BUNDLED, FP32])) == ("int8", 2)


@pytest.mark.parametrize("seed", range(20))
def test_bursts_of_other_work_do_not_change_the_pick(processor, seed):
    """Three quarters of the time, and up to ten times as dear."""
    random = np.random.default_rng(seed)
    until = {"now": 0.0, "busy": False}

    def burst(subject, cold):
        while until["now"] < processor.now:
            until["busy"] = not until["busy"]
            until["now"] += random.exponential(0.15 if until["busy"] else 0.05)
        return random.exponential(5.0) if until["busy"] else random.exponential(0.002)

    processor.other = burst
    found = tune([BUNDLED, FP32])
    assert picked(found) == ("int8", 1)
    assert found[0].hop_ms < 1.05


@pytest.mark.parametrize("place", range(4))
def test_a_time_slice_that_always_ends_in_the_same_place_does_not_change_the_pick(processor, place):
    """As long as a round, it interrupts one of the four in every one."""
    calls = {"cold": 0}

    def end_of_slice(subject, cold):
        calls["cold"] += cold
        return 4.0 if cold and calls["cold"] % 4 == place else 0.0

    processor.other = end_of_slice
    found = tune([BUNDLED, FP32])
    assert picked(found) == ("int8", 1)
    assert [c.hop_ms for c in found] == [pytest.approx(of_cold) for of_cold, _ in processor.costs.values()]


def test_what_is_in_doubt_is_measured_again(processor, caplog):
    """Other work beside every cold hop of the default: at first, or for ever."""
    caplog.set_level(logging.INFO)
    calls = {"cold": 0}

    def beside(subject, cold, least=0):
        calls["cold"] += cold and subject.key == (BUNDLED.name, 1)
        return 4.0 if cold and subject.key == (BUNDLED.name, 1) and calls["cold"] < least else 0.0

    processor.other = partial(beside, least=245)
    found = tune([BUNDLED, FP32])
    assert (picked(found), doubt(found)) == (("int8", 1), None)
    assert caplog.text.count("it is the pick by cold hops, and not by hot ones") == 1
    calls["cold"] = 0
    processor.other = partial(beside, least=10_000)
    found = tune([BUNDLED, FP32])
    assert caplog.text.count("measured again") == 1 + tuning.MEASUREMENTS - 1
    assert "not by hot ones" in doubt(found)
    assert best(found) == found[0]
    tuned = {"file": "f", "candidates": [asdict(c) for c in found], "pick": asdict(found[0]), "doubt": doubt(found)}
    assert f"in doubt: {doubt(found)}; tune again" in tuning_table(tuned)
    assert "in doubt" not in tuning_table(tuned | {"doubt": None})


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


def test_a_place_that_cannot_be_is_found_before_measuring(monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", os.devnull)
    monkeypatch.setattr(tuning, "tune", lambda *_, **__: pytest.fail("measured"))
    with pytest.raises(EdgeError, match=rf"cannot be kept in {os.devnull}.*XDG_STATE_HOME"):
        choose()


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
