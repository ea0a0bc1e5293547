"""``benchmarks.peers``: the promises, and the usual way that they are measured against."""

import json
import re
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import peers
from edge.bench.sound import synthetic_sound
from edge.classifier import Classifier
from edge.errors import EdgeError
from edge.models import BUNDLED
from tests.conftest import FP32, ROOT


def document(**ratios):
    """A run of ``benchmarks.peers``, in which every promise is kept."""
    stage = {"p50": 1.0, "p95": 1.0, "p99": 1.0, "worst": 1.0}
    result = {
        "hot": {"network_window": stage}, "hop_over_window": 0.19, "start_ms": 250, "memory_slope": 0.1, "patches": 7
    }  # fmt: skip
    fp32 = result | {"hot": {"network_window": stage | {"p50": 2.8}}}
    yamnet = {"hot": 12, "cold": 5, "paced_cpu": 4, "window": 20} | ratios
    return {
        "results": {"edge-listen.int8": result, "edge-listen": fp32, "yamnet": result, "librosa-fp32": result},
        "ratios": {"yamnet": yamnet, "librosa-fp32": yamnet | {"hot": 20}},
    }


def test_targets_are_met_missed_or_not_measured():
    found = peers.targets(document(), "yamnet", 95)
    assert len(found) == 10
    assert {t.met for t in found} == {True}
    missed = peers.targets(document(cold=4.99, paced_cpu=None), "yamnet", None)
    assert {t.name: t.met for t in missed if t.met is not True} == {
        "hop against yamnet, cold": False,
        "CPU against yamnet, paced": None,
        "resident with the microphone open, MB": None,
    }
    lines = peers.targets_table(missed).splitlines()
    assert lines[3].split("|")[2:5] == ["    ≥ 5 ", "     4.99 ", "       missed "]
    assert peers.targets(document(), "yamnet", 95.1)[7].met is False


def test_librosa_computes_what_we_compute(minute):
    """Else the comparison would be with another network."""
    pytest.importorskip("librosa", reason="librosa is not installed")
    subject = peers.LibrosaRecompute(lambda rate: minute, 0.48)
    classifier = Classifier(FP32)
    n = classifier.spec.window_samples
    expected = classifier.windows(minute[:n])[0]
    assert np.abs(subject.probs(minute[:n]) - expected).max() < 1e-3


def test_without_librosa_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(EdgeError, match=r"pip install 'edge-listen\[bench\]'"):
        peers.LibrosaRecompute(synthetic_sound, 0.48)


def test_a_json_that_cannot_be_written_is_found_before_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(peers, "run", lambda settings, device: pytest.fail("measured"))
    (tmp_path / "file").write_text("")
    for out, why in (
        (tmp_path / "file" / "peers.json", "Not a directory|File exists"), (tmp_path, "Is a directory"),
    ):  # fmt: skip
        shown = CliRunner().invoke(peers.main, ["yamnet.tflite", "--json", str(out)])
        assert shown.exit_code == 2
        assert re.search(rf"Error: --json {re.escape(str(out))} cannot be written: ({why}); name another", shown.output)


def test_a_microphone_that_does_not_open_is_found_before_the_run(monkeypatch):
    def away(device):
        raise EdgeError(f"{device!r} cannot be listened to", remedy="see edge-listen --list-devices")

    monkeypatch.setattr(
        peers, "open_all", lambda settings: ([SimpleNamespace(facts=SimpleNamespace(hop_seconds=0.48))], [])
    )
    monkeypatch.setattr(peers, "LibrosaRecompute", lambda sound, hop: None)
    monkeypatch.setattr(peers, "memory_with_microphone", away)
    monkeypatch.setattr(peers, "measure", lambda *arguments: pytest.fail("measured"))
    shown = CliRunner().invoke(peers.main, ["yamnet.tflite", "--device", "nope"])
    assert shown.exit_code == 1
    assert "Error: 'nope' cannot be listened to (see edge-listen --list-devices)" in shown.output


def test_the_committed_run_is_of_the_bundled_model():
    results = json.loads((ROOT / "docs" / "results" / "peers.json").read_text())["run"]["results"]
    if not all("sha256" in result for result in results.values()):
        pytest.skip("docs/results/peers.json was measured before results had digests: run benchmarks.peers again")
    for path in (BUNDLED, FP32):
        assert results[path.stem]["sha256"] == Classifier(path).spec.graph_sha256, path.name


@pytest.mark.parametrize(("cold", "code"), [(5, 0), (4.9, 1)])
def test_check_fails_where_a_target_is_missed(tmp_path, monkeypatch, cold, code):
    found = peers.targets(document(cold=cold), "yamnet", 90)
    monkeypatch.setattr(peers, "run", lambda settings, device: (document(), found))
    monkeypatch.setattr(peers, "markdown", lambda run: "the run")
    out = tmp_path / "peers.json"
    shown = CliRunner().invoke(peers.main, ["yamnet.tflite", "--json", str(out), "--check"])
    assert shown.exit_code == code
    assert ("missed" in shown.output) == bool(code)
    kept = json.loads(out.read_text())
    assert [t["met"] for t in kept["targets"]] == [t.met for t in found]
    assert CliRunner().invoke(peers.main, ["yamnet.tflite"]).exit_code == 0  # without --check
