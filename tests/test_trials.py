"""A new model on a device that listens: tried beside the one in use, promoted or rejected, without a gap."""

import shutil
import time
from contextlib import suppress
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from edge.classifier import Classifier
from edge.cli.sources import with_rules
from edge.errors import ContractError, DeviceError
from edge.models import BUNDLED, BUNDLED_NAMES
from edge.rules import EventConfig, Rule
from edge.session import Plan, Session
from edge.shadow import Asked
from edge.sources.block import Block, Outage
from edge.update.probation import STARTS, Probation
from edge.update.release import Release
from edge.update.rules import ShadowRules
from edge.update.trials import Follower, Trials
from edge.update.versions import Versions

RULES = ShadowRules(seconds=5, min_windows=10, max_disagreement=0.2, max_latency_ms=1e6, max_latency_ratio=1e6)


def release_of(path, number):
    import hashlib

    data = path.read_bytes()
    return Release(number, hashlib.sha256(data).hexdigest(), len(data), path.stem, f"v{number}")


def offered(versions, path, number, rules=RULES):
    part = versions.folder / "part"
    versions.folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, part)
    versions.offer(part, release_of(path, number), rules)


class Paced:
    """Samples over and over, ``speed`` times as fast as they sound, until told to end. What stands in ``lost`` is
    missing before the block of that place, by an outage where ``away``.
    """

    name = "paced"

    def __init__(self, samples, speed=20, lost=None, away=True):
        self.samples, self.speed, self.ending, self.given = samples, speed, False, []
        self.lost, self.away = lost or {}, away

    def blocks(self, sample_rate, length, first=None, channels=1):
        position, size = 0, first or length
        while not self.ending and position < 2000 * sample_rate:
            lost = self.lost.get(len(self.given), 0)
            if lost and self.away:
                yield Outage("stopped", "away", "plug it in", 1.0)
            position += lost
            start = position % (len(self.samples) - size)
            yield Block(self.samples[start : start + size], position, time.time() - size / sample_rate, lost)
            self.given.append((position, start, size))
            position, size = position + size, length
            time.sleep(length / sample_rate / self.speed)


def listened(classifier, source, trials, until, seconds=90, events=None):
    """The records of a session with ``trials``, until ``until(record)`` or the time is over."""
    plan = Plan(succession=lambda name: trials.follower(name, None))
    plan = with_rules(plan, events or EventConfig(), None, classifier.spec)
    session = Session(source, classifier, plan)
    trials.start()
    records, end = [], time.monotonic() + seconds
    try:
        for record in session.records():
            trials.write(record)
            records.append(record)
            if until(record) or time.monotonic() > end:
                session.stop()
    finally:
        trials.close()
    return records


def trials_of(versions, classifier):
    spec = classifier.spec
    rate, channels = spec.frontend.sample_rate, spec.frontend.channels
    asked = Asked(None, channels, rate, spec.hop_samples(None) / rate)
    return Trials(versions, lambda spec: asked, classifier, Classifier, poll_seconds=0.2)


def settled(versions):
    """Whether the candidate has become something else."""
    return lambda record: record["type"] == "window" and versions.state().candidate is None


def steady(records):
    """That windows follow each other by one hop, from the first to the last."""
    offsets = [record["offset"] for record in records if record["type"] == "window"]
    return len(offsets) > 10 and np.allclose(np.diff(offsets), 0.48, atol=0.002)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Sound comes many times as fast as it would: a process that starts is soon far behind."""
    monkeypatch.setattr("edge.shadow.BEHIND_SECONDS", 2000.0)


@pytest.fixture(scope="module")
def tiny():
    return Classifier(BUNDLED_NAMES["tiny"])


def test_a_candidate_that_agrees_takes_over_without_a_gap(tmp_path, tiny, minute):
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    other = BUNDLED_NAMES["tiny"].with_name("edge-listen-tiny.onnx")  # the same network in float
    offered(versions, other, 1)
    after = []

    def until(record):
        after.extend([record] if record["type"] == "start" else [])
        return len(after) == 2 and record["type"] == "window"

    records = listened(tiny, Paced(minute), trials_of(versions, tiny), until)
    starts = [record for record in records if record["type"] == "start"]
    assert [start["precision"] for start in starts] == ["int8", "fp32"]
    assert steady(records)
    assert records[-1]["lost_samples"] == 0
    assert versions.state().current.number == 1
    assert versions.state().report["windows"] >= 10
    assert Probation(versions).pending()


@pytest.mark.parametrize(("seconds", "away"), [(1.5, True), (3.05, True), (10.05, True), (10.05, False)])
def test_a_trial_goes_on_after_an_outage(tmp_path, tiny, minute, seconds, away):
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED_NAMES["tiny"].with_name("edge-listen-tiny.onnx"), 1, replace(RULES, min_windows=60))
    source = Paced(minute, lost={60: round(16_000 * seconds)}, away=away)
    listened(tiny, source, trials_of(versions, tiny), settled(versions), seconds=20)
    assert versions.state().current is not None
    assert versions.state().report["windows"] >= 60


def test_the_windows_of_a_candidate_end_where_those_of_the_model_in_use_do(tiny):
    heard = []
    trial = SimpleNamespace(heard=heard.append), 32_000  # half the window of the model in use
    follower = Follower(SimpleNamespace(trial_of=lambda source: trial), lambda: "yard", tiny.spec, None)

    def follow(position, n, since, lost=0):
        heard.clear()
        assert follower.follow(Block(np.zeros(n, np.float32), position, 0.0, lost), since) is None
        return [(block.position, len(block.samples), block.lost) for block in heard]

    assert follow(0, 64_000, 0) == [(32_000, 32_000, 32_000)]  # it begins with a whole window
    assert follow(64_000, 7_680, 0) == [(64_000, 7_680, 0)]
    assert follow(81_680, 7_680, 2_320, lost=10_000) == [(81_680, 7_680, 10_000)]  # silence to both of them
    assert follow(129_360, 7_680, 2_000, lost=40_000) == [(103_040, 34_000, 32_000)]  # too long for the candidate alone
    assert follow(137_040, 7_680, None) == []  # after an outage
    assert follow(144_720, 64_000, 500) == [(176_220, 32_500, 32_000)]


def test_a_trial_whose_source_ends_begins_anew_with_another(tmp_path, tiny):
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED, 1)
    trials = trials_of(versions, tiny)
    trials._step()
    first, _ = trials.trial_of("gate")
    assert trials.trial_of("yard") is None
    trials.write({"type": "end", "source": "yard"})
    trials._step()
    assert trials.trial_of("gate") is not None
    trials.write({"type": "end", "source": "gate"})
    for _ in range(2):
        trials._step()
    second, _ = trials.trial_of("yard")
    assert second is not first
    assert first._process.poll() is not None
    trials._end()


def test_one_that_disagrees_is_rejected_and_the_old_model_keeps_listening(tmp_path, tiny, minute):
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    rules = ShadowRules(
        seconds=45, min_windows=90, max_disagreement=0.0, max_latency_ms=1e6
    )  # somewhere they do differ
    offered(versions, BUNDLED, 1, rules)
    records = listened(tiny, Paced(minute), trials_of(versions, tiny), settled(versions))
    assert "disagrees" in versions.state().rejection(1).reason
    assert versions.current() == BUNDLED_NAMES["tiny"]
    assert [record["type"] for record in records].count("start") == 1
    assert steady(records)


CHILD = """
import json, struct, sys, time
HEADER = struct.Struct("<qdqi")
first = True
sys.stdin.buffer.readline()
window = 0
while header := sys.stdin.buffer.read(HEADER.size):
    position, adc, lost, n = HEADER.unpack(header)
    sys.stdin.buffer.read(4 * n)
    window += 1
    {fault}
    record = {{"type": "window", "offset": round((position + n) / 16000, 3), "label": None, "busy_ms": {latency},
              "resident_mib": {resident}}}
    print(json.dumps(record), flush=True)
"""
FAULTS = {
    "slow": (("pass", "5000.0", "50.0"), "latency"),
    "leaks": (("pass", "1.0", "50.0 + 10 * window"), "memory"),
    "crashes": (("window == 5 and __import__('os').abort()", "1.0", "50.0"), "crashed: it ended with signal 6"),
    "hangs": (("window == 5 and time.sleep(1000)", "1.0", "50.0"), "behind"),
    "complains": (
        ("window == 5 and (sys.stderr.write('careful\\n' * 99_999 + 'no luck'), sys.exit(3))", "1.0", "50.0"),
        "crashed: no luck",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_that_does_harm_is_rejected(tmp_path, tiny, minute, monkeypatch, fault):
    (what, latency, resident), word = FAULTS[fault]
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(fault=what, latency=latency, resident=resident))
    monkeypatch.setattr("edge.shadow.COMMAND", ["python3", str(script)])
    monkeypatch.setattr("edge.shadow.BEHIND_SECONDS", 60.0 if fault == "hangs" else 2000.0)
    versions = Versions(tmp_path / "state", fallback=BUNDLED_NAMES["tiny"])
    rules = ShadowRules(seconds=400, min_windows=500, max_latency_ms=1000, max_memory_mib=64)
    offered(versions, BUNDLED, 1, rules)
    records = listened(tiny, Paced(minute, speed=40), trials_of(versions, tiny), settled(versions))
    assert word in versions.state().rejection(1).reason
    assert steady(records)
    assert records[-1]["lost_samples"] == 0


@pytest.mark.parametrize("fault", ["__import__('os').kill(0, 15)", "__import__('os').kill(0, 9)", "no_module"])
def test_one_that_others_end_is_tried_again_after_the_next_start(tmp_path, tiny, minute, monkeypatch, caplog, fault):
    script = tmp_path / "child.py"
    script.write_text(CHILD.format(fault=f"window == 5 and {fault}", latency="1.0", resident="50.0"))
    monkeypatch.setattr("edge.shadow.COMMAND", ["python3", str(script)])
    versions = Versions(tmp_path / "state", fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED, 1)
    told = []

    def until(record):
        told.append("tried again after the next start" in caplog.text)
        return sum(told) > 40  # it was looked for again meanwhile

    listened(tiny, Paced(minute), trials_of(versions, tiny), until, seconds=20)
    assert caplog.text.count("tried again") == 1
    assert versions.state().candidate.number == 1
    assert not versions.state().rejected


def test_a_model_that_was_chosen_by_hand_is_taken_up(tmp_path, tiny, minute):
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED, 1)
    candidate = versions.candidate()
    seen = []

    def until(record):
        if record["type"] == "window" and not seen:
            versions.promote(candidate)
            seen.append(record)
        return record["type"] == "start" and bool(seen)

    trials = trials_of(versions, tiny)
    trials._versions = versions
    records = listened(tiny, Paced(minute), trials, until)
    assert [record["model"] for record in records if record["type"] == "start"][-1] == Classifier(BUNDLED).spec.name


def test_one_without_a_class_of_the_rules_is_taken_up_as_well(tmp_path, minute):
    """As one of one's own is rolled back to the bundled one. The next start goes the same way."""
    versions = Versions(tmp_path, fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED, 1)
    versions.promote(versions.candidate())
    own = Classifier(versions.current())
    labels = tuple("hound" if name == "dog" else name for name in own.labels)
    own.spec = replace(own.spec, labels=labels, thresholds={})
    seen = []

    def until(record):
        seen.append(record["type"])
        if record["type"] == "event" and seen.count("event") == 1:
            versions.rollback()
        return seen.count("start") == 2 and record["type"] == "window"

    rules = EventConfig(Rule(threshold=0.0, confirm=1), only=("hound",))
    records = listened(own, Paced(minute), trials_of(versions, own), until, events=rules)
    starts = [place for place, record in enumerate(records) if record["type"] == "start"]
    assert [records[place]["model"] for place in starts] == [own.spec.name, "edge-listen-tiny"]
    phases = [
        [r["phase"] for r in part if r["type"] == "event"] for part in (records[: starts[1]], records[starts[1] :])
    ]
    assert phases == [["begin", "end"], []]
    assert records[-1]["reason"] == "interrupted"


def on_probation(folder):
    """A model that has just been promoted, and its probation."""
    versions = Versions(folder, fallback=BUNDLED_NAMES["tiny"])
    offered(versions, BUNDLED, 7)
    versions.promote(versions.candidate())
    Probation(versions).begin()
    return versions, Probation(versions)


def ends_by(probation, error):
    with suppress(type(error)), probation.counted():
        raise error


# A kill leaves no time to say anything, as an exception that nobody expects.
@pytest.mark.parametrize("error", [RuntimeError("a bug"), ContractError("it fails its golden vectors", remedy="none")])
def test_a_model_that_ends_the_program_again_and_again_is_taken_back(tmp_path, error):
    versions, probation = on_probation(tmp_path)
    for _ in range(STARTS):
        ends_by(probation, error)
        assert versions.state().current.number == 7
    ends_by(probation, error)
    assert versions.state().current is None
    assert "ended" in versions.state().rejection(7).reason
    assert not probation.pending()
    ends_by(probation, error)


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), BrokenPipeError(), DeviceError("none", remedy="plug in")])
def test_an_end_in_order_counts_nothing(tmp_path, error):
    versions, probation = on_probation(tmp_path)
    ends_by(probation, RuntimeError("a bug"))
    for _ in range(2 * STARTS):
        if error is not None:
            ends_by(probation, error)
        else:
            with probation.counted():
                pass
    assert versions.state().current.number == 7
    assert probation.pending()
    for _ in range(STARTS):
        ends_by(probation, RuntimeError("a bug"))
    assert versions.state().current is None


def test_one_that_stays_up_is_trusted(tmp_path):
    versions, probation = on_probation(tmp_path)
    with probation.counted():
        probation.passed()
    for _ in range(2 * STARTS):
        ends_by(probation, RuntimeError("a bug"))
    assert versions.state().current.number == 7
    (tmp_path / "probation.json").write_text("{")
    ends_by(probation, RuntimeError("a bug"))
    assert not probation.pending()
