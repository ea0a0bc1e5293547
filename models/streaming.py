"""The streaming CNN: a trunk without padding along time, whose columns a light head reads.

The trunk turns frames into columns. A column depends on ``receptive_field`` frames and nothing else, and columns are
``column_stride`` frames apart, so a listener computes each column once, and keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from models.registry import register


@dataclass(frozen=True)
class StreamingCnnConfig:
    """Sizes of a :class:`StreamingCnn`. Tuples have one entry for each stage."""

    n_mels: int = 64  # mel bands
    n_labels: int = 50  # classes
    channels: int = 1  # of the sound
    n_columns: int = 40  # columns of one decision
    stem_kernel: tuple[int, int] = (5, 4)  # mel bands, frames
    stem_stride: tuple[int, int] = (2, 2)
    stem2: tuple[int, int, int, int] = (3, 4, 4, 2)  # a second stem convolution: kernel, stride; zeros for none
    widths: tuple[int, ...] = (48, 96)  # channels; the first also of the stem
    blocks: tuple[int, ...] = field(default=(1, 1), metadata={"least": 0})  # residual pairs
    strides: tuple[int, ...] = (1, 2)  # along mel and time, of the convolution that enters the stage; 1: none enters
    last_width: int = 128  # channels of the convolution over all that is left of the mel axis
    column_width: int = 288  # values in one column
    dropout: float = 0.2  # before the classifier

    def __post_init__(self) -> None:
        if not len(self.widths) == len(self.blocks) == len(self.strides):
            counts = f"{len(self.widths)}, {len(self.blocks)} and {len(self.strides)}"
            raise ValueError(f"widths, blocks and strides have {counts} entries; give one of each for each stage")
        if any(self.stem2) and self.widths[0] < 2:
            raise ValueError(
                f"widths begins with {self.widths[0]}; allowed: 2 or more, of which stem2 has half before it"
            )


class ConvBnReLU(nn.Sequential):
    """Convolution, batch norm and ReLU; padded along mel so that no band is lost, never along time."""

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1), *, pad: bool = True
    ) -> None:
        padding = ((kernel[0] - stride[0] + 1) // 2 if pad else 0, 0)
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )


class ResidualPair(nn.Module):
    """Two 3×3 convolutions and an identity that is cut to the frames that they leave."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvBnReLU(width, width, (3, 3))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=(1, 0), bias=False), nn.BatchNorm2d(width))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, M, T] → [B, C, M, T - 4]."""
        return self.relu(self.second(self.first(x)) + x[..., 2:-2])


@register("streaming", StreamingCnnConfig())
@register("streaming-tiny", StreamingCnnConfig(widths=(24, 48), last_width=64, column_width=128))
@register("streaming-wide", StreamingCnnConfig(widths=(72, 144), last_width=192, column_width=384))
class StreamingCnn(nn.Module):
    """Log-mel frames [B, channels, n_mels, T] → logits [B, n_labels]."""

    int8 = True

    def __init__(self, config: StreamingCnnConfig) -> None:
        super().__init__()
        self.config = config
        first = config.widths[0]
        layers: list[nn.Module] = [ConvBnReLU(config.channels, first, config.stem_kernel, config.stem_stride)]
        if any(config.stem2):
            k_mel, k_time, s_mel, s_time = config.stem2
            layers[0] = ConvBnReLU(config.channels, first // 2, config.stem_kernel, config.stem_stride)
            layers.append(ConvBnReLU(first // 2, first, (k_mel, k_time), (s_mel, s_time)))
        width = first
        for stage_width, blocks, stride in zip(config.widths, config.blocks, config.strides, strict=True):
            if stride > 1:
                layers.append(ConvBnReLU(width, stage_width, (3, 3), (stride, stride)))
            layers.extend(ResidualPair(stage_width) for _ in range(blocks))
            width = stage_width
        with torch.no_grad():  # what is left of the mel axis, asked of the layers themselves
            rows = nn.Sequential(*layers).eval()(torch.zeros(1, config.channels, config.n_mels, 512)).shape[2]
        layers.append(ConvBnReLU(width, config.last_width, (rows, 3), pad=False))
        layers.append(ConvBnReLU(config.last_width, config.column_width, (1, 1)))
        self.trunk = nn.Sequential(*layers)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = nn.Linear(2 * config.column_width, config.n_labels)
        self.receptive_field, self.column_stride = self._geometry()
        self.n_columns = config.n_columns
        self.window_frames = self.receptive_field + self.column_stride * (config.n_columns - 1)

    def _geometry(self) -> tuple[int, int]:
        """Frames that a column sees, and frames between columns."""
        field, stride = 1, 1
        for module in self.trunk.modules():  # in the order of execution; the identity sees no more than its pair
            if isinstance(module, nn.Conv2d):
                field += (module.kernel_size[1] - 1) * stride
                stride *= module.stride[1]
        return field, stride

    def columns(self, frames: Tensor) -> Tensor:
        """[B, channels, n_mels, T] → [B, column_width, 1 + (T - receptive_field) // column_stride]."""
        return self.trunk(frames).squeeze(2)

    def head(self, columns: Tensor) -> Tensor:
        """[B, column_width, n_columns] → logits [B, n_labels]: mean and maximum over the window, then linear."""
        pooled = torch.cat([columns.mean(-1), columns.amax(-1)], dim=1)  # [B, 2 * column_width]
        return self.classifier(self.dropout(pooled))

    def forward(self, frames: Tensor) -> Tensor:
        """[B, channels, n_mels, T] → logits [B, n_labels]."""
        return self.head(self.columns(frames))
