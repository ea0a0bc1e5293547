"""Scores → events: thresholds, hysteresis, confirmation, durations, groups, what is no class, gaps, mistakes."""

import dataclasses
import math
import tomllib
import uuid

import numpy as np
import pytest

from edge.decisions import Detector, model_id, odds_of
from edge.envelope import Beginning, Envelope
from edge.errors import SettingsError
from edge.listener import Window
from edge.rules import EventConfig, Rule, events_of, fitted, outcomes_of

LABELS = ("dog", "cat", "siren", "rain")
HOP = 0.5
EPOCH = 1_900_000_000.0  # wall time of the stream's beginning


@pytest.fixture
def spec(classifier):
    return dataclasses.replace(classifier.spec, labels=LABELS, thresholds={"dog": 0.6, "rain": 0.3})


def window(n, *, level=-20.0, unknown=False, silent=False, **scores):
    """The ``n``-th window of a stream; scores by label, 0 for the others."""
    probs = np.array([scores.get(label, 0.0) for label in LABELS], np.float32)
    offset = 4 + n * HOP
    return Window(
        LABELS, probs, 0.0, unknown, offset - 4, offset, EPOCH + offset, level, 1.0, 1.0, silent, 0, 0
    )  # fmt: skip


def events_in(spec, rows, config=None):
    """What a detector says of windows that have ``rows`` as their scores, and of the end. Two must confirm."""
    detector = Detector(spec, config or rule())
    found = [(n, e) for n, row in enumerate(rows) for e in detector.push(window(n, **row))]
    return found + [(len(rows), e) for e in detector.close()]


def told(found):
    return [(n, event.phase, event.label) for n, event in found]


def dogs(*scores):
    return [{"dog": score} for score in scores]


def rule(confirm=2, **fields):
    return EventConfig(Rule(confirm=confirm, **fields))


def test_an_event_begins_and_ends(spec):
    (n, begin), (m, end) = events_in(spec, dogs(0, 0, 0.7, 0.9, 0.8, 0.1, 0))
    assert (n, m) == (3, 5)  # the second window that counts; the first below half the threshold
    assert (begin.phase, end.phase, begin.label, end.classes) == ("begin", "end", "dog", ("dog",))
    assert begin.id == end.id == str(uuid.UUID(end.id))
    assert (begin.offset, begin.offset_time) == (None, None)
    assert begin.onset == end.onset == 4 + 1 * HOP  # without an envelope: what had been heard and did not count
    assert end.offset == 4 + 5 * HOP
    assert end.onset_time == EPOCH + end.onset
    assert end.offset_time == EPOCH + end.offset
    assert (begin.peak, end.peak) == pytest.approx((0.9, 0.9))
    assert end.mean == pytest.approx((0.7 + 0.9 + 0.8) / 3)
    assert end.model == model_id(spec)
    assert spec.graph_sha256.startswith(end.model.split()[-1])


@pytest.mark.parametrize(("score", "there"), [(0.6, True), (0.5999, False)])
def test_the_threshold_is_the_models(spec, score, there):
    assert bool(events_in(spec, dogs(*[score + 1e-7] * 5))) is there


@pytest.mark.parametrize("threshold", [0.0, 0.25, 0.3, 0.7, 1.0])
def test_a_score_of_exactly_the_threshold_counts(spec, threshold):
    exactly = float(np.float32(threshold))  # as scores are
    of_model = dataclasses.replace(spec, thresholds={"dog": exactly})
    assert "dog" in {e.label for _, e in events_in(of_model, dogs(*[exactly] * 3))}
    named = EventConfig(labels={"dog": Rule(threshold=exactly)})
    assert "dog" in {e.label for _, e in events_in(spec, dogs(*[exactly] * 3), named)}


def test_the_user_s_threshold_comes_first(spec):
    config = EventConfig(Rule(threshold=0.2), labels={"cat": Rule(threshold=0.9)})
    found = events_in(spec, [{"dog": 0.25, "cat": 0.7}] * 4, config)
    assert {event.label for _, event in found} == {"dog"}


def test_between_the_thresholds_it_goes_on_and_does_not_begin(spec):
    assert told(events_in(spec, dogs(0.7, 0.7, 0.35, 0.31, 0.29, 0.5, 0.5))) == [(1, "begin", "dog"), (4, "end", "dog")]


def test_one_window_is_enough_unless_more_must_confirm(spec):
    assert told(events_in(spec, dogs(0, 0.7, 0), EventConfig())) == [(1, "begin", "dog"), (2, "end", "dog")]
    assert events_in(spec, dogs(0, 0.7, 0)) == []


@pytest.mark.parametrize("confirm", [1, 2, 3])
def test_confirmation_counts_windows_in_a_row(spec, confirm):
    config = rule(confirm=confirm)
    assert events_in(spec, dogs(*[0.9] * (confirm - 1), 0.1, *[0.9] * (confirm - 1)), config) == []
    assert told(events_in(spec, dogs(*[0.9] * confirm), config))[0] == (confirm - 1, "begin", "dog")


def test_smoothing_outlives_one_low_window(spec):
    scores = dogs(0.9, 0.9, 0.9, 0.0, 0.9, 0.9)
    assert len(events_in(spec, scores)) == 4
    assert len(events_in(spec, scores, rule(smoothing=0.6))) == 2


def test_minimum_duration_delays_the_beginning(spec):
    config = rule(min_duration=2.0)  # the onset is at 4.0, where the stream's first window ends
    assert told(events_in(spec, dogs(0, 0.9, 0.9, 0.9, 0.9, 0.9), config))[0] == (4, "begin", "dog")
    assert events_in(spec, dogs(0, 0.9, 0.9, 0.9, 0.0), config) == []


def test_what_lasts_longer_than_the_maximum_becomes_several(spec):
    found = events_in(spec, dogs(0, *[0.9] * 10), rule(max_duration=3.0))
    assert [(e.phase, e.onset, e.offset) for _, e in found] == [
        ("begin", 4.0, None), ("end", 4.0, 7.0), ("begin", 7.0, None), ("end", 7.0, 9.0),
    ]  # fmt: skip
    assert len({e.id for _, e in found}) == 2


def test_the_refractory_time_silences_its_label_alone(spec):
    rows = dogs(0.9, 0.9, 0.0, 0.9, 0.9, 0.9, 0.9, 0.9)
    for row in rows:
        row["rain"] = row["dog"] / 2
    found = events_in(spec, rows, EventConfig(Rule(confirm=2), labels={"dog": Rule(confirm=2, refractory=2.0)}))
    assert [n for n, e in found if e.label == "dog" and e.phase == "begin"] == [1, 7]
    assert [n for n, e in found if e.label == "rain" and e.phase == "begin"] == [1, 4]


def test_events_of_several_classes_overlap(spec):
    rows = [{"siren": 0.55}, {"siren": 0.55, "rain": 0.4}, {"siren": 0.55, "rain": 0.4}, {"rain": 0.4}, {}]
    assert told(events_in(spec, rows)) == [
        (1, "begin", "siren"), (2, "begin", "rain"), (3, "end", "siren"), (4, "end", "rain"),
    ]  # fmt: skip


def test_a_group_counts_the_shares_of_its_classes_together(spec):
    config = EventConfig(Rule(confirm=2), groups={"pet": ("dog", "cat")})
    rows = [{"dog": 0.3, "cat": 0.25}, {"dog": 0.2, "cat": 0.35}, {}]
    (_, begin), _ = events_in(spec, rows, config)
    assert (begin.label, begin.classes) == ("pet", ("dog", "cat"))
    assert begin.peak == pytest.approx(0.55)
    independent = dataclasses.replace(spec, scores="sigmoid")
    assert events_in(independent, rows, config) == []  # the best of them alone counts
    assert len(events_in(independent, [{"dog": 0.3, "cat": 0.55}] * 2, config)) == 2


def test_aliases_rename_and_join(spec):
    config = EventConfig(aliases={"dog": "animal", "cat": "animal"}, labels={"animal": Rule(threshold=0.9, confirm=1)})
    assert told(events_in(spec, [{"dog": 0.5, "cat": 0.45}, {}], config)) == [
        (0, "begin", "animal"),
        (1, "end", "animal"),
    ]


def test_only_and_ignore(spec):
    rows = [{"dog": 0.9, "cat": 0.9, "siren": 0.9}] * 3

    def labels(**fields):
        return {e.label for _, e in events_in(spec, rows, EventConfig(**fields))}

    assert labels() == {"dog", "cat", "siren"}
    assert labels(only=("dog", "siren")) == {"dog", "siren"}
    assert labels(ignore=("dog",)) == {"cat", "siren"}
    assert labels(only=("dog", "siren"), ignore=("dog",)) == {"siren"}


def test_what_is_quiet_begins_nothing_and_ends_nothing(spec):
    config = rule(min_level_dbfs=-40.0)
    assert events_in(spec, [{"dog": 0.9, "level": -40.1}] * 4 + [{"dog": 0.9, "level": None}] * 4, config) == []
    rows = [{"dog": 0.9, "level": -40.0}] * 2 + [{"dog": 0.9, "level": -60.0}] * 4
    assert told(events_in(spec, rows, config)) == [(1, "begin", "dog"), (6, "end", "dog")]


def test_the_level_of_an_event_is_its_highest(spec):
    rows = [{"dog": 0.9, "level": level} for level in (-30.0, -12.0, -50.0)]
    found = events_in(spec, rows)
    assert [event.level_dbfs for _, event in found] == [-12.0, -12.0]


def test_unknown_begins_nothing_and_is_an_event_where_asked(spec):
    rows = [{"dog": 0.9, "unknown": True}] * 3 + [{}]
    assert events_in(spec, rows) == []
    assert told(events_in(spec, rows, EventConfig(Rule(confirm=2), report=("unknown",)))) == [
        (1, "begin", "unknown"),
        (3, "end", "unknown"),
    ]
    going_on = [{"dog": 0.9}] * 2 + rows
    assert told(events_in(spec, going_on))[-1] == (5, "end", "dog")


def test_silence_is_an_event_where_asked(spec):
    rows = [{}] + [{"silent": True, "level": None}] * 3 + [{}]
    assert events_in(spec, rows) == []
    found = events_in(spec, rows, EventConfig(Rule(confirm=2), report=("silence",)))
    assert told(found) == [(2, "begin", "silence"), (4, "end", "silence")]
    assert (found[0][1].classes, found[0][1].level_dbfs) == ((), None)


def test_silence_is_not_unknown_as_well(spec):
    """Nor are the zeros before it that are not yet called silence; a sound that is unknown ends with it."""
    config = EventConfig(report=("unknown", "silence"))
    zeros = [{"unknown": True, "level": None}] * 9
    rows = zeros + [{"unknown": True, "level": None, "silent": True}] * 3
    assert told(events_in(spec, rows, config)) == [(9, "begin", "silence"), (12, "end", "silence")]
    assert told(events_in(spec, [{"unknown": True}, *rows], config)) == [
        (0, "begin", "unknown"), (10, "end", "unknown"), (10, "begin", "silence"), (13, "end", "silence"),
    ]  # fmt: skip


def test_a_gap_ends_what_was_heard(spec):
    detector = Detector(spec, rule())
    for n in range(3):
        detector.push(window(n, dog=0.9))
    after = detector.push(window(40, dog=0.9))
    assert [(e.phase, e.offset) for e in after] == [("end", 4 + 2 * HOP)]
    assert [e.phase for e in detector.push(window(41, dog=0.9))] == ["begin"]


def test_a_detector_that_heard_nothing_has_nothing_to_end(spec):
    assert Detector(spec).close() == []


def test_a_hop_of_a_whole_window_is_no_gap(spec):
    detector, events = Detector(spec), []
    for n in range(20):
        offset = spec.window_seconds * (n + 1)
        heard = dataclasses.replace(window(n, dog=0.9), onset=offset - spec.window_seconds, offset=offset)
        events += detector.push(heard)
    assert [e.phase for e in events + detector.close()] == ["begin", "end"]


def test_another_stream_is_another_beginning(spec):
    detector = Detector(spec, rule(confirm=2, refractory=60.0))
    for _ in range(2):
        found = [e for n in range(9) for e in detector.push(window(n, dog=0.9 * (n > 4)))] + detector.close()
        assert [(e.phase, e.onset) for e in found] == [("begin", 4 + 4 * HOP), ("end", 4 + 4 * HOP)]
    for n in range(9):
        detector.push(window(n, dog=0.9))
    assert [e.phase for e in detector.push(window(0, dog=0.9))] == ["end"]


def test_events_of_one_label_do_not_overlap(spec):
    """Also where the score between them is more than nothing."""
    found = events_in(spec, dogs(0.1, 0.1, 0.9, 0.9, 0.2, 0.9, 0.9, 0.2))
    first, second = [e for _, e in found if e.phase == "end"]
    assert first.offset <= second.onset


def test_the_onset_is_never_in_the_future(classifier):
    """A model with windows shorter than the time in which an onset is looked for."""
    short = dataclasses.replace(
        classifier.spec, labels=LABELS, thresholds={}, column_stride=0, window_frames=50, receptive_field=0
    )
    bands = np.zeros((8, 50), np.float32)
    detector = Detector(short, rule(confirm=1))
    offset = short.window_seconds
    heard = dataclasses.replace(window(0, dog=0.9), onset=0.0, offset=offset, bands=bands)
    assert [e.onset for e in detector.push(heard)] == [offset]


def test_all_classes_may_be_ignored(spec):
    assert told(events_in(spec, dogs(0.9, 0.9), EventConfig(ignore=LABELS))) == []


def test_a_class_that_is_named_twice_counts_once(spec):
    assert [o.classes for o in outcomes_of(spec, EventConfig(only=("dog", "dog")))] == [(0,)]


# Where a sound is


def test_onset_and_offset_are_those_of_the_sound(classifier):
    """A siren of 7 s between silence and silence: four seconds of window do not blur it."""
    import make_demo

    from edge.listener import listen
    from tests.test_listener import Blocks

    samples, truth = make_demo.scene()
    onset, offset, label = next(row for row in truth if row[2] == "siren")
    samples = samples[::2].astype(np.float32)[round((onset - 6) * 16_000) : round((offset + 8) * 16_000)]
    samples[: round(5.9 * 16_000)] *= 0.01
    samples[round((6.5 + offset - onset) * 16_000) :] *= 0.01
    detector = Detector(classifier.spec, EventConfig(only=(label,)))
    events = [e for w in listen(Blocks(samples), classifier) for e in detector.push(w)] + detector.close()
    end = events[-1]
    assert [e.label for e in events] == [label] * 2
    assert end.onset == pytest.approx(6.0, abs=0.15)
    assert end.offset < 6 + (offset - onset) + 2.5


def heard_at(classifier, onset, seconds, length, config):
    """Events of a tone between noise, as long as the bundled model's window is, whatever that says of it."""
    from edge.listener import listen
    from tests.test_listener import Blocks

    noise = np.random.default_rng(1).normal(0, 1e-3, round(length * 16_000)).astype(np.float32)
    tone = np.arange(round(onset * 16_000), round((onset + seconds) * 16_000))
    noise[tone] += np.sin(tone * 2 * np.pi * 700 / 16_000).astype(np.float32) / 3
    spec = dataclasses.replace(classifier.spec, thresholds={})
    detector = Detector(spec, config)
    events = []
    for found in listen(Blocks(noise), classifier):
        probs = np.zeros(len(spec.labels), np.float32)
        probs[0] = found.onset < onset + seconds and found.offset > onset  # it counts while any of it is in the window
        events += detector.push(dataclasses.replace(found, probs=probs, unknown=False))
    return events + detector.close()


def test_the_onset_in_a_recording_shorter_than_a_window(classifier):
    begin, end = heard_at(classifier, 1.0, 0.5, 2.0, rule(confirm=1))
    assert begin.onset == pytest.approx(1.0, abs=0.1)
    assert end.offset == 2.0


def test_the_onset_is_that_of_a_sound_that_is_recognised_late(classifier):
    """Its score is more than nothing two seconds after it has begun, and so is what clicked meanwhile."""
    hop = 0.5
    detector = Detector(dataclasses.replace(classifier.spec, labels=LABELS, thresholds={}), rule(confirm=1))
    bands = np.random.default_rng(1).normal(0, 0.02, (8, 1200)).astype(np.float32)  # 12 s
    bands[:, 801:] += 0.3  # from 8.01 s on
    bands[:, 930:933] += 0.6
    found = []
    for n in range(17):
        offset = 4 + n * hop
        last = round(offset * 100)
        new = bands[:, max(0, last - (50 if n else 400)) : last]
        score = 0.9 if offset >= 10 else 0.0
        found += detector.push(dataclasses.replace(window(n, dog=score), bands=new))
    assert [e.onset for e in found] == [pytest.approx(8.01, abs=0.03)]


def windows_of(score, rise_db, late):
    """Half a minute of windows; at 10 s the spectrum rises, ``late`` seconds later a dog has ``score``, for 3 s."""
    bands = np.full((8, 3000), -1.0, np.float32)
    bands[:, 1000:1500] += rise_db * math.log(10) / 10 / 4
    for n in range(52):
        offset = round(100 * (4 + n * HOP))
        new = bands[:, (offset - round(100 * HOP) if n else 0) : offset]
        heard = score if 10 + late <= offset / 100 < 13 + late else 0.0
        yield dataclasses.replace(window(n, dog=heard), bands=new)


def begins(spec, config, *sound):
    """When a dog is told, and when it began, or None."""
    detector = Detector(spec, config)
    events = [(w.offset, e.onset) for w in windows_of(*sound) for e in detector.push(w) if e.phase == "begin"]
    assert len(events) <= 1
    return events[0] if events else None


@pytest.mark.parametrize(
    ("score", "rise_db", "late", "there"),
    [
        (0.35, 20.0, 0.5, True),  # a clear beginning: a third of the odds is enough
        (0.25, 20.0, 0.5, False),
        (0.35, 20.0, 2.0, False),  # two seconds late, so these odds count a third
        (0.56, 20.0, 2.0, True),
        (0.5, 6.0, 0.5, True),  # it rises half as much as it may
        (0.35, 6.0, 0.5, False),
        (0.7, 0.0, 0.5, False),  # nothing has risen: it may have been there before
        (0.95, 0.0, 0.5, True),  # but nearly certain it is
    ],
)
def test_a_beginning_is_evidence(spec, score, rise_db, late, there):
    """The threshold is 0.6."""
    found = begins(spec, EventConfig(), score, rise_db, late)
    assert (found is not None) is there
    if there and rise_db:
        assert found == (10 + late, pytest.approx(10.0, abs=0.05))


def test_no_beginning_makes_less_than_a_threshold_enough_that_the_user_has_named(spec):
    named = EventConfig(Rule(threshold=0.6))
    assert begins(spec, named, 0.5, 20.0, 0.5) is None
    assert begins(spec, named, 0.65, 20.0, 0.5) is not None
    assert begins(spec, named, 0.65, 0.0, 0.5) is None


def test_the_score_alone_may_decide(spec):
    alone = EventConfig(Rule(beginning=0.0))
    for rise_db in (0.0, 20.0):
        assert begins(spec, alone, 0.59, rise_db, 0.5) is None
        assert begins(spec, alone, 0.61, rise_db, 0.5) is not None


@pytest.mark.parametrize("fields", [{"min_duration": 2.0}, {"confirm": 4}])
def test_waiting_makes_a_beginning_no_less(spec, fields):
    told, began = begins(spec, EventConfig(Rule(**fields)), 0.5, 20.0, 0.5)
    assert (told, began) == (12.0, pytest.approx(10.0, abs=0.05))


def test_in_the_first_window_nobody_knows_how_it_began(spec):
    first = dataclasses.replace(window(0, dog=0.61), bands=np.zeros((8, 400), np.float32))
    assert [e.phase for e in Detector(spec).push(first)] == ["begin"]
    assert Detector(spec).push(dataclasses.replace(first, probs=first.probs * np.float32(0.95))) == []


def test_the_odds_of_a_beginning():
    assert odds_of(Beginning(10.0, None), 12.0) == 1.0
    assert odds_of(Beginning(10.0, 12.0), 10.0) == odds_of(Beginning(10.0, 60.0), 10.0) == 5.0
    assert odds_of(Beginning(10.0, 6.0), 10.0) == odds_of(Beginning(10.0, 12.0), 11.0) == 2.5
    assert odds_of(Beginning(10.0, 0.0), 10.0) == odds_of(Beginning(10.0, 0.5), 10.0) == pytest.approx(5 / 24)


@pytest.mark.parametrize("sound", [(0.5, 20.0, 0.5), (0.95, 4.0, 1.5), (0.95, 0.0, 0.5)])
def test_what_is_promised_for_a_place_is_of_the_same_evidence(spec, sound):
    """A threshold just above what was heard there keeps it quiet, one just below does not."""
    detector = Detector(spec)
    heard = max(float(detector.evidence(w)[0]) for w in windows_of(*sound))
    assert 0.6 < heard < 1.0
    assert begins(spec, EventConfig(calibrated={"dog": heard - 1e-6}), *sound) is not None
    assert begins(spec, EventConfig(calibrated={"dog": heard + 1e-6}), *sound) is None


def envelope_of(steps, seconds=10.0):
    """Of noise that gets louder at ``steps``: (seconds, log-mel units)."""
    bands = np.random.default_rng(1).normal(0, 0.02, (8, round(100 * seconds))).astype(np.float32)
    for at, height in steps:
        bands[:, round(100 * at) :] += height
    envelope = Envelope(seconds, 0.01)
    envelope.push(bands, seconds)
    return envelope


def test_of_two_beginnings_the_likelier_is_taken():
    envelope = envelope_of([(4.0, 0.3), (6.0, 0.3)])
    for expected, found in ((4.0, 4.0), (6.0, 6.0), (5.3, 4.0)):  # a sound is heard late rather than early
        assert envelope.onset(3.0, 7.0, expected).time == pytest.approx(found, abs=0.03)
    assert envelope_of([(4.0, 0.9), (6.0, 0.1)]).onset(3.0, 7.0).time == pytest.approx(4.0, abs=0.03)


def test_where_nothing_rises_or_is_remembered_a_sound_begins_at_the_latest():
    assert envelope_of([]).onset(3.0, 7.0, 5.0) == (7.0, 0.0)
    assert envelope_of([(4.0, -0.5)]).onset(3.0, 7.0, 5.0) == (7.0, 0.0)
    assert envelope_of([(4.0, 0.5)]).onset(-30.0, -20.0) == (-20.0, 0.0)
    assert envelope_of([(0.02, 0.5)], 0.06).onset(0.0, 0.06) == (0.06, 0.0)  # too short to tell


def test_a_rise_is_told_in_decibels():
    assert envelope_of([(4.0, 12 * math.log(10) / 10 / 4)]).onset(3.0, 7.0).rise == pytest.approx(12.0, abs=0.5)


def test_the_minimum_duration_is_of_the_sound(classifier):
    """A short one counts for as long as it is in the window; that makes it no longer."""
    assert heard_at(classifier, 6.0, 0.5, 16.0, rule(min_duration=1.5)) == []
    begin, end = heard_at(classifier, 6.0, 3.0, 16.0, rule(min_duration=1.5))
    assert end.offset - begin.onset == pytest.approx(3.0, abs=0.3)


# Rules


def test_a_table_of_a_configuration():
    table = tomllib.loads("""
        confirm = 3
        min-level-dbfs = -50
        only = ["dog", "cat", "siren"]
        [groups]
        pet = ["dog", "cat"]
        [labels.siren]
        confirm = 1
        threshold = 1
    """)
    config = events_of(table)
    assert config.rule == Rule(confirm=3, min_level_dbfs=-50.0)
    assert config.labels == {"siren": Rule(confirm=1, threshold=1.0, min_level_dbfs=-50.0)}
    assert (config.only, config.groups) == (("dog", "cat", "siren"), {"pet": ("dog", "cat")})


def test_outcomes_are_groups_and_the_classes_in_none(spec):
    found = outcomes_of(spec, EventConfig(groups={"pet": ("dog", "cat")}, aliases={"rain": "wet"}, report=("silence",)))
    assert [(o.label, o.classes, o.threshold) for o in found] == [
        ("pet", (0, 1), 0.5), ("siren", (2,), 0.5), ("wet", (3,), 0.3), ("silence", (), 0.5),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("confirm = 0", "confirm is 0; allowed: 1 to 1000"),
        ('confirm = "two"', "events.confirm is 'two'; allowed: a whole number"),
        ("treshold = 0.3", "events has an unknown key 'treshold'"),
        ("threshold = 1.5", "threshold is 1.5; allowed: 0 to 1"),
        ("max_duration = 1\nmin_duration = 1", "max_duration is 1.0; allowed: more than min_duration"),
        ('report = ["noise"]', "report is 'noise'; allowed: unknown, silence"),
        ("[labels.dog]\nconfirn = 1", "events.labels.dog has an unknown key 'confirn'"),
        ("labels = 3", "events.labels is 3"),
        ("[rule]\nconfirm = 1", "unknown key 'rule'"),
        ("smoothing = 1", "smoothing is 1.0; allowed: 0, up to less than 1"),
        ("release = 0", "release is 0.0; allowed: above 0, up to 1"),
        (
            'only = ["siren"]\nignore = ["dog", "siren"]',
            "events.only is ['siren']; allowed: at least one class that is not",
        ),
        ("[groups]\npet = []", "events.groups.pet is []; allowed: one class or more"),
        ("min-duration = 1\nmin_duration = 2", "events has both min-duration and min_duration"),
        ("[labels.fire-alarm]\nmax-duration = 9\nmax_duration = 9", "events.labels.fire-alarm has both max-duration"),
    ],
)
def test_mistakes_in_a_table_are_named(table, message):
    with pytest.raises(SettingsError, match=message.replace("[", r"\[")):
        events_of(tomllib.loads(table))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (EventConfig(only=("hund",)), "a class in events is 'hund'; allowed: the model's classes: dog, cat"),
        (EventConfig(groups={"a": ("dog",), "b": ("dog",)}), "each class in one group at most"),
        (
            EventConfig(labels={"hund": Rule()}),
            "a label in events.labels is 'hund'; allowed: what is reported: dog, cat",
        ),
        (EventConfig(aliases={"dog": "silence"}, report=("silence",)), "no name that a class has as well"),
    ],
)
def test_rules_that_do_not_fit_the_model_are_named(spec, config, message):
    with pytest.raises(SettingsError, match=message):
        Detector(spec, config)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (EventConfig(only=("hound", "siren")), ["siren"]),
        (EventConfig(only=("hound",), report=("silence",)), ["silence"]),  # and not everything
        (EventConfig(ignore=("hound", "cat"), labels={"hound": Rule(), "siren": Rule()}), ["dog", "siren", "rain"]),
        (
            EventConfig(groups={"pet": ("hound", "cat"), "wild": ("wolf",)}, labels={"pet": Rule(), "wild": Rule()}),
            ["pet", "dog", "siren", "rain"],
        ),
        (EventConfig(aliases={"hound": "pet", "cat": "tom"}, labels={"pet": Rule()}), ["dog", "tom", "siren", "rain"]),
        (EventConfig(groups={"pet": ("hound",)}, only=("hound",), labels={"pet": Rule()}), []),
        (EventConfig(only=("hound", "siren"), ignore=("siren",)), []),  # what a user's table may not say
    ],
)
def test_rules_of_another_model_are_left_out_and_named(spec, caplog, config, expected):
    assert [outcome.label for outcome in Detector(spec, fitted(config, spec)).outcomes] == expected
    assert "hound" in caplog.text


def test_silence_alone_may_be_reported(spec):
    config = events_of({"only": ["dog"], "ignore": ["dog"], "report": ["silence"]})
    assert [outcome.label for outcome in outcomes_of(spec, config)] == ["silence"]


def test_a_class_in_two_groups_is_refused_also_where_this_model_does_not_have_it(spec):
    with pytest.raises(SettingsError, match="each class in one group at most"):
        fitted(EventConfig(groups={"a": ("dog", "hound"), "b": ("hound", "cat")}), spec)


def test_a_class_of_the_model_comes_before_what_is_reported_under_its_name(spec):
    spec = dataclasses.replace(spec, labels=("dog", "silence"), thresholds={})
    config = EventConfig(report=("silence", "unknown"), labels={"silence": Rule(confirm=5)})
    found = {o.label: (o.classes, o.rule.confirm) for o in outcomes_of(spec, fitted(config, spec))}
    assert found == {"dog": ((0,), 1), "silence": ((1,), 5), "unknown": ((), 1)}


def test_rules_that_fit_stay_as_they_are(spec, caplog):
    config = EventConfig(only=("dog", "cat"), groups={"pet": ("dog",)}, labels={"pet": Rule()}, report=("unknown",))
    assert fitted(config, spec) == config
    assert not caplog.records
