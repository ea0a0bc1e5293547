"""A network that rounds as its int8 file will, to be fine-tuned with the rounding (Jacob 2018, section 3).

Weights are rounded per channel to seven bits, symmetrically; activations per tensor to eight, over the range of the
batch at hand. So does ``export``. That batch norms stay apart here changes nothing: to fold one in scales a channel's
weights and their step alike. The gradient passes as if nothing had been rounded. Nothing is added to the state: a
checkpoint is as any other.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WEIGHTS = 64  # steps on either side of zero; see reduce_range in export
ACTIVATIONS = 255  # steps from the least to the greatest value
NORMS = nn.modules.batchnorm._BatchNorm


def quantised(model: nn.Module) -> nn.Module:
    """``model``, changed in place, with every convolution but the first and every activation rounded.

    Raises ValueError for a network that export leaves in float32.
    """
    if not model.int8:
        raise ValueError(f"quantised is true; export leaves a {type(model).__name__} in float32: leave it out")
    _stem, *convolutions = (module for module in model.modules() if isinstance(module, nn.Conv2d))
    for convolution in convolutions:
        convolution.__class__ = RoundedConv2d  # keeps its name, its weights, and where it stands
    for module in model.modules():
        # What the next layer reads: after a ReLU, or after a batch norm whose output is added to another.
        ends_in_norm = isinstance(module, nn.Sequential) and len(module) > 0 and isinstance(module[-1], NORMS)
        if isinstance(module, nn.ReLU) or ends_in_norm:
            module.register_forward_hook(_round_output)
    return model


def hold_norms(model: nn.Module) -> None:
    """Batch norms keep their statistics in training: those are what export folds into the weights."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()


@torch.no_grad()
def settle(model: nn.Module) -> None:
    """Weights become what they are rounded to, so that the fp32 file computes with the weights of the int8 file."""
    for module in model.modules():
        if isinstance(module, RoundedConv2d):
            module.weight.copy_(round_weights(module.weight))


class RoundedConv2d(nn.Conv2d):
    """A convolution by rounded weights."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """[B, inputs, M, T] → [B, outputs, M', T']."""
        return self._conv_forward(input, round_weights(self.weight), self.bias)


def round_weights(weights: Tensor) -> Tensor:
    """[outputs, ...] → the same shape, each output in multiples of a WEIGHTS-th of its largest weight."""
    largest = weights.detach().abs().flatten(1).amax(1)
    scale = (largest / WEIGHTS).clamp(min=torch.finfo(weights.dtype).tiny)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weights, scale, zero, 0, -WEIGHTS, WEIGHTS)


def round_activations(values: Tensor) -> Tensor:
    """Any shape → the same, in ACTIVATIONS steps from the least (at most zero) to the greatest (at least zero)."""
    low, high = values.detach().aminmax()
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = ((high - low) / ACTIVATIONS).clamp(min=torch.finfo(values.dtype).tiny)
    zero = torch.round(-low / scale).to(torch.int32)
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, ACTIVATIONS)


def _round_output(module: nn.Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
    return round_activations(output)
