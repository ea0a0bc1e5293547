"""Checkpoint → fp32 ONNX, as one graph that serves whole windows and hops."""

from __future__ import annotations

import io
import warnings

import onnx
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

OPSET = 17


class Streaming(nn.Module):
    """(frames [1, 1, n_mels, T], ring [1, C, N]) → (probs [1, K], ring [1, C, N]).

    The new columns push the oldest out of the ring; a whole window of frames pushes out all of them.
    """

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, temperature

    def forward(self, frames: Tensor, ring: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        joined = torch.cat([ring, self.model.columns(frames)], dim=-1)
        ring = joined[..., -self.model.n_columns :]
        return torch.softmax(self.model.head(ring) / self.temperature, dim=-1), ring


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place. ``module`` must be in evaluation mode."""
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, nn.Sequential):
        for index, (conv, norm) in enumerate(zip(list(module)[:-1], list(module)[1:], strict=True)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(conv, norm)
                module[index + 1] = nn.Identity()


def to_onnx(model: nn.Module, temperature: float) -> onnx.ModelProto:
    """The network of a checkpoint as a checked fp32 model; ``model`` is changed (its batch norms are folded)."""
    fold_batch_norm(model.eval())
    frames = torch.zeros(1, 1, model.config.n_mels, model.window_frames)
    ring = torch.zeros(1, model.config.column_width, model.n_columns)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The exporter over torch.export needs another package, and writes the same graph for this network.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            Streaming(model, temperature).eval(),
            (frames, ring),
            buffer,
            input_names=["frames", "ring"],
            output_names=["probs", "ring_out"],
            dynamic_axes={"frames": {3: "T"}},
            opset_version=OPSET,
            dynamo=False,
        )
    exported = onnx.load_from_string(buffer.getvalue())
    ring_out = exported.graph.output[1].type.tensor_type.shape.dim[2]
    ring_out.ClearField("dim_param")
    ring_out.dim_value = model.n_columns  # the tracer cannot know that N of (N + new) columns stay
    onnx.checker.check_model(exported, full_check=True)
    return exported
