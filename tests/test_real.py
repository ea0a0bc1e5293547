"""The bundled model on real recordings that no weight has seen: fold 5 of ESC-50."""

import json

import pytest

from edge.classifier import Classifier
from edge.models import BUNDLED, BUNDLED_NAMES
from tests.conftest import ESC50, FP32, ROOT, SHARED, needs_esc50, run_module
from train.evaluate import evaluate
from train.manifest import read_manifest
from train.robustness import Robustness, degraded_reports


@pytest.fixture(scope="module")
def reports():
    clips = read_manifest(ESC50).in_folds([5])
    return {path: evaluate(path, clips) for path in (BUNDLED, FP32)}


@needs_esc50
def test_accuracy_of_the_shipped_file(reports):
    assert (reports[BUNDLED].clips, reports[BUNDLED].skipped) == (400, ())
    assert reports[BUNDLED].accuracy >= 0.79


@needs_esc50
def test_int8_is_as_good_as_fp32(reports):
    """Two clips of 400 are within chance; over five folds int8 loses 0.15 points (docs/model.md)."""
    assert abs(reports[BUNDLED].accuracy - reports[FP32].accuracy) <= 2.5 / 400


@needs_esc50
def test_the_file_and_its_card_say_what_was_measured(reports):
    for path, report in reports.items():
        assert Classifier(path).spec.provenance.accuracy == pytest.approx(report.accuracy, abs=0.005)
    card = (ROOT / "edge" / "assets" / "edge-listen.md").read_text()
    assert f"| int8 | {reports[BUNDLED].accuracy:.2%} of 400" in card


@needs_esc50
@pytest.mark.slow
def test_other_microphones(reports):
    clips = read_manifest(ESC50).in_folds([5])
    robustness = Robustness(reports[BUNDLED], dict(degraded_reports(BUNDLED, clips)))
    assert robustness.mean_loss <= 8, robustness.table()
    assert max(robustness.losses.values()) <= 15, robustness.table()


@needs_esc50
def test_the_tiny_model():
    report = evaluate(BUNDLED_NAMES["tiny"], read_manifest(ESC50).in_folds([5]))
    assert report.accuracy >= 0.76  # it also knows what is none of its classes
    card = BUNDLED_NAMES["tiny"].with_name("edge-listen-tiny.md").read_text()
    assert f"| int8 | {report.accuracy:.2%} of 400" in card


def test_the_shipped_files_are_small_and_held_fold_5_out():
    tiny = BUNDLED_NAMES["tiny"]
    assert BUNDLED.stat().st_size < 1_000_000
    assert FP32.stat().st_size < 2_000_000
    assert tiny.stat().st_size < 250_000
    assert Classifier("tiny").spec.provenance.macs <= 25_000_000
    for path in (BUNDLED, FP32, tiny):
        provenance = Classifier(path).spec.provenance
        assert provenance.test_fold == 5
        assert provenance.train_folds == (1, 2, 3, 4)


@needs_esc50
@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "data" / "negatives").is_dir(), reason="no negatives")
def test_events_in_half_an_hour_of_continuous_sound(tmp_path):
    """What docs/recognition.md tells of hours, on scenes and backgrounds that nothing was learnt from."""
    figures = {}
    for name, options in (
        ("run", ("--data", ESC50, "--fold", 5, "--snr", 10)),
        ("negatives", ("--backgrounds", SHARED / "data" / "negatives")),
    ):
        path = tmp_path / f"{name}.json"
        common = ("--half", "report", "--hours", 0.5, "--no-cache", "--json", path)
        run_module("benchmarks.soundscapes", name, *options, *common, timeout=600)
        figures[name] = json.loads(path.read_text())
    assert figures["run"]["event_f1"] >= 0.27
    assert figures["run"]["segment_f1"] >= 0.45
    assert figures["run"]["onset_error_s"] <= 0.3
    assert figures["run"]["false_alarms_per_hour"] <= 80
    assert figures["negatives"]["false_alarms_per_hour"] <= 60
