"""``edge-classify``: recordings in bulk, the unreadable ones among them."""

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.bulk import classify_files, find_recordings
from tests.conftest import ROOT, run_module

classify = partial(run_module, "edge.cli.classify")


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    """Synthesised sounds in nested folders, and files that are none."""
    import make_demo

    root = tmp_path_factory.mktemp("recordings")
    (root / "street" / "loud").mkdir(parents=True)
    for name in ("siren", "car_horn", "church_bells"):
        soundfile.write(root / "street" / f"{name}.wav", make_demo.sound(name, 6.0), make_demo.RATE)
    shutil.copy(root / "street" / "siren.wav", root / "street" / "loud" / "again.WAV")
    (root / "notes.txt").write_text("not a recording, and not taken for one")
    return root


@pytest.fixture
def with_bad_files(recordings, tmp_path):
    root = tmp_path / "mixed"
    shutil.copytree(recordings, root)
    (root / "broken.wav").write_text("no sound")
    (root / "empty.flac").touch()
    soundfile.write(root / "one.wav", np.zeros(1), 16_000)
    return root


def test_jsonl(recordings):
    lines = [json.loads(line) for line in classify(recordings, "--output", "jsonl").stdout.splitlines()]
    assert [(line["file"].split("/")[-1], line["label"]) for line in lines] == [
        ("car_horn.wav", "car_horn"), ("church_bells.wav", "church_bells"),
        ("again.WAV", "siren"), ("siren.wav", "siren"),
    ]  # fmt: skip
    for line in lines:
        assert set(line) == {"file", "label", "score", "top", "unknown"}
        assert line["unknown"] is False
        assert line["top"][0] == [line["label"], line["score"]]
        assert len(line["top"]) == 3


def test_windows_follow_their_file(recordings):
    done = classify(recordings / "street" / "siren.wav", "--windows", "--output", "jsonl", "--top-k", 50)
    whole, *windows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [w["onset"] for w in windows] == pytest.approx([i * 0.48 for i in range(len(windows))], abs=2e-3)
    assert len(windows) == 5  # of 4 s in 6 s
    scores = [dict(w["top"])[whole["label"]] for w in windows]
    assert whole["score"] == pytest.approx(np.mean(scores), abs=1e-3)


def test_csv(recordings):
    rows = list(csv.DictReader(classify(recordings, "--output", "csv", "--windows").stdout.splitlines()))
    assert rows[0]["label"] == "car_horn"
    assert rows[0]["onset"] == ""
    assert float(rows[1]["offset"]) == pytest.approx(4.0, abs=0.05)


def test_table(recordings):
    lines = classify(recordings).stdout.splitlines()
    assert len(lines) == 4
    assert "church_bells" in lines[1]
    assert "%" in lines[1]


@pytest.mark.parametrize("output", ["table", "jsonl", "csv"])
@pytest.mark.parametrize("workers", [1, 2])
def test_unreadable_files_are_named_and_do_not_stop_the_rest(with_bad_files, output, workers):
    done = classify(with_bad_files, "--output", output, "--workers", workers, code=5)
    for name in ("broken.wav", "empty.flac", "one.wav"):
        assert name in done.stderr
    assert "error: 3 recordings could not be read" in done.stderr
    for name in ("siren.wav", "car_horn.wav", "church_bells.wav", "again.WAV"):
        assert name in done.stdout
    if output == "jsonl":
        errors = [line for line in map(json.loads, done.stdout.splitlines()) if "error" in line]
        assert len(errors) == 3


def test_nothing_to_classify(tmp_path):
    assert "no recordings in" in classify(tmp_path, code=5).stderr
    assert "no.wav does not exist" in classify(tmp_path / "no.wav", code=5).stderr
    classify(code=2)


PLAIN_USER = (  # root may read everything, but for this
    [] if os.geteuid() else ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
)


def test_what_may_not_be_read_is_named_and_does_not_stop_the_rest(recordings, tmp_path):
    shutil.copytree(recordings / "street", tmp_path / "all")
    secret, closed = tmp_path / "all" / "siren.wav", tmp_path / "all" / "loud"
    try:
        secret.chmod(0)
        closed.chmod(0)
        if subprocess.run([*PLAIN_USER, "cat", secret], capture_output=True, check=False).returncode == 0:
            pytest.skip("this user may read everything")
        for asked in ([tmp_path / "all"], [secret, closed, tmp_path / "all" / "car_horn.wav"]):
            done = subprocess.run(
                [*PLAIN_USER, sys.executable, "-m", "edge.cli.classify", *asked, "--workers", "1"],
                capture_output=True, text=True, cwd=ROOT,
            )  # fmt: skip
            assert done.returncode == 5
            for path in (secret, closed):
                assert f"{path} cannot be read: Permission denied (allow this user to read it)\n" in done.stderr
            assert "error: 2 recordings could not be read" in done.stderr
            assert "car_horn.wav" in done.stdout
    finally:
        closed.chmod(0o700)


def test_a_folder_that_cannot_be_entered_stands_for_itself(recordings, monkeypatch):
    scan = os.scandir

    def scandir(path):
        if Path(path).name == "loud":
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)
    street = recordings / "street"
    assert find_recordings([recordings]) == sorted([street / "loud", *street.glob("*.wav")])


def test_an_impossible_hop(recordings):
    assert "hop of 9.0 s is not possible" in classify(recordings, "--hop", 9, code=3).stderr


def test_a_wrong_model(recordings, tmp_path):
    (tmp_path / "x.onnx").write_text("no model")
    done = classify(recordings, "--model", tmp_path / "x.onnx", code=3)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="children are found in /proc")
def test_a_worker_that_dies_does_not_hang_the_rest(recordings, tmp_path):
    for i in range(400):
        shutil.copy(recordings / "street" / "siren.wav", tmp_path / f"{i}.wav")
    process = subprocess.Popen(
        [sys.executable, "-m", "edge.cli.classify", str(tmp_path), "--workers", "2", "--output", "jsonl"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
    process.stdout.readline()  # the workers are at work
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    victim = next(c for c in children if "spawn_main" in Path(f"/proc/{c}/cmdline").read_text())
    os.kill(int(victim), signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "error: a worker process died (too little memory?" in err
    assert "Traceback" not in err


def test_several_processes_give_what_one_gives(recordings):
    files = find_recordings([recordings]) * 3
    one, three = (list(classify_files(files, workers=n)) for n in (1, 3))
    assert [r.path for r in one] == [r.path for r in three] == files
    assert all(np.array_equal(a.probs, b.probs) for a, b in zip(one, three, strict=True))
