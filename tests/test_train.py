"""Reading data sets, training, resuming, evaluating."""

import contextlib
import copy
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import soundfile
import torch

from edge.config import FrontendConfig
from models import build
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.conftest import ROOT, run_here, run_module
from train.augment import AugmentConfig
from train.config import RECIPES, TrainConfig, read_recipe
from train.dataset import View, WindowSampler, load_features
from train.effects import MicrophoneConfig
from train.evaluate import evaluate
from train.folder import locked
from train.initial import start_from
from train.loop import fit, make_model
from train.losses import class_weights, clip_weights
from train.manifest import ManifestError, ReadOptions, read_manifest, with_more
from train.optim import Schedule, make_optimiser
from train.precision import forward_dtype
from train.run import check, recipes_before, teacher_config
from train.run import run as train_run

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


def test_names_need_not_be_utf_8(folders):
    """A view is seeded by the clip's name."""
    clip = next((folders / "low").iterdir())
    odd = clip.rename(os.fsdecode(os.fsencode(clip.parent) + b"/\xe4.wav"))
    index = [clip.path for clip in read_manifest(folders).clips].index(odd)
    assert len(features_of(folders, None, view=View(1, MicrophoneConfig())).clip(index)) > 100
    (folders / "low").rename(os.fsdecode(os.fsencode(folders) + b"/l\xf6w"))
    with pytest.raises(ManifestError, match=r"the name of class .* is not UTF-8; rename it"):
        read_manifest(folders)


def quick(**changes):
    defaults = dict(model=SMALL, epochs=3, batch_size=8, views=0, checkpoint_every=1, precision="float32")
    return TrainConfig(**(defaults | changes))


def run(config, data, out, tmp_path):
    torch.set_num_threads(1)
    records = []
    path = fit(config, read_manifest(data), out, tmp_path / "cache", records.append, device="cpu")
    return load_checkpoint(path), records


# Features and windows


def features_of(root, cache, frontend=None, **options):
    return load_features(read_manifest(root).clips, frontend or FrontendConfig(), cache, **options)


def test_the_cache_is_never_stale(folders, tmp_path):
    cache = tmp_path / "cache"
    first = features_of(folders, cache)
    stamp = {path: path.stat().st_mtime_ns for path in cache.rglob("*.f32")}
    assert torch.equal(features_of(folders, cache).clip(3), first.clip(3))
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*.f32")} == stamp  # read, not computed
    changed = read_manifest(folders).clips[0].path
    write_tone(changed, 3000, seconds=3.0)
    assert len(features_of(folders, cache).clip(0)) > len(first.clip(0))
    assert features_of(folders, cache, FrontendConfig(n_mels=32)).clip(0).shape[2] == 32
    louder = View(1, MicrophoneConfig())
    assert not torch.equal(features_of(folders, cache, view=louder).clip(0), features_of(folders, cache).clip(0))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("power.f32", lambda good: good[: len(good) // 2]),
        ("power.f32", lambda _: None),
        ("clips.json", lambda _: b"\xff{"),
        ("clips.json", lambda _: b"[]"),
        ("clips.json", lambda _: b'{"lengths": [1], "errors": {}}'),
    ],
)
def test_a_damaged_cache_is_computed_again(folders, tmp_path, caplog, name, damage):
    whole = features_of(folders, tmp_path / "cache")
    (path,) = (tmp_path / "cache").rglob(name)
    good = path.read_bytes()
    bad = damage(good)
    path.unlink()
    if bad is not None:
        path.write_bytes(bad)
    healed = features_of(folders, tmp_path / "cache")
    assert all(torch.equal(healed.clip(n), whole.clip(n)) for n in range(30))
    (line,) = caplog.messages
    assert line.startswith(f"{path} is damaged")
    assert line.endswith("; its features are computed again")
    assert path.read_bytes() == good
    features_of(folders, tmp_path / "cache")
    assert len(caplog.messages) == 1


def test_without_a_cache_the_features_are_the_same(folders, tmp_path):
    (folders / "low" / "5.wav").write_text("no sound")
    cached, decoded = features_of(folders, tmp_path / "cache"), features_of(folders, None)
    assert len(cached) == len(decoded) == 30
    assert cached.errors == decoded.errors
    ((number, reason),) = cached.errors.items()
    assert "5.wav cannot be read" in reason
    for index in set(range(30)) - {number}:
        assert torch.equal(cached.clip(index), decoded.clip(index))
    view = View(2, MicrophoneConfig())
    assert torch.equal(
        features_of(folders, tmp_path / "cache", view=view).clip(1), features_of(folders, None, view=view).clip(1)
    )


def test_short_clips_end_in_silence(tmp_path):
    for label in "ab":
        for i in range(2):
            write_tone(tmp_path / "d" / label / f"{i}.wav", 500, seconds=0.5)
    features = features_of(tmp_path / "d", tmp_path / "cache")
    window = WindowSampler(features, 200).windows(np.array([0]), 0.0, np.random.default_rng(0))
    assert window.shape == (1, 1, 200, 64)
    silent = (window[0, 0] == 0).all(1)
    assert silent.sum() == 200 - len(features.clip(0))


def test_a_clip_of_less_than_a_frame_is_left_out_as_where_it_is_evaluated(folders, tmp_path, caplog):
    short = folders / "low" / "3.wav"
    soundfile.write(short, soundfile.read(short)[0][:511], RATE)
    data = read_manifest(folders)
    number = [clip.path for clip in data.clips].index(short)
    why = f"{short} ends after 511 samples at 16000 Hz (give at least one frame, 512 samples)"
    for cache in (tmp_path / "cache", None):
        assert features_of(folders, cache).errors == {number: why}
    fit(quick(epochs=1), data, tmp_path / "out", tmp_path / "cache", lambda _: None, device="cpu")
    assert f"left out: {why}" in caplog.text
    assert evaluate(tmp_path / "out" / "checkpoint.pt", data.clips).skipped == (why,)
    with pytest.raises(ManifestError, match=r"1 of 30 clips cannot be read, the first: .*3\.wav ends after 511"):
        fit(quick(epochs=1), data, tmp_path / "o", tmp_path / "cache", lambda _: None, device="cpu", strict=True)
    soundfile.write(short, np.zeros(512), RATE)
    assert len(features_of(folders, None).clip(number)) == 1


def test_a_stereo_front_end_keeps_both_channels(tmp_path):
    time = np.arange(RATE) / RATE
    both = np.stack([0.3 * np.sin(2 * np.pi * 300 * time), 0.3 * np.sin(2 * np.pi * 4000 * time)], axis=1)
    for label in "ab":
        (tmp_path / "d" / label).mkdir(parents=True)
        for i in range(2):
            soundfile.write(tmp_path / "d" / label / f"{i}.wav", both, RATE)
    power = features_of(tmp_path / "d", None, FrontendConfig(channels=2)).clip(0).mean(0)  # [channels, n_mels]
    assert power[0].argmax() < 20 < 40 < power[1].argmax()


def test_windows_prefer_sound_over_silence(tmp_path):
    for label in "ab":
        for i in range(2):
            path = tmp_path / "d" / label / f"{i}.wav"
            write_tone(path, 500, seconds=1.0)
            samples, _ = soundfile.read(path)
            soundfile.write(path, np.concatenate([np.zeros(9 * RATE), samples]), RATE)
    sampler = WindowSampler(features_of(tmp_path / "d", tmp_path / "cache"), 100)
    rng = np.random.default_rng(0)
    loud = [float(sampler.windows(np.array([0]), 0.0, rng).sum()) > 1 for _ in range(200)]
    assert np.mean(loud) > 0.4  # chance alone would give 0.2


def test_windows_begin_where_the_clip_does_without_a_time_shift(tmp_path):
    path = tmp_path / "d" / "a" / "0.wav"
    for name in ("a/0", "a/1", "b/0", "b/1"):
        write_tone(tmp_path / "d" / f"{name}.wav", 500, seconds=3.0)
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples * np.linspace(0.1, 1, len(samples)), RATE)
    features = features_of(tmp_path / "d", tmp_path / "cache")

    def places(share):
        sampler = WindowSampler(features, 100, time_shift=share)
        rng = np.random.default_rng(0)
        levels = [float(sampler.windows(np.array([0]), 0.0, rng)[0, :, 0].sum()) for _ in range(50)]
        return len(set(levels))

    assert places(1.0) > 20
    assert places(0.0) == 1
    drawn = [WindowSampler(features, 100, **given).windows(np.array([0, 1]), 0.3, np.random.default_rng(1))
             for given in ({}, {"time_shift": 1.0})]  # fmt: skip
    assert torch.equal(*drawn)  # recipes of before draw what they drew


def test_rare_classes_are_drawn_as_often(folders, tmp_path):
    targets = np.zeros((30, 3), np.float32)
    targets[:27, 0], targets[27:, 1] = 1, 1
    sampler = WindowSampler(features_of(folders, tmp_path / "cache"), 100, weights=clip_weights(targets))
    rng = np.random.default_rng(0)
    drawn = np.concatenate([clips.numpy() for _ in range(40) for _, clips in sampler.epoch(10, 0.0, rng)])
    assert 0.45 < np.mean(drawn >= 27) < 0.55
    assert class_weights(targets)[1] == pytest.approx(9 * class_weights(targets)[0])


# Training


def test_training_learns_and_is_repeatable(folders, tmp_path):
    config = quick(epochs=20, validation_folds=(5,), validate_every=20, augment=AugmentConfig(mix=0.3))
    checkpoint, records = run(config, folders, tmp_path / "a", tmp_path)
    assert records[-1]["loss"] < records[0]["loss"]
    assert records[-1]["accuracy"] >= 5 / 6  # of six clips of three tones
    again, _ = run(config, folders, tmp_path / "b", tmp_path)
    assert all(torch.equal(checkpoint.state[key], again.state[key]) for key in checkpoint.state)
    assert checkpoint.provenance["train_folds"] == [1, 2, 3, 4]
    other, _ = run(quick(epochs=20, seed=1), folders, tmp_path / "c", tmp_path)
    assert any(not torch.equal(checkpoint.state[key], other.state[key]) for key in checkpoint.state)


def test_an_interrupted_run_goes_on_to_the_same_weights(folders, tmp_path):
    config = quick(epochs=4)
    whole, records = run(config, folders, tmp_path / "whole", tmp_path)

    def stop(record):
        if record["epoch"] == 3:
            raise Interrupted

    manifest = read_manifest(folders)
    with pytest.raises(Interrupted):
        fit(config, manifest, tmp_path / "cut", tmp_path / "cache", stop, device="cpu")
    resumed, rest = run(config, folders, tmp_path / "cut", tmp_path)
    assert [r["epoch"] for r in rest] == [3, 4]
    assert all(torch.equal(whole.state[key], resumed.state[key]) for key in whole.state)
    history = [json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()]
    assert [(h["epoch"], h["loss"]) for h in history] == [(r["epoch"], r["loss"]) for r in records]


def test_another_configuration_does_not_overwrite_a_run(folders, tmp_path):
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        run(quick(epochs=2), folders, tmp_path / "out", tmp_path)
    path = tmp_path / "out" / "config.json"
    older = json.loads(path.read_text())
    # A run of a version that did not have these fields yet.
    assert older.pop("quantised") is False
    assert older["augment"].pop("time_shift") == 1
    path.write_text(json.dumps(older))
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)
    with pytest.raises(ValueError, match="another configuration"):
        run(quick(epochs=1, quantised=True), folders, tmp_path / "out", tmp_path)
    still = dataclasses.replace(quick().augment, time_shift=0.0)
    with pytest.raises(ValueError, match="another configuration"):
        run(quick(epochs=1, augment=still), folders, tmp_path / "out", tmp_path)


def test_a_run_that_could_not_begin_leaves_its_folder_free(folders, tmp_path):
    with pytest.raises(ValueError, match="cannot be built with"):
        run(quick(epochs=1, model=SMALL | {"widths": (8, 8, 8, 8)}), folders, tmp_path / "out", tmp_path)
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)


@pytest.mark.parametrize(
    ("architecture", "sizes", "message"),
    [
        ("streaming", {"widths": []}, r"widths is \(\); allowed: one or more whole numbers, each 1 or more"),
        ("streaming", {"widths": (0,)}, r"widths is \(0,\); allowed: one or more whole numbers, each 1 or more"),
        ("streaming", {"widths": "wide"}, r"widths is 'wide'; allowed: one or more whole numbers, each 1 or more"),
        ("streaming", {"last_width": 0}, "last_width is 0; allowed: a whole number, 1 or more"),
        ("streaming", {"blocks": (1,)}, "widths, blocks and strides have 2, 1 and 2 entries; give one of each"),
        ("streaming", {"widths": (1, 8)}, "widths begins with 1; allowed: 2 or more"),
        ("attention", {"widths": []}, r"widths is \(\); allowed: one or more"),
        ("bilstm", {"hidden": 0}, "hidden is 0; allowed: a whole number, 1 or more"),
    ],
)
def test_a_size_that_cannot_be_is_named(architecture, sizes, message):
    with pytest.raises(ValueError, match=f"^{architecture} cannot be built with .*: {message}"):
        make_model(TrainConfig(architecture=architecture, model=sizes), 3)


def test_a_network_has_the_classes_of_the_data_and_the_bands_of_the_front_end():
    assert make_model(quick(model=SMALL | {"n_labels": 3}), 3).config.n_labels == 3
    for name, message in (
        ("n_labels", "model.n_labels is 7; the classes of the data set decide it, 3 here: leave it out"),
        ("n_mels", "model.n_mels is 7; frontend.n_mels decide it, 64 here: leave it out"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            make_model(quick(model=SMALL | {name: 7}), 3)


@pytest.mark.parametrize("rate", [1e30, 1e6])
def test_a_training_that_diverges_says_so_and_is_no_result(folders, tmp_path, rate):
    config = quick(epochs=3, optimiser="sgd", learning_rate=rate, clip_norm=0.0)
    with pytest.raises(ValueError, match=r"diverged in epoch \d: its loss is .*; lower learning_rate \("):
        run(config, folders, tmp_path / "out", tmp_path)
    assert not (tmp_path / "out" / "checkpoint.pt").exists()
    for bad in (float("nan"), float("inf"), 0.0):
        with pytest.raises(ValueError, match=r"learning_rate is .*; allowed: above 0"):
            quick(learning_rate=bad)


def test_what_is_held_out_was_not_heard_before(folders, tmp_path):
    """Neither by the weights that a run begins with, nor by its teachers."""
    run(quick(epochs=1, train_folds=(1, 2, 3, 5), test_fold=4), folders, tmp_path / "first", tmp_path)
    first, manifest = str(tmp_path / "first" / "checkpoint.pt"), read_manifest(folders)
    message = (
        r"has learnt from fold 5 of data, which is held out here; it has not heard fold 4: give that as --test-fold"
    )
    for changes in ({"init": first}, {"teachers": (first,)}):
        with pytest.raises(ValueError, match=message):
            train_run(quick(epochs=1, **changes), manifest, tmp_path / "out", None, lambda *_: None, device="cpu")
        assert not (tmp_path / "out").exists()
    again = quick(epochs=1, init=first, train_folds=(1, 2, 3, 5), test_fold=4)
    train_run(again, manifest, tmp_path / "out", tmp_path / "cache", lambda *_: None, device="cpu")


def test_what_is_held_out_was_not_heard_before_in_folds_that_are_dealt_anew(folders, tmp_path):
    """By another seed, or for a new recording; clips that are added by the side leave the folds as they are."""
    data, first, more = read_manifest(folders), tmp_path / "first", tmp_path / "more"
    origin = {"dataset": "data", "digest": data.digest(), "train_folds": (1, 2, 3, 4), "test_fold": 5}
    origin |= {"seed": 0, "epochs": 1, "git_revision": "x"}
    save_checkpoint(first / "checkpoint.pt", Checkpoint("streaming", SMALL, FrontendConfig(), data.labels, origin, {}))
    data.save(first / "manifest.jsonl")
    write_tone(more / "low" / "new.wav", 220)
    grown = shutil.copytree(folders, tmp_path / "grown")
    write_tone(grown / "low" / "another.wav", 220)

    def checked(manifest, fold=5):
        for changes in ({"init": f"{first}/checkpoint.pt"}, {"teachers": (f"{first}/checkpoint.pt",)}):
            check(quick(train_folds=tuple({*range(1, 6)} - {fold}), test_fold=fold, **changes), manifest)

    learnt = r"checkpoint\.pt has learnt from [1-7] of the [67] clips that are held out here; "
    own = r"give its own folds \(.*first/manifest\.jsonl as DATA, --test-fold 5\), with new recordings as --more, "
    for manifest in (read_manifest(grown), read_manifest(folders, ReadOptions(seed=7))):
        with pytest.raises(ValueError, match=learnt + own):
            checked(manifest)
    with pytest.raises(
        ValueError, match=learnt + "it has not heard fold 5: give that as --test-fold, or other weights"
    ):
        checked(with_more(data, more, 1), fold=4)
    for manifest in (data, read_manifest(first / "manifest.jsonl")):
        checked(with_more(manifest, more, 1))
    for clip in read_manifest(grown).clips:  # another data set, though it has these names
        write_tone(clip.path, 300, seconds=0.1)
    checked(read_manifest(grown))


def test_what_a_network_starts_from_has_its_sizes(folders, tmp_path):
    """A recipe in two steps takes other sizes for both."""
    student = quick(init="plain@1", model=SMALL, teachers=("quick",))
    assert teacher_config("plain@1", student).model == SMALL
    assert teacher_config("quick", student).model == {}


def test_another_data_set_does_not_overwrite_a_run(folders, tmp_path):
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)
    shutil.copytree(folders, tmp_path / "other")
    (tmp_path / "other" / "low").rename(tmp_path / "other" / "lower")
    with pytest.raises(ValueError, match="another configuration or data set"):
        run(quick(epochs=1), tmp_path / "other", tmp_path / "out", tmp_path)


def test_other_sound_under_the_same_names_does_not_go_on(folders, tmp_path, caplog):
    """Whether the run was interrupted or is finished. A copy of the recordings goes on."""
    manifest, config = read_manifest(folders), quick()
    with contextlib.suppress(Interrupted):
        fit(config, manifest, tmp_path / "cut", tmp_path / "cache", interrupt_after_one(), device="cpu")
    run(config, folders, tmp_path / "whole", tmp_path)
    assert caplog.messages == []
    shutil.copytree(folders, tmp_path / "copy" / "data", copy_function=shutil.copyfile)  # with other times of change
    assert run(config, tmp_path / "copy" / "data", tmp_path / "whole", tmp_path)[1] == []
    assert caplog.messages == [f"{tmp_path / 'whole'} is already trained; nothing was done"]
    shutil.copytree(tmp_path / "cut", tmp_path / "again")
    assert len(run(config, tmp_path / "copy" / "data", tmp_path / "again", tmp_path)[1]) == 2
    changed = folders / "low" / "3.wav"
    write_tone(changed, 400, seed=3)  # as many bytes
    for out in ("cut", "whole"):
        message = (
            f"1 of 30 recordings have changed since {tmp_path / out} was begun, the first: {changed}; give another"
        )
        with pytest.raises(ValueError, match=re.escape(message)):
            run(config, folders, tmp_path / out, tmp_path)
    write_tone(changed, 200, seconds=2.4, seed=3)
    with pytest.raises(ValueError, match=re.escape(message)):
        run(config, folders, tmp_path / out, tmp_path)
    (tmp_path / "whole" / "recordings.jsonl").write_text("{}")
    with pytest.raises(ValueError, match=r"whole/recordings\.jsonl is damaged, .*; give another --out, or delete "):
        run(config, folders, tmp_path / "whole", tmp_path)
    (tmp_path / "whole" / "recordings.jsonl").unlink()  # of a version that did not note them
    assert run(config, folders, tmp_path / "whole", tmp_path)[1] == []


def test_a_student_learns_from_teachers(folders, tmp_path):
    run(quick(epochs=2), folders, tmp_path / "teacher", tmp_path)
    teacher = str(tmp_path / "teacher" / "checkpoint.pt")
    alone, _ = run(quick(epochs=2), folders, tmp_path / "alone", tmp_path)
    taught, _ = run(quick(epochs=2, teachers=(teacher,)), folders, tmp_path / "taught", tmp_path)
    assert any(not torch.equal(alone.state[key], taught.state[key]) for key in alone.state)
    wider = quick(teachers=(teacher,), frontend=FrontendConfig(n_mels=32))
    with pytest.raises(ValueError, match=r"teacher .* has another front end"):
        run(wider, folders, tmp_path / "wider", tmp_path)


def test_a_teacher_named_by_its_recipe_is_trained_first(folders, tmp_path):
    sizes = "\n".join(f"{key} = {list(v) if isinstance(v, tuple) else v}" for key, v in SMALL.items())
    (tmp_path / "teacher.toml").write_text(f"epochs = 1\nbatch_size = 8\nviews = 0\n[model]\n{sizes}\n")
    seen, recipe = [], tmp_path / "teacher.toml"

    def report(out, config, record):
        seen.append((out.name, config.seed, record["epoch"]))

    config = quick(epochs=2, init=f"{recipe}@7", teachers=(f"{recipe}", f"{recipe}@7"))
    path = train_run(config, read_manifest(folders), tmp_path / "out", tmp_path / "cache", report, device="cpu")
    assert seen == [("teacher-7", 7, 1), ("teacher", 0, 1), ("out", 0, 1), ("out", 0, 2)]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["init"].endswith(
        "teachers/teacher-7/checkpoint.pt"
    )
    assert path == tmp_path / "out" / "checkpoint.pt"
    assert load_checkpoint(path).provenance["epochs"] == 1 + 2, "those of both steps"
    for folder in ("teacher", "teacher-7"):
        assert load_checkpoint(tmp_path / "out" / "teachers" / folder / "checkpoint.pt").provenance["test_fold"] == 5


def test_recipes_that_would_be_trained_in_one_folder_are_named(folders, tmp_path):
    paths = [tmp_path / name for name in ("a/wide.toml", "b/wide.toml", "wide-1.toml")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text("epochs = 1\n")
    first, second, with_seed = map(str, paths)
    manifest = read_manifest(folders)
    for names, folder in (((first, second), "wide"), ((f"{first}@1", with_seed), "wide-1")):
        message = f"recipes {names[0]!r} and {names[1]!r} would both be trained in OUT/teachers/{folder}; rename"
        for changes in ({"teachers": names}, {"init": names[0], "teachers": names[1:]}):
            with pytest.raises(ValueError, match=re.escape(message)):
                train_run(quick(**changes), manifest, tmp_path / "out", None, lambda *_: None, device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine"},
        {"schedule": "plateau", "plateau_patience": 0, "validation_folds": (4,), "validate_every": 1},
        {"schedule": "constant", "optimiser": "sgd", "balance": "sampling"},
        {"optimiser": "muon"},
        {"cycles": 2},
        {"balance": "loss", "label_smoothing": 0.1, "precision": "bfloat16", "views": 1},
        {"patience": 1, "validation_folds": (4,), "validate_every": 1, "learning_rate": 1e-6},
    ],
)
def test_every_way_to_train_is_repeated_when_resumed(folders, tmp_path, changes):
    """Interrupted after each epoch, and taken up again: the same weights and the same curve."""
    config = quick(epochs=4, **changes)
    if config.validation_folds:
        config = dataclasses.replace(config, train_folds=(1, 2, 3))
    whole, records = run(config, folders, tmp_path / "whole", tmp_path)
    for _ in records:
        with contextlib.suppress(Interrupted):
            fit(
                config,
                read_manifest(folders),
                tmp_path / "cut",
                tmp_path / "cache",
                interrupt_after_one(),
                device="cpu",
            )
    resumed, _ = run(config, folders, tmp_path / "cut", tmp_path)
    assert all(torch.equal(whole.state[key], resumed.state[key]) for key in whole.state)
    assert curve(tmp_path / "cut") == curve(tmp_path / "whole")


class Interrupted(Exception):
    pass


def interrupt_after_one():
    """A report that ends the run in its second epoch, whose first has been saved by then."""
    seen = []

    def report(record):
        seen.append(record)
        if len(seen) == 2:
            raise Interrupted

    return report


def curve(out):
    rows = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.endswith("seconds")} for row in rows]


def test_muon_turns_kernels_as_torchs_does_matrices_and_all_else_as_adamw():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, (2, 5)), torch.nn.Flatten(), torch.nn.Linear(8, 4))
    twin = copy.deepcopy(model).to(memory_format=torch.channels_last)
    config = TrainConfig(optimiser="muon", learning_rate=0.01, weight_decay=0.1)
    optimiser = make_optimiser(twin, config, head=None)
    matrix = torch.nn.Parameter(model[0].weight.detach().flatten(1))
    adamw = torch.optim.AdamW(
        [{"params": [model[2].weight]}, {"params": [model[0].bias, model[2].bias], "weight_decay": 0}],
        lr=0.01,
        weight_decay=0.1,
    )
    muon = torch.optim.Muon([matrix], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(3):
        for group in [*optimiser.param_groups, *adamw.param_groups, *muon.param_groups]:
            group["lr"] = 0.01 / (step + 1)  # a schedule's
        torch.manual_seed(step)
        for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
            parameter.grad = torch.randn_like(parameter)
            other.grad = parameter.grad.clone()
        matrix.grad = model[0].weight.grad.flatten(1)
        for each in (optimiser, adamw, muon):
            each.step()
        model[0].weight.data = matrix.detach().view_as(model[0].weight)
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other)


def test_early_stopping_ends_with_the_best_weights(folders, tmp_path):
    config = quick(epochs=50, patience=3, train_folds=(1, 2, 3), validation_folds=(4,), validate_every=1, average=0.0)
    _, records = run(config, folders, tmp_path / "out", tmp_path)
    accuracies = [r["accuracy"] for r in records]
    assert len(records) < 50
    assert len(records) - 1 - accuracies.index(max(accuracies)) == 3
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    right = [clip["labels"] == [predictions["labels"][np.argmax(clip["probs"])]] for clip in predictions["clips"]]
    assert np.mean(right) == pytest.approx(max(accuracies))


def test_schedules_rise_and_fall():
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    rates = {}
    for name in ("one-cycle", "cosine", "constant"):
        optimiser = torch.optim.SGD([parameter], lr=0.5)
        schedule = Schedule(optimiser, TrainConfig(schedule=name, epochs=10, learning_rate=0.5, warm_up=0.2), 10)
        rates[name] = []
        for _ in range(100):
            rates[name].append(optimiser.param_groups[0]["lr"])
            optimiser.step()
            schedule.step()
        assert rates[name][0] < 0.1 < max(rates[name]) == pytest.approx(0.5)
        assert 19 <= int(np.argmax(rates[name])) <= 21
    assert max(rates["one-cycle"][-1], rates["cosine"][-1]) < 0.001
    assert rates["constant"][-1] == pytest.approx(0.5)


def test_a_schedule_goes_in_cycles():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(2, 2))], lr=0.5)
    config = TrainConfig(epochs=11, cycles=3, learning_rate=0.5, warm_up=0.25)
    assert config.cycle_ends() == [4, 7, 11]
    assert dataclasses.replace(config, epochs=2).cycle_ends() == [1, 2], "no more than epochs"
    schedule, rates = Schedule(optimiser, config, 10), []
    for _ in range(110):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    for begin, end in ((0, 40), (40, 70), (70, 110)):
        cycle = rates[begin:end]
        assert cycle[0] == pytest.approx(0.02)
        assert int(np.argmax(cycle)) == round(0.25 * (end - begin))
        assert max(cycle) == pytest.approx(0.5)
        assert cycle[-1] < 0.005


def test_a_plateau_lowers_the_rate_for_good():
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(2, 2))], lr=0.5)
    config = TrainConfig(
        schedule="plateau", epochs=10, learning_rate=0.5, warm_up=0.05, plateau_patience=1, plateau_factor=0.1
    )
    schedule, rates = Schedule(optimiser, config, 10), []
    for _ in range(6):
        for _ in range(10):
            optimiser.step()
            schedule.step()
        schedule.end_epoch(1.0)
        rates.append(optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([0.5, 0.5, 0.05, 0.05, 0.005, 0.005])


def test_a_plateau_begins_again_with_each_cycle():
    """From the highest rate, and with no loss of the cycle before; also where the run is interrupted at any epoch."""
    config = TrainConfig(schedule="plateau", epochs=6, cycles=2, warm_up=0.0, plateau_patience=0, plateau_factor=0.1)

    def begin():
        optimiser = torch.optim.SGD([torch.nn.Parameter(torch.ones(2, 2))], lr=0.5)
        return optimiser, Schedule(optimiser, config, 10)

    for interrupted in (False, True):
        (optimiser, schedule), rates = begin(), []
        for loss in (1.0, 1.0, 0.5, 2.0, 2.0, 2.0):
            for _ in range(10):
                optimiser.step()
                rates.append(optimiser.param_groups[0]["lr"])
                schedule.step()
            schedule.end_epoch(loss)
            if interrupted:
                parts = [part.state_dict() for part in (optimiser, schedule)]
                optimiser, schedule = begin()
                for part, state in zip((optimiser, schedule), parts, strict=True):
                    part.load_state_dict(state)
        # The first step is of the warm-up.
        assert rates[5::10] == pytest.approx([0.5, 0.5, 0.05, 0.5, 0.5, 0.05])


def test_a_plateau_leaves_a_trunk_that_does_not_learn():
    model = torch.nn.ModuleDict({"trunk": torch.nn.Linear(2, 2), "classifier": torch.nn.Linear(2, 2)})
    config = TrainConfig(schedule="plateau", learning_rate=0.5, trunk_rate=0.0, plateau_patience=0)
    optimiser = make_optimiser(model, config, "classifier")
    schedule = Schedule(optimiser, config, 1)
    for _ in range(100):
        optimiser.step()
        schedule.step()
    for _ in range(2):
        schedule.end_epoch(1.0)
    assert {group["lr"] for group in optimiser.param_groups} == {0.0, 0.3 * 0.5}


def test_what_several_cycles_end_with_is_the_mean_of_all_and_of_where_they_began(folders, tmp_path):
    first, _ = run(quick(epochs=2), folders, tmp_path / "first", tmp_path)
    init = str(tmp_path / "first" / "checkpoint.pt")
    config = quick(epochs=4, cycles=2, init=init, validation_folds=(4,), train_folds=(1, 2, 3), validate_every=4)
    ends = []

    def keep(record):
        if record["epoch"] in (3, 4):  # what was saved after the epoch before
            ends.append(torch.load(tmp_path / "out" / "state.pt", weights_only=True))

    path = fit(config, read_manifest(folders), tmp_path / "out", tmp_path / "cache", keep, device="cpu")
    after_one, before_last = ends
    kernel = "trunk.0.0.weight"
    end_of_one = after_one["average"]["module." + kernel]
    assert not torch.equal(end_of_one, first.state[kernel])
    assert torch.allclose(after_one["mean"]["module." + kernel], (first.state[kernel] + end_of_one) / 2)
    assert int(before_last["mean"]["n_averaged"]) == 2
    # Where the second cycle ended, by the mean of three: near to where it was an epoch before.
    mean = load_checkpoint(path).state[kernel]
    end_of_two = 3 * mean - first.state[kernel] - end_of_one
    assert 0 < (end_of_two - before_last["average"]["module." + kernel]).abs().max() < 0.1
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    assert int(state["mean"]["n_averaged"]) == 3
    assert torch.equal(state["average"]["module." + kernel], mean), "what is validated in the end is what is kept"
    norm = "trunk.0.1.running_var"
    assert torch.allclose(
        after_one["mean"]["module." + norm], (first.state[norm] + after_one["average"]["module." + norm]) / 2
    )


def test_the_mean_of_cycles_is_without_a_beginning_that_does_not_know_the_classes(folders, tmp_path):
    run(quick(epochs=1), folders, tmp_path / "first", tmp_path)
    shutil.move(folders / "low", folders / "lower")
    init = str(tmp_path / "first" / "checkpoint.pt")
    run(quick(epochs=2, cycles=2, init=init), folders, tmp_path / "out", tmp_path)
    state = torch.load(tmp_path / "out" / "state.pt", weights_only=True)
    assert int(state["mean"]["n_averaged"]) == 2, "the ends alone"


def test_silence_and_views_are_repeated_when_resumed(tmp_path):
    """Where a window is placed must not depend on which view was drawn first in this process."""
    for label, frequency in (("low", 200), ("high", 4000)):
        for i in range(8):
            path = tmp_path / "d" / label / f"{i}.wav"
            write_tone(path, frequency, seconds=1.0, seed=i)
            soundfile.write(
                path, np.concatenate([np.zeros(4 * RATE), soundfile.read(path)[0], np.zeros(3 * RATE)]), RATE
            )
    config = quick(epochs=4, views=2, view_share=0.7)
    whole, _ = run(config, tmp_path / "d", tmp_path / "whole", tmp_path)
    with contextlib.suppress(Interrupted):
        fit(
            config,
            read_manifest(tmp_path / "d"),
            tmp_path / "cut",
            tmp_path / "cache",
            interrupt_after_one(),
            device="cpu",
        )
    resumed, rest = run(config, tmp_path / "d", tmp_path / "cut", tmp_path)
    assert len(rest) == 3
    assert all(torch.equal(whole.state[key], resumed.state[key]) for key in whole.state)


def test_two_runs_do_not_share_a_folder(folders, tmp_path):
    with locked(tmp_path / "out"), pytest.raises(ValueError, match="another process trains in"):
        run(quick(), folders, tmp_path / "out", tmp_path)
    run(quick(epochs=1), folders, tmp_path / "out", tmp_path)


def test_a_damaged_state_is_named(folders, tmp_path):
    config = quick(checkpoint_every=1)
    with contextlib.suppress(Interrupted):
        fit(config, read_manifest(folders), tmp_path / "out", tmp_path / "cache", interrupt_after_one(), device="cpu")
    state, history, settings = (tmp_path / "out" / name for name in ("state.pt", "history.jsonl", "config.json"))
    good = state.read_bytes()
    for bad in (b"", b"no state", good[: len(good) // 2]):
        state.write_bytes(bad)
        with pytest.raises(ValueError, match=f"^{state} is damaged; delete state.pt to begin again$"):
            run(config, folders, tmp_path / "out", tmp_path)
    state.write_bytes(good)
    history.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=f"^{history} is gone, or is damaged; delete state.pt to begin again$"):
        run(config, folders, tmp_path / "out", tmp_path)
    for text in ("{", "[]"):
        settings.write_text(text)
        with pytest.raises(
            ValueError, match=f"^{settings} is damaged, .*; give another --out, or delete {settings.parent}"
        ):
            run(config, folders, tmp_path / "out", tmp_path)


def test_a_damaged_checkpoint_is_no_result(folders, tmp_path):
    """And is made again where it is deleted. The message is one line, with none of torch's advice."""
    whole, _ = run(quick(), folders, tmp_path / "out", tmp_path)
    path = tmp_path / "out" / "checkpoint.pt"
    good = path.read_bytes()
    for bad in (b"", b"no weights", good[: len(good) // 2]):
        path.write_bytes(bad)
        message = (
            f"^{path} is not a checkpoint of edge-listen, or is damaged; give another, or delete it and train again$"
        )
        with pytest.raises(ValueError, match=message):
            run(quick(), folders, tmp_path / "out", tmp_path)
        with pytest.raises(ValueError, match=message):
            start_from(quick(), str(path))
    path.unlink()
    again, records = run(quick(), folders, tmp_path / "out", tmp_path)
    assert records == []
    assert all(torch.equal(whole.state[key], again.state[key]) for key in whole.state)


def test_a_fold_or_a_class_that_cannot_be_read_is_named(folders, tmp_path):
    manifest = read_manifest(folders)
    broken = [clip.path for clip in manifest.clips if clip.fold == 4]
    for path in broken:
        path.write_text("no sound")
    with pytest.raises(ManifestError, match=r"no clip of fold 4 can be read; the first error: .*wav cannot be read"):
        run(quick(train_folds=(1, 2, 3), validation_folds=(4,)), folders, tmp_path / "o", tmp_path)
    for path in (folders / "high").iterdir():
        path.write_text("no sound")
    with pytest.raises(ManifestError, match="no clip of class 'high' can be read"):
        run(quick(train_folds=(1, 2, 3), test_fold=None), folders, tmp_path / "p", tmp_path)


def test_what_could_be_read_again_is_read_again(folders, tmp_path):
    path = folders / "low" / "3.wav"
    good, cache = path.read_bytes(), tmp_path / "cache"
    path.write_bytes(b"x" * len(good))
    stamp = path.stat().st_mtime_ns
    assert len(features_of(folders, cache).errors) == 1
    path.write_bytes(good)
    os.utime(path, ns=(stamp, stamp))  # as after a chmod: nothing that the cache's key knows has changed
    assert not features_of(folders, cache).errors


def test_several_labels_a_clip(tmp_path):
    """Low and high tones, alone and together, and silence: independent scores find both, one or none."""
    rows = []
    for i in range(32):
        low, high = i % 2, i // 2 % 2
        time = np.arange(RATE * 2) / RATE
        wave = 0.2 * low * np.sin(2 * np.pi * 200 * time) + 0.2 * high * np.sin(2 * np.pi * 4000 * time)
        noise = 0.001 * np.random.default_rng(i).standard_normal(len(time))
        soundfile.write(tmp_path / f"{i}.wav", wave + noise, RATE)
        rows.append(f"{i}.wav,{'|'.join(['low'] * low + ['high'] * high)}")
    (tmp_path / "clips.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    manifest = read_manifest(tmp_path / "clips.csv", ReadOptions(separator="|"))
    assert manifest.multi_label
    config = quick(epochs=60, augment=AugmentConfig(mix=0.0), validate_every=30)
    records = []
    fit(config, manifest, tmp_path / "out", tmp_path / "cache", records.append, device="cpu")
    predictions = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert predictions["multi_label"]
    found = [
        {n for n, p in zip(predictions["labels"], c["probs"], strict=True) if p > 0.5} for c in predictions["clips"]
    ]
    assert np.mean([f == set(c["labels"]) for f, c in zip(found, predictions["clips"], strict=True)]) > 0.8


def test_trained_weights_carry_over_to_other_classes(folders, tmp_path):
    run(quick(epochs=12, augment=AugmentConfig(mix=0.3)), folders, tmp_path / "first", tmp_path)
    (folders / "low").rename(tmp_path / "low")
    for i in range(10):
        write_tone(folders / "hum" / f"{i}.wav", 100, seed=i)
    first = load_checkpoint(tmp_path / "first" / "checkpoint.pt")
    start = start_from(quick(epochs=1, learning_rate=1e-9), str(tmp_path / "first" / "checkpoint.pt"))
    tuned, _ = run(start, folders, tmp_path / "tuned", tmp_path)
    assert tuned.labels == ("high", "hum", "middle")
    rows = [tuned.labels.index(label) for label in ("high", "middle")]
    there = [first.labels.index(label) for label in ("high", "middle")]
    kernels = [key for key in first.state if key.endswith("0.weight")]
    assert all(torch.allclose(tuned.state[key], first.state[key], atol=1e-5) for key in kernels)
    assert torch.allclose(tuned.state["classifier.weight"][rows], first.state["classifier.weight"][there], atol=1e-5)
    with pytest.raises(ValueError, match=r"no\.pt does not exist; give --init bundled"):
        start_from(quick(), "no.pt")


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
        ({"avx2": True, "avx512_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_sixteen_bits_where_the_processor_multiplies_them(monkeypatch, capabilities, dtype):
    """Emulated, bfloat16 takes ten times as long as float32."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert forward_dtype("auto", "cpu") == dtype
    assert forward_dtype("bfloat16", "cpu") == torch.bfloat16


def test_what_contradicts_itself_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match="optimiser is 'adam'; allowed: adamw, sgd, muon"):
        quick(optimiser="adam")
    with pytest.raises(ValueError, match="epochs is 0; allowed: 1 or more"):
        quick(epochs=0)
    with pytest.raises(ValueError, match="distil is 2; allowed: 0 to 1"):
        quick(distil=2)
    with pytest.raises(ValueError, match="precision is 'float16'; on the processor, allowed: auto, float32, bfloat16"):
        run(quick(precision="float16"), folders, tmp_path / "h", tmp_path)
    with pytest.raises(ManifestError, match="fold 8 has no clips"):
        run(quick(test_fold=8), folders, tmp_path / "o", tmp_path)


def test_what_would_be_trained_in_vain_is_refused_before_it_begins(folders, tmp_path):
    refused = partial(run_here, "train", code=1)
    out = ("--out", tmp_path / "out")
    for command in ("fit", "crossval"):
        done = refused(command, folders, "--set", "patience=3", *out)
        assert done.stderr.splitlines()[-1] == (
            "Error: patience is 3, and no validation fold says when to stop; give fit a --validation-fold, "
            "or --set patience=0"
        )
        assert not list((tmp_path / "out").rglob("*"))
    lines = [f"{folders / label / f'{n}.wav'},{label},{1 + n % 2}" for label in ("low", "high") for n in range(4)]
    lines.append(f"{folders / 'middle' / '0.wav'},middle,2")  # in fold 2 alone
    (tmp_path / "table.csv").write_text("\n".join(["path,label,fold", *lines]))
    for command in ("fit", "crossval"):
        done = refused(command, tmp_path / "table.csv", "--cache", tmp_path / "cache", *out)
        assert done.stderr.splitlines()[-1] == (
            "Error: no clip of class 'middle' is in the training folds, 1; add some, hold out another fold, or leave "
            "the class out (--class names those to keep)"
        )
        assert not list((tmp_path / "out").rglob("*"))
        assert not (tmp_path / "cache").exists()
    done = refused("fit", folders, "--class", "low", "--n-folds", 1, *out)
    assert done.stderr.startswith("Error: data has one class, low; needs two to tell apart: add recordings of what is")


def test_settings_change_a_recipe():
    config = read_recipe("default", ["augment.mix=0.25", "epochs=7", "model.widths=[8, 16]", "optimiser=sgd"])
    assert (config.augment.mix, config.epochs, config.optimiser) == (0.25, 7, "sgd")
    assert config.model["widths"] == (8, 16) or config.model["widths"] == [8, 16]
    config = read_recipe("default", ["teachers=default", "outliers=others", "backgrounds="])
    assert (config.teachers, config.outliers, config.backgrounds) == (("default",), ("others",), ())
    for setting, message in (
        ("mix", "write it as key=value"),
        ("augment.max=1", "unknown key max"),
        ("epochs=many", "epochs is 'many'"),
        ("views=[1]", r"views is \[1\]; allowed: int"),
        ("model=3", "model is 3; allowed: dict"),
        ("teachers=3", "teachers is 3; allowed: tuple"),
        ("augment.noise_snr_db=[3]", "allowed: 2 values"),
        ("clip_norm=-1", "clip_norm is -1.0; allowed: 0 or more"),
        ("seed=9223372036854775808", "seed is 9223372036854775808; allowed: 0 to 9223372036854775807"),
        (f"seed=1{'0' * 400}", "0; allowed: 0 to 9223372036854775807"),
        (f"epochs=1{'0' * 400}", "0; allowed: 1 or more"),
        ("epochs.x=1", "epochs has no field x: it is"),
        ("frontend.sample_rate=8000", r"f_max is 8000.0; allowed: .*, 4000.0; give another in the recipe, or"),
    ):
        with pytest.raises(ValueError, match=message):
            read_recipe("default", [setting])


def test_a_seed_is_what_a_contract_holds():
    largest = 2**63 - 1
    assert read_recipe("quick", [f"seed={largest}"]).seed == largest
    assert teacher_config(f"quick@{largest}", TrainConfig()).seed == largest
    with pytest.raises(ValueError, match=f"seed is {largest + 1}; allowed: 0 to {largest}"):
        teacher_config(f"quick@{largest + 1}", TrainConfig())
    for command in ("fit", "crossval", "preview", "search"):
        done = run_here("train", command, "data", "--seed", largest + 1, code=2)
        assert f"{largest + 1} is not in the range 0<=x<={largest}" in done.stderr


@pytest.mark.parametrize("recipe", sorted(path.stem for path in RECIPES.glob("*.toml")))
def test_the_recipes_are_of_networks_that_can_be_built(recipe):
    config = read_recipe(recipe)
    offline = {"bundle": ""} if "bundle" in config.model else {}
    model = build(config.architecture, **config.model | offline, n_mels=config.frontend.n_mels)
    seconds = config.frontend.n_samples(model.window_frames) / config.frontend.sample_rate
    assert seconds == pytest.approx(4.0, abs=0.1)
    for teacher in recipes_before(config):
        assert read_recipe(teacher.partition("@")[0]).frontend == config.frontend


# Commands


train = partial(run_module, "train")


def test_commands_from_folder_to_listening(folders, tmp_path):
    """fit → export → evaluate → classify, as the documentation says."""
    recipe = tmp_path / "small.toml"
    recipe.write_text(
        "epochs = 25\nbatch_size = 8\nviews = 0\n"
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
        train("evaluate", out / "manifest.jsonl", "--model", tmp_path / "m" / "tones.int8.onnx", "--json").stdout
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
    assert "is not a folder" in run_here("train", "fit", tmp_path / "no", "--out", tmp_path / "o", code=1).stderr
    assert "fold 9 has no clips" in run_here("train", "fit", folders, "--test-fold", 9, code=1).stderr
    assert "there is no recipe 'magic'" in run_here("train", "fit", folders, "--recipe", "magic", code=1).stderr
    (tmp_path / "bad.toml").write_text("epoch = 3\n")
    assert (
        "unknown key epoch; there are"
        in run_here("train", "fit", folders, "--recipe", tmp_path / "bad.toml", code=1).stderr
    )
    assert "the model has no class high, low, middle" in run_here("train", "evaluate", folders, code=1).stderr
    assert "fold 9 has no clips" in run_here("train", "evaluate", folders, "--fold", 9, code=1).stderr
    both = run_here("train", "fit", folders, "--test-fold", 4, "--validation-fold", 4, code=1)
    assert "fold 4 cannot be both looked at and never looked at" in both.stderr
    assert (
        "there is no device 'tpu' here; allowed: auto, cpu"
        in run_here("train", "fit", folders, "--device", "tpu", code=1).stderr
    )
    assert "give another --out" in run_here("train", "fit", folders, "--out", "/proc/none", code=1).stderr
    assert "belongs to the data" in run_here("train", "fit", folders, "--set", "test_fold=3", code=1).stderr
    contradiction = run_here("train", "fit", folders, "--init", "bundled", "--set", "model.last_width=8", code=1)
    assert "contradict each other" in contradiction.stderr
    shutil.rmtree(folders / "high")
    for path in (folders / "low").iterdir():
        path.write_text("no sound")
    assert (
        ".wav cannot be read" in run_here("train", "fit", folders, "--out", tmp_path / "o", "--strict", code=1).stderr
    )


def test_more_clips_are_trained_on_and_never_held_out(folders, tmp_path, caplog):
    for i in range(4):
        write_tone(tmp_path / "more" / "low" / f"{i}.wav", 210, seed=50 + i)
    manifest = read_manifest(folders)
    whole = with_more(manifest, tmp_path / "more", 2)
    assert (whole.labels, whole.official) == (manifest.labels, manifest.official)
    assert whole.clips[: len(manifest.clips)] == manifest.clips
    assert [(clip.label, clip.fold) for clip in whole.clips[len(manifest.clips) :]] == [("low", 2)] * 4
    arguments = ("--recipe", "quick", "--epochs", 1, "--test-fold", 1, "--more", tmp_path / "more", "--no-report")
    run_here("train", "fit", folders, *arguments, "--set", "model.widths=[8, 16]", "--out", tmp_path / "out")
    saved = read_manifest(tmp_path / "out" / "manifest.jsonl")
    assert len(saved.clips) == 34
    assert len(saved.in_folds([1])) == len(manifest.in_folds([1]))
    origin = load_checkpoint(tmp_path / "out" / "checkpoint.pt").provenance
    assert (origin["dataset"], origin["other_data"]) == ("data", ["more (4 clips) of its classes"])
    with pytest.raises(
        ManifestError, match=r"30 clips of .*/data are of data itself, the first: .*high/0\.wav; what is held"
    ):
        with_more(manifest, folders, 2)
    some = read_manifest(folders, ReadOptions(classes=("high", "low")))
    for i in range(3):
        write_tone(tmp_path / "more" / "middle" / f"{i}.wav", 1100, seed=50 + i)
    with pytest.raises(ManifestError, match="data has no class middle; it has: high, low"):
        with_more(some, tmp_path / "more", 2)
    caplog.clear()
    whole = with_more(some, tmp_path / "more", 2, chosen=True)
    assert (whole.labels, len(whole.clips)) == (("high", "low"), 24)
    line = f"left out 3 of 7 clips of {tmp_path / 'more'}, of classes that --class does not name: middle"
    assert caplog.messages == [line]
    chosen = ("--class", "high", "--class", "low", "--more", tmp_path / "more", "--set", "patience=1")
    assert "Error: patience" in run_here("train", "fit", folders, *chosen, "--out", tmp_path / "no", code=1).stderr
    assert caplog.messages == [line, line]  # the command has come as far as the check of what it would train
    shutil.rmtree(tmp_path / "more" / "middle")
    (tmp_path / "more" / "low").rename(tmp_path / "more" / "other")
    with pytest.raises(ManifestError, match="data has no class other; it has: high, low"):
        with_more(some, tmp_path / "more", 2, chosen=True)
    done = run_here("train", "fit", folders, "--more", tmp_path / "more", "--out", tmp_path / "none", code=1)
    assert done.stderr.strip() == "Error: data has no class other; it has: high, low, middle"
