"""Augmentation in the mel domain, where power adds. Each part has a strength, and is off at zero."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edge.config import FrontendConfig
from train.frontend import log_scale, mel_centres


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths. Probabilities are for each clip or batch as named."""

    stretch: float = 0.3  # octaves in time, either way
    shift: float = 0.12  # relative change of frequency, either way
    gain_db: float = 12.0  # level, either way
    equalise_db: float = 6.0  # standard deviation of a smooth curve over frequency
    band_limit: float = 0.15  # probability that a low-pass or high-pass microphone heard it
    mix: float = 0.8  # probability of between-class mixing (Tokozume 2018), for each batch
    noise: float = 0.25  # probability of coloured noise
    noise_snr_db: tuple[float, float] = (0.0, 40.0)  # range
    time_masks: int = 2  # SpecAugment (Park 2019)
    time_mask_frames: int = 40  # at most
    mel_masks: int = 2
    mel_mask_bands: int = 8  # at most


class Augment:
    """Mel power and labels → the network's input and soft labels. Randomness comes from torch's global generator."""

    def __init__(self, config: AugmentConfig, frontend: FrontendConfig, n_labels: int) -> None:
        self.config, self.frontend, self.n_labels = config, frontend, n_labels
        self.centres = mel_centres(frontend)  # [n_mels] Hz
        bandwidth = self.centres * 0 + torch.gradient(self.centres)[0]
        bins = (bandwidth * frontend.n_fft / frontend.sample_rate).clamp_min(1.0)
        self.flutter = 1 / bins.sqrt()  # [n_mels] how far noise power in a band strays in one frame

    def __call__(self, power: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(power [B, T, n_mels], labels [B]) → (frames [B, 1, n_mels, T], targets [B, n_labels])."""
        power = torch.bmm(power, self._filters(len(power)))
        targets = nn.functional.one_hot(labels, self.n_labels).float()
        if torch.rand(()) < self.config.mix:
            power, targets = between_class_mix(power, targets)
        power = self._add_noise(power)
        frames = log_scale(power, self.frontend).transpose(1, 2)  # [B, n_mels, T]
        self._mask(frames)
        return frames.unsqueeze(1), targets

    def _filters(self, batch: int) -> Tensor:
        """A matrix a clip that shifts frequency, equalises, limits the band, sets the gain: [B, n_mels, n_mels]."""
        c, n_mels = self.config, self.frontend.n_mels
        factor = 1 + c.shift * (2 * torch.rand(batch, 1) - 1)
        wanted = self.centres / factor  # [B, n_mels] the frequency that each band takes its power from
        right = torch.searchsorted(self.centres, wanted).clamp(1, n_mels - 1)
        low, high = self.centres[right - 1], self.centres[right]
        weight = ((wanted - low) / (high - low)).clamp(0, 1)
        matrix = torch.zeros(batch, n_mels, n_mels)
        matrix.scatter_(1, (right - 1).unsqueeze(1), (1 - weight).unsqueeze(1))
        matrix.scatter_add_(1, right.unsqueeze(1), weight.unsqueeze(1))
        points = c.equalise_db * torch.randn(batch, 1, 6)
        curve = nn.functional.interpolate(points, n_mels, mode="linear", align_corners=True).squeeze(1)
        decibels = curve + c.gain_db * (2 * torch.rand(batch, 1) - 1) + self._band_limit(batch)
        return matrix * (10 ** (decibels / 10)).unsqueeze(1)

    def _band_limit(self, batch: int) -> Tensor:
        """Attenuation in dB of a microphone, a telephone or a low sample rate: [B, n_mels]."""
        octaves = torch.log2(self.centres.clamp_min(1.0))
        low = torch.log2(torch.empty(batch, 1).uniform_(80, 700))
        high = torch.log2(torch.empty(batch, 1).uniform_(2500, 7500))
        slope = torch.empty(batch, 1).uniform_(12, 96)  # dB an octave
        loss = slope * ((low - octaves).clamp_min(0) * (torch.rand(batch, 1) < 0.5) + (octaves - high).clamp_min(0))
        return -loss * (torch.rand(batch, 1) < self.config.band_limit)

    def _add_noise(self, power: Tensor) -> Tensor:
        chosen = torch.nonzero(torch.rand(len(power)) < self.config.noise).squeeze(1)
        if len(chosen) == 0:
            return power
        n, frames, n_mels = len(chosen), power.shape[1], power.shape[2]
        points = torch.randn(n, 1, 5) * 10
        colour = nn.functional.interpolate(points, n_mels, mode="linear", align_corners=True)  # dB [n, 1, n_mels]
        noise = 10 ** (colour / 10) * torch.exp(self.flutter * torch.randn(n, frames, n_mels) - self.flutter**2 / 2)
        snr = torch.empty(n, 1, 1).uniform_(*self.config.noise_snr_db)
        signal = power[chosen].mean((1, 2), keepdim=True)
        noise *= signal / noise.mean((1, 2), keepdim=True) * 10 ** (-snr / 10)
        return power.index_add(0, chosen, noise)

    def _mask(self, frames: Tensor) -> None:
        """Mask in place, with each clip's own mean."""
        c, (batch, n_mels, n_frames) = self.config, frames.shape
        mask = torch.zeros(batch, n_mels, n_frames, dtype=torch.bool)
        for count, most, size, axis in (
            (c.time_masks, c.time_mask_frames, n_frames, 2),
            (c.mel_masks, c.mel_mask_bands, n_mels, 1),
        ):
            place = torch.arange(size).view((1, 1, -1) if axis == 2 else (1, -1, 1))
            for _ in range(count):
                width = torch.randint(0, most + 1, (batch, 1, 1))
                start = (torch.rand(batch, 1, 1) * (size - width)).long()
                mask |= (place >= start) & (place < start + width)
        mean = frames.mean((1, 2), keepdim=True)
        torch.where(mask, mean, frames, out=frames)


def between_class_mix(power: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mix each clip with another, so that the ratio of what is heard is the ratio of the labels.

    Between-class learning (Tokozume, Ushiku, Harada 2018, section 3.2): with levels ``g`` in dB and ratio ``r``, the
    amplitudes are ``p = 1 / (1 + 10 ** ((g1 - g2) / 20) * (1 - r) / r)`` and ``1 - p``.
    """
    other = torch.randperm(len(power))
    ratio = torch.rand(len(power), 1, 1).clamp(1e-3, 1 - 1e-3)
    level = power.mean((1, 2), keepdim=True).clamp_min(1e-9)
    amplitude = 1 / (1 + (level / level[other]).sqrt() * (1 - ratio) / ratio)
    norm = amplitude**2 + (1 - amplitude) ** 2
    mixed = (amplitude**2 * power + (1 - amplitude) ** 2 * power[other]) / norm
    return mixed, ratio[:, 0] * targets + (1 - ratio[:, 0]) * targets[other]
