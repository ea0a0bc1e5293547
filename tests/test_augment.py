"""Augmentation of batches: each part changes what it should, and nothing where it is off."""

from dataclasses import asdict, replace

import pytest
import torch

from edge.config import FrontendConfig
from train.augment import (
    SWITCHES,
    Augment,
    AugmentConfig,
    WaveAugment,
    between_class_mix,
    decaying,
    delayed,
    make_augment,
)
from train.config import config_of, read_recipe
from train.frontend import log_scale

FRONTEND = FrontendConfig(log_floor=1e-30)  # so that what is multiplied is added, in the logarithm
WAVEFORM = FrontendConfig(kind="waveform", hop_length=1, win_length=1, n_mels=1)
POWER_PARTS = [part for part in SWITCHES if part not in ("time_shift", "stretch", "polarity")]
FULL = AugmentConfig(reverberation=0.3, mixstyle=0.3)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def batch(clips=6, channels=1, frames=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(clips, channels, frames, 64, generator=generator) + 0.1, torch.eye(clips)


def augmented(config, power, targets, backgrounds=None, seed=0, **options):
    torch.manual_seed(seed)
    return Augment(config, FRONTEND, **options)(power.clone(), targets.clone(), backgrounds)


def change(config, power, *arguments, **options):
    """What is added to the log-mel, in dB, and the targets: [B, channels, n_mels, T]."""
    frames, targets = augmented(config, power, *arguments, **options)
    before = log_scale(power, FRONTEND).transpose(2, 3)
    return (frames - before) * FRONTEND.log_std * 10 / torch.log(torch.tensor(10.0)), targets


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels", [1, 2])
def test_augmentation_is_seeded_and_keeps_its_shapes(device, channels):
    power, targets = (x.to(device) for x in batch(channels=channels))
    results = []
    for seed in (0, 0, 1):
        frames, soft = augmented(replace(FULL, elsewhere=0.25), power, targets, power.flip(0), seed)
        assert frames.shape == (6, channels, 64, 120)
        assert frames.device == power.device
        assert torch.isfinite(frames).all()
        assert torch.allclose(soft.sum(1), torch.ones(6, device=device))
        results.append(frames)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


@pytest.mark.filterwarnings("ignore:At least one mel filterbank")
def test_bands_without_a_frequency_are_refused():
    with pytest.raises(ValueError, match=r"n_mels 128 with n_fft 512: some bands .*; use fewer n_mels, or a larger"):
        Augment(FULL, FrontendConfig(n_mels=128, n_fft=512))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("augment.mix=2", r"augment\.mix is 2\.0; allowed: 0 to 1$"),
        ("augment.mix=-1", r"augment\.mix is -1\.0; allowed: 0 to 1$"),
        ("augment.shift=1.0", r"augment\.shift is 1\.0; allowed: 0 to below 1$"),
        ("augment.time_masks=-1", r"augment\.time_masks is -1; allowed: 0 or more$"),
        ("augment.mel_mask_bands=1000", "augment.mel_mask_bands is 1000; allowed: 0 to 64, the front end's n_mels$"),
        ("augment.gain_db=nan", r"augment\.gain_db is nan; allowed: 0 to 100$"),
        ("augment.noise_snr_db=[30, 0]", r"noise_snr_db is \(30\.0, 0\.0\); allowed: .*-100 to 100, the lower first$"),
        ("augment.noise_snr_db=[0, nan]", r"noise_snr_db is \(0\.0, nan\); allowed: two numbers, -100 to 100"),
        ("augment.rt60=[0, 1]", r"rt60 is \(0\.0, 1\.0\); allowed: two numbers, above 0 to 60, the lower first$"),
        ("microphone.quiet=1.5", r"microphone\.quiet is 1\.5; allowed: 0 to 1$"),
        (
            "microphone.low_hz=[700, 60]",
            r"low_hz is \(700\.0, 60\.0\); allowed: two numbers, above 0, the lower first$",
        ),
        ("momentum=1.0", "momentum is 1.0; allowed: 0 to below 1$"),
        ("plateau_factor=2", "plateau_factor is 2.0; allowed: above 0 to below 1$"),
        ("distil_temperature=0", "distil_temperature is 0.0; allowed: above 0$"),
        ("weight_decay=nan", "weight_decay is nan; allowed: 0 or more$"),
        ("learning_rate=inf", "learning_rate is inf; allowed: above 0, finite$"),
        ("energy_margins=[nan, 1]", r"energy_margins is \(nan, 1\.0\); allowed: two numbers, finite, the lower first$"),
        ("model.dropout=nan", r"model\.dropout is nan; allowed: finite$"),
    ],
)
def test_settings_that_cannot_be_are_named(setting, message):
    with pytest.raises(ValueError, match=message):
        read_recipe("default", [setting])


def test_settings_at_their_bounds_are_taken():
    bounds = ["mix=1", "noise=0", "time_masks=0", "mel_mask_bands=64", "noise_snr_db=[5, 5]", "shift=0.0"]
    config = read_recipe("default", ["clip_norm=0", "average=1", *(f"augment.{setting}" for setting in bounds)])
    assert config_of(asdict(config)) == config
    assert config_of({"frontend": {"n_mels": 4}}).augment.mel_mask_bands == 8  # a front end of fewer bands has its all


def test_every_augmentation_can_be_switched_off():
    power, targets = batch()
    added, soft = change(FULL.alone(), power, targets, power.flip(0))
    assert added.abs().max() < 1e-4
    assert torch.equal(soft, targets)


@pytest.mark.parametrize("part", POWER_PARTS)
def test_every_augmentation_works_alone(part):
    power, targets = batch()
    added, soft = change(FULL.alone(part), power, targets, power.flip(0))
    assert added.abs().amax((1, 2, 3)).min() > 0.01  # of every clip
    assert torch.equal(soft, targets) == (part != "mix")


def test_gain_is_the_same_everywhere():
    added, _ = change(AugmentConfig(gain_db=12).alone("gain_db"), *batch())
    assert added.std((1, 2, 3)).max() < 1e-3
    assert added.abs().max() <= 12.001
    assert added[:, 0, 0, 0].std() > 1  # each clip its own


def test_equalisation_and_band_limits_stay_for_the_whole_clip():
    for part in ("equalise_db", "band_limit"):
        added, _ = change(FULL.alone(part), *batch())
        assert added.std(3)[added.amin(3) > -200].max() < 1e-3  # above the floor
        assert added.std(2).max() > 1
    assert added.max() < 1e-3  # a limit takes away
    assert added.min() < -12


def test_a_shift_moves_a_line_by_its_share_of_the_frequency():
    power = torch.full((64, 1, 10, 64), 1e-6)
    power[..., 40] = 1.0
    frames, _ = augmented(AugmentConfig(shift=0.12).alone("shift"), power, torch.eye(64))
    centres = Augment(FULL, FRONTEND).centres
    moved = centres[frames[:, 0, :, 0].argmax(1)] / centres[40]
    assert 0.85 < moved.min() < 0.95
    assert 1.05 < moved.max() < 1.15


def test_noise_and_background_have_their_level():
    power, targets = batch()
    backgrounds = torch.zeros_like(power)
    backgrounds[..., 5] = 3.0
    config = AugmentConfig(noise_snr_db=(10, 10), background_snr_db=(10, 10))
    for part in ("noise", "background"):
        frames, _ = augmented(config.alone(part), power, targets, backgrounds)
        heard = torch.exp(frames * FRONTEND.log_std + FRONTEND.log_mean).transpose(2, 3)
        added = heard - power
        assert added.min() > -1e-4
        ratio = power.mean((1, 2, 3)) / added.mean((1, 2, 3))
        assert torch.allclose(10 * ratio.log10(), torch.full((6,), 10.0), atol=0.05)
    assert added[..., 6:].abs().max() < 1e-4  # the background is in one band
    silent, _ = change(config.alone("background"), power, targets, torch.zeros_like(power))
    none, _ = change(config.alone("background"), power, targets, None)
    assert max(silent.abs().max(), none.abs().max()) < 1e-4


def test_backgrounds_are_as_of_other_places():
    """Moved in frequency and equalised, half of them two at once; the clips themselves stay."""
    power, targets = batch(200)
    lines = torch.full((200, 1, 10, 64), 1e-9)
    lines[torch.arange(200), :, :, 30 + torch.arange(200) % 2 * 20] = 1.0
    augment = Augment(AugmentConfig(elsewhere=0.25).alone("background"), FRONTEND)
    torch.manual_seed(0)
    there = augment.elsewhere(lines)[:, 0, 0]
    peaks = ((there > 1e-3) & (there >= there.roll(1, 1)) & (there > there.roll(-1, 1))).sum(1)
    assert 0.4 < (peaks > 1).float().mean() < 0.6  # as many as are two
    alone = there[peaks == 1]
    centres = augment.centres[alone.argmax(1)]
    assert centres.unique().numel() > 8
    assert 0.7 * augment.centres[30] < centres.min() < centres.max() < 1.4 * augment.centres[50]
    assert alone.amax(1).log10().std() > 0.3  # of equalisers
    assert torch.equal(Augment(AugmentConfig().alone("background"), FRONTEND).elsewhere(lines), lines)
    frames, _ = augmented(AugmentConfig(elsewhere=0.25).alone(), power, targets, lines)
    same, _ = augmented(AugmentConfig().alone(), power, targets)
    assert torch.equal(frames, same)


def test_a_delayed_sound_begins_within_the_window():
    """Silence, then the beginning of the sound; a quarter of its power stays."""
    torch.manual_seed(5)
    power = torch.rand(200, 2, 60, 3) + 0.1
    power[100:, :, :45] = 0  # half of them begin late already
    later = delayed(power)
    kept = later.sum((1, 2, 3)) / power.sum((1, 2, 3))
    assert kept.min() >= 0.25
    assert kept.min() < 0.3
    assert kept.max() == 1
    for before, after in zip(power, later, strict=True):
        delay = int((after.sum((0, 2)) > 0).long().argmax()) - int((before.sum((0, 2)) > 0).long().argmax())
        assert torch.equal(after[:, delay:], before[:, : 60 - delay])
        assert not after[:, :delay].any()
    assert torch.equal(delayed(torch.zeros(2, 1, 60, 3)), torch.zeros(2, 1, 60, 3))


def test_a_room_decays_in_its_time():
    power = torch.full((2, 1, 120, 64), 1e-12)
    power[:, :, 20] = 1.0
    config = AugmentConfig(reverberation=1.0, rt60=(0.5, 0.5), direct_db=(0, 0)).alone("reverberation")
    frames, _ = augmented(config, power, torch.eye(2))
    level = 10 * torch.log10(torch.exp(frames[0, 0, 30] * FRONTEND.log_std + FRONTEND.log_mean))  # dB [T]
    assert level[:20].max() < -110
    assert level[21] - level[71] == pytest.approx(60, abs=0.1)  # 50 frames are 0.5 s
    assert torch.exp(frames * FRONTEND.log_std + FRONTEND.log_mean).sum() == pytest.approx(float(power.sum()), rel=0.01)


def test_decay_by_doubling_is_the_recursion():
    power, _ = batch(clips=2, frames=37)
    kept = torch.rand(2, 1, 1, 64) * 0.98
    expected, state = [], torch.zeros(2, 1, 64)
    for t in range(37):
        state = state * kept[:, :, 0] + power[:, :, t]
        expected.append(state)
    assert torch.allclose(decaying(power, kept), torch.stack(expected, 2), rtol=1e-4, atol=1e-5)


def test_a_clip_takes_on_the_spectral_balance_of_its_neighbour():
    power, targets = batch(channels=2)
    power = power * torch.logspace(-2, 2, 6).view(-1, 1, 1, 1) ** torch.linspace(-1, 1, 64)  # tilted, each its own way
    before = log_scale(power, FRONTEND).transpose(2, 3)
    after, same = augmented(FULL.alone("mixstyle"), power, targets)
    own, other, mixed = (x.mean((1, 3)) for x in (before, before.roll(1, 0), after))  # [B, n_mels]
    share = (mixed - other) / (own - other)
    assert torch.allclose(share, share.mean(1, keepdim=True).expand_as(share), atol=0.05)  # one for all bands
    assert ((share > -0.01) & (share < 1.01)).all()
    assert share.mean(1).std() > 0.1
    assert torch.equal(same, targets)


def test_masks_are_stripes_of_the_mean():
    power, targets = batch(channels=2)
    config = AugmentConfig(time_masks=1, time_mask_frames=40, mel_masks=1, mel_mask_bands=8)
    before = log_scale(power, FRONTEND).transpose(2, 3)
    mean = before.mean((1, 2, 3), keepdim=True)
    for part, most, across in (("time_masks", 40, 2), ("mel_masks", 8, 3)):
        frames, _ = augmented(config.alone(part), power, targets)
        masked = torch.isclose(frames, mean, atol=1e-5)
        stripes = masked.all(across)  # [B, channels, T or n_mels]
        assert torch.equal(stripes[:, 0], stripes[:, 1])
        assert 0 < stripes[:, 0].sum(1).max() <= most
        assert torch.allclose(frames[~masked], before[~masked], atol=1e-5)


def test_masks_fit_into_short_windows():
    power, targets = batch(frames=3)
    frames, _ = augmented(AugmentConfig(time_masks=2, time_mask_frames=40).alone("time_masks"), power, targets)
    assert frames.shape == (6, 1, 64, 3)


def test_silence_stays_finite():
    frames, targets = augmented(FULL, torch.zeros(6, 1, 120, 64), torch.eye(6), torch.zeros(6, 1, 120, 64))
    assert torch.isfinite(frames).all()
    assert torch.isfinite(targets).all()


# Mixing


@pytest.mark.parametrize("amplitudes", [False, True])
def test_between_class_mixing_follows_what_is_heard(amplitudes):
    """Equal ratio, unequal levels: the quieter one is raised, so that both are heard alike."""
    torch.manual_seed(3)
    sound = torch.zeros(2, 1, 10, 4)
    sound[0, ..., 0], sound[1, ..., 3] = 1.0, 100.0
    mixed, targets = between_class_mix(sound if amplitudes else sound**2, torch.eye(2), amplitudes=amplitudes)
    heard = (mixed if amplitudes else mixed.sqrt())[:, 0, 0]
    for row in range(2):
        expected = float(targets[row, 0] / targets[row, 1])
        assert heard[row, 0] / heard[row, 3] == pytest.approx(expected, rel=1e-3)


def test_classes_for_themselves_are_both_there():
    torch.manual_seed(0)
    power = torch.rand(50, 1, 10, 4)
    targets = (torch.rand(50, 6) < 0.3).float()
    mixed, union = between_class_mix(power, targets, multi_label=True)
    assert torch.equal(union, torch.maximum(targets, targets.roll(1, 0)))
    lines = torch.zeros(2, 1, 10, 2)
    lines[0, ..., 0], lines[1, ..., 1] = 1.0, 1.0
    for _ in range(50):
        mixed, _ = between_class_mix(lines, torch.eye(2), multi_label=True)
        assert mixed[0, 0, 0].min() > 0.01  # neither is inaudible


def test_one_clip_mixes_with_itself():
    torch.manual_seed(0)
    power, targets = torch.rand(1, 1, 10, 4), torch.eye(1)
    mixed, same = between_class_mix(power, targets)
    assert torch.allclose(same, targets)
    assert torch.allclose(mixed / power, (mixed / power).mean())


# Samples


def wave_batch():
    torch.manual_seed(1)
    return torch.randn(6, 2, 4000, 1) * 0.1, torch.eye(6)


def wave_augmented(config, samples, targets, backgrounds=None):
    torch.manual_seed(0)
    frames, soft = WaveAugment(config)(samples, targets, backgrounds)
    assert frames.shape == (6, 2, 1, 4000)
    return frames.transpose(2, 3), soft


def test_the_front_end_decides():
    assert isinstance(make_augment(FULL, FRONTEND), Augment)
    assert isinstance(make_augment(FULL, WAVEFORM), WaveAugment)
    assert make_augment(FULL, WAVEFORM, multi_label=True).multi_label


def test_samples_can_be_left_alone():
    samples, targets = wave_batch()
    there, soft = wave_augmented(FULL.alone(), samples, targets, samples)
    assert torch.equal(there, samples)
    assert torch.equal(soft, targets)


def test_samples_are_turned_raised_and_mixed():
    samples, targets = wave_batch()
    turned, _ = wave_augmented(FULL.alone("polarity"), samples, targets)
    assert torch.equal(turned, -samples)
    raised, _ = wave_augmented(FULL.alone("gain_db"), samples, targets)
    assert (raised / samples).std((1, 2, 3)).max() < 1e-4
    assert (20 * (raised / samples).mean((1, 2, 3)).log10()).abs().max() <= 12.001
    mixed, soft = wave_augmented(FULL.alone("mix"), samples, targets)
    assert torch.allclose(soft.sum(1), torch.ones(6))
    assert not torch.allclose(mixed, samples)


def test_noise_and_background_have_their_level_in_samples():
    samples, targets = wave_batch()
    config = replace(FULL, noise_snr_db=(10, 10), background_snr_db=(10, 10))
    for part in ("noise", "background"):
        there, _ = wave_augmented(config.alone(part), samples, targets, samples.flip(0))
        added = there - samples
        ratio = samples.square().mean((1, 2, 3)) / added.square().mean((1, 2, 3))
        assert torch.allclose(10 * ratio.log10(), torch.full((6,), 10.0), atol=0.05)
