"""Runs as users start them: killed, shared among processes, cross-validated."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from models import build
from models.checkpoint import load_checkpoint
from tests.conftest import ESC50, ROOT, needs_esc50, run_here, run_module
from tests.test_train import folders, write_tone  # noqa: F401  # a fixture
from train.crossval import histories
from train.fingerprints import write_fingerprints
from train.manifest import read_manifest

RECIPE = """epochs = 6
batch_size = 8
views = 1
precision = "float32"
checkpoint_every = 1
[model]
widths = [8, 8]
last_width = 8
column_width = 8
n_columns = 21
dropout = 0.0
[augment]
mix = 0.3
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(RECIPE)
    return path


def arguments(data, recipe, out, tmp_path):
    options = ("--recipe", recipe, "--out", out, "--cache", tmp_path / "cache", "--threads", 1, "--device", "cpu")
    return [str(a) for a in ("fit", data, *options, "--no-report")]


def check_same_weights(one, other):
    a, b = (load_checkpoint(out / "checkpoint.pt").state for out in (one, other))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_killed_run_goes_on_to_the_same_weights(folders, recipe, tmp_path):  # noqa: F811
    run_module("train", *arguments(folders, recipe, tmp_path / "whole", tmp_path))
    command = [
        sys.executable,
        "-m",
        "train",
        *arguments(folders, recipe, tmp_path / "cut", tmp_path),
        "--set",
        "epochs=6",
    ]
    history = tmp_path / "cut" / "history.jsonl"
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (history.exists() and history.read_text().count("\n") >= 2) and time.monotonic() < deadline:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut" / "checkpoint.pt").exists()
    run_module("train", *arguments(folders, recipe, tmp_path / "cut", tmp_path))
    check_same_weights(tmp_path / "whole", tmp_path / "cut")
    curves = [
        [json.loads(line)["loss"] for line in (tmp_path / out / "history.jsonl").read_text().splitlines()]
        for out in ("whole", "cut")
    ]
    assert curves[0] == curves[1]
    assert len(curves[0]) == 6


def test_two_processes_do_what_one_does(folders, recipe, tmp_path):  # noqa: F811
    # Few and small steps, in proportion to the gradients: a long run makes much of the last bits of a sum.
    few = ("--epochs", "2", "--set", "optimiser=sgd", "--set", "learning_rate=1e-4", "--set", "views=0")
    run_module("train", *arguments(folders, recipe, tmp_path / "one", tmp_path), *few)
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train")
    done = subprocess.run(
        [sys.executable, *launch, *arguments(folders, recipe, tmp_path / "two", tmp_path), *few],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / out / "history.jsonl").read_text().splitlines()]
        for out in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)
    one, two = (load_checkpoint(tmp_path / out / "checkpoint.pt") for out in ("one", "two"))
    torch.manual_seed(0)
    fresh = build(one.architecture, **one.config)
    learnt = torch.cat([(one.state[name] - tensor).flatten() for name, tensor in fresh.named_parameters()])
    apart = torch.cat([(one.state[name] - two.state[name]).flatten() for name, _ in fresh.named_parameters()])
    assert apart.norm() < 0.02 * learnt.norm()


@pytest.mark.slow
def test_cross_validation_measures_the_exported_files(folders, recipe, tmp_path):  # noqa: F811
    command = ["crossval", folders, "--recipe", recipe, "--out", tmp_path / "cv", "--cache", tmp_path / "cache"]
    command += ["--fold", 4, "--fold", 5, "--jobs", 2, "--epochs", 30, "--device", "cpu"]
    command += ["--json", tmp_path / "cv.json", "--curves", tmp_path / "curves.png"]
    done = run_module("train", *command)
    result = json.loads((tmp_path / "cv.json").read_text())
    assert [fold["fold"] for fold in result["folds"]] == [4, 5]
    assert result["mean"] == pytest.approx(sum(fold["accuracy"] for fold in result["folds"]) / 2)
    assert result["mean"] > 0.6  # three tones
    assert result["model"] == "streaming"
    assert result["bytes"] == max((tmp_path / "cv" / f"fold-{n}" / "fold.int8.onnx").stat().st_size for n in (4, 5))
    assert result["macs"] > 0
    assert "| mean |" in done.stdout
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert {name: list(folds) for name, folds in histories(tmp_path / "cv").items()} == {"result": ["fold-4", "fold-5"]}
    for name in ("low", "high"):
        for number in range(5):
            write_tone(tmp_path / "others" / name / f"{number}.wav", 210)
    other = run_here("train", "crossval", tmp_path / "others", *command[2:], code=1)
    assert "holds a cross-validation of another data set; give another --out" in other.stderr
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cv").rglob("*.onnx")}
    run_here("train", *command)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cv").rglob("*.onnx")} == stamps


@pytest.mark.slow
def test_the_folds_end_with_the_command(folders, recipe, tmp_path):  # noqa: F811
    out = tmp_path / "cv"
    options = ("--recipe", recipe, "--out", out, "--cache", tmp_path / "cache", "--jobs", 2, "--epochs", 100_000)
    command = [sys.executable, "-m", "train", "crossval", *map(str, (folders, *options, "--device", "cpu"))]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while len(histories := list(out.rglob("history.jsonl"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
    time.sleep(1)
    before = [path.stat().st_size for path in histories]
    time.sleep(2)  # many epochs of this network
    assert len(before) == 2
    assert [path.stat().st_size for path in histories] == before


@pytest.mark.slow
def test_our_weights_are_a_start_for_other_classes(folders, tmp_path):  # noqa: F811
    """The bundled network knows what a tone is: ten steps tell three of them apart, where fresh weights do not."""
    shared = ("--cache", tmp_path / "cache", "--epochs", 10, "--set", "views=0", "--threads", 1, "--device", "cpu")
    accuracies = {}
    for name, start in (("tuned", ("--init", "bundled")), ("fresh", ("--recipe", "finetune"))):
        run_module("train", "fit", folders, *start, "--out", tmp_path / name, *shared)
        predictions = json.loads((tmp_path / name / "predictions.json").read_text())
        best = [max(zip(clip["probs"], predictions["labels"], strict=True))[1] for clip in predictions["clips"]]
        accuracies[name] = sum(label in c["labels"] for label, c in zip(best, predictions["clips"], strict=True)) / 6
    assert (tmp_path / "tuned" / "report.html").stat().st_size > 10_000
    assert accuracies["tuned"] > accuracies["fresh"]
    assert accuracies["tuned"] >= 5 / 6


@needs_esc50
@pytest.mark.slow
@pytest.mark.timed
def test_an_epoch_of_real_clips_is_fast(tmp_path):
    """1600 clips of the default network: at most 15 s on two cores, a fifth of it for the data."""
    command = [
        "fit",
        ESC50,
        "--recipe",
        "plain",
        "--epochs",
        3,
        "--out",
        tmp_path / "run",
        "--cache",
        tmp_path / "cache",
        "--no-report",
    ]
    run_module("train", *command, "--set", "views=1", "--device", "cpu", "--threads", 2, timeout=600)
    rows = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    best = min(rows, key=lambda row: row["seconds"])
    assert best["seconds"] <= 15
    assert best["data_seconds"] <= 0.2 * best["seconds"]


def test_a_cross_validation_does_not_go_on_with_other_sound(folders, recipe, tmp_path):  # noqa: F811
    command = ("crossval", folders, "--recipe", recipe, "--out", tmp_path / "cv", "--no-cache", "--epochs", 1)
    manifest = read_manifest(folders)
    (tmp_path / "cv" / "fold-1").mkdir(parents=True)
    manifest.save(tmp_path / "cv" / "manifest.jsonl")
    write_fingerprints(tmp_path / "cv", manifest.clips)
    (tmp_path / "cv" / "fold-1" / "history.jsonl").write_text("")
    write_tone(folders / "low" / "0.wav", 300)
    failed = run_here("train", *command, code=1)
    message = f"1 of 30 recordings have changed since {tmp_path / 'cv'} was begun, the first: {folders}/low/0.wav; "
    assert failed.stderr.splitlines() == [f"Error: {message}give another --out, or delete it"]


def test_mistakes_of_cross_validation(folders, tmp_path):  # noqa: F811
    assert "fold 7 has no clips" in run_here("train", "crossval", folders, "--fold", 7, code=1).stderr


def test_a_command_helps_with_options_that_it_has():
    for command, default in (("crossval", "default"), ("search", "quick"), ("fit", "default; with --init finetune")):
        text = " ".join(run_here("train", command, "--help").stdout.split())
        assert f"or a TOML file. [default: {default}]" in text
        assert ("--init TEXT" in text) == ("--init" in text)
