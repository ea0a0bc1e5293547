"""Convolutions for what a sound is made of, a GRU for how it goes on (Çakır et al. 2017, section II)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import conv_bn_relu
from models.registry import register


@dataclass(frozen=True)
class CrnnConfig:
    """Sizes of a :class:`Crnn`. Tuples have one entry for each convolution."""

    n_mels: int = 64  # mel bands
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound
    window_frames: int = 400  # frames of one decision
    widths: tuple[int, ...] = (32, 64, 64, 64)  # channels; each convolution halves the mel axis
    time_strides: tuple[int, ...] = (2, 2, 2, 1)  # frames to one
    hidden: int = 64  # units of the GRU in each direction
    dropout: float = 0.3  # before the classifier


@register("crnn", CrnnConfig())
class Crnn(nn.Module):
    """Frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    column_stride = 0
    int8 = True  # the convolutions; onnxruntime has no int8 GRU

    def __init__(self, config: CrnnConfig) -> None:
        super().__init__()
        if len(config.widths) != len(config.time_strides):
            raise ValueError(
                f"crnn has {len(config.widths)} widths and {len(config.time_strides)} time_strides; give one of each "
                "for each convolution"
            )
        self.config, self.window_frames = config, config.window_frames
        layers, rows = [], config.n_mels
        inputs = (config.channels, *config.widths)
        for a, b, stride in zip(inputs, config.widths, config.time_strides, strict=False):
            layers.append(conv_bn_relu(a, b, stride=(2, stride)))
            rows = -(-rows // 2)
        self.convolutions = nn.Sequential(*layers)
        self.gru = nn.GRU(config.widths[-1] * rows, config.hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(4 * config.hidden, config.n_labels)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        steps = self.convolutions(frames).permute(0, 3, 1, 2).flatten(2)  # [B, T', C * M']
        states = self.gru(steps)[0]  # [B, T', 2 * hidden]
        return self.classifier(self.dropout(torch.cat([states.mean(1), states.amax(1)], dim=1)))
