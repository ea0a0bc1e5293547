"""Temperature, thresholds and the unknown score, on scores whose truth is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from edge.bulk import FileResult
from edge.classifier import Classifier
from export.calibration import KNOWN_SHARE, best_temperature, best_threshold, calibrate
from export.card import _calibration
from train.evaluate import Heard
from train.manifest import Clip


def honest(n, n_labels, seed=0):
    """Logits [n, n_labels] whose softmax is the very chance of each class, and classes drawn by it (zeros and ones)."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, n_labels))
    drawn = np.array([rng.choice(n_labels, p=p) for p in softmax(logits, axis=1)])
    return logits, np.eye(n_labels, dtype=int)[drawn]


@pytest.mark.parametrize("boast", [0.5, 1.0, 3.0])
def test_the_temperature_undoes_what_scores_boast(boast):
    logits, truth = honest(4000, 6)
    assert best_temperature(logits * boast, truth, multi_label=False) == pytest.approx(boast, rel=0.08)


def test_the_temperature_of_independent_scores():
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 2, (4000, 3))
    truth = (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype(int)
    assert best_temperature(logits * 2, truth, multi_label=True) == pytest.approx(2, rel=0.08)


def test_a_threshold_from_which_nine_of_ten_are_right():
    scores = np.linspace(0, 1, 1001)
    truth = (scores > 0.85).astype(int)
    threshold = best_threshold(truth, scores)
    named = scores >= threshold
    assert 0.8 < threshold < 0.85
    assert truth[named].mean() >= 0.9


def test_a_class_that_is_never_right_enough_has_the_threshold_of_its_best_f1():
    scores = np.repeat([0.75, 0.8, 0.85], 100)
    truth = np.tile([1, 0], 150)  # half of all namings are right, whatever the score
    assert best_threshold(truth, scores) == 0.75


def test_no_threshold_is_low_or_beyond_reach():
    """However right a class is among clips."""
    scores = np.linspace(0, 1, 1001)
    assert best_threshold((scores > 0.1).astype(int), scores) == 0.7
    assert best_threshold((scores > 0.99).astype(int), scores) == 0.9


def heard(boast=2.0, energies=True):
    """A model of 5 classes that heard 200 clips of two windows."""
    logits, truth = honest(200, 5)
    probs = softmax(logits * boast, axis=1).astype(np.float32)
    clips = [Clip(Path(f"{i}.wav"), (str(row.argmax()),), 5) for i, row in enumerate(truth)]
    told = np.random.default_rng(2).normal(10, 1, (200, 2)).astype(np.float32)
    results = [
        FileResult(clip.path, p, np.stack([p, p]), e if energies else None)
        for clip, p, e in zip(clips, probs, told, strict=True)
    ]
    spec = Classifier().spec
    object.__setattr__(spec, "labels", tuple("01234"))
    return Heard(spec, clips, truth, results), told


def test_calibrated_scores_are_nearer_to_the_truth():
    c = calibrate(heard(boast=3.0)[0])
    assert c.error_after < c.error_before / 2
    assert c.temperature == pytest.approx(3, rel=0.3)
    assert set(c.thresholds) == set("01234")
    assert all(0.5 <= t <= 0.9 for t in c.thresholds.values())


def test_a_temperature_that_is_given_is_kept_and_measured():
    assert calibrate(heard()[0], 1.25).temperature == 1.25
    found = heard(boast=1.0)[0]
    learnt, wrong = calibrate(found), calibrate(found, 10.0)
    assert wrong.error_after > 5 * learnt.error_after
    assert wrong.error_before == learnt.error_before
    said, learnt_said = ("\n".join(_calibration(5, c)) for c in (wrong, learnt))
    assert (
        f"Temperature 10, as given: the expected calibration error of windows is {wrong.error_after:.3f}, and" in said
    )
    assert "learnt on one half" not in said
    assert f"is {learnt.error_after:.3f}, learnt on one half of the clips and measured on the other, and" in learnt_said


def test_the_share_that_stays_known():
    found, told = heard()
    unknown = calibrate(found).unknown
    assert (told >= unknown.threshold).mean() == pytest.approx(KNOWN_SHARE, abs=0.01)
    assert calibrate(heard(energies=False)[0]).unknown is None


def test_clips_that_could_not_be_read_count_nothing():
    found, _ = heard()
    cut = [FileResult(found.clips[0].path, None, None, error="no sound"), *found.results[1:]]
    without = Heard(found.spec, found.clips[1:], found.targets[1:], found.results[1:])
    assert calibrate(Heard(found.spec, found.clips, found.targets, cut)) == calibrate(without)
