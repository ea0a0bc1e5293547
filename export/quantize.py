"""fp32 ONNX → int8, static QDQ, per channel, U8 activations and S8 weights."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from edge.config import ModelSpec

F32 = NDArray[np.float32]

FEW_CHANNELS = 4  # of a convolution for which int8 gathers byte by byte: float32 is twice as fast there

# The ring and the head stay in float32: they are a thousandth of the work, and decide the probabilities. So do
# recurrent layers, of which onnxruntime has no static int8 kernel.
QUANTIZED = ["Conv", "Add", "Relu", "MaxPool"]


class _Windows(CalibrationDataReader):
    """Whole windows of frames, each with an empty ring where the model has one."""

    def __init__(self, windows: Iterable[F32], spec: ModelSpec) -> None:
        self._windows: Iterator[F32] = iter(windows)
        ring = np.zeros((1, spec.n_channels, spec.n_columns), np.float32)
        self._others = {"ring": ring} if spec.streams else {}

    def get_next(self) -> dict[str, F32] | None:
        window = next(self._windows, None)
        return None if window is None else {"frames": window[None], **self._others}


def quantize(model: onnx.ModelProto, windows: Iterable[F32], spec: ModelSpec) -> onnx.ModelProto:
    """``model`` in int8, its ranges from calibration ``windows`` [channels, n_mels, window_frames]."""
    with tempfile.TemporaryDirectory() as folder:
        fp32, prepared, int8 = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, fp32)
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        stem = stem_of(onnx.load(prepared))
        logging.disable(logging.WARNING)  # it warns that it was not pre-processed, after its own pre-processing
        try:
            quantize_static(
                prepared,
                int8,
                _Windows(windows, spec),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=QUANTIZED,
                nodes_to_exclude=stem,
                per_channel=True,
                # Seven-bit weights: without VNNI, x86 adds pairs of products in 16 bits, and eight-bit weights overflow
                # them. So every processor computes the same numbers.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
            )
        finally:
            logging.disable(logging.NOTSET)
        return onnx.load(int8)


def stem_of(model: onnx.ModelProto) -> list[str]:
    """Names of the convolution of the model's input, where that has few channels, and of the ReLU after it."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == "frames" and weights[node.input[1]][1] <= FEW_CHANNELS:
            relus = [n.name for n in model.graph.node if n.op_type == "Relu" and node.output[0] in n.input]
            return [node.name, *relus]
    return []


def float_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that onnxruntime still computes in float32 after its optimisation."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(path)
    return [node.name for node in optimised.graph.node if node.op_type in ("Conv", "FusedConv", "NhwcFusedConv")]
