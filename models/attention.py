"""A CNN that says where it listened: its decision is a weighted mean over places of the spectrogram."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import AttentionPool, conv_bn_relu
from models.registry import register


@dataclass(frozen=True)
class AttentionCnnConfig:
    """Sizes of an :class:`AttentionCnn`."""

    n_mels: int = 64  # mel bands
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound
    window_frames: int = 400  # frames of one decision
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each block, each half as large along mel and time
    hidden: int = 64  # units that weigh a place
    dropout: float = 0.2  # before the classifier


@register("attention", AttentionCnnConfig())
class AttentionCnn(nn.Module):
    """Frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    column_stride = 0
    int8 = True

    def __init__(self, config: AttentionCnnConfig) -> None:
        super().__init__()
        self.config, self.window_frames = config, config.window_frames
        layers: list[nn.Module] = []
        for inputs, outputs in zip((config.channels, *config.widths), config.widths, strict=False):
            layers += [conv_bn_relu(inputs, outputs, stride=(2, 2)), conv_bn_relu(outputs, outputs)]
        self.trunk = nn.Sequential(*layers)
        self.pool = AttentionPool(config.widths[-1], config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.widths[-1], config.n_labels)

    def attention(self, frames: Tensor) -> Tensor:
        """The weight of each place, [B, channels, n_mels, T] → [B, ⌈n_mels / 8⌉, ⌈T / 8⌉]; a map sums to 1."""
        places = self.trunk(frames)  # [B, C, M, T']
        return self.pool.weights(places.flatten(2).transpose(1, 2)).unflatten(1, places.shape[2:])

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        places = self.trunk(frames).flatten(2).transpose(1, 2)  # [B, M * T', C]
        return self.classifier(self.dropout(self.pool(places)))
