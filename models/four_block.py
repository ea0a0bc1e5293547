"""Four strided convolutions over stereo mel spectrograms: the smallest of the plain CNNs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.layers import conv_bn_relu
from models.registry import register


@dataclass(frozen=True)
class FourBlockConfig:
    """Sizes of a :class:`FourBlockCnn`."""

    n_mels: int = 64  # mel bands
    n_labels: int = 50  # classes
    channels: int = 2  # of the sound
    window_frames: int = 344  # frames of one decision
    widths: tuple[int, ...] = (8, 16, 32, 64)  # channels of each block; the first has a 5×5 kernel, the others 3×3


@register("four-block", FourBlockConfig())
class FourBlockCnn(nn.Module):
    """Frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    column_stride = 0
    int8 = True

    def __init__(self, config: FourBlockConfig) -> None:
        super().__init__()
        self.config, self.window_frames = config, config.window_frames
        inputs = (config.channels, *config.widths)
        self.blocks = nn.Sequential(
            *(
                conv_bn_relu(a, b, 5 if i == 0 else 3, (2, 2))
                for i, (a, b) in enumerate(zip(inputs, config.widths, strict=False))
            )
        )
        self.classifier = nn.Linear(config.widths[-1], config.n_labels)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        return self.classifier(self.blocks(frames).mean((2, 3)))
