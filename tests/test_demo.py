"""The bundled recording: synthesised by our code alone, and honestly recognised."""

import json
import re
import subprocess
import sys

import make_demo
import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.scoring import named, read_truth

LINE = re.compile(r"^(\d\d:\d\d\.\d)  (\w+) +[█·]+ +(\d+)%$", re.MULTILINE)


def test_most_events_are_named(demo):
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli.listen", "--input", str(demo), "--output", "jsonl"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    truth = read_truth(demo.with_suffix(".csv"))
    found = named([json.loads(line) for line in done.stdout.splitlines()], truth)
    assert len(truth) >= 6
    assert len(found) >= 0.75 * len(truth), found


def test_the_readme_shows_what_is_printed(demo):
    """Scores may differ from processor to processor."""
    done = subprocess.run(
        [sys.executable, "-m", "edge.cli.listen", "--input", str(demo), "--output", "text"],
        capture_output=True, text=True, cwd=ROOT, check=True,
    )  # fmt: skip
    printed, shown = (LINE.findall(text) for text in (done.stdout, (ROOT / "README.md").read_text()))
    assert [line[:2] for line in shown] == [line[:2] for line in printed]
    assert [int(line[2]) for line in shown] == pytest.approx([int(line[2]) for line in printed], abs=3)


def test_the_script_makes_the_bundled_scene(demo, tmp_path):
    make_demo.main(tmp_path)
    assert (tmp_path / "demo.csv").read_text() == demo.with_suffix(".csv").read_text()
    bundled, rate = soundfile.read(demo)
    made, _ = soundfile.read(tmp_path / "demo.ogg")
    assert rate == make_demo.RATE
    assert len(made) == len(bundled) == 60 * rate
    # Other encoders, and other processors, spread their errors otherwise; the scene is the same.
    assert np.std(made - bundled) < 0.02 * np.std(bundled)


def test_truth_is_of_the_model_s_classes(demo, classifier):
    truth = read_truth(demo.with_suffix(".csv"))
    assert {label for _, _, label in truth} <= set(classifier.labels)
    assert all(0 <= onset < offset <= 60 for onset, offset, _ in truth)


@pytest.mark.parametrize("label", sorted(make_demo.SOUNDS))
def test_every_sound_is_a_sound(label):
    samples = make_demo.sound(label, 2.0)
    assert samples.shape == (2 * make_demo.RATE,)
    assert np.isfinite(samples).all()
    assert 0.05 < np.abs(samples).max() <= 1
    assert np.array_equal(samples, make_demo.sound(label, 2.0))
