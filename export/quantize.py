"""fp32 ONNX → int8, static QDQ, per channel, in two forms: for processors, and for TensorRT and CUDA."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

F32 = NDArray[np.float32]

FEW_CHANNELS = 4  # of a convolution for which int8 gathers byte by byte: float32 is twice as fast there

# How the range of an activation is found in what the calibration windows give it.
RANGES = {
    "minmax": CalibrationMethod.MinMax,  # the least and the greatest value
    "entropy": CalibrationMethod.Entropy,  # the least information lost (Migacz 2017)
    "percentile": CalibrationMethod.Percentile,  # all but a hundred-thousandth of the values
}

# The head stays in float32: it is a thousandth of the work, and decides the probabilities. So do
# recurrent layers, of which onnxruntime has no static int8 kernel.
SCHEMES: dict[str, dict[str, Any]] = {
    # U8S8, for processors: what onnxruntime makes QLinear nodes of.
    "int8": {
        "op_types_to_quantize": ["Conv", "Add", "Relu", "MaxPool"],
        "activation_type": QuantType.QUInt8,
        # Seven-bit weights: without VNNI, x86 adds pairs of products in 16 bits, and eight-bit weights overflow
        # them. So every processor computes the same numbers.
        "reduce_range": True,
    },
    # S8S8, for TensorRT and CUDA: zero is zero. What a convolution reads is quantised, and not what it writes: so
    # TensorRT fuses it with the ReLU or the sum that follows. It refuses a bias of int32, and older versions of it
    # weights of int8: those are float32 with a pair of Q and DQ.
    "int8-s8s8": {
        "op_types_to_quantize": ["Conv"],
        "activation_type": QuantType.QInt8,
        "reduce_range": False,
        "extra_options": {
            "ActivationSymmetric": True,
            "WeightSymmetric": True,
            "QuantizeBias": False,
            "AddQDQPairToWeight": True,
            "OpTypesToExcludeOutputQuantization": ["Conv"],
        },
    },
}


class _Windows(CalibrationDataReader):
    """Whole windows of frames."""

    def __init__(self, windows: Sequence[F32]) -> None:
        self._windows = windows
        self._left: Iterator[F32] = iter(windows)

    def __len__(self) -> int:
        return len(self._windows)

    def set_range(self, start_index: int, end_index: int) -> None:
        """The windows that come next."""
        self._left = iter(self._windows[start_index:end_index])

    def get_next(self) -> dict[str, F32] | None:
        window = next(self._left, None)
        return None if window is None else {"frames": window[None]}


def quantize(
    model: onnx.ModelProto, windows: Sequence[F32], precision: str = "int8", ranges: str = "minmax"
) -> onnx.ModelProto:
    """``model`` in int8, one of :data:`SCHEMES`; the ranges of its activations, by one of :data:`RANGES`, are from
    calibration ``windows`` [channels, n_mels, window_frames].
    """
    scheme = SCHEMES[precision]
    # A window after the other: the histograms of entropy and percentile would keep all activations of all windows.
    options = {"CalibStridedMinMax": 1} | scheme.get("extra_options", {})
    with tempfile.TemporaryDirectory() as folder:
        fp32, prepared, int8 = (Path(folder) / name for name in ("fp32.onnx", "prepared.onnx", "int8.onnx"))
        onnx.save(model, fp32)
        quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
        stem = stem_of(onnx.load(prepared)) if precision == "int8" else []
        with _silence():
            quantize_static(
                prepared,
                int8,
                _Windows(windows),
                quant_format=QuantFormat.QDQ,
                nodes_to_exclude=stem,
                per_channel=True,
                weight_type=QuantType.QInt8,
                calibrate_method=RANGES[ranges],
                **(scheme | {"extra_options": options}),
            )
        return onnx.load(int8)


def stem_of(model: onnx.ModelProto) -> list[str]:
    """Names of the convolution of the model's input, where that has few channels, and of the ReLU after it."""
    weights = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[0] == "frames" and weights[node.input[1]][1] <= FEW_CHANNELS:
            relus = [n.name for n in model.graph.node if n.op_type == "Relu" and node.output[0] in n.input]
            return [node.name, *relus]
    return []


def float_convolutions(model: onnx.ModelProto) -> dict[str, str]:
    """The convolutions that onnxruntime still computes in float32 after its optimisation, and what each reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        options = ort.SessionOptions()
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        optimised = onnx.load(path)
    kinds = ("Conv", "FusedConv", "NhwcFusedConv")
    return {node.name: node.input[0] for node in optimised.graph.node if node.op_type in kinds}


def asymmetric_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions whose input or weights are not dequantised from int8 with zero at zero."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    sources = {node.output[0]: node for node in model.graph.node}

    def symmetric(name: str) -> bool:
        node = sources.get(name)
        if node is None or node.op_type != "DequantizeLinear":
            return False
        zero = onnx.numpy_helper.to_array(tensors[node.input[2]])
        return zero.dtype == np.int8 and not zero.any()

    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if not all(map(symmetric, node.input[:2]))]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """It prints its progress, and warns that the model was not pre-processed, after its own pre-processing."""
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(logging.NOTSET)
