"""What a benchmark has kept is shown as what it is."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from benchmarks import among, finetune, recipes
from benchmarks.architectures import COLUMNS, table, trained
from edge.bulk import FileResult
from edge.config import FrontendConfig
from models import build
from models.checkpoint import Checkpoint, save_checkpoint
from train.clip import Clip
from train.evaluate import Heard, evaluate
from train.manifest import Manifest, ManifestError


def test_a_row_is_kept_for_the_same_training_alone(tmp_path):
    manifest = Manifest("sounds", ("a", "b"), (Clip(tmp_path / "1.wav", ("a",), 1),))
    row = {"accuracy": 0.5, "revision": "old", "epochs": 3, "digest": manifest.digest()}
    (tmp_path / "row.json").write_text(json.dumps(row))
    assert trained("streaming", 3, manifest, tmp_path) == row
    with pytest.raises(ValueError, match="was trained on other clips, or with other --epochs; give another --out"):
        trained("streaming", 4, manifest, tmp_path)
    with pytest.raises(ValueError, match="was trained on other clips"):
        trained("streaming", 3, Manifest("sounds", ("a", "c"), manifest.clips), tmp_path)


def test_a_row_has_its_own_revision():
    numbers = ("parameters", "macs", "int8_bytes", "fp32_bytes", "accuracy", "window_accuracy")
    times = ("window_int8", "window_fp32", "hop_int8", "hop_fp32")
    row = dict.fromkeys((*numbers, *times), 1.0) | {"note": "", "epochs": 3, "revision": "old"}
    lines = table({"machine": {"cpu": "x", "cores": 1, "onnxruntime": "1"}, "rows": {"crnn": row}}).splitlines()
    assert lines[-1].endswith("| 3 | old |")
    assert lines[-1].count("|") == lines[2].count("|") == len(COLUMNS) + 2


def test_only_the_classes_that_are_asked_for_compete(tmp_path, monkeypatch):
    """Both clips are taken for "b" by the model, which is none of DATA's classes; and the second has two windows."""
    clips = (
        Clip(tmp_path / "1.wav", ("a",), 1),
        Clip(tmp_path / "2.wav", ("c",), 1),
        Clip(tmp_path / "3.wav", ("a",), 2),
    )
    windows = [np.float32([[0.2, 0.7, 0.1]]), np.float32([[0.2, 0.7, 0.1], [0.0, 0.6, 0.4]])]

    def hear(model, clips, strict):
        results = [FileResult(clip.path, w.mean(0), w) for clip, w in zip(clips, windows, strict=True)]
        return Heard(SimpleNamespace(labels=("a", "b", "c")), clips, np.array([[1, 0, 0], [0, 0, 1]]), results)

    monkeypatch.setattr(among, "hear", hear)
    row = among.row(Manifest("sounds", ("a", "c"), clips), tmp_path / "fold.int8.onnx", 1)
    assert row == {"fold": 1, "accuracy": 1.0, "window_accuracy": pytest.approx(2 / 3), "clips": 2}
    with pytest.raises(ManifestError, match=r"has no fold-N/fold\.int8\.onnx; give the --out of train crossval"):
        among.folds_of(tmp_path)


def test_mistakes_are_one_line_before_anything_is_heard(tmp_path, monkeypatch):
    monkeypatch.setattr(among, "read_manifest", lambda *_: pytest.fail("read"))
    place = tmp_path / "none" / "x.json"
    done = CliRunner().invoke(among.main, [str(tmp_path), str(tmp_path), "--json", str(place)])
    assert done.exit_code == 2
    assert f"Error: --json {place} cannot be written: No such file or directory; name another file" in done.stderr
    with pytest.raises(SystemExit, match=r"Error: .*none/fsdd\.csv"):
        finetune.main([str(tmp_path / "none")])


@pytest.fixture
def noise(tmp_path):
    """A data set of two classes, and a run on its folds 1 to 3 whose network learnt nothing."""
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(5):
            soundfile.write(tmp_path / "data" / label / f"{i}.wav", rng.uniform(-0.3, 0.3, 40_000), 16_000)
    sizes = {"widths": (8, 8), "last_width": 8, "column_width": 8, "n_columns": 21, "n_labels": 2}
    origin = {"dataset": "data", "train_folds": [1, 2, 3], "test_fold": 5, "seed": 0, "epochs": 1, "git_revision": "x"}
    state = build("streaming", **sizes).state_dict()
    checkpoint = Checkpoint("streaming", sizes, FrontendConfig(), ("a", "b"), origin, state)
    save_checkpoint(tmp_path / "run" / "checkpoint.pt", checkpoint)
    config = {"train_folds": [1, 2, 3], "validation_folds": [4]}
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    return tmp_path


def table_of(*arguments, code=0):
    done = CliRunner().invoke(recipes.main, [*map(str, arguments)])
    assert done.exit_code == code, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def test_a_run_has_a_row_among_recipes(noise, monkeypatch):
    monkeypatch.setattr(recipes, "ROUNDS", 2)
    monkeypatch.setattr(recipes, "evaluate", partial(evaluate, workers=1))  # another process would take seconds
    torch.set_num_threads(1)
    lines = table_of(noise / "data", noise / "run").stdout.splitlines()
    assert lines[0].count("|") == lines[2].count("|") == 10
    assert lines[2].startswith("| run | ")


def test_runs_that_have_no_row_are_one_line(noise):
    (noise / "whole").mkdir()
    (noise / "whole" / "config.json").write_text(json.dumps({"train_folds": [1, 2, 3, 4], "validation_folds": []}))
    (noise / "empty").mkdir()
    for data, run, message in (
        ("data", "whole", "whole has no validation fold to be measured on; train it with --validation-fold"),
        ("data", "empty", "config.json"),
        ("none", "run", "none is not a folder, nor a file"),
    ):
        done = table_of(noise / data, noise / run, code=1)
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1
