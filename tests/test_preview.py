"""The preview: a picture and a sound of every augmentation, the same for the same seed."""

import numpy as np
import pytest
import soundfile

from edge.config import FrontendConfig
from edge.sources.file import SoundFile
from tests.conftest import run_here
from train.cli.preview import run
from train.config import read_recipe
from train.effects import DEGRADATIONS
from train.manifest import Clip, ManifestError, ReadOptions, read_manifest
from train.preview import drawn, examples, rebuilt, write_preview

RATE = 16_000
RECIPE = """
[augment]
band_limit = 0
equalise_db = 0
mel_masks = 0
noise = 0
reverberation = 0.2
[microphone]
response = 0
band_limit = 0
codec = 0
telephone = 0
mu_law = 0
quiet = 0
dc_offset = 0
"""


@pytest.fixture
def folders(tmp_path):
    for label, frequency in (("low", 300), ("high", 3000)):
        (tmp_path / "data" / label).mkdir(parents=True)
        for i in range(2):
            time = np.arange(2 * RATE) / RATE
            soundfile.write(tmp_path / "data" / label / f"{i}<b>.wav", 0.2 * np.sin(2 * np.pi * frequency * time), RATE)
    return tmp_path / "data"


def preview(folders, out, recipe=RECIPE, clip=None, seed=0):
    path = out.with_suffix(".toml")
    path.write_text(recipe)
    page = run(folders, ReadOptions(), out, clip, seed, str(path))
    return page, {p.name: p.read_bytes() for p in out.iterdir() if p.suffix != ".html"}


def test_parts_that_are_on_have_picture_and_sound(folders, tmp_path):
    page, files = preview(folders, tmp_path / "a", clip=folders / "low" / "0<b>.wav")
    on = ["time_shift", "stretch", "shift", "gain_db", "mix", "reverberation", "background", "time_masks", "together"]
    names = ["clip-original", *(f"augmentation-{name}" for name in on)]
    names += [f"microphone-{name}" for name in ("reverberation", "clipping", "view1", "view2", "view3")]
    names += [f"degradation-{name}" for name in DEGRADATIONS]
    assert files.keys() == {"sheet.png", *(f"{name}{suffix}" for name in names for suffix in (".png", ".wav"))}
    text = page.read_text()
    assert all(f'src="{name}.wav"' in text for name in names)
    assert "0&lt;b&gt;.wav" in text  # a file's name is text, not markup
    for name in names:
        samples = SoundFile(tmp_path / "a" / f"{name}.wav").read(RATE)
        assert 0 < np.abs(samples).max() <= 1
        assert abs(len(samples) - 4 * RATE) < RATE / 10
    quiet, loud = (
        SoundFile(tmp_path / "a" / f"{n}.wav").read(RATE).std() for n in ("degradation-quiet", "clip-original")
    )
    assert 20 * np.log10(loud / quiet) == pytest.approx(30, abs=0.5)


def test_the_seed_decides(folders, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    clips, config = list(read_manifest(folders).clips[:3]), read_recipe(str(tmp_path / "r.toml"))
    first, again, other = (list(examples(clips, config, seed)) for seed in (0, 0, 1))
    assert [e.samples.tobytes() for e in first] == [e.samples.tobytes() for e in again]
    changed = {a.stem for a, b in zip(first, other, strict=True) if a.samples.tobytes() != b.samples.tobytes()}
    assert changed >= {
        f"augmentation-{part}" for part in ("time_shift", "stretch", "shift", "gain_db", "mix", "together")
    }
    assert not changed & {"clip-original", "degradation-low_pass"}
    for out in ("a", "b"):
        write_preview(first[:2], RATE, tmp_path / out, "x")
    files = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert files == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}


def test_what_cannot_be_read_is_passed_over_and_named(folders, caplog):
    """Whichever is drawn first; as often as it takes, where few are left."""
    (broken := folders / "low" / "broken.wav").write_text("no sound")
    clips = read_manifest(folders).clips
    whole = [clip for clip in clips if clip.path != broken]
    caplog.clear()
    found = drawn(clips, 6, RATE, np.random.default_rng(0))
    assert sorted(found[:4], key=clips.index) == whole
    assert found[4:] == found[:2]
    assert [message.partition(" cannot be read")[0] for message in caplog.messages] == [f"left out: {broken}"]
    with pytest.raises(ManifestError, match=r"none of 1 recordings can be read, such as .*broken\.wav; give others"):
        drawn([Clip(broken, (), 0)], 1, RATE, np.random.default_rng(0))


def test_networks_that_hear_waves(folders, tmp_path):
    waveform = "[frontend]\nkind = 'waveform'\nhop_length = 1\nwin_length = 1\nn_mels = 1\n"
    (tmp_path / "r.toml").write_text(RECIPE.replace("noise = 0", "stretch = 0") + waveform)
    clips, config = list(read_manifest(folders).clips[:3]), read_recipe(str(tmp_path / "r.toml"))
    made = {e.stem: e for e in examples(clips, config, 0)}
    assert "augmentation-shift" not in made
    assert np.array_equal(made["augmentation-polarity"].samples, -made["clip-original"].samples)


def test_networks_that_hear_waves_run_faster_or_slower(folders, tmp_path, caplog):
    """What is switched on and does not apply to samples is said, once."""
    waveform = "[frontend]\nkind = 'waveform'\nhop_length = 1\nwin_length = 1\nn_mels = 1\n"
    (tmp_path / "r.toml").write_text("[augment]\nmel_masks = 0\n" + waveform)
    clips, config = list(read_manifest(folders).clips[:3]), read_recipe(str(tmp_path / "r.toml"))
    caplog.clear()
    made = {e.stem: e for e in examples(clips, config, 1)}
    loudest = [np.abs(np.fft.rfft(made[name].samples)).argmax() for name in ("clip-original", "augmentation-stretch")]
    assert 0.8 < loudest[1] / loudest[0] < 1.25
    assert loudest[0] != loudest[1]
    assert caplog.messages == [
        "the network hears samples, to which these of [augment] do not apply: "
        "shift, equalise_db, band_limit, time_masks"
    ]


def test_settings_show_what_a_recipe_leaves_off(folders, tmp_path):
    """As `fit` takes them; a background is a recording of its folder."""
    (tmp_path / "hiss").mkdir()
    rng = np.random.default_rng(0)
    soundfile.write(tmp_path / "hiss" / "hiss.wav", 0.1 * rng.standard_normal(2 * RATE), RATE)
    (tmp_path / "r.toml").write_text(RECIPE.replace("noise = 0", "mix = 0\nnoise = 0"))
    settings = ["augment.time_masks=0", "augment.mix=0.8", "augment.background_snr_db=[0, 0]"]
    arguments = ["--recipe", tmp_path / "r.toml", *(x for setting in settings for x in ("--set", setting))]
    files = {}
    for name, more in (("a", ()), ("b", ("--backgrounds", tmp_path / "hiss"))):
        out = tmp_path / name
        run_here("train", "preview", folders, "--out", out, "--clip", folders / "low" / "0<b>.wav", *arguments, *more)
        assert "augment.mix=0.8" in (out / "index.html").read_text()
        files[name] = {p.name: p.read_bytes() for p in out.iterdir()}
    assert "augmentation-mix.wav" in files["a"]
    assert "augmentation-noise.wav" not in files["a"]
    differing = {name for name, data in files["a"].items() if files["b"][name] != data and name.endswith("wav")}
    assert differing == {"augmentation-background.wav", "augmentation-together.wav"}
    done = run_here("train", "preview", folders, "--set", "augment.mix=2", code=1)
    assert "augment.mix is 2; allowed" in done.stderr.replace("2.0", "2")
    (tmp_path / "empty").mkdir()
    done = run_here("train", "preview", folders, "--backgrounds", tmp_path / "empty", code=1)
    assert "empty has no recording that is none of the classes; give others" in done.stderr


def test_rebuilt_sound_has_the_frequency_of_its_log_mel(folders):
    import torch

    from train.frontend import log_scale, power_of

    frontend = FrontendConfig()
    samples = torch.from_numpy(SoundFile(folders / "high" / "0<b>.wav").read(RATE))
    torch.manual_seed(0)
    sound = rebuilt(log_scale(power_of(frontend)(samples[None])[:, 0], frontend).T, frontend)
    loudest = np.abs(np.fft.rfft(sound)).argmax() * RATE / len(sound)
    assert loudest == pytest.approx(3000, abs=100)


def test_mistakes_end_in_one_line(folders, tmp_path):
    done = run_here("train", "preview", folders, "--clip", tmp_path / "no.wav", "--out", tmp_path / "o", code=1)
    assert "does not exist" in done.stderr
    assert not (tmp_path / "o").exists()
    for label in ("low", "high"):
        (folders / label / "1<b>.wav").write_text("no sound")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "clip-original.wav").symlink_to("/dev/full")
    done = run_here("train", "preview", folders, "--out", tmp_path / "full", code=1)
    assert f"Error: {tmp_path}/full cannot be written: " in done.stderr
    assert done.stderr.endswith("; give another --out, or free space\n")
    done = run_here("train", "preview", "x" * 300, "--out", tmp_path / "o", code=1)
    assert "x… cannot be read: File name too long" in done.stderr
