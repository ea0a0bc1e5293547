"""Three convolutions with pooling and dropout: the CNN of many a tutorial, wide and without a trick."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import conv_bn_relu
from models.registry import register


@dataclass(frozen=True)
class ThreeBlockConfig:
    """Sizes of a :class:`ThreeBlockCnn`."""

    n_mels: int = 64  # mel bands, at least two to the power of the blocks
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound
    window_frames: int = 400  # frames of one decision
    widths: tuple[int, ...] = (32, 64, 128)  # channels of each block
    dropout: float = 0.3  # before the classifier; a third of it, of whole channels, after each block


@register("three-block", ThreeBlockConfig())
class ThreeBlockCnn(nn.Module):
    """Frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    column_stride = 0
    int8 = True

    def __init__(self, config: ThreeBlockConfig) -> None:
        super().__init__()
        least = 2 ** len(config.widths)  # each block halves
        for name in ("n_mels", "window_frames"):
            if (size := getattr(config, name)) < least:
                raise ValueError(f"{name} is {size}; allowed for {len(config.widths)} widths: at least {least}")
        self.config, self.window_frames = config, config.window_frames
        layers: list[nn.Module] = []
        for inputs, outputs in zip((config.channels, *config.widths), config.widths, strict=False):
            layers += [conv_bn_relu(inputs, outputs), nn.MaxPool2d(2), nn.Dropout2d(config.dropout / 3)]
        self.blocks = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(config.widths[-1], config.n_labels)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.dropout(self.blocks(frames).mean((2, 3))))
