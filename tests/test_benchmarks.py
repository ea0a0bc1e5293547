"""What a benchmark has kept is shown as what it is."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import among
from benchmarks.architectures import COLUMNS, table, trained
from edge.bulk import FileResult
from train.clip import Clip
from train.evaluate import Heard
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
