"""The page of a run, its pictures, and what it says of a run that is not whole."""

import dataclasses
import itertools
import json
import re

import numpy as np
import pytest
import soundfile

from models import build
from models.checkpoint import Checkpoint, save_checkpoint
from tests.conftest import run_here
from train import figures
from train.config import TrainConfig
from train.manifest import Clip, Manifest
from train.predictions import read_predictions
from train.report import read_run, write_report

RATE = 16_000
LABELS = ("low", "high", "<script>alert(1)</script> $x_{")
PROBS = {  # clip: label, probabilities
    "right": (0, [0.8, 0.1, 0.1]),
    "unsure": (0, [0.3, 0.4, 0.3]),
    "worst": (1, [0.97, 0.02, 0.01]),
    "gone": (2, [0.1, 0.6, 0.3]),
}


def write_predictions(path, clips, labels=LABELS, multi_label=False):
    page = {"fold": [5], "labels": labels, "multi_label": multi_label, "clips": clips}
    path.write_text(json.dumps(page))
    return read_predictions(path)


@pytest.fixture
def run(tmp_path):
    """A run as ``fit`` leaves it, but for the checkpoint; one of its clips is gone since."""
    folder = tmp_path / "run"
    folder.mkdir()
    rng, clips, rows = np.random.default_rng(0), [], []
    for name, (label, probs) in PROBS.items():
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, 0.1 * rng.standard_normal(2 * RATE), RATE)
        clips.append(Clip(path, (LABELS[label],), 5))
        rows.append({"path": str(path), "start": 0.5, "end": 1.5, "labels": [LABELS[label]], "probs": probs})
    write_predictions(folder / "predictions.json", rows)
    Manifest("tones & co", LABELS, tuple(clips)).save(folder / "manifest.jsonl")
    (tmp_path / "gone.wav").unlink()
    history = [{"epoch": i, "loss": 3.0 / i, "seconds": 2.0, "data_seconds": 0.5} for i in range(1, 7)]
    history[2] |= {"accuracy": 0.75, "window_accuracy": 0.6, "validation_loss": 2.5}
    history[5] |= {"accuracy": 0.5, "window_accuracy": 0.5, "validation_loss": 2.0}
    (folder / "history.jsonl").write_text("".join(json.dumps(record) + "\n" for record in history))
    config = dataclasses.asdict(TrainConfig()) | {"data": "tones & co", "digest": "0"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def page_of(run):
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def pictures(page):
    return re.findall(r'<img src="(.{30})', page)


# The page


def test_the_page_has_everything_and_needs_nothing(run):
    page = page_of(run)
    assert set(pictures(page)) == {"data:image/png;base64,iVBORw0K"}
    assert len(pictures(page)) == 5  # confusion, reliability, mistakes, loss, accuracy
    assert not re.findall(r"(?:src|href)=\"(?!data:)", page)
    assert "25.00 %" in page  # one clip of four
    assert "Best validation accuracy 75.00 % in epoch 3" in page
    assert "6 epochs, 2.0 s an epoch (median)" in page
    assert "25 % were spent on data" in page
    assert "<td>augment.mix</td><td>0.8</td>" in page
    assert "<td>data</td><td>tones &amp; co</td>" in page
    assert "gone.wav does not exist" in page
    assert [path.name for path in run.iterdir() if path.suffix == ".part"] == []


def test_labels_and_names_are_text(run):
    page = page_of(run)
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; $x_{" in page


@pytest.mark.parametrize("name", ["config.json", "history.jsonl", "predictions.json", "manifest.jsonl"])
def test_what_is_missing_or_damaged_is_said(run, name):
    assert read_run(run).notes == []
    (run / name).write_text('{"damaged": [\n')
    (note,) = read_run(run).notes
    assert str(run / name) in note
    (run / name).unlink()
    (note,) = read_run(run).notes
    assert note.startswith(f"{name} is not there")


@pytest.mark.parametrize("left", ["config.json", "history.jsonl", "predictions.json", "manifest.jsonl"])
def test_one_file_of_a_run_makes_a_page(run, left):
    for path in run.iterdir():
        if path.name != left:
            path.unlink()
    page = page_of(run)
    assert page.count("is not there") == 3
    assert page.rstrip().endswith("</html>")


def test_a_run_that_goes_on_ends_in_half_a_line(run):
    with (run / "history.jsonl").open("a") as file:
        file.write('{"epoch": 7, "lo')
    found = read_run(run)
    assert (len(found.history), found.notes) == (6, [])


def test_what_is_no_run_is_named(tmp_path, run):
    with pytest.raises(ValueError, match=f"{tmp_path} holds no run, none of config.json"):
        write_report(tmp_path)
    done = run_here("train", "report", tmp_path / "nothing", code=1)
    assert done.stderr.startswith(f"Error: {tmp_path / 'nothing'} holds no run")


@pytest.mark.parametrize(("architecture", "maps"), [("attention", 2), ("streaming", 0)])
def test_attention_is_drawn_where_there_is_one(run, architecture, maps):
    sizes = {"widths": (8, 8), "last_width": 8, "column_width": 8, "n_columns": 5}
    sizes = sizes if architecture == "streaming" else {"widths": (4, 4), "window_frames": 150}
    model = build(architecture, **sizes, n_labels=3)
    config = dataclasses.asdict(model.config)
    frontend = TrainConfig().frontend
    folds = {"train_folds": [1, 2], "test_fold": 3}
    origin = {"dataset": "tones & co", "seed": 0, "epochs": 1, "git_revision": "none"} | folds
    checkpoint = Checkpoint(architecture, config, frontend, LABELS, origin, model.state_dict())
    save_checkpoint(run / "checkpoint.pt", checkpoint)
    page = page_of(run)
    assert page.count('alt="attention') == maps  # one for each class whose clip can be read
    assert ("Where the network looks" in page) == bool(maps)


# Mistakes


def test_the_worst_mistake_is_the_most_confident(run):
    predictions = read_predictions(run / "predictions.json")
    mistakes = predictions.mistakes(10)
    assert [(m.path.stem, m.recognised, m.probability) for m in mistakes] == [
        ("worst", "low", 0.97), ("gone", "high", 0.6), ("unsure", "high", 0.4)
    ]  # fmt: skip
    assert mistakes[0].truth == ("high",)
    assert (mistakes[0].start, mistakes[0].end) == (0.5, 1.5)
    assert len(predictions.mistakes(1)) == 1
    assert list(predictions.targets) == [0, 0, 1, 2]


def test_mistakes_of_clips_with_several_labels(tmp_path):
    clips = [
        {"path": "a", "labels": ["low", "high"], "probs": [0.9, 0.8, 0.7]},
        {"path": "b", "labels": [], "probs": [0.2, 0.5, 0.1]},
        {"path": "c", "labels": ["low"], "probs": [0.1, 0.49, 0.1]},  # missed, but nothing false
    ]
    predictions = write_predictions(tmp_path / "p.json", clips, multi_label=True)
    assert [(str(m.path), m.recognised) for m in predictions.mistakes(10)] == [("a", LABELS[2]), ("b", "high")]
    assert predictions.targets.tolist() == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "p.json").rename(tmp_path / "predictions.json")
    assert len(pictures(page_of(tmp_path))) == 2  # no confusion matrix


@pytest.mark.parametrize(
    ("clips", "message"),
    [
        ([{"path": "a", "labels": ["low"], "probs": [1.0]}], "do not belong together"),
        ([{"path": "a", "labels": ["other"], "probs": [1, 0, 0]}], "do not belong together"),
        ([{"path": "a", "labels": ["low"]}], "holds no predictions: KeyError"),
        ([], "do not belong together"),
    ],
)
def test_predictions_that_are_none(tmp_path, clips, message):
    with pytest.raises(ValueError, match=message):
        write_predictions(tmp_path / "predictions.json", clips)


# Figures


def check_png(figure):
    assert figures.png(figure).startswith(b"\x89PNG")


def test_curves_are_of_the_epochs_that_have_a_value():
    history = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0, "accuracy": 0.5, "validation_loss": 1.5}]
    (ax,) = figures.loss_figure(history).axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[1, 2], [2, 1]], [[2, 1.5]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    (ax,) = figures.accuracy_figure(history).axes
    assert [line.get_xydata().tolist() for line in ax.lines] == [[[2, 0.5]]]
    check_png(figures.accuracy_figure([]))


@pytest.mark.parametrize("n", [2, 3, 50])
def test_a_confusion_matrix_is_readable(n):
    labels = [f"class {i}" for i in range(n)]
    confusion = np.diag(np.arange(n))
    confusion[1, 0] = 3
    figure = figures.confusion_figure(confusion, labels)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_xticklabels()] == labels == [t.get_text() for t in ax.get_yticklabels()]
    assert ax.images[0].get_array()[1].tolist()[:2] == [75, 25]  # of the row, %
    assert ax.images[0].get_array()[0].sum() == 0  # a class without clips
    cells = {t.get_position(): t.get_text() for t in ax.texts}
    assert cells.get((0, 1)) == ("3" if n <= 16 else None)
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in ax.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_reliability_is_of_the_bins():
    figure = figures.reliability_figure([(0.3, 0.5, 4), (0.9, 0.6, 10)])
    assert figure.axes[0].lines[1].get_xydata().tolist() == [[30, 50], [90, 60]]
    assert [bar.get_height() for bar in figure.axes[1].patches] == [4, 10]
    check_png(figures.reliability_figure([]))


def test_any_label_can_be_drawn():
    labels = ["$x_{", "$a$", "a\nb\tc", "\\frac{", "犬", "\udcff", "x" * 500]
    check_png(figures.confusion_figure(np.eye(7, dtype=int), labels))
    check_png(figures.mistakes_figure([(label, np.zeros((64, 9), np.float32)) for label in labels]))
    assert figures.plain("$a$") == r"\$a\$"
    assert figures.plain("a\nb") == "a?b"
    assert figures.plain("x" * 500) == "x" * (figures.LONGEST - 1) + "…"


def test_time_is_in_seconds_over_every_kind_of_frames():
    for frames in (np.random.default_rng(0).random((64, 200)), np.zeros((2, 64, 200)), np.ones((1, 1, 200))):
        figure = figures.log_mel_figure(frames.astype(np.float32), "title", 0.01)
        low, high = figure.axes[0].get_xlim()
        assert low <= 0 < 1.9 < high < 2.2
        check_png(figure)


@pytest.mark.parametrize("shape", [(25,), (8, 25)])
def test_attention_lies_over_its_place(shape):
    attention = np.zeros(shape, np.float32)
    attention[..., 10] = 2.0
    figure = figures.attention_figure(np.zeros((64, 200), np.float32), attention, "title", 0.01)
    below, above = figure.axes[0].images
    assert below.get_extent() == above.get_extent() == [0, 2, 0, 64]
    assert above.get_array().max(axis=0).argmax() == 10
    assert above.get_alpha().max(axis=0).argmax() == 10
    assert above.get_alpha()[..., 0].max() == 0
    check_png(figure)


def test_mistakes_that_cannot_be_read_keep_their_place():
    figure = figures.mistakes_figure([("a", np.zeros((64, 50), np.float32)), ("b\n$", None)])
    assert [ax.get_title() for ax in figure.axes[:2]] == ["a", "b\n\\$"]
    assert [t.get_text() for t in figure.axes[1].texts] == ["cannot be read"]
    check_png(figure)


def test_pictures_are_written_whole(tmp_path):
    figures.save_png(figures.loss_figure([{"epoch": 1, "loss": 1.0}]), tmp_path / "loss.png")
    assert [path.name for path in tmp_path.iterdir()] == ["loss.png"]
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
