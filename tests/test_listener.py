"""The loop from blocks to windows: positions, gaps, and what is said of them."""

import dataclasses
import time

import numpy as np
import pytest

from edge.errors import InputError
from edge.listener import listen
from edge.records import Recorder, rfc3339
from edge.rules import EventConfig, Rule
from edge.sources.block import Block


class Blocks:
    """A source of given samples, with gaps before some blocks."""

    name = "test"

    def __init__(self, samples, gaps=None, started=1000.0):
        self.samples, self.gaps, self.started = samples, gaps or {}, started

    def blocks(self, sample_rate, length, first=None, channels=1):
        start, lost_before, size, index = 0, 0, first or length, 0
        while start < len(self.samples):
            lost = self.gaps.get(index, 0)
            lost_before += lost
            position = start + lost_before
            yield Block(
                self.samples[start : start + size], position, self.started + position / sample_rate, lost, int(lost > 0)
            )
            start, size, index = start + size, length, index + 1


def spans(windows):
    return [(round(w.onset, 4), round(w.offset, 4)) for w in windows]


def test_windows_follow_each_other_by_one_hop(classifier, minute):
    spec = classifier.spec
    windows = list(listen(Blocks(minute[: 12 * 16_000]), classifier))
    hop = classifier.stream().hop_samples / 16_000
    assert spans(windows)[:2] == [
        (0.0, round(spec.window_seconds, 4)),
        (round(hop, 4), round(spec.window_seconds + hop, 4)),
    ]
    for window in windows:
        assert window.offset - window.onset == pytest.approx(spec.window_seconds)
        assert window.time == pytest.approx(1000 + window.offset)
        assert window.latency_ms == pytest.approx((time.time() - window.time) * 1000, rel=0.01)
        assert window.probs.sum() == pytest.approx(1, abs=1e-5)
        assert (window.lost, window.overflows, window.silent) == (0, 0, False)


def test_the_loop_computes_what_the_classifier_does(classifier, minute):
    samples = minute[: 9 * 16_000]
    windows = list(listen(Blocks(samples), classifier, hop=0.8))
    assert np.array_equal(np.stack([w.probs for w in windows]), classifier.windows(samples, hop=0.8))


def test_a_short_gap_counts_as_silence(classifier, minute):
    """Positions stay true, and every decision is that of the sound with silence in the gap."""
    first, hop = classifier.spec.window_samples, classifier.stream().hop_samples
    samples, gap = minute[: first + 8 * hop], 5000
    windows = list(listen(Blocks(samples, {3: gap}), classifier))
    at = first + 2 * hop
    filled = np.concatenate([samples[:at], np.zeros(gap, np.float32), samples[at:]])
    assert np.array_equal(np.stack([w.probs for w in windows]), classifier.windows(filled))
    assert [w.offset for w in windows] == pytest.approx([(first + i * hop) / 16_000 for i in range(len(windows))])
    assert sum(w.lost for w in windows) == gap
    assert sum(w.overflows for w in windows) == 1


def test_after_a_long_gap_the_stream_begins_anew(classifier, minute):
    first, hop = classifier.spec.window_samples, classifier.stream().hop_samples
    gap = 3 * first
    samples = minute[: 3 * first]
    windows = list(listen(Blocks(samples, {1: gap}), classifier))
    assert spans(windows)[0] == (0.0, round(first / 16_000, 4))
    assert windows[1].onset == pytest.approx((first + gap) / 16_000)  # the first after the gap holds nothing of before
    again = classifier.windows(samples[first:])
    assert np.array_equal(np.stack([w.probs for w in windows[1:]]), again)
    assert windows[1].lost == gap
    assert windows[2].onset - windows[1].onset == pytest.approx(hop / 16_000)


@pytest.mark.parametrize("n", [0, 1, 511])
def test_less_than_a_frame(classifier, n):
    with pytest.raises(InputError, match=f"test ends after {n} samples"):
        list(listen(Blocks(np.zeros(n, np.float32)), classifier))


def test_the_level_is_of_what_is_new(classifier):
    first, hop = classifier.spec.window_samples, classifier.stream().hop_samples
    samples = np.zeros(first + 3 * hop, np.float32)
    samples[first : first + hop] = 1.0
    levels = [w.level_dbfs for w in listen(Blocks(samples), classifier)]
    assert levels == [None, pytest.approx(0.0), None, None]


def test_silence_is_noticed_after_five_seconds_and_forgotten_at_once(classifier):
    samples = np.zeros(10 * 16_000, np.float32)
    samples[8 * 16_000 :] = 0.01
    for window in listen(Blocks(samples), classifier):
        assert window.silent == (window.offset >= 5 and window.level_dbfs is None)


def test_status_comes_with_news_and_from_time_to_time(classifier, minute):
    source = Blocks(np.concatenate([minute, minute, minute]), {40: 3000})
    recorder = Recorder(classifier, EventConfig(), hop_seconds=0.48, top_k=3)
    records = [r for w in listen(source, classifier) for r in (recorder.window(w), *recorder.status(w))]
    status = [r for r in records if r["type"] == "status"]
    offsets = [records[records.index(s) - 1]["offset"] for s in status]
    assert offsets[0] == pytest.approx(10, abs=0.5)
    assert offsets[1] == pytest.approx(4 + 39 * 0.48, abs=0.8)  # the gap
    assert np.diff(offsets)[1:] == pytest.approx(60, abs=0.5)
    assert [s["lost_samples"] for s in status] == [0] + [3000] * (len(status) - 1)
    end = recorder.end("end of input")
    assert end["lost_samples"] == 3000
    assert end["latency_ms"]["p50"] <= end["latency_ms"]["p99"]


def test_times_are_rfc_3339():
    assert rfc3339(0) == "1970-01-01T00:00:00.000Z"
    assert rfc3339(1_900_000_000.1239) == "2030-03-17T17:46:40.123Z"


def test_what_is_none_of_the_classes_is_unknown(classifier, minute, monkeypatch):
    """Its windows have no label, however sure the scores are."""
    assert classifier.spec.unknown is not None

    def heard(threshold):
        unknown = dataclasses.replace(classifier.spec.unknown, threshold=threshold)
        monkeypatch.setattr(classifier, "spec", dataclasses.replace(classifier.spec, unknown=unknown))
        windows = list(listen(source, classifier))
        recorder = Recorder(classifier, EventConfig(Rule(threshold=0.0)), hop_seconds=0.48, top_k=1)
        return windows, [recorder.window(window) for window in windows]

    source = Blocks(minute[: 9 * 16_000])
    windows, _ = heard(0.0)
    middle = float(np.median([w.energy for w in windows]))
    windows, records = heard(middle)
    assert [w.unknown for w in windows] == [w.energy < middle for w in windows]
    assert 0 < sum(w.unknown for w in windows) < len(windows)
    assert [r["label"] is None for r in records] == [r["unknown"] for r in records] == [w.unknown for w in windows]
