"""Checkpoint → fp32 ONNX: a streaming network as one graph that serves whole windows and hops."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import Tensor, nn

from models.layers import fold_batch_norm

OPSET = 17


class Streaming(nn.Module):
    """(frames [1, channels, n_mels, T], ring [1, C, N]) → (probs [1, K], ring [1, C, N]).

    The new columns push the oldest out of the ring; a whole window of frames pushes out all of them.
    """

    def __init__(self, model: nn.Module, temperature: float, scores: str) -> None:
        super().__init__()
        self.model, self.temperature, self.scores = model, temperature, scores

    def forward(self, frames: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        joined = torch.cat([ring, self.model.columns(frames)], dim=-1)
        ring = joined[..., -self.model.n_columns :]
        return probabilities(self.model.head(ring), self.temperature, self.scores), ring


class Whole(nn.Module):
    """frames [1, channels, n_mels, window_frames] → probs [1, K], of a network that does not stream."""

    def __init__(self, model: nn.Module, temperature: float, scores: str) -> None:
        super().__init__()
        self.model, self.temperature, self.scores = model, temperature, scores

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        return probabilities(self.model(frames), self.temperature, self.scores)


def probabilities(logits: Tensor, temperature: float, scores: str) -> Tensor:
    """Logits [B, n_labels] → probabilities: "softmax" of one class at a time, "sigmoid" of each for itself."""
    logits = logits / temperature
    return torch.sigmoid(logits) if scores == "sigmoid" else torch.softmax(logits, dim=-1)


def to_onnx(model: nn.Module, temperature: float, scores: str = "softmax") -> onnx.ModelProto:
    """The network of a checkpoint as a checked fp32 model; ``model`` is changed (its batch norms are folded)."""
    fold_batch_norm(model.eval())
    config = model.config
    frames = torch.zeros(1, config.channels, config.n_mels, model.window_frames)
    if not model.column_stride:
        return _trace(Whole(model, temperature, scores), {"frames": frames}, ["probs"], {})
    ring = torch.zeros(1, config.column_width, model.n_columns)
    inputs, outputs = {"frames": frames, "ring": ring}, ["probs", "ring_out"]
    exported = _trace(Streaming(model, temperature, scores), inputs, outputs, {"frames": {3: "T"}})
    ring_out = exported.graph.output[1].type.tensor_type.shape.dim[2]
    ring_out.ClearField("dim_param")
    ring_out.dim_value = model.n_columns  # the tracer cannot know that N of (N + new) columns stay
    onnx.checker.check_model(exported, full_check=True)
    return exported


def _trace(
    network: nn.Module, inputs: dict[str, Tensor], outputs: list[str], dynamic: dict[str, dict[int, str]]
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
            tuple(inputs.values()),
            buffer,
            input_names=list(inputs),
            output_names=outputs,
            dynamic_axes=dynamic,
            opset_version=OPSET,
            dynamo=False,
        )
    exported = onnx.load_from_string(buffer.getvalue())
    onnx.checker.check_model(exported, full_check=True)
    return exported
