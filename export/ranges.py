"""Which way to find the ranges of activations serves a network best, on clips that no range was found on."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.classifier import Classifier
from edge.config import ModelSpec
from export.contract import write
from export.graphs import graphs
from export.quantize import RANGES
from export.verify import Parity, file_probs, measure
from models.checkpoint import Checkpoint

F32 = NDArray[np.float32]


def compare_ranges(
    checkpoint: Checkpoint, precision: str, windows: Sequence[F32], others: Sequence[F32], spec: ModelSpec
) -> dict[str, Parity]:
    """How far ``precision`` is from fp32 on ``others`` with ranges from ``windows``, by each of :data:`RANGES`, the
    nearest in the mean first. Both are [channels, n_mels, window_frames].
    """
    with tempfile.TemporaryDirectory() as folder:

        def probs(kind: str, ranges: str) -> F32:
            path = Path(folder) / "model.onnx"
            graph = graphs(checkpoint, windows, [kind], {kind: ranges})[kind]
            write(graph, spec, path)
            return file_probs(Classifier(path, self_test=False), others)

        fp32 = probs("fp32", "")
        found = {name: measure(f"{precision}, {name}", fp32, probs(precision, name)) for name in RANGES}
    return dict(sorted(found.items(), key=lambda item: item[1].mean_difference))
