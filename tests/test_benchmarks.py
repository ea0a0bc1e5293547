"""What a benchmark has kept is shown as what it is."""

import json

import pytest

from benchmarks.architectures import COLUMNS, table, trained
from train.clip import Clip
from train.manifest import Manifest


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
