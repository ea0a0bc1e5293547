"""Layers that several architectures are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def conv_bn_relu(inputs: int, outputs: int, kernel: int = 3, stride: tuple[int, int] = (1, 1)) -> nn.Sequential:
    """[B, inputs, M, T] → [B, outputs, ⌈M / stride⌉, ⌈T / stride⌉]: padded along both axes."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class AttentionPool(nn.Module):
    """A weighted mean over places whose weights are learnt (Ilse et al. 2018, equations 7 and 8)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.score = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def weights(self, places: Tensor) -> Tensor:
        """[B, N, width] → [B, N], each row sums to 1."""
        return torch.softmax(self.score(places).squeeze(2), dim=1)

    def forward(self, places: Tensor) -> Tensor:
        """[B, N, width] → [B, width]."""
        return (self.weights(places).unsqueeze(1) @ places).squeeze(1)


def fold_batch_norm(module: nn.Module) -> None:
    """Fold each batch norm into the convolution before it, in place. ``module`` must be in evaluation mode."""
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, nn.Sequential):
        for index, (conv, norm) in enumerate(zip(list(module)[:-1], list(module)[1:], strict=True)):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                module[index] = fuse_conv_bn_eval(conv, norm)
                module[index + 1] = nn.Identity()
