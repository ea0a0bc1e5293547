"""A model that takes over from another one while it listens: no window is missing, and none differs."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from edge.classifier import Classifier, Decision
from edge.config import FrontendConfig
from edge.listener import Successor, Window, attend
from edge.models import BUNDLED_NAMES
from edge.recent import Recent
from edge.records import Recorder
from edge.rules import EventConfig
from edge.shadow import Asked, Shadow
from edge.sources.block import Block, Outage


class Blocks:
    """A source of given samples; what stands in ``lost`` is missing before the block of that place, by an outage where
    ``away``.
    """

    name = "test"

    def __init__(self, samples, lost=None, away=False):
        self.samples, self.lost, self.away = samples, lost or {}, away

    def blocks(self, sample_rate, length, first=None, channels=1):
        start, missing, size = 0, 0, first or length
        for place in range(10_000):
            if start >= len(self.samples):
                return
            missing += self.lost.get(place, 0)
            if self.away and place in self.lost:
                yield Outage("stopped", "away", "plug it in", 1.0)
            heard = time.time() - size / sample_rate
            yield Block(self.samples[start : start + size], start + missing, heard, self.lost.get(place, 0))
            start, size = start + size, length


class After:
    """Hands over to ``classifier`` after so many blocks, or as soon after that as may be."""

    def __init__(self, classifier, hop_samples, blocks):
        self.classifier, self.blocks, self.seen = classifier, blocks, 0
        self.n = classifier.spec.window_samples - hop_samples
        self.recent = Recent(2 * classifier.spec.window_samples, classifier.spec.frontend.channels)

    def follow(self, block, since):
        self.recent.push(block)
        self.seen += 1
        if self.seen < self.blocks or since is None or (samples := self.recent.last(self.n + since)) is None:
            return None
        self.blocks = math.inf
        return Successor(self.classifier, samples)


def told(source, classifier, succession=None):
    return list(attend(source, classifier, None, succession))


@pytest.mark.parametrize(
    ("lost", "away"),
    [({}, False), ({6: 3000}, False), ({6: 40_000}, False), ({6: 24_000}, True)],
    ids=["whole", "a gap", "two seconds", "an outage"],
)
def test_the_same_model_as_its_own_successor_changes_nothing(classifier, minute, lost, away):
    samples = minute[: 20 * 16_000]
    alone = [w for w in told(Blocks(samples, lost, away), classifier) if isinstance(w, Window)]
    hop = classifier.spec.hop_samples(None)
    for blocks in (1, 4, 9):
        both = told(Blocks(samples, lost, away), classifier, After(classifier, hop, blocks))
        windows = [w for w in both if isinstance(w, Window)]
        assert [w for w in both if isinstance(w, Classifier)] == [classifier]
        assert [(w.onset, w.offset, w.lost) for w in windows] == [(w.onset, w.offset, w.lost) for w in alone]
        for one, other in zip(windows, alone, strict=True):
            np.testing.assert_array_equal(one.probs, other.probs)


def test_another_model_takes_over_at_the_next_window(classifier, minute):
    tiny = Classifier(BUNDLED_NAMES["tiny"])
    samples, hop = minute[: 20 * 16_000], classifier.spec.hop_samples(None)
    before, after = told(Blocks(samples), classifier), told(Blocks(samples), tiny)
    both = told(Blocks(samples), classifier, After(tiny, hop, 5))
    place = both.index(tiny)
    windows = [*both[:place], *both[place + 1 :]]
    expected = [*before[:place], *after[place:]]
    assert place == 5
    assert len(windows) == len(expected)
    for one, other in zip(windows, expected, strict=True):
        assert one.offset == other.offset
        np.testing.assert_array_equal(one.probs, other.probs)


def test_after_one_of_the_waveform_no_samples_are_taken_for_bands(classifier, minute):
    hop = classifier.spec.hop_samples(None)

    class Waveform:
        spec = replace(
            classifier.spec, frontend=FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1),
            window_frames=classifier.spec.window_samples, column_stride=0, receptive_field=0, n_columns=0, n_channels=0,
        )  # fmt: skip

        def stream(self, _):
            return self

        hop_samples = hop

        def push(self, samples):
            new = len(samples) == hop  # and not what it takes over with
            return [Decision(np.zeros(len(self.spec.labels), np.float32), 9.0, samples[None, None])] if new else []

    windows = told(Blocks(minute[: 10 * 16_000]), classifier, After(Waveform(), hop, 3))
    bands = [w.bands is not None for w in windows if isinstance(w, Window)]
    assert (bands[:3], set(bands[3:])) == ([True] * 3, {False})


def test_what_was_lost_is_silence_among_the_recent_samples():
    recent = Recent(6, 1)
    assert recent.last(1) is None
    recent.push(Block(np.ones(4, np.float32), 0, 0.0))
    recent.push(Block(np.full(2, 2, np.float32), 7, 0.0, lost=3))
    assert recent.last(6).tolist() == [1, 0, 0, 0, 2, 2]
    recent.push(Block(np.full(2, 3, np.float32), 999, 0.0, lost=990))
    assert recent.last(4).tolist() == [0, 0, 3, 3]


def shadowed(classifier, samples, model, events=None, seconds=60.0, speed=40.0):
    """What is observed of ``model`` beside ``classifier`` on ``samples``, until all is decided or it has failed."""
    spec = classifier.spec
    hop = spec.hop_samples(None)
    rate = spec.frontend.sample_rate
    asked = Asked(None, spec.frontend.channels, rate, hop / rate, events or {})
    shadow, recorder = Shadow(model, asked), Recorder(classifier, EventConfig(), hop_seconds=hop / rate, top_k=1)
    recorder.source = "test"
    expected = len(told(Blocks(samples), classifier))

    class Heard:
        def follow(self, block, since):
            shadow.heard(block)
            time.sleep(hop / rate / speed)

    try:
        for window in attend(Blocks(samples), classifier, None, Heard()):
            shadow.told(recorder.window(window))
        end = time.monotonic() + seconds
        while (seen := shadow.observed()).windows < expected and not seen.failed and time.monotonic() < end:
            time.sleep(0.02)
        return shadow.observed()
    finally:
        shadow.close()


def test_a_model_agrees_with_itself_in_another_process(classifier, minute):
    samples = minute[: 16 * 16_000]
    seen = shadowed(classifier, samples, classifier.path)
    assert (seen.windows, seen.disagreements, seen.failed) == (len(told(Blocks(samples), classifier)), 0, "")
    assert len(seen.busy_ms) > 10
    assert len(seen.current_busy_ms) > 10
    assert seen.memory_growth_mib < 5


def test_what_ends_a_candidate_is_told(classifier, minute, tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    seen = shadowed(classifier, minute[: 6 * 16_000], broken)
    assert "broken.onnx" in seen.failed
    seen = shadowed(classifier, minute[: 6 * 16_000], classifier.path, {"labels": {"no class": {"confirm": 1}}})
    assert "no class" in seen.failed


def test_a_candidate_that_crashes_or_hangs_has_failed_and_one_that_is_killed_has_ended(classifier):
    asked = Asked(None, 1, 16_000, 1.0)
    block = Block(np.zeros(16_000, np.float32), 0, time.time())
    for number, failed, ended in ((11, "it ended with signal 11", ""), (15, "", "signal 15"), (9, "", "signal 9")):
        shadow = Shadow(classifier.path, asked)
        shadow._process.send_signal(number)
        end = time.monotonic() + 10
        while not (shadow.observed().failed or shadow.observed().ended) and time.monotonic() < end:
            time.sleep(0.02)
        assert (shadow.observed().failed, shadow.observed().ended) == (failed, ended)
        shadow.close()
    shadow = Shadow(classifier.path, asked)
    shadow._process.send_signal(19)
    for _ in range(200):  # the pipe takes some of them
        shadow.heard(block)
        time.sleep(0.001)
    assert "behind" in shadow.observed().failed
    started = time.monotonic()
    shadow.close()
    assert time.monotonic() - started < 3
