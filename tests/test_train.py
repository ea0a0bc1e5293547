"""Reading data sets, training, resuming, evaluating."""

import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from edge.config import FrontendConfig
from models import architectures, build
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.streaming import count_macs
from tests.conftest import ROOT, run_module
from train.augment import Augment, AugmentConfig, between_class_mix
from train.config import RECIPES, TrainConfig, read_recipe
from train.dataset import WindowSampler, load_features
from train.frontend import log_scale
from train.loop import fit
from train.manifest import ManifestError, read_manifest

RATE = 16_000
SMALL = {"widths": (8, 8), "last_width": 8, "column_width": 8, "n_columns": 21}  # a window of two seconds


def write_tone(path, frequency, seconds=2.5, seed=0):
    rng = np.random.default_rng([seed, round(frequency)])
    time = np.arange(round(seconds * RATE)) / RATE
    wave = 0.3 * np.sin(2 * np.pi * frequency * (1 + 0.02 * rng.random()) * time) + 0.01 * rng.standard_normal(
        len(time)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, RATE)


@pytest.fixture
def folders(tmp_path):
    """A folder for each class: low, middle and high tones."""
    root = tmp_path / "data"
    for label, frequency in (("low", 200), ("middle", 1000), ("high", 4000)):
        for i in range(10):
            write_tone(root / label / f"{i}.wav", frequency, seed=i)
    return root


def esc50_layout(root, rows):
    (root / "meta").mkdir(parents=True)
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for name, fold, target, category in rows:
        write_tone(root / "audio" / name, 300 + 1000 * target)
        lines.append(f"{name},{fold},{target},{category},True,1,A")
    (root / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return root


def quick(**changes):
    defaults = dict(model=SMALL, epochs=3, batch_size=8, train_folds=(1, 2, 3, 4), checkpoint_every=1, bfloat16=False)
    return TrainConfig(**(defaults | changes))


def run(config, data, out, tmp_path):
    torch.set_num_threads(1)
    records = []
    path = fit(config, read_manifest(data), out, tmp_path / "cache", records.append)
    return load_checkpoint(path), records


# Data sets


def test_esc50_layout(tmp_path):
    root = esc50_layout(tmp_path / "esc", [("1-a-A-1.wav", 1, 1, "rooster"), ("2-b-A-0.wav", 2, 0, "dog")])
    manifest = read_manifest(root)
    assert manifest.labels == ("dog", "rooster")  # in the order of the targets
    assert [(c.path.name, c.label, c.fold) for c in manifest.clips] == [
        ("1-a-A-1.wav", "rooster", 1), ("2-b-A-0.wav", "dog", 2)
    ]  # fmt: skip
    assert [c.fold for c in manifest.in_folds([2])] == [2]
    with pytest.raises(ManifestError, match=r"fold 5 has no clips; folds of ESC-50: \[1, 2\]"):
        manifest.in_folds([5])


def test_folder_for_each_class(folders):
    manifest = read_manifest(folders)
    assert manifest.labels == ("high", "low", "middle")
    assert len(manifest.clips) == 30
    for label in manifest.labels:  # stratified: two of ten in each of five folds
        assert sorted(c.fold for c in manifest.clips if c.label == label) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert read_manifest(folders) == manifest
    assert read_manifest(folders, seed=1) != manifest


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.mkdir(), "has 0 folders with sound files"),
        (lambda root: write_tone(root / "only" / "a.wav", 300), "has 1 folders with sound files"),
        (lambda root: [write_tone(root / label / "a.wav", 300) for label in "ab"], "class 'a' has one clip"),
        (lambda root: esc50_layout(root, []), "names no clips"),
    ],
)
def test_data_that_is_none(tmp_path, prepare, message):
    prepare(tmp_path / "x")
    with pytest.raises(ManifestError, match=message):
        read_manifest(tmp_path / "x")


def test_missing_and_malformed_rows(tmp_path):
    root = esc50_layout(tmp_path / "esc", [("a.wav", 1, 0, "dog"), ("b.wav", 1, 1, "cat")])
    (root / "audio" / "b.wav").unlink()
    with pytest.raises(ManifestError, match=r"1 of 2 files .* missing, the first is .*b\.wav"):
        read_manifest(root)
    (root / "meta" / "esc50.csv").write_text("filename,fold,target,category\na.wav,one,0,dog\n")
    with pytest.raises(ManifestError, match="line 2"):
        read_manifest(root)


# Features and windows


def test_the_cache_is_never_stale(folders, tmp_path):
    manifest, cache = read_manifest(folders), tmp_path / "cache"
    clips, frontend = list(manifest.clips), FrontendConfig()
    first = load_features(clips, frontend, 100, cache)
    assert load_features(clips, frontend, 100, cache).power.filename == first.power.filename
    write_tone(clips[0].path, 3000, seconds=3.0)
    changed = load_features(clips, frontend, 100, cache)
    assert changed.lengths[0] > first.lengths[0]
    other = load_features(clips, FrontendConfig(n_mels=32), 100, cache)
    assert other.power.shape[1] == 32


def test_short_clips_end_in_silence(tmp_path):
    for label in "ab":
        for i in range(2):
            write_tone(tmp_path / "d" / label / f"{i}.wav", 500, seconds=0.5)
    clips = list(read_manifest(tmp_path / "d").clips)
    features = load_features(clips, FrontendConfig(), 200, tmp_path / "cache")
    assert (features.lengths == 200).all()
    assert (features.clip(0)[100:] == 0).all()


def test_windows_prefer_sound_over_silence(tmp_path):
    for label in "ab":
        for i in range(2):
            path = tmp_path / "d" / label / f"{i}.wav"
            write_tone(path, 500, seconds=1.0)
            samples, _ = soundfile.read(path)
            soundfile.write(path, np.concatenate([np.zeros(9 * RATE), samples]), RATE)
    clips = list(read_manifest(tmp_path / "d").clips)
    features = load_features(clips, FrontendConfig(), 100, tmp_path / "cache")
    sampler = WindowSampler(features, np.zeros(len(clips), np.int64), 100)
    rng = np.random.default_rng(0)
    loud = [float(sampler.windows(np.array([0]), 0.0, rng).sum()) > 1 for _ in range(200)]
    assert np.mean(loud) > 0.4  # chance alone would give 0.2


# Augmentation


def test_augmentation_is_seeded_and_keeps_its_shapes():
    power = torch.rand(6, 120, 64) * 5
    labels = torch.arange(6)
    augment = Augment(AugmentConfig(), FrontendConfig(), 6)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        frames, targets = augment(power.clone(), labels)
        assert frames.shape == (6, 1, 64, 120)
        assert torch.isfinite(frames).all()
        assert torch.allclose(targets.sum(1), torch.ones(6))
        results.append(frames)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_every_augmentation_can_be_switched_off():
    off = AugmentConfig(0, 0, 0, 0, 0, 0, 0, time_masks=0, mel_masks=0)
    power, labels = torch.rand(4, 120, 64) + 0.1, torch.arange(4)
    frames, targets = Augment(off, FrontendConfig(), 4)(power, labels)
    assert torch.allclose(frames[:, 0], log_scale(power, FrontendConfig()).transpose(1, 2), atol=1e-5)
    assert torch.equal(targets, torch.eye(4))


def test_between_class_mixing_follows_what_is_heard():
    """Equal ratio, unequal levels: the quieter one is raised, so that both are heard alike."""
    torch.manual_seed(3)
    quiet = torch.zeros(2, 10, 4)
    quiet[0, :, 0], quiet[1, :, 3] = 1.0, 10_000.0
    mixed, targets = between_class_mix(quiet, torch.eye(2))
    for row in range(2):
        if targets[row, 0] not in (0, 1):
            heard = (mixed[row, 0, 0] / quiet[0, 0, 0]).sqrt(), (mixed[row, 0, 3] / quiet[1, 0, 3]).sqrt()
            expected = targets[row, 0] / targets[row, 1]
            assert heard[0] / heard[1] * (1 / 100) == pytest.approx(float(expected), rel=1e-3)


# Networks


def test_unknown_architectures_and_fields_are_named():
    assert "streaming" in architectures()
    with pytest.raises(ValueError, match=r"unknown architecture 'transformer'; there are: .*streaming"):
        build("transformer")
    with pytest.raises(ValueError, match="no field depth; it has: n_mels"):
        build("streaming", depth=3)


@pytest.mark.parametrize("n_mels", [32, 64, 80])
def test_columns_depend_on_their_receptive_field_alone(n_mels):
    torch.manual_seed(0)
    model = build("streaming", **SMALL, n_mels=n_mels).eval()
    frames = torch.randn(1, 1, n_mels, model.window_frames)
    columns = model.columns(frames)
    assert columns.shape == (1, 8, model.n_columns)
    assert model(frames).shape == (1, 50)
    field, stride = model.receptive_field, model.column_stride
    for index in (0, 5, model.n_columns - 1):
        changed = torch.randn_like(frames)
        changed[..., index * stride : index * stride + field] = frames[..., index * stride : index * stride + field]
        assert torch.allclose(model.columns(changed)[..., index], columns[..., index], atol=1e-5)
    assert count_macs(model, frames) > 0


def test_checkpoints_survive_and_damage_is_named(tmp_path):
    model = build("streaming", **SMALL)
    config = {"n_labels": 50, **SMALL}
    labels = tuple(f"class {i}" for i in range(50))
    saved = Checkpoint("streaming", config, FrontendConfig(), labels, {"seed": 1}, model.state_dict())
    save_checkpoint(tmp_path / "c.pt", saved)
    loaded = load_checkpoint(tmp_path / "c.pt")
    frames = torch.randn(1, 1, 64, model.window_frames)
    assert torch.equal(loaded.model()(frames), model.eval()(frames))
    assert (loaded.labels, loaded.frontend, loaded.provenance) == (labels, FrontendConfig(), {"seed": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    (tmp_path / "cut.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pt is not a checkpoint"):
        load_checkpoint(tmp_path / "cut.pt")


# Training


def test_training_learns_and_is_repeatable(folders, tmp_path):
    config = quick(epochs=12, validation_folds=(5,), validate_every=12, augment=AugmentConfig(mix=0.3))
    checkpoint, records = run(config, folders, tmp_path / "a", tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["accuracy"] >= 5 / 6  # of six clips of three tones
    again, _ = run(config, folders, tmp_path / "b", tmp_path)
    assert all(torch.equal(checkpoint.state[key], again.state[key]) for key in checkpoint.state)
    assert checkpoint.provenance["train_folds"] == [1, 2, 3, 4]
    other, _ = run(quick(epochs=12, seed=1), folders, tmp_path / "c", tmp_path)
    assert any(not torch.equal(checkpoint.state[key], other.state[key]) for key in checkpoint.state)


def test_an_interrupted_run_goes_on_to_the_same_weights(folders, tmp_path):
    config = quick(epochs=4)
    whole, records = run(config, folders, tmp_path / "whole", tmp_path)

    class Interrupted(Exception):
        pass

    def stop(record):
        if record["epoch"] == 3:
            raise Interrupted

    manifest = read_manifest(folders)
    with pytest.raises(Interrupted):
        fit(config, manifest, tmp_path / "cut", tmp_path / "cache", stop)
    resumed, rest = run(config, folders, tmp_path / "cut", tmp_path)
    assert [r["epoch"] for r in rest] == [3, 4]
    assert all(torch.equal(whole.state[key], resumed.state[key]) for key in whole.state)
    history = [json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()]
    assert [(h["epoch"], h["loss"]) for h in history] == [(r["epoch"], r["loss"]) for r in records]


def test_another_configuration_does_not_overwrite_a_run(folders, tmp_path):
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        run(quick(epochs=2), folders, tmp_path / "out", tmp_path)


def test_another_data_set_does_not_overwrite_a_run(folders, tmp_path):
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)
    shutil.copytree(folders, tmp_path / "other")
    (tmp_path / "other" / "low").rename(tmp_path / "other" / "lower")
    with pytest.raises(ValueError, match="another configuration or data set"):
        run(quick(epochs=1), tmp_path / "other", tmp_path / "out", tmp_path)


def test_small_classes_are_held_out_as_well(tmp_path):
    for label in "ab":
        for i in range(2):
            write_tone(tmp_path / "d" / label / f"{i}.wav", 500)
    assert sorted((c.label, c.fold) for c in read_manifest(tmp_path / "d").clips) == [
        ("a", 4), ("a", 5), ("b", 4), ("b", 5)
    ]  # fmt: skip


def test_a_student_learns_from_teachers(folders, tmp_path):
    run(quick(epochs=2), folders, tmp_path / "teacher", tmp_path)
    teacher = str(tmp_path / "teacher" / "checkpoint.pt")
    alone, _ = run(quick(epochs=2), folders, tmp_path / "alone", tmp_path)
    taught, _ = run(quick(epochs=2, teachers=(teacher,)), folders, tmp_path / "taught", tmp_path)
    assert any(not torch.equal(alone.state[key], taught.state[key]) for key in alone.state)
    wider = quick(teachers=(teacher,), frontend=FrontendConfig(n_mels=32))
    with pytest.raises(ValueError, match=r"teacher .* has another front end"):
        run(wider, folders, tmp_path / "wider", tmp_path)


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_the_recipes_are_of_networks_that_can_be_built(recipe):
    config = read_recipe(recipe)
    model = build(config.architecture, **config.model, n_mels=config.frontend.n_mels)
    seconds = config.frontend.n_samples(model.window_frames) / config.frontend.sample_rate
    assert seconds == pytest.approx(4.0, abs=0.1)


# Commands


train = partial(run_module, "train")


def test_commands_from_folder_to_listening(folders, tmp_path):
    """fit → export → evaluate → classify, as the documentation says."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "epochs = 15\nbatch_size = 8\nbfloat16 = false\n"
        "[model]\nwidths = [8, 8]\nlast_width = 8\ncolumn_width = 8\nn_columns = 21\n[augment]\nmix = 0.3\n"
    )
    out = tmp_path / "run"
    train("fit", folders, "--recipe", recipe, "--out", out, "--cache", tmp_path / "cache", "--threads", 1)
    done = subprocess.run(
        [sys.executable, "-m", "export", str(out / "checkpoint.pt"), "--data", str(folders),
         "--out", str(tmp_path / "m"), "--name", "tones", "--licence", "CC0-1.0", "--workers", "1"],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "m").iterdir()} == {"tones.onnx", "tones.int8.onnx", "tones.md"}
    report = json.loads(
        train("evaluate", folders, "--model", tmp_path / "m" / "tones.int8.onnx", "--workers", 1, "--json").stdout
    )
    assert report["folds"] == [5]
    assert report["clips"] == 6
    assert report["accuracy"] >= 5 / 6
    card = (tmp_path / "m" / "tones.md").read_text()
    assert "CC0-1.0" in card
    assert "| high |" in card
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli.classify", str(folders / "high"), "--output", "jsonl", "--model",
         str(tmp_path / "m" / "tones.int8.onnx")],
        capture_output=True, text=True, cwd=ROOT, timeout=300,
    )  # fmt: skip
    named = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert named.count("high") >= 9


def test_mistakes_end_in_one_line(folders, tmp_path):
    assert "is not a folder" in train("fit", tmp_path / "no", "--out", tmp_path / "o", code=1).stderr
    assert "fold 9 has no clips" in train("fit", folders, "--test-fold", 9, code=1).stderr
    assert "there is no recipe 'magic'" in train("fit", folders, "--recipe", "magic", code=1).stderr
    (tmp_path / "bad.toml").write_text("epoch = 3\n")
    assert (
        "unexpected keyword argument 'epoch'" in train("fit", folders, "--recipe", tmp_path / "bad.toml", code=1).stderr
    )
    assert "the model has no class high, low, middle" in train("evaluate", folders, code=1).stderr
    assert "fold 9 has no clips" in train("evaluate", folders, "--fold", 9, code=1).stderr
    shutil.rmtree(folders / "high")
    for path in (folders / "low").iterdir():
        path.write_text("no sound")
    assert ".wav cannot be read" in train("fit", folders, "--out", tmp_path / "o", code=1).stderr
