"""Checkpoint → fp32 → int8 → contract: the round trip, determinism, and a gate that really fails."""

import dataclasses
import hashlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
import torch

from edge.classifier import Classifier
from edge.config import FrontendConfig
from export.artefacts import draw, export
from export.contract import golden_signal
from export.quantize import float_convolutions
from export.to_onnx import fold_batch_norm, to_onnx
from export.verify import INT8, ParityError, Tolerance, check_streaming, compare
from models import build
from models.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import ROOT
from train.manifest import read_manifest

SMALL = {"widths": (16, 16), "last_width": 16, "column_width": 16, "n_columns": 21, "n_labels": 3}
LICENCE = "CC0-1.0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for label in ("a", "b", "c"):
        (root / label).mkdir()
        for i in range(5):
            soundfile.write(root / label / f"{i}.wav", rng.uniform(-0.3, 0.3, 40_000), 16_000)
    return root


@pytest.fixture(scope="module")
def checkpoint():
    """Random weights, with batch norms that have seen something."""
    torch.manual_seed(0)
    model = build("streaming", **SMALL).train()
    for _ in range(20):
        model(torch.randn(4, 1, 64, model.window_frames))
    provenance = {
        "dataset": "noise", "train_folds": [1, 2, 3, 4], "test_fold": 5, "seed": 0, "epochs": 1, "git_revision": "x"
    }  # fmt: skip
    return Checkpoint("streaming", SMALL, FrontendConfig(), ("a", "b", "c"), provenance, model.state_dict())


def run(checkpoint, data, out, **changes):
    options = dict(name="noise", licence=LICENCE, temperature=1.5, command="test", workers=1) | changes
    return export(checkpoint, data, out, **options)


@pytest.fixture(scope="module")
def exported(checkpoint, data, tmp_path_factory):
    return run(checkpoint, data, tmp_path_factory.mktemp("out"))


def test_the_device_computes_what_the_checkpoint_does(checkpoint, exported):
    classifier, model = Classifier(exported.fp32), checkpoint.model()
    samples = np.random.default_rng(1).uniform(-0.3, 0.3, classifier.spec.window_samples).astype(np.float32)
    frames = torch.from_numpy(np.ascontiguousarray(classifier._log_mel(samples)))[None, None]
    expected = torch.softmax(model(frames) / 1.5, dim=1)[0].detach().numpy()
    assert np.allclose(classifier.classify(samples), expected, atol=1e-5)


def test_the_contract_says_where_it_comes_from(checkpoint, exported):
    for path, precision in ((exported.fp32, "fp32"), (exported.int8, "int8")):
        spec = Classifier(path).spec
        assert spec.labels == ("a", "b", "c")
        assert spec.temperature == 1.5
        assert spec.licence == LICENCE
        assert spec.provenance.precision == precision
        assert spec.provenance.train_folds == (1, 2, 3, 4)
        assert spec.provenance.accuracy == pytest.approx(exported.reports[precision].accuracy, abs=1e-4)
        assert spec.provenance.macs > 1e6
        assert spec.frontend == checkpoint.frontend
        assert spec.golden is not None


def test_every_convolution_but_the_stem_is_int8(exported):
    assert len(float_convolutions(onnx.load(exported.int8))) <= 1
    assert len(float_convolutions(onnx.load(exported.fp32))) > 1


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint, data, exported, tmp_path):
    again = run(checkpoint, data, tmp_path)
    for path in ("fp32", "int8", "card"):
        a, b = (hashlib.sha256(getattr(e, path).read_bytes()).hexdigest() for e in (exported, again))
        assert a == b, path


def test_streamed_equals_whole(exported):
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, 16_000 * 20).astype(np.float32)
    for path in (exported.fp32, exported.int8):
        assert check_streaming(Classifier(path), samples, hop=0.4) > 20


def test_the_gate_stops_a_bad_artefact_and_leaves_the_old_files(checkpoint, data, tmp_path, monkeypatch):
    (tmp_path / "noise.int8.onnx").write_text("the former model")
    monkeypatch.setattr("export.artefacts.INT8", Tolerance(top1_agreement=1.0, mean_difference=0.0, max_difference=0.0))
    with pytest.raises(ParityError, match=r"int8 against fp32: mean_difference is .*; allowed: 0.0"):
        run(checkpoint, data, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["noise.int8.onnx"]
    assert (tmp_path / "noise.int8.onnx").read_text() == "the former model"


def test_the_gate_sees_each_kind_of_disagreement():
    expected = np.eye(4, dtype=np.float32)
    assert compare("same", expected, expected, INT8).top1_agreement == 1
    with pytest.raises(ParityError, match=r"top-1 agreement is 0\.0"):
        compare("x", expected, expected[::-1], dataclasses.replace(INT8, mean_difference=9, max_difference=9))
    with pytest.raises(ParityError, match="max_difference is 1"):
        compare("x", expected, expected[::-1], dataclasses.replace(INT8, mean_difference=9))
    with pytest.raises(ParityError, match="mean_difference is nan"):
        compare("x", expected, expected * np.nan, INT8)


def test_streaming_that_differs_is_seen(exported, monkeypatch):
    classifier = Classifier(exported.fp32)
    run_network, calls = classifier.run, []

    def drift(frames, ring):
        calls.append(1)
        probs, ring = run_network(frames, ring)
        return probs + 1e-6 * len(calls), ring

    monkeypatch.setattr(classifier, "run", drift)
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, 16_000 * 5).astype(np.float32)
    with pytest.raises(ParityError, match="window 0 streamed differs from whole"):
        check_streaming(classifier, samples, hop=0.4)


def test_folding_batch_norm_changes_nothing(checkpoint):
    model, folded = checkpoint.model(), checkpoint.model()
    fold_batch_norm(folded)
    frames = torch.randn(1, 1, 64, model.window_frames)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert torch.allclose(model(frames), folded(frames), atol=1e-4)


def test_the_graph_has_one_dynamic_axis(checkpoint):
    graph = to_onnx(checkpoint.model(), 1.0).graph
    dynamic = [d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim if d.dim_param]
    assert dynamic == ["T"]


def test_calibration_clips_come_from_every_class_and_training_folds_alone(data):
    manifest = read_manifest(data)
    clips = draw(manifest.in_folds([1, 2, 3, 4]), 6)
    assert [sum(c.label == label for c in clips) for label in "abc"] == [2, 2, 2]
    assert 5 not in {c.fold for c in clips}
    assert draw(manifest.in_folds([1, 2, 3, 4]), 6) == clips


def test_the_golden_signal_is_neither_silent_nor_clipped():
    pcm = golden_signal(16_000)
    assert len(pcm) == 4000
    assert 3000 < np.abs(pcm).max() < 32_000


def test_mistakes_end_in_one_line(data, checkpoint, tmp_path):
    def fails(path, message, *options):
        done = subprocess.run(
            [sys.executable, "-m", "export", str(path), "--data", str(data), "--licence", LICENCE, *options],
            capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip
        assert done.returncode in (1, 2)
        assert message in done.stderr
        assert "Traceback" not in done.stderr

    (tmp_path / "x.pt").write_text("no checkpoint")
    fails(tmp_path / "x.pt", "is not a checkpoint of edge-listen")
    fails(tmp_path / "no.pt", "does not exist")
    save_checkpoint(tmp_path / "c.pt", dataclasses.replace(checkpoint, labels=("a", "b", "d")))
    fails(tmp_path / "c.pt", "the model has no class c", "--out", str(tmp_path / "out"))
    assert not list((tmp_path / "out").iterdir())
