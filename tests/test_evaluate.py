"""Metrics, and evaluation of model files and checkpoints through the runtime."""

import json
import shutil
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from edge.bulk import FileResult, classify_sources
from edge.config import FrontendConfig
from edge.errors import ContractError
from edge.features import make_frontend
from edge.models import BUNDLED
from edge.sources.file import SoundFile
from models import build
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import ROOT, run_here, run_module
from tests.scoring import read_truth
from train.degraded import Degraded
from train.effects import DEGRADATIONS
from train.evaluate import Report, evaluate
from train.manifest import Clip, ManifestError, ReadOptions, read_manifest
from train.metrics import accuracy_of, metrics_of
from train.torch_classifier import TorchClassifier

NAMES = ("siren", "car_horn", "church_bells")
RATE = 16_000


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder for each class, of synthesised sounds that the bundled model knows."""
    root, demo = tmp_path_factory.mktemp("sounds"), ROOT / "examples" / "demo.ogg"
    for onset, offset, label in read_truth(demo.with_suffix(".csv")):
        for i in range(2 * (label in NAMES)):
            (root / label).mkdir(exist_ok=True)
            samples = SoundFile(demo, start=onset + 0.3 * i, end=offset).read(RATE)
            soundfile.write(root / label / f"{label}{i}.wav", samples, RATE)
    return root


@pytest.fixture(scope="module")
def clips(folders):
    return list(read_manifest(folders).clips)


# Metrics


def test_metrics_of_one_label_a_clip():
    probs = np.array([[0.7, 0.2, 0.1], [0.4, 0.5, 0.1], [0.1, 0.8, 0.1], [0.3, 0.6, 0.1]], np.float32)
    found = metrics_of(np.array([0, 0, 1, 1]), probs, ("a", "b", "c"))
    assert found.accuracy == 0.75
    assert found.confusion == ((1, 1, 0), (0, 2, 0), (0, 0, 0))
    a, b = found.classes  # c has no clips
    assert (a.label, a.precision, a.recall, a.clips) == ("a", 1.0, 0.5, 2)
    assert (b.precision, b.recall, b.f1) == pytest.approx((2 / 3, 1.0, 0.8))
    assert (a.average_precision, b.average_precision) == (1.0, 1.0)  # both rank their own clips first
    assert found.macro_recall == 0.75
    assert found.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert found.mean_average_precision == 1.0
    assert found.mean_confidence == pytest.approx(0.65)
    assert json.loads(json.dumps(asdict(found)))["confusion"][0] == [1, 1, 0]


def test_calibration_error_is_the_gap_in_the_bins():
    probs = np.tile(np.array([[0.9, 0.1]], np.float32), (10, 1))
    found = metrics_of(np.array([0] * 9 + [1]), probs, ("a", "b"))
    assert found.calibration_error == pytest.approx(0, abs=1e-6)
    found = metrics_of(np.array([0] * 5 + [1] * 5), probs, ("a", "b"))
    assert found.calibration_error == pytest.approx(0.4, abs=1e-6)
    (only,) = found.bins
    assert only == pytest.approx((0.9, 0.5, 10))
    mixed = np.array([[1.0, 0.0], [0.55, 0.45]], np.float32)
    found = metrics_of(np.array([0, 1]), mixed, ("a", "b"))
    assert [b.count for b in found.bins] == [1, 1]
    assert found.calibration_error == pytest.approx(0.55 / 2, abs=1e-6)


def test_metrics_of_several_labels_a_clip():
    truth = np.array([[1, 1, 0], [0, 0, 0], [0, 1, 0]])
    probs = np.array([[0.9, 0.6, 0.1], [0.2, 0.1, 0.1], [0.7, 0.4, 0.2]], np.float32)
    found = metrics_of(truth, probs, ("a", "b", "c"), multi_label=True)
    assert found.accuracy == pytest.approx((1 + 1 + 0) / 3)  # nothing there and nothing found is right
    assert found.confusion == ()
    a, b = found.classes
    assert (a.precision, a.recall, a.average_precision, a.clips) == (0.5, 1.0, 1.0, 1)
    assert (b.precision, b.recall, b.clips) == (1.0, 0.5, 2)
    assert sum(each.count for each in found.bins) == 9
    half = accuracy_of(np.array([[1, 1]]), np.array([[0.9, 0.1]]), multi_label=True)
    assert half == 0.5


def test_a_data_set_of_one_class():
    found = metrics_of(np.array([0, 0]), np.array([[1.0], [1.0]], np.float32), ("only",))
    assert (found.accuracy, found.macro_f1, found.mean_average_precision) == (1, 1, 1)


def test_a_report_leaves_out_what_could_not_be_read(tmp_path):
    windows = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
    results = [
        FileResult(tmp_path / "a", windows.mean(0), windows),
        FileResult(tmp_path / "b", None, None, error="b is no sound"),
        FileResult(tmp_path / "c", windows[1], windows[1:]),
    ]
    report = Report.of(np.array([[1, 0], [1, 0], [1, 0]]), results, ("x", "y"))
    assert (report.accuracy, report.clips) == (0.5, 2)
    assert (report.window_accuracy, report.windows) == (pytest.approx(1 / 3), 3)
    assert report.skipped == ("b is no sound",)
    assert report.classes[0].clips == 2


# Model files


def test_the_bundled_model_on_synthesised_sounds(clips):
    report = evaluate(None, clips, workers=1)
    assert report.accuracy == 1.0
    assert report.clips == 6
    assert report.windows > 12
    assert {row.label for row in report.classes} == set(NAMES)
    assert report.skipped == ()
    assert evaluate(None, clips, workers=2) == report


def test_unreadable_clips_are_left_out_or_end_it(clips, tmp_path):
    (tmp_path / "bad.wav").write_text("no sound")
    bad = Clip(tmp_path / "bad.wav", ("siren",), 1)
    report = evaluate(None, [*clips, bad], workers=1)
    assert report.clips == 6
    assert len(report.skipped) == 1
    assert "bad.wav cannot be read" in report.skipped[0]
    with pytest.raises(ManifestError, match=r"1 of 7 clips cannot be read, the first: .*bad\.wav"):
        evaluate(None, [*clips, bad], workers=1, strict=True)
    with pytest.raises(ManifestError, match="1 of 1 clips cannot be read"):
        evaluate(None, [bad], workers=1)


def test_labels_that_the_model_cannot_give(clips):
    with pytest.raises(ManifestError, match=r"the model has no class unicorn; it has: .*dog"):
        evaluate(None, [Clip(clips[0].path, ("unicorn",), 1)], workers=1)
    with pytest.raises(ManifestError, match="has 2 labels; the model decides for one"):
        evaluate(None, [Clip(clips[0].path, ("siren", "dog"), 1)], workers=1)


def test_segments_are_what_is_classified(clips):
    part = Clip(clips[0].path, clips[0].labels, 1, start=1.0, end=2.0)
    assert evaluate(None, [part], workers=1).windows == 1  # one second, then silence
    assert evaluate(None, [clips[0]], workers=1).windows > 1


def test_degraded_recordings_are_the_same_in_every_process(clips):
    sources = [Degraded(clip.source(), name) for clip in clips[:3] for name in DEGRADATIONS]
    one, two = (list(classify_sources(sources, workers=n)) for n in (1, 2))
    assert len(one) == 21
    assert all(np.array_equal(a.probs, b.probs) for a, b in zip(one, two, strict=True))
    clean = list(classify_sources([clip.source() for clip in clips[:3]], workers=1))
    assert not any(np.array_equal(clean[i // 7].probs, r.probs) for i, r in enumerate(one))
    assert one[0].path == clips[0].path


# Checkpoints


def checkpoint(path, architecture="streaming", frontend=None, multi_label=False, test_fold=None, **sizes):
    torch.manual_seed(0)
    frontend = frontend or FrontendConfig()
    sizes |= {"n_mels": frontend.n_mels, "channels": frontend.channels, "n_labels": 3}
    model = build(architecture, **sizes).eval()
    provenance = {"dataset": "sounds", "train_folds": [1], "test_fold": test_fold, "seed": 0, "epochs": 1}
    provenance |= {"git_revision": "x", "multi_label": multi_label}
    save_checkpoint(
        path, Checkpoint(architecture, asdict(model.config), frontend, NAMES, provenance, model.state_dict())
    )
    return model


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize(("architecture", "channels"), [("streaming-tiny", 1), ("four-block", 2)])
def test_a_checkpoint_hears_what_a_model_file_would(tmp_path, architecture, channels, multi_label):
    """The hops of a stream give what the network says of whole windows."""
    torch.set_num_threads(1)
    frontend = FrontendConfig(channels=channels)
    model = checkpoint(tmp_path / "c.pt", architecture, frontend, multi_label)
    sound = (0.1 * np.random.default_rng(0).standard_normal((6 * RATE, 2))).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", sound, RATE, "FLOAT")
    classifier = TorchClassifier(tmp_path / "c.pt")
    samples = SoundFile(tmp_path / "a.wav").read(RATE, channels)
    found = classifier.windows(samples, hop=0.5)
    hop = classifier.spec.hop_samples(0.5)
    assert len(found) == 1 + (len(samples) - classifier.spec.window_samples) // hop
    for number, probs in enumerate(found):
        window = samples[number * hop : number * hop + classifier.spec.window_samples]
        frames = torch.from_numpy(np.ascontiguousarray(make_frontend(frontend)(window)))[None]
        with torch.inference_mode():
            logits = model(frames)[0]
        expected = logits.sigmoid() if multi_label else logits.softmax(0)
        assert np.allclose(probs, expected.numpy(), atol=1e-5)


def test_a_checkpoint_is_evaluated(clips, tmp_path):
    torch.set_num_threads(1)
    checkpoint(tmp_path / "c.pt", "streaming-tiny")
    report = evaluate(tmp_path / "c.pt", clips)
    assert report.clips == 6
    assert np.sum(report.confusion) == 6
    assert evaluate(tmp_path / "c.pt", clips, effect="quiet") != report


def test_several_labels_a_clip_are_evaluated(clips, tmp_path):
    checkpoint(tmp_path / "c.pt", "streaming-tiny", multi_label=True)
    several = [Clip(clip.path, labels, 1) for clip, labels in zip(clips, ((), ("siren",), NAMES[:2]), strict=False)]
    report = evaluate(tmp_path / "c.pt", several)
    assert report.clips == 3
    assert {row.label: row.clips for row in report.classes} == {"siren": 2, "car_horn": 1}


def test_no_checkpoint(tmp_path, clips):
    (tmp_path / "c.pt").write_text("no checkpoint")
    with pytest.raises(ManifestError, match=r"c\.pt cannot be read"):
        evaluate(tmp_path / "c.pt", clips)
    with pytest.raises(ManifestError, match=r"none\.pt cannot be read"):
        evaluate(tmp_path / "none.pt", clips)
    checkpoint(tmp_path / "c.pt", "streaming-tiny")
    damaged = load_checkpoint(tmp_path / "c.pt")
    save_checkpoint(tmp_path / "odd.pt", replace(damaged, architecture="transformer"))
    with pytest.raises(ManifestError, match=r"odd\.pt cannot be read: unknown architecture 'transformer'"):
        evaluate(tmp_path / "odd.pt", clips)
    damaged.state.popitem()
    save_checkpoint(tmp_path / "cut.pt", damaged)
    with pytest.raises(ManifestError, match=r"cut\.pt cannot be read: the weights do not fit"):
        evaluate(tmp_path / "cut.pt", clips)


def test_a_hop_that_cannot_be_is_named(clips):
    with pytest.raises(ContractError, match=r"hop of 60 s is not possible"):
        evaluate(None, clips, hop=60, workers=1)


def test_windows_shorter_than_the_default_hop(clips, tmp_path):
    torch.set_num_threads(1)
    checkpoint(tmp_path / "c.pt", "crnn", window_frames=40)
    report = evaluate(tmp_path / "c.pt", clips[:1])
    assert report.windows > 2 * SoundFile(clips[0].path).read(RATE).size / RATE


def test_a_clip_of_no_sample_is_left_out(clips, tmp_path):
    """One sample at 48 kHz is none at 16 kHz."""
    soundfile.write(tmp_path / "tiny.wav", [0.5], 48_000)
    tiny = Clip(tmp_path / "tiny.wav", clips[0].labels, 1)
    for effect in (None, "telephone"):
        report = evaluate(None, [clips[0], tiny], workers=1, effect=effect)
        assert report.clips == 1
        assert "tiny.wav ends after 0 samples" in report.skipped[0]


# The command


command = partial(run_module, "train", "evaluate")


def test_command_prints_classes_averages_and_accuracy(folders, tmp_path):
    done = command(folders, "--workers", 1, "--picture", tmp_path / "pictures" / "confusion.png")
    assert done.stdout.splitlines()[0].startswith("siren")
    assert "mean of the classes" in done.stdout
    assert "of 6 clips" in done.stdout.splitlines()[-1]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == ["confusion-reliability.png", "confusion.png"]
    assert (tmp_path / "pictures" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_command_degrades(folders):
    page = json.loads(command(folders, "--model", BUNDLED, "--workers", 1, "--degrade", "--json").stdout)
    assert page["clips"] == 6
    assert page["degraded"].keys() == DEGRADATIONS.keys()
    losses = [row["loss"] for row in page["degraded"].values()]
    assert page["mean_loss"] == pytest.approx(np.mean(losses))
    assert page["degraded"][page["worst"]]["loss"] == max(losses)
    assert all(
        row["loss"] == pytest.approx(100 * (page["accuracy"] - row["accuracy"])) for row in page["degraded"].values()
    )


def rows_of(text):
    """The rows of Markdown tables, each a list of cells."""
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def test_the_table_of_degradations_is_that_of_the_cards():
    """Each row of the documentation is the default's and tiny's, one beside the other."""
    documented = rows_of((ROOT / "docs" / "evaluation.md").read_text())
    cards = (BUNDLED.with_name(f"{name}.md").read_text() for name in ("edge-listen", "edge-listen-tiny"))
    default, tiny = (rows_of(card.partition("## Other microphones")[2])[1:] for card in cards)
    assert len(default) == len(tiny) == len(DEGRADATIONS) + 2
    for row, (title, *figures) in zip(default, tiny, strict=True):
        assert row[0] == title
        assert [*row, *figures] in documented


def test_command_names_what_it_leaves_out(folders, tmp_path):
    root = tmp_path / "d"
    shutil.copytree(folders, root)
    (root / "siren" / "broken.wav").write_text("no sound")
    assert "broken.wav" in command(root, "--workers", 1).stderr
    assert "broken.wav" in command(root, "--workers", 1, "--strict", code=1).stderr


def test_mistakes_end_in_one_line(folders, tmp_path):
    assert "fold 9 has no clips" in run_here("train", "evaluate", folders, "--fold", 9, code=1).stderr
    for command, option in (("evaluate", "--picture"), ("crossval", "--curves")):
        done = run_here("train", command, tmp_path / "no", option, tmp_path / "e.foo", code=1)
        assert done.stderr == f"Error: {tmp_path / 'e.foo'} is no picture that can be written (give a .png file)\n"
    (tmp_path / "file").touch()
    picture = tmp_path / "file" / "x.png"
    done = run_here("train", "evaluate", folders, "--fold", 2, "--workers", 1, "--picture", picture, code=1)
    assert "cannot be written" in done.stderr
    done = run_here("train", "evaluate", "x" * 300, "--workers", 1, "--picture", tmp_path / "x.png", code=1)
    assert "x… cannot be read: File name too long" in done.stderr


def test_only_official_folds_are_taken_as_held_out(folders, tmp_path, caplog):
    """Dealt ones may be others than those of the training; a run's manifest has those of the training."""
    from train.cli.evaluate import run

    torch.set_num_threads(1)
    checkpoint(tmp_path / "c.pt", "streaming-tiny", test_fold=2)
    data = shutil.copytree(folders, tmp_path / "sounds")
    found = run(data, ReadOptions(), model=tmp_path / "c.pt")
    assert (found["folds"], found["report"].clips) == ([], 6)
    assert "the folds of sounds were dealt here" in caplog.text
    read_manifest(data).save(tmp_path / "manifest.jsonl")
    caplog.clear()
    found = run(tmp_path / "manifest.jsonl", ReadOptions(), model=tmp_path / "c.pt")
    assert (found["folds"], found["report"].clips, found["learnt_from"]) == ([2], 3, 0)
    assert not caplog.text


def test_what_was_learnt_from_is_said(folders, tmp_path, caplog):
    """By the manifest that a run writes beside its checkpoint: also of copies, links and parts, by any name."""
    from train.cli.evaluate import run

    torch.set_num_threads(1)
    data, out = shutil.copytree(folders, tmp_path / "sounds"), tmp_path / "run"
    checkpoint(out / "c.pt", "streaming-tiny")
    checkpoint(tmp_path / "c.pt", "streaming-tiny")
    manifest = read_manifest(data, ReadOptions(n_folds=1))  # nothing is held out
    manifest.save(out / "manifest.jsonl")
    copy, other = shutil.copytree(data, tmp_path / "copy"), tmp_path / "other"
    first, *_ = manifest.clips
    for name, path in (("known", first.path), ("new", ROOT / "examples" / "demo.ogg")):
        (other / "siren").mkdir(parents=True, exist_ok=True)
        (other / "siren" / f"{name}{path.suffix}").symlink_to(path)
    spans = tmp_path / "spans.csv"
    spans.write_text(f"path,label,start,end\n{first.path},siren,0,0.2\n{ROOT / 'examples' / 'demo.ogg'},siren,1,2\n")
    for given, count, of in ((data, 6, 6), (out / "manifest.jsonl", 6, 6), (copy, 6, 6), (other, 1, 2), (spans, 1, 2)):
        caplog.clear()
        assert run(given, ReadOptions(n_folds=1), model=out / "c.pt")["learnt_from"] == count
        (line,) = caplog.messages
        assert line.startswith(f"the model has learnt from {count} of these {of} clips, and is less accurate on sounds")
    caplog.clear()
    assert (
        run(copy, ReadOptions(n_folds=2), model=tmp_path / "c.pt")["learnt_from"] is None
    )  # another name, and nothing beside
    assert not caplog.text
    assert run(data, ReadOptions(), model=tmp_path / "c.pt")["learnt_from"] is None
    assert "the folds of sounds were dealt here, and the model may have learnt from these clips" in caplog.text
    caplog.clear()
    manifest.save(tmp_path / "official.jsonl")
    assert run(tmp_path / "official.jsonl", ReadOptions(), model=tmp_path / "c.pt")["learnt_from"] == 6
    read_manifest(data).save(tmp_path / "official.jsonl")
    assert run(tmp_path / "official.jsonl", ReadOptions(), model=tmp_path / "c.pt", fold=(2,))["learnt_from"] == 0
    done = command(copy, "--n-folds", 1, "--model", out / "c.pt", "--json")
    assert json.loads(done.stdout)["learnt_from"] == 6
    assert done.stderr.count("\n") == 1
    assert command(copy, "--n-folds", 1, "--model", out / "c.pt").stdout.endswith("; learnt from 6 of the clips\n")


def test_reading_options_reach_the_data(folders):
    from train.cli.evaluate import run

    found = run(folders, ReadOptions(classes=("siren", "car_horn")), workers=1)
    assert found["report"].clips == 4
    assert found["robustness"] is None
