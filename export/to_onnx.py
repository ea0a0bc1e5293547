"""Checkpoint → fp32 ONNX of whole windows, which ends in logits.

:func:`decided` puts on what makes a decision of them, and :mod:`export.caches` what makes hops of a streaming network:
both after the quantisation, which need not know of them.
"""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import Tensor, nn

from models.layers import fold_batch_norm

OPSET = 17


class Streaming(nn.Module):
    """frames [1, channels, n_mels, T] → (logits [1, K], columns [1, C, N])."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        columns = self.model.columns(frames)
        return self.model.head(columns), columns


def decided(model: onnx.ModelProto, temperature: float, scores: str) -> onnx.ModelProto:
    """A copy of ``model`` whose output is no longer ``logits`` but ``probs`` [1, K] and ``energy`` [1]; see
    :class:`edge.config.Unknown`. Without such an output it stays as it is.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph, make, floats = copy.graph, onnx.helper.make_node, onnx.TensorProto.FLOAT
    logits = next((output for output in graph.output if output.name == "logits"), None)
    if logits is None:
        return copy
    shape = [dim.dim_value for dim in logits.type.tensor_type.shape.dim]
    graph.initializer.append(onnx.helper.make_tensor("temperature", floats, [], [temperature]))
    graph.node.append(make("Div", ["logits", "temperature"], ["logits_calibrated"], "calibrate"))
    if scores == "sigmoid":
        graph.initializer.append(onnx.helper.make_tensor("label_axis", onnx.TensorProto.INT64, [1], [1]))
        graph.node.append(make("Sigmoid", ["logits_calibrated"], ["probs"], "scores"))
        graph.node.append(make("Softplus", ["logits"], ["energies"], "energies"))
        graph.node.append(make("ReduceSum", ["energies", "label_axis"], ["energy"], "energy", keepdims=0))
    else:
        graph.node.append(make("Softmax", ["logits_calibrated"], ["probs"], "scores", axis=1))
        graph.node.append(make("ReduceLogSumExp", ["logits"], ["energy"], "energy", axes=[1], keepdims=0))
    others = [output for output in graph.output if output.name != "logits"]
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info("probs", floats, shape))
    graph.output.append(onnx.helper.make_tensor_value_info("energy", floats, shape[:1]))
    graph.output.extend(others)
    onnx.checker.check_model(copy, full_check=True)
    return copy


def probabilities(logits: Tensor, temperature: float, scores: str) -> Tensor:
    """Logits [B, n_labels] → probabilities: "softmax" of one class at a time, "sigmoid" of each for itself."""
    logits = logits / temperature
    return torch.sigmoid(logits) if scores == "sigmoid" else torch.softmax(logits, dim=-1)


def to_onnx(model: nn.Module) -> onnx.ModelProto:
    """The network of a checkpoint as a checked fp32 model that ends in ``logits`` [1, K], and tells the ``columns``
    [1, C, N] of one that streams; ``model`` is changed (its batch norms are folded).
    """
    fold_batch_norm(model.eval())
    config = model.config
    frames = torch.zeros(1, config.channels, config.n_mels, model.window_frames)
    if not model.column_stride:
        return _trace(model, frames, ["logits"], {})
    return _trace(Streaming(model), frames, ["logits", "columns"], {"frames": {3: "T"}, "columns": {2: "N"}})


def _trace(
    network: nn.Module, frames: Tensor, outputs: list[str], dynamic: dict[str, dict[int, str]]
) -> onnx.ModelProto:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter over torch.export needs another package, and writes the same graph for these networks.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Checks of shapes, which are constants here.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        # Recurrent layers must keep their batch size, which is 1.
        warnings.filterwarnings("ignore", "Exporting a model to ONNX with a batch_size", UserWarning)
        torch.onnx.export(
            network.eval(),
            (frames,),
            buffer,
            input_names=["frames"],
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    exported = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(exported, full_check=True)
    return exported
