"""The front end of :mod:`edge.features` in torchaudio, from the same dataclass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelScale, Spectrogram

from edge.config import FrontendConfig


def power_of(config: FrontendConfig) -> nn.Module:
    """Samples [channels, n_samples] → power [n_frames, channels, n_mels], which :func:`log_scale` makes an input."""
    return Waveform() if config.kind == "waveform" else MelPower(config)


class Waveform(nn.Module):
    """The samples themselves, one a frame."""

    def forward(self, samples: Tensor) -> Tensor:
        """[channels, n_samples] → [n_samples, channels, 1]."""
        return samples.T.unsqueeze(2)


def mel_settings(config: FrontendConfig) -> dict[str, Any]:
    """The mel bands, as torchaudio calls their settings."""
    return {
        "n_mels": config.n_mels,
        "sample_rate": config.sample_rate,
        "f_min": config.f_min,
        "f_max": config.f_max,
        "norm": "slaney" if config.mel_norm == "slaney" else None,
        "mel_scale": config.mel_scale,
    }


class MelPower(nn.Module):
    """Mel power of each channel for itself."""

    def __init__(self, config: FrontendConfig) -> None:
        super().__init__()
        self.config = config
        self.spectrogram = Spectrogram(
            n_fft=config.n_fft, win_length=config.win_length, hop_length=config.hop_length, power=2, center=False
        )
        self.mel = MelScale(n_stft=config.n_fft // 2 + 1, **mel_settings(config))

    def forward(self, samples: Tensor) -> Tensor:
        """[channels, n_samples] → [n_frames, channels, n_mels]."""
        missing = self.config.n_fft - self.config.win_length  # torch centres the window in n_fft samples
        samples = nn.functional.pad(samples, (missing // 2, missing - missing // 2))
        return self.mel(self.spectrogram(samples)).permute(2, 0, 1)


def log_scale(power: Tensor, config: FrontendConfig) -> Tensor:
    """Power → the network's input, of the same shape; a waveform stays what it is."""
    if config.kind == "waveform":
        return power
    return (torch.log(power + config.log_floor) - config.log_mean) / config.log_std


def mel_centres(config: FrontendConfig) -> Tensor:
    """Centre frequency of each band in Hz, [n_mels]."""
    filters = melscale_fbanks(config.n_fft // 2 + 1, **mel_settings(config))
    bins = torch.linspace(0, config.sample_rate / 2, config.n_fft // 2 + 1)
    return (filters * bins[:, None]).sum(0) / filters.sum(0).clamp_min(1e-12)
