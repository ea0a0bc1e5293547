"""What one pass of an ONNX graph costs, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from edge.errors import ContractError

Shape = tuple[int, ...]
Count = Callable[[list[Shape], Shape], int]


def _convolution(weights: int) -> Count:
    return lambda inputs, out: int(np.prod(out)) * int(np.prod(inputs[weights][1:]))


def _product(first: int = 0) -> Count:
    return lambda inputs, out: int(np.prod(out)) * inputs[first][-1]


def _recurrent(inputs: list[Shape], out: Shape) -> int:
    steps, batch = inputs[0][:2]
    return steps * batch * int(np.prod(inputs[1]) + np.prod(inputs[2]))


COUNTS: dict[str, Count] = {  # from the shapes of a node's inputs and first output
    "Conv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": lambda inputs, _: int(np.prod(inputs[0])) * int(np.prod(inputs[1][1:])),
    "MatMul": _product(),
    "MatMulInteger": _product(),
    "QLinearMatMul": _product(),
    "Gemm": lambda inputs, out: int(np.prod(inputs[0])) * out[1],
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
# Also of ONNX's own, with products that are not seen from outside.
UNCOUNTED = {"Attention", "DeformConv", "Einsum", "If", "Loop", "Scan"}


def count_macs(model: onnx.ModelProto, feed: Mapping[str, NDArray[np.float32]]) -> int:
    """Multiply-accumulates of the convolutions, matrix products and recurrent layers of one pass over ``feed``, a
    float32 array for each input; 0 for a graph with operators in which they cannot be counted.
    Raises ContractError where onnxruntime does not run it.
    """
    if any(node.domain not in ("", "ai.onnx") or node.op_type in UNCOUNTED for node in model.graph.node):
        return 0
    if not (counted := [node for node in model.graph.node if node.op_type in COUNTS]):
        return 0
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    shapes |= {name: array.shape for name, array in feed.items()}
    names = {name for node in counted for name in (*node.input, node.output[0]) if name}
    shapes |= _shapes(model, sorted(names - shapes.keys()), feed)
    return sum(
        COUNTS[n.op_type]([shapes.get(name, ()) for name in n.input], shapes.get(n.output[0], ())) for n in counted
    )


def _shapes(
    model: onnx.ModelProto, names: list[str], feed: Mapping[str, NDArray[np.float32]]
) -> dict[str, tuple[int, ...]]:
    """The shapes that tensors of ``model`` have in a run: what is dynamic in the graph is known there."""
    return {name: value.shape for name, value in zip(names, tensors(model, names, feed), strict=True)}


def tensors(
    model: onnx.ModelProto, names: list[str], feed: Mapping[str, NDArray[np.float32]]
) -> list[NDArray[np.generic]]:
    """The tensors ``names`` of a run of ``model``, whatever its outputs are. Raises ContractError."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        # The processor has nothing to fall back to; onnxruntime would try, and print that to stdout.
        session = ort.InferenceSession(
            shown.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        found: list[NDArray[np.generic]] = session.run(names, dict(feed))
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        why = " ".join(str(error).split())
        raise ContractError(
            f"onnxruntime does not run it: {why:.300}",
            remedy="check window_frames and layout, or export it with other operators",
        ) from None
    return found
