"""Augmentation of batches: of mel power, where power adds, or of samples. Each part is off at zero.

Place and speed in time are drawn when a window is cut out of its clip: :class:`train.dataset.WindowSampler`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from edge.config import FrontendConfig
from train.bounds import BelowOne, Count, Decibels, Level, Octaves, Seconds, Share, check_bounds
from train.frontend import log_scale, mel_centres

log = logging.getLogger("train.augment")

QUIETEST = 1e-9  # power that counts as silence
DELAYED_POWER = 0.25  # share of a clip's power that a delay leaves in the window
ELSEWHERE_DB = 9.0  # equalisation of what is to sound like other places
TWO_AT_ONCE, TWO_DB = 0.5, (-10.0, 10.0)  # probability that it is two recordings, and the ratio of their power

# What switches a part on, and which of these are probabilities of a clip (of a batch: mix, mixstyle).
SWITCHES = (
    "time_shift", "stretch", "shift", "gain_db", "equalise_db", "band_limit", "mix", "delay", "reverberation",
    "background", "noise", "mixstyle", "time_masks", "mel_masks", "polarity",
)  # fmt: skip
OF_SAMPLES = ("time_shift", "stretch", "gain_db", "mix", "background", "noise", "polarity")  # what works on those alone
OF_POWER = tuple(part for part in SWITCHES if part != "polarity")  # power has no sign
PROBABILITIES = ("band_limit", "mix", "delay", "reverberation", "background", "noise", "mixstyle", "polarity")


@dataclass(frozen=True)
class AugmentConfig:
    """Strengths. Probabilities are for each clip, or batch where named."""

    time_shift: Share = 1.0  # of the clip, over which the place of a window is drawn; 0: it begins with the clip
    stretch: Octaves = 0.3  # octaves in time, either way
    shift: BelowOne = 0.12  # relative change of frequency, either way
    gain_db: Level = 12.0  # level, either way
    equalise_db: Level = 6.0  # standard deviation of a smooth curve over frequency
    band_limit: Share = 0.15  # probability that a low-pass or high-pass microphone heard it
    mix: Share = 0.8  # probability of between-class mixing (Tokozume 2018), for each batch
    delay: Share = 0.0  # probability that the sound begins within the window, with silence before it
    reverberation: Share = 0.0  # probability of a room
    rt60: Seconds = (0.1, 1.0)  # seconds in which its power falls by 60 dB, drawn for low and for high frequencies
    direct_db: Decibels = (-5.0, 15.0)  # the direct sound above the reverberation
    background: Share = 0.5  # probability of a background recording, where some are given
    background_snr_db: Decibels = (0.0, 30.0)
    elsewhere: BelowOne = 0.0  # backgrounds and outliers as of other places: relative change of frequency; see Augment
    noise: Share = 0.35  # probability of coloured noise; of samples: white
    noise_snr_db: Decibels = (0.0, 30.0)
    mixstyle: Share = 0.0  # probability of another clip's spectral balance (Freq-MixStyle, Schmid 2022), for each batch
    time_masks: Count = 2  # SpecAugment (Park 2019)
    time_mask_frames: Count = 40  # at most
    mel_masks: Count = 2
    mel_mask_bands: Count = 8  # at most
    polarity: Share = 0.5  # probability that samples are turned upside down

    def __post_init__(self) -> None:
        check_bounds(self, "augment.")

    def alone(self, *parts: str) -> AugmentConfig:
        """Only these of :data:`SWITCHES`; what is a probability becomes certain."""
        certain = {part: 1.0 for part in parts if part in PROBABILITIES}
        return replace(self, **(dict.fromkeys(set(SWITCHES) - set(parts), 0) | certain))


def make_augment(
    config: AugmentConfig, frontend: FrontendConfig, *, multi_label: bool = False
) -> Augment | WaveAugment:
    """The augmentation of what ``frontend`` gives; what is switched on, and does not apply to that, is logged."""
    if frontend.kind == "waveform":
        beyond = [part for part in SWITCHES if getattr(config, part) and part not in OF_SAMPLES]
        if beyond:
            log.warning("the network hears samples, to which these of [augment] do not apply: %s", ", ".join(beyond))
        return WaveAugment(config, multi_label=multi_label)
    return Augment(config, frontend, multi_label=multi_label)


class Augment:
    """Mel power and targets → the network's input and soft targets, on the device where they are.

    Randomness comes from torch's global generators.
    """

    def __init__(self, config: AugmentConfig, frontend: FrontendConfig, *, multi_label: bool = False) -> None:
        self.config, self.frontend, self.multi_label = config, frontend, multi_label
        self.centres = mel_centres(frontend)  # [n_mels] Hz
        if not (self.centres.diff() > 0).all():
            raise ValueError(
                f"n_mels {frontend.n_mels} with n_fft {frontend.n_fft}: some bands have no frequency of their own; "
                "use fewer n_mels, or a larger n_fft"
            )
        self._elsewhere: Augment | None = None
        if config.elsewhere:
            other = replace(config, shift=config.elsewhere, equalise_db=ELSEWHERE_DB)
            self._elsewhere = Augment(replace(other.alone("shift", "equalise_db"), elsewhere=0.0), frontend)
        bandwidth = torch.gradient(self.centres)[0]
        bins = (bandwidth * frontend.n_fft / frontend.sample_rate).clamp_min(1.0)
        self.flutter = 1 / bins.sqrt()  # [n_mels] how far noise power in a band strays in one frame

    def __call__(self, power: Tensor, targets: Tensor, backgrounds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(power [B, channels, T, n_mels], targets [B, n_labels], backgrounds like power) → (frames [B, channels,
        n_mels, T], targets [B, n_labels]).
        """
        c = self.config
        self.flutter = self.flutter.to(power.device)
        power = power @ self.filters(power).unsqueeze(1)
        if torch.rand(()) < c.mix:
            power, targets = between_class_mix(power, targets, multi_label=self.multi_label)
        power = _on_some(power, c.delay, lambda some, _: delayed(some))
        power = _on_some(power, c.reverberation, self._reverberate)
        if backgrounds is not None:
            backgrounds = self.elsewhere(backgrounds)
            power = _on_some(
                power, c.background, lambda some, of: add_power(some, backgrounds[of], c.background_snr_db)
            )
        power = _on_some(power, c.noise, lambda some, _: add_power(some, self._noise(some), c.noise_snr_db))
        frames = log_scale(power, self.frontend).transpose(2, 3)  # [B, channels, n_mels, T]
        if c.mixstyle and torch.rand(()) < c.mixstyle:
            frames = mix_style(frames)
        return self._masked(frames), targets

    def elsewhere(self, power: Tensor) -> Tensor:
        """Backgrounds or outliers [B, channels, T, n_mels] → the same as of other places, where that is configured.

        There are few recordings of what is none of the classes, and they would be learnt by heart: so they are shifted
        in frequency and equalised more than a clip may be, and half of them are two at once.
        """
        if self._elsewhere is None:
            return power
        power = power @ self._elsewhere.filters(power).unsqueeze(1)
        others = power.roll(1, 0)
        return _on_some(power, TWO_AT_ONCE, lambda some, of: add_power(some, others[of], TWO_DB))

    def filters(self, power: Tensor) -> Tensor:
        """A matrix a clip that shifts frequency, equalises, limits the band, sets the gain: [B, n_mels, n_mels]."""
        c, (batch, n_mels) = self.config, (len(power), self.frontend.n_mels)
        self.centres = self.centres.to(power.device)
        factor = 1 + uniform(power, (batch, 1), -c.shift, c.shift)
        wanted = self.centres / factor  # [B, n_mels] the frequency that each band takes its power from
        right = torch.searchsorted(self.centres, wanted).clamp(1, n_mels - 1)
        low, high = self.centres[right - 1], self.centres[right]
        weight = ((wanted - low) / (high - low)).clamp(0, 1)
        matrix = power.new_zeros(batch, n_mels, n_mels)
        matrix.scatter_(1, (right - 1).unsqueeze(1), (1 - weight).unsqueeze(1))
        matrix.scatter_add_(1, right.unsqueeze(1), weight.unsqueeze(1))
        decibels = smooth(power, batch, n_mels, 6, c.equalise_db) + uniform(power, (batch, 1), -c.gain_db, c.gain_db)
        return matrix * (10 ** ((decibels + self._band_limit(power)) / 10)).unsqueeze(1)

    def _band_limit(self, power: Tensor) -> Tensor:
        """Gain in dB of a microphone, a telephone or a low sample rate: [B, n_mels]."""
        one = (len(power), 1)
        octaves = torch.log2(self.centres.clamp_min(1.0))
        low, high = (torch.log2(uniform(power, one, *limits)) for limits in ((80, 700), (2500, 7500)))
        slope = uniform(power, one, 12, 96)  # dB an octave
        below = (low - octaves).clamp_min(0) * (uniform(power, one) < 0.5)
        loss = slope * (below + (octaves - high).clamp_min(0))
        return -loss * (uniform(power, one) < self.config.band_limit)

    def _reverberate(self, power: Tensor, _: Tensor) -> Tensor:
        """A room: reflections whose power decays exponentially (Polack 1988), at the same power in all."""
        c, (batch, n_mels) = self.config, (len(power), self.frontend.n_mels)
        ends = uniform(power, (batch, 1, 2), *c.rt60)  # seconds, of the lowest and of the highest band
        rt60 = nn.functional.interpolate(ends, n_mels, mode="linear", align_corners=True)  # [B, 1, n_mels]
        frame_seconds = self.frontend.hop_length / self.frontend.sample_rate
        kept = 10 ** (-6 * frame_seconds / rt60).unsqueeze(1)  # [B, 1, 1, n_mels] of the power, from frame to frame
        direct = 10 ** (uniform(power, (batch, 1, 1, 1), *c.direct_db) / 10)
        return (direct * power + (1 - kept) * decaying(power, kept)) / (direct + 1)

    def _noise(self, power: Tensor) -> Tensor:
        """Power of coloured noise, like ``power``."""
        colour = smooth(power, len(power), power.shape[3], 5, 10.0)[:, None, None]  # dB [B, 1, 1, n_mels]
        return 10 ** (colour / 10) * torch.exp(self.flutter * torch.randn_like(power) - self.flutter**2 / 2)

    def _masked(self, frames: Tensor) -> Tensor:
        """Frames [B, channels, n_mels, T] with stripes of their clip's mean, the same in all channels."""
        c, (batch, _, n_mels, n_frames) = self.config, frames.shape
        mask = torch.zeros(batch, 1, n_mels, n_frames, dtype=torch.bool, device=frames.device)
        for count, most, size, shape in (
            (c.time_masks, c.time_mask_frames, n_frames, (1, 1, 1, -1)),
            (c.mel_masks, c.mel_mask_bands, n_mels, (1, 1, -1, 1)),
        ):
            place = torch.arange(size, device=frames.device).view(shape)
            for _ in range(count):
                width = (uniform(frames, (batch, 1, 1, 1)) * (min(most, size) + 1)).long()
                start = (uniform(frames, (batch, 1, 1, 1)) * (size - width)).long()
                mask |= (place >= start) & (place < start + width)
        return torch.where(mask, frames.mean((1, 2, 3), keepdim=True), frames)


class WaveAugment:
    """Samples and targets → the same, augmented: for networks that hear waves."""

    def __init__(self, config: AugmentConfig, *, multi_label: bool = False) -> None:
        self.config, self.multi_label = config, multi_label

    def __call__(self, samples: Tensor, targets: Tensor, backgrounds: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(samples [B, channels, n, 1], targets [B, n_labels], backgrounds like samples) → (frames [B, channels, 1, n],
        targets [B, n_labels]).
        """
        c, one = self.config, (len(samples), 1, 1, 1)
        decibels = uniform(samples, one, -c.gain_db, c.gain_db)
        sign = 1 - 2 * (uniform(samples, one) < c.polarity).float()
        samples = samples * (sign * 10 ** (decibels / 20))
        if torch.rand(()) < c.mix:
            samples, targets = between_class_mix(samples, targets, multi_label=self.multi_label, amplitudes=True)
        if backgrounds is not None:
            samples = _on_some(samples, c.background, lambda x, of: add_wave(x, backgrounds[of], c.background_snr_db))
        samples = _on_some(samples, c.noise, lambda x, _: add_wave(x, torch.randn_like(x), c.noise_snr_db))
        return samples.transpose(2, 3), targets

    def elsewhere(self, samples: Tensor) -> Tensor:
        """Backgrounds or outliers [B, channels, n, 1] stay as they are; see :meth:`Augment.elsewhere`."""
        return samples


def between_class_mix(
    sound: Tensor, targets: Tensor, *, multi_label: bool = False, amplitudes: bool = False
) -> tuple[Tensor, Tensor]:
    """Mix each clip with its neighbour in the shuffled batch: the ratio of what is heard is that of the targets.

    ``sound`` is power, or ``amplitudes``. Between-class learning (Tokozume, Ushiku, Harada 2018, section 3.2): with
    levels ``g`` in dB and ratio ``r``, the amplitudes are ``p = 1 / (1 + 10 ** ((g1 - g2) / 20) * (1 - r) / r)`` and
    ``1 - p``. Classes that exclude each other share one probability, in the ratio; independent ones are both there,
    whatever their ratio, so that ``multi_label`` targets are the larger of the two, and neither may be inaudible.
    """
    least = 0.1 if multi_label else 1e-3
    ratio = uniform(sound, (len(sound), 1, 1, 1), least, 1 - least)
    level = (sound**2 if amplitudes else sound).mean((1, 2, 3), keepdim=True).clamp_min(QUIETEST)
    first = 1 / (1 + (level / level.roll(1, 0)).sqrt() * (1 - ratio) / ratio)
    first, second = first**2, (1 - first) ** 2
    first, second = first / (first + second), second / (first + second)  # of the power, which stays
    if amplitudes:
        first, second = first.sqrt(), second.sqrt()
    mixed = (first * sound).addcmul_(second, sound.roll(1, 0))
    if multi_label:
        return mixed, torch.maximum(targets, targets.roll(1, 0))
    share = ratio[:, 0, 0]  # [B, 1]
    return mixed, share * targets + (1 - share) * targets.roll(1, 0)


def delayed(power: Tensor) -> Tensor:
    """Power [B, channels, T, n_mels] that begins later, at a random time, with silence before it.

    What a listener has of a sound that has just begun. At least DELAYED_POWER of a clip's power stays in the window.
    """
    n_frames = power.shape[2]
    heard = power.sum((1, 3)).cumsum(1)  # [B, T]
    needed = (heard < DELAYED_POWER * heard[:, -1:]).sum(1) + 1  # [B] frames, until so much of it was heard
    delay = (uniform(power, needed.shape) * (n_frames - needed).clamp_min(0)).long().view(-1, 1, 1, 1)
    place = torch.arange(n_frames, device=power.device).view(1, 1, -1, 1) - delay
    return power.gather(2, place.clamp_min(0).expand(power.shape)) * (place >= 0)


def mix_style(frames: Tensor) -> Tensor:
    """Give each clip, in part, the mean and the spread that its neighbour in the shuffled batch has in each mel band.

    ``frames`` [B, channels, n_mels, T], log-scaled: a mean is the filter of a microphone, a place and a source, which
    the class does not depend on. MixStyle (Zhou 2021) along frequency (Schmid 2022), with shares from Beta(0.4, 0.4).
    """
    mean, spread = frames.mean((1, 3), keepdim=True), frames.std((1, 3), keepdim=True).clamp_min(1e-3)
    shape = torch.full((len(frames), 1, 1, 1), 0.4, device=frames.device)
    own = torch.distributions.Beta(shape, shape).sample()
    mixed_mean, mixed_spread = (torch.lerp(x.roll(1, 0), x, own) for x in (mean, spread))
    return (frames - mean) / spread * mixed_spread + mixed_mean


def decaying(power: Tensor, kept: Tensor) -> Tensor:
    """Sum over the frames so far of ``power`` [B, channels, T, n_mels], each ``kept`` by that share a frame.

    By doubling: what 2n frames leave is what n leave, and what n left n frames ago. It ends where nothing is kept.
    """
    total, span = power, 1
    while span < power.shape[2] and (share := kept**span).max() > 1e-6:
        total = total + share * nn.functional.pad(total[:, :, :-span], (0, 0, span, 0))
        span *= 2
    return total


def add_power(power: Tensor, noise: Tensor, snr_db: tuple[float, float]) -> Tensor:
    """Power and that of something independent, at a ratio drawn from ``snr_db`` for each clip."""
    return power + noise * _ratio(power.mean((1, 2, 3), keepdim=True), noise.mean((1, 2, 3), keepdim=True), snr_db)


def add_wave(samples: Tensor, noise: Tensor, snr_db: tuple[float, float]) -> Tensor:
    """The same of samples."""
    levels = (x.square().mean((1, 2, 3), keepdim=True) for x in (samples, noise))
    return samples + noise * _ratio(*levels, snr_db).sqrt()


def _ratio(signal: Tensor, noise: Tensor, snr_db: tuple[float, float]) -> Tensor:
    """What the noise's power is multiplied with, [B, 1, 1, 1]; silence is not raised."""
    return signal / noise.clamp_min(QUIETEST) * 10 ** (-uniform(signal, signal.shape, *snr_db) / 10)


def _on_some(batch: Tensor, probability: float, apply: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``apply(clips, numbers)`` on clips chosen with ``probability``; the others stay as they are."""
    if probability == 0:
        return batch
    chosen = torch.nonzero(uniform(batch, (len(batch),)) < probability).squeeze(1)
    return batch.index_copy(0, chosen, apply(batch[chosen], chosen)) if len(chosen) else batch


def uniform(like: Tensor, shape: tuple[int, ...], low: float = 0.0, high: float = 1.0) -> Tensor:
    """Random numbers from ``low`` to ``high``, on the device of ``like``."""
    return low + (high - low) * torch.rand(shape, device=like.device)


def smooth(like: Tensor, batch: int, n: int, points: int, deviation: float) -> Tensor:
    """Random curves through ``points`` points: [batch, n], on the device of ``like``."""
    heights = deviation * torch.randn(batch, 1, points, device=like.device)
    return nn.functional.interpolate(heights, n, mode="linear", align_corners=True).squeeze(1)
