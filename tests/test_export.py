"""Checkpoint → fp32 → int8 → contract: the round trip, determinism, and a gate that really fails."""

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import soundfile
import torch

from edge.bench.rounds import measure_rounds
from edge.bench.sound import synthetic_sound
from edge.bench.subjects import OurModel
from edge.bulk import FileResult
from edge.classifier import Call, Classifier, available_providers
from edge.config import FrontendConfig
from edge.errors import ContractError, ProviderError
from edge.listener import listen
from edge.sources.file import SoundFile
from export.artefacts import check_same, clip_window, draw, export
from export.card import model_card
from export.contract import build_spec, golden_signal, write_with_golden
from export.graphs import SUFFIXES, graphs
from export.package import package
from export.quantize import asymmetric_convolutions, float_convolutions
from export.to_onnx import to_onnx
from export.verify import (
    TOLERANCES,
    ParityError,
    Tolerance,
    check_loss,
    check_streaming,
    compare,
    measure_loss,
)
from models import build
from models.checkpoint import Checkpoint, save_checkpoint
from models.layers import fold_batch_norm
from tests.conftest import FP32, run_here, run_module
from tests.test_listener import Blocks
from train.evaluate import Heard, Report
from train.manifest import ManifestError, read_manifest

SMALL = {"widths": (16, 16), "last_width": 16, "column_width": 16, "n_columns": 21, "n_labels": 3}
LICENCE = "CC0-1.0"
PROVENANCE = {
    "dataset": "noise", "train_folds": [1, 2, 3, 4], "test_fold": 5, "seed": 0, "epochs": 1, "git_revision": "x"
}  # fmt: skip


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
    return Checkpoint("streaming", SMALL, FrontendConfig(), ("a", "b", "c"), PROVENANCE, model.state_dict())


def run(checkpoint, data, out, **changes):
    options = dict(name="noise", licence=LICENCE, temperature=1.5, command="test", workers=1) | changes
    return export(checkpoint, data, out, **options)


@pytest.fixture(scope="module")
def exported(checkpoint, data, tmp_path_factory):
    return run(checkpoint, data, tmp_path_factory.mktemp("out"), precisions=tuple(SUFFIXES))


def test_the_device_computes_what_the_checkpoint_does(checkpoint, exported):
    classifier, model = Classifier(exported.fp32), checkpoint.model()
    samples = np.random.default_rng(1).uniform(-0.3, 0.3, classifier.spec.window_samples).astype(np.float32)
    frames = torch.from_numpy(np.ascontiguousarray(classifier._frontend(samples)))[None]
    expected = torch.softmax(model(frames) / 1.5, dim=1)[0].detach().numpy()
    assert np.allclose(classifier.classify(samples), expected, atol=1e-5)


def test_the_contract_says_where_it_comes_from(checkpoint, exported):
    assert list(exported.files) == ["fp32", "int8", "int8-s8s8", "fp16"]
    assert [path.name for path in exported.files.values()] == [
        "noise.onnx", "noise.int8.onnx", "noise.s8s8.onnx", "noise.fp16.onnx"
    ]  # fmt: skip
    for precision, path in exported.files.items():
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
    assert list(float_convolutions(onnx.load(exported.int8)).values()) == ["frames"]
    assert len(float_convolutions(onnx.load(exported.fp32))) > 1


def test_one_convolution_that_is_not_the_stem_fails_the_export(checkpoint, monkeypatch):
    def last(model):
        return [[node.name for node in model.graph.node if node.op_type == "Conv"][-1]]

    monkeypatch.setattr("export.quantize.stem_of", last)
    frames = np.random.default_rng(0).standard_normal((3, 1, 64, checkpoint.model().window_frames))
    with pytest.raises(ParityError, match="int8: 1 convolutions stay in float32 after optimisation: "):
        graphs(checkpoint, list(frames.astype(np.float32)), ["int8"])


def test_int8_of_a_network_that_it_does_not_serve_says_that_it_is_float32():
    sizes = {"n_labels": 3}
    state = build("bilstm", **sizes).state_dict()
    checkpoint = Checkpoint("bilstm", sizes, FrontendConfig(), ("a", "b", "c"), PROVENANCE, state)
    made = {
        precision: build_spec(checkpoint, name="x", temperature=1.0, licence="-", precision=precision).provenance
        for precision in SUFFIXES
    }
    assert {k: p.precision for k, p in made.items()} == {
        "fp32": "fp32", "int8": "fp32", "int8-s8s8": "fp32", "fp16": "fp16"
    }  # fmt: skip


def test_what_is_for_a_gpu_reads_symmetric_int8_alone(exported):
    graph = onnx.load(exported.files["int8-s8s8"])
    assert asymmetric_convolutions(graph) == []
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == sum(node.op_type == "Conv" for node in onnx.load(exported.fp32).graph.node)
    biases = {tensor.name: tensor.data_type for tensor in graph.graph.initializer}
    assert {biases[node.input[2]] for node in convolutions} == {onnx.TensorProto.FLOAT}
    for other in ("fp32", "int8"):
        assert len(asymmetric_convolutions(onnx.load(exported.files[other]))) == len(convolutions), other


def test_fp16_is_half_of_the_weights_and_decides_in_float32(exported):
    graph = onnx.load(exported.files["fp16"]).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    half, whole = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
    for node in graph.node:
        weights = [types[name] for name in node.input if name in types]
        if node.op_type == "Conv":
            assert set(weights) == {half}
        elif node.op_type in ("Gemm", "Softmax", "ReduceLogSumExp"):
            assert half not in weights
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == (half if value.name.startswith("cache_") else whole), value.name
    casts = [node for node in graph.node if node.op_type == "Cast" and node.attribute[0].i == half]
    assert [node.input[0] for node in casts] == ["frames"]


def test_the_same_checkpoint_gives_the_same_bytes(checkpoint, data, exported, tmp_path):
    """In another process, whose sets and hashes have another order."""
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    every = [part for precision in SUFFIXES for part in ("--precision", precision)]
    options = ("--data", data, "--name", "noise", "--licence", LICENCE, "--temperature", 1.5, "--made-by", "test")
    other = os.environ | {"PYTHONHASHSEED": "7" if os.environ.get("PYTHONHASHSEED") != "7" else "8"}
    run_module("export", tmp_path / "c.pt", *options, *every, "--out", tmp_path / "out", env=other)
    for path in (*exported.files.values(), exported.card):
        a, b = (hashlib.sha256(p.read_bytes()).hexdigest() for p in (path, tmp_path / "out" / path.name))
        assert a == b, path.name


@pytest.mark.parametrize("precision", ["int8-s8s8", "fp16"])
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_computes_what_the_processor_does(exported, provider, precision):
    if provider not in available_providers():
        pytest.skip(f"this onnxruntime has no {provider} provider")
    path = exported.files[precision]
    try:
        there = Classifier(path, provider=provider)  # with its self-test, streamed and whole
    except ProviderError as error:
        pytest.skip(str(error))
    samples = np.random.default_rng(3).uniform(-0.3, 0.3, 16_000 * 8).astype(np.float32)
    expected, found = Classifier(path).windows(samples), there.windows(samples)
    compare(provider, expected, found, TOLERANCES[precision])


def test_streamed_equals_whole(exported):
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, 16_000 * 20).astype(np.float32)
    for path in exported.files.values():
        assert check_streaming(Classifier(path), samples, hop=0.4) > 20


@pytest.mark.parametrize("precision", ["int8", "int8-s8s8", "fp16"])
def test_the_gate_stops_a_bad_artefact_and_leaves_the_old_files(checkpoint, data, tmp_path, monkeypatch, precision):
    (tmp_path / "noise.int8.onnx").write_text("the former model")
    monkeypatch.setitem(TOLERANCES, precision, Tolerance(top1_agreement=1.0, mean_difference=0.0, max_difference=0.0))
    with pytest.raises(ParityError, match=rf"{precision} against fp32: mean_difference is .*; allowed: 0.0"):
        run(checkpoint, data, tmp_path, precisions=[precision])
    assert [p.name for p in tmp_path.iterdir()] == ["noise.int8.onnx"]
    assert (tmp_path / "noise.int8.onnx").read_text() == "the former model"


def test_the_gate_sees_each_kind_of_disagreement():
    allowed = TOLERANCES["int8"]
    expected = np.eye(4, dtype=np.float32)
    assert compare("same", expected, expected, allowed).top1_agreement == 1
    with pytest.raises(ParityError, match=r"top-1 agreement is 0\.0"):
        compare("x", expected, expected[::-1], dataclasses.replace(allowed, mean_difference=9, max_difference=9))
    with pytest.raises(ParityError, match="max_difference is 1"):
        compare("x", expected, expected[::-1], dataclasses.replace(allowed, mean_difference=9))
    with pytest.raises(ParityError, match="mean_difference is nan"):
        compare("x", expected, expected * np.nan, allowed)


def heard(right, n_labels=3, multi_label=False):
    """What a file makes of clips of the first class: ``right`` says of each whether it is recognised."""
    spec = SimpleNamespace(scores="sigmoid" if multi_label else "softmax")
    targets = np.tile(np.eye(n_labels, dtype=int)[0], (len(right), 1))
    results = [SimpleNamespace(probs=np.eye(n_labels)[0 if r else 1], error=None) for r in right]
    return Heard(spec, [], targets, results)


def test_the_gate_sees_a_loss_of_accuracy_that_is_none_of_chance():
    sound = [True] * 300 + [False] * 100
    small = measure_loss("int8", heard(sound), heard([False] * 4 + sound[4:]))
    assert (small.points, small.lost, small.won) == (pytest.approx(1.0), 4, 0)
    check_loss(small, 0.3)  # one of sixteen times, four are lost and none is won
    even = measure_loss("int8", heard(sound), heard([False] * 20 + [True] * 300 + [False] * 80))
    assert (even.points, even.lost, even.won) == (pytest.approx(0.0), 20, 20)
    check_loss(even, 0.0)
    large = measure_loss("int8", heard(sound), heard([False] * 8 + sound[8:]))
    check_loss(large, 2.0)
    with pytest.raises(
        ParityError, match=r"int8 loses 2\.00 points .* allowed: 0\.3 \(fine-tune .* --recipe qat --init"
    ):
        check_loss(large, 0.3)
    with pytest.raises(ParityError, match=r"fp16 loses 2\.00 points .*leave this precision out"):
        check_loss(dataclasses.replace(large, name="fp16"), 0.3)


def test_a_loss_is_of_the_same_clips_and_of_several_labels_as_well():
    before, after = heard([True] * 9, multi_label=True), heard([False] * 9, multi_label=True)
    after.results[0].error = before.results[0].error = "cannot be read"
    loss = measure_loss("int8", before, after)
    assert (loss.points, loss.lost) == (pytest.approx(100.0), 8)


def test_ranges_are_compared_on_training_clips_that_gave_none(checkpoint, data, tmp_path, monkeypatch):
    monkeypatch.setattr("export.artefacts.CALIBRATION_CLIPS", 6)
    seen = []
    monkeypatch.setattr("export.artefacts.clip_window", lambda clip, spec: seen.append(clip) or clip_window(clip, spec))
    exported = run(checkpoint, data, tmp_path, ranges="compare", precisions=["int8-s8s8"])
    assert len({clip.path for clip in seen}) == len(seen) == 12
    assert 5 not in {clip.fold for clip in seen}
    assert list(exported.trials) == ["int8", "int8-s8s8"]
    for precision, found in exported.trials.items():
        assert sorted(found) == ["entropy", "minmax", "percentile"]
        differences = [parity.mean_difference for parity in found.values()]
        assert differences == sorted(differences)
        assert len(set(differences)) > 1
        alone = run(checkpoint, data, tmp_path / precision, ranges=next(iter(found)), precisions=["int8-s8s8"])
        same, as_well = (Classifier(e.files[precision]).spec.graph_sha256 for e in (alone, exported))
        assert same == as_well


def test_ranges_of_all_clips_cannot_be_compared(checkpoint, data, tmp_path):
    with pytest.raises(ValueError, match="of all 12 training clips, and none is left to compare them on"):
        run(checkpoint, data, tmp_path, ranges="compare")


def test_streaming_that_differs_is_seen(exported, monkeypatch):
    classifier = Classifier(exported.fp32)
    once, calls = Call.__call__, []

    def drift(call):
        calls.append(1)
        decision = once(call)
        return decision._replace(probs=decision.probs + 1e-6 * len(calls))

    monkeypatch.setattr(Call, "__call__", drift)
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, 16_000 * 5).astype(np.float32)
    with pytest.raises(ParityError, match="window 0 streamed differs from whole"):
        check_streaming(classifier, samples, hop=0.4)


def test_folding_batch_norm_changes_nothing(checkpoint):
    model, folded = checkpoint.model(), checkpoint.model()
    fold_batch_norm(folded)
    frames = torch.randn(1, 1, 64, model.window_frames)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert torch.allclose(model(frames), folded(frames), atol=1e-4)


def dynamic_axes(model):
    graph = to_onnx(model).graph
    return [d.dim_param for v in (*graph.input, *graph.output) for d in v.type.tensor_type.shape.dim if d.dim_param]


def test_time_is_the_only_dynamic_axis_or_none(checkpoint):
    assert dynamic_axes(checkpoint.model()) == ["T", "N"]
    assert dynamic_axes(build("four-block", n_labels=3)) == []


def test_a_network_of_whole_windows_and_two_channels(data, tmp_path):
    """From noise in folders to files that are measured, with what the contract says of both."""
    torch.manual_seed(0)
    frontend = FrontendConfig(channels=2, hop_length=320)
    sizes = {"window_frames": 90, "n_labels": 3}
    model = build("four-block", **sizes).train()
    for _ in range(20):
        model(torch.randn(4, 2, 64, 90))
    state = model.state_dict()
    exported = run(Checkpoint("four-block", sizes, frontend, ("a", "b", "c"), PROVENANCE, state), data, tmp_path)
    for path in (exported.fp32, exported.int8):
        spec = Classifier(path).spec
        assert (spec.streams, spec.frontend.channels, spec.scores, spec.n_columns) == (False, 2, "softmax", 0)
    assert "two channels" in exported.card.read_text()
    assert exported.reports["int8"].clips == 3
    classifier = Classifier(exported.fp32)
    samples = np.random.default_rng(1).uniform(-0.3, 0.3, (spec.window_samples, 2)).astype(np.float32)
    left, swapped, mono = (classifier.classify(s) for s in (samples, samples[:, ::-1], samples[:, 0]))
    assert not np.allclose(left, swapped)
    assert np.array_equal(mono, classifier.classify(samples[:, [0, 0]]))
    check_stereo_is_heard(classifier, tmp_path)
    (times,) = measure_rounds([OurModel(exported.int8, synthetic_sound)], rounds=2)
    assert len(times["window"]) == 2


def check_stereo_is_heard(classifier, folder):
    """Both channels reach the network, from a file and over a gap."""
    first = classifier.spec.window_samples
    samples = np.random.default_rng(2).uniform(-0.3, 0.3, (2 * first, 2)).astype(np.float32)
    soundfile.write(folder / "stereo.wav", samples, 16_000, subtype="FLOAT")
    heard = np.stack([w.probs for w in listen(SoundFile(folder / "stereo.wav"), classifier)])
    assert np.array_equal(heard, classifier.windows(samples))
    filled = np.concatenate([samples[:first], np.zeros((1000, 2), np.float32), samples[first:]])
    gapped = np.stack([w.probs for w in listen(Blocks(samples, {1: 1000}), classifier)])
    assert np.array_equal(gapped, classifier.windows(filled)[: len(gapped)])


def test_a_bar_in_the_name_of_a_class_ends_no_column_of_the_card(classifier):
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    report = Report.of(np.eye(2), [FileResult(Path("x"), p, p[None]) for p in probs], ["a|b", "c"])
    card = model_card(classifier.spec, {"int8": report}, None, None, [], {"int8": 1}, "test")
    assert r"| a\|b | 1.00 | 1.00 | 1.00 | 1 |" in card.splitlines()


def test_the_tiny_network_is_tiny(tmp_path):
    torch.manual_seed(0)
    model = build("streaming-tiny")
    labels = tuple(f"class {i}" for i in range(50))
    provenance = PROVENANCE | {"test_fold": None}
    checkpoint = Checkpoint("streaming-tiny", {}, FrontendConfig(), labels, provenance, model.state_dict())
    spec = build_spec(checkpoint, name="tiny", temperature=1.0, licence="-", precision="int8")
    windows = np.random.default_rng(0).standard_normal((3, 1, 64, spec.window_frames)).astype(np.float32)
    write_with_golden(graphs(checkpoint, list(windows))["int8"], spec, tmp_path / "tiny.onnx")
    assert spec.provenance.macs <= 25e6
    assert (tmp_path / "tiny.onnx").stat().st_size <= 250_000


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
    def check_fails(path, message, *options, code=1):
        done = run_here("export", path, "--licence", LICENCE, "--out", tmp_path / "out", *options, code=code)
        assert message in done.stderr

    (tmp_path / "x.pt").write_text("no checkpoint")
    check_fails(tmp_path / "x.pt", "is not a checkpoint of edge-listen", "--data", data)
    check_fails(tmp_path / "x.pt", "nan is not a finite number", "--most-loss", "nan", code=2)
    check_fails(tmp_path / "x.pt", "inf is not a finite number", "--temperature", "inf", code=2)
    check_fails(tmp_path / "x.pt", r"'a\nb' is no stem", "--name", "a\nb", code=2)
    for licence in ("", " ", "MIT\nor so"):
        check_fails(tmp_path / "x.pt", f"{licence!r}; allowed: text of one line", "--licence", licence, code=2)
    check_fails(tmp_path / "no.pt", "does not exist", code=2)
    for name in ("", "../x", ".x", "a/b"):
        check_fails(tmp_path / "x.pt", f"{name!r} is no stem of a file's name", "--name", name, code=2)
    save_checkpoint(tmp_path / "c.pt", dataclasses.replace(checkpoint, labels=("a", "b", "d")))
    check_fails(tmp_path / "c.pt", "there is no manifest.jsonl beside")
    check_fails(tmp_path / "c.pt", "the model has no class c", "--data", data)
    assert not list((tmp_path / "out").iterdir())


def test_checkpoints_that_are_damaged_or_none(checkpoint, tmp_path):
    """One line each, of the file and not of --out, without the advice of torch."""
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    contents = {
        "cut.pt": (tmp_path / "c.pt").read_bytes()[:5000],
        "model.onnx": FP32.read_bytes(),
        "empty.pt": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        done = run_here("export", tmp_path / name, "--licence", LICENCE, "--out", tmp_path / "out", code=1)
        assert f"{name} is not a checkpoint of edge-listen, or is damaged; give another" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    torch.save([1, 2], tmp_path / "list.pt")
    done = run_here("export", tmp_path / "list.pt", "--licence", LICENCE, code=1)
    assert len(done.stderr.splitlines()) == 1


def test_pipes_are_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for arguments in (("--licence", LICENCE), ("upgrade",), ("wrap", "--contract", __file__)):
        done = run_here("export", *arguments, tmp_path / "pipe", code=2)
        assert "is a pipe or a device, no file" in done.stderr


def test_a_message_names_no_temporary_folder(checkpoint, data, tmp_path):
    with pytest.raises(ContractError) as caught:
        run(checkpoint, data, tmp_path, licence="two\nlines")
    assert str(caught.value).startswith(f"{tmp_path}/noise.int8.onnx: licence is 'two")
    with pytest.raises(ContractError) as caught:
        package(checkpoint, data, tmp_path / "p", name="x", licence="\n", temperature=1.0, command="-", workers=1)
    assert str(caught.value).startswith(f"{tmp_path}/p/x.int8.onnx: licence is ")


@pytest.fixture
def short(tmp_path):
    """Clips of a twentieth of a second, and a checkpoint whose window is twice as long."""
    for label in "abc":
        (tmp_path / "short" / label).mkdir(parents=True)
        for i in range(5):
            noise = np.random.default_rng([i, ord(label)]).uniform(-0.3, 0.3, 800)
            soundfile.write(tmp_path / "short" / label / f"{i}.wav", noise, 16_000)
    torch.manual_seed(0)
    sizes = {"widths": (8,), "time_strides": (2,), "hidden": 4, "window_frames": 8, "n_labels": 3}
    model = build("crnn", **sizes)
    return tmp_path / "short", Checkpoint("crnn", sizes, FrontendConfig(), tuple("abc"), PROVENANCE, model.state_dict())


def test_clips_shorter_than_a_window_shorter_than_a_hop(short, tmp_path):
    data, checkpoint = short
    exported = run(checkpoint, data, tmp_path / "out")
    spec = Classifier(exported.int8).spec
    assert 0.05 < spec.window_seconds < 0.5
    assert exported.reports["int8"].windows == 3


def test_streaming_is_checked_on_clips_shorter_than_a_window(checkpoint, short, tmp_path):
    exported = run(checkpoint, short[0], tmp_path / "out")
    assert exported.reports["int8"].clips == 3


def test_other_data_is_not_taken_for_that_of_the_training(data, checkpoint, tmp_path):
    """Another recording deals other folds: what would be called held out may have been trained on."""
    manifest = read_manifest(data)
    checkpoint = dataclasses.replace(checkpoint, provenance=PROVENANCE | {"digest": manifest.digest()})
    more = shutil.copytree(data, tmp_path / "data")
    shutil.copy(more / "a" / "0.wav", more / "a" / "new.wav")
    remedy = "give --data the manifest.jsonl of its run"
    with pytest.raises(ManifestError, match=f"data is not the data set that it was trained on.*{remedy}"):
        run(checkpoint, more, tmp_path / "out")
    save_checkpoint(tmp_path / "c.pt", checkpoint)
    options = ("--licence", LICENCE, "--out", tmp_path / "o")
    assert remedy in run_here("export", tmp_path / "c.pt", *options, "--data", more, code=1).stderr
    swapped = {1: 5, 5: 1}
    clips = tuple(dataclasses.replace(clip, fold=swapped.get(clip.fold, clip.fold)) for clip in manifest.clips)
    dataclasses.replace(manifest, clips=clips).save(tmp_path / "manifest.jsonl")
    assert remedy in run_here("export", tmp_path / "c.pt", *options, code=1).stderr


def test_a_manifest_whose_recordings_are_gone_in_part_is_the_same(data, checkpoint, tmp_path):
    manifest = read_manifest(shutil.copytree(data, tmp_path / "data"))
    checkpoint = dataclasses.replace(checkpoint, provenance=PROVENANCE | {"digest": manifest.digest()})
    manifest.save(tmp_path / "manifest.jsonl")
    check_same(checkpoint, tmp_path / "manifest.jsonl", read_manifest(tmp_path / "manifest.jsonl"))
    (tmp_path / "data" / "a" / "0.wav").unlink()
    check_same(checkpoint, tmp_path / "manifest.jsonl", read_manifest(tmp_path / "manifest.jsonl"))
    with pytest.raises(ManifestError, match="is not the data set"):  # whose folds are dealt anew
        check_same(checkpoint, tmp_path / "data", read_manifest(tmp_path / "data"))


def test_nothing_held_out_is_said_and_not_measured(data, checkpoint, tmp_path):
    checkpoint = dataclasses.replace(checkpoint, provenance=PROVENANCE | {"test_fold": None})
    exported = run(checkpoint, data, tmp_path)
    assert "Nothing was held out of training." in exported.card.read_text()
    with pytest.raises(ValueError, match="--degrade measures the fold that was held out, and none was"):
        run(checkpoint, data, tmp_path, degrade=True)


def test_the_data_of_a_run_is_found_beside_its_checkpoint(data, checkpoint, tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    read_manifest(data).save(tmp_path / "manifest.jsonl")
    run_module("export", tmp_path / "checkpoint.pt", "--licence", LICENCE, "--out", tmp_path / "out", "--name", "x")
    assert Classifier(tmp_path / "out" / "x.int8.onnx").spec.provenance.accuracy is not None
    named = ("--data", tmp_path / "manifest.jsonl", "--out", tmp_path / "out", "--name", "my model")
    run_here("export", tmp_path / "checkpoint.pt", "--licence", LICENCE, *named)
    made_by = f"`python -m export checkpoint.pt --data {tmp_path}/manifest.jsonl --name 'my model' --licence"
    assert made_by in (tmp_path / "out" / "my model.md").read_text()
