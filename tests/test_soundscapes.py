"""benchmarks.soundscapes: scenes are what was asked for, and scores are what a hand computes."""

from __future__ import annotations

import csv
import dataclasses
import errno
import functools
import importlib.util
import itertools
import json
import os
import random
import sys
import types
from collections import Counter

import numpy as np
import pytest
import soundfile

from benchmarks.soundscapes.activity import Activity, regions
from benchmarks.soundscapes.backgrounds import PINK, pink, read_backgrounds
from benchmarks.soundscapes.decide import detect
from benchmarks.soundscapes.decoded import Decoded
from benchmarks.soundscapes.figures import figures
from benchmarks.soundscapes.generate import Renderer, SceneSource
from benchmarks.soundscapes.hear import Heard, hear, load_heard, save_heard
from benchmarks.soundscapes.match import Collar, pairs
from benchmarks.soundscapes.run import Listener, Scenes, hear_all
from benchmarks.soundscapes.scene import MIXED, NEGATIVES, SILENCE, SceneConfig, make_scene
from benchmarks.soundscapes.score import Counts, Score, score
from benchmarks.soundscapes.truth import Detection, Span, Truth, read_spans, write_spans
from edge.errors import InputError
from tests.conftest import ESC50, ROOT, SHARED, run_here
from train.clip import Clip
from train.negatives import HALVES, halves

RATE = 16_000
NEGATIVES_FOLDER = SHARED / "data" / "negatives"
BURST = (0.6, 1.1)  # seconds of the clips of a dog


def sound(path, seconds, *spans, seed=0, level=0.1):
    """Noise in each span of seconds, and digital silence elsewhere."""
    samples = np.zeros(round(seconds * RATE))
    rng = np.random.default_rng(seed)
    for start, end in spans:
        n = round(end * RATE) - round(start * RATE)
        samples[round(start * RATE) :][:n] = level * rng.standard_normal(n)
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two folds of two classes of the bundled model."""
    root = tmp_path_factory.mktemp("clips")
    for fold, number in itertools.product((1, 2), range(3)):
        seed = 10 * fold + number
        sound(root / f"fold{fold}" / "dog" / f"{number}.wav", 2, BURST, seed=seed)
        sound(root / f"fold{fold}" / "rain" / f"{number}.wav", 3, (0, 3), seed=seed + 100, level=0.02)
    return root


@pytest.fixture(scope="module")
def clips(data):
    return [Clip(path, (path.parent.name,), 1) for path in sorted((data / "fold1").rglob("*.wav"))]


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """Backgrounds with a table: of two kinds and five sources. In one of them it rains."""
    root = tmp_path_factory.mktemp("behind")
    rows = []
    for number, (kind, source, overlap, partial) in enumerate(
        [("speech", "a", "", ""), ("speech", "b", "", ""), ("music", "c", "", ""), ("music", "d", "", ""),
         ("speech", "a", "", "wind;rain")]
    ):  # fmt: skip
        path = sound(root / kind / f"{number}.wav", 12, (0, 12), seed=number)
        rows.append([str(path.relative_to(root)), kind, overlap, partial, source])
    with (root / "negatives.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "kind", "esc50_overlap", "esc50_partial", "source"], *rows])
    return root


@pytest.fixture
def decoded():
    return Decoded(RATE)


def rendered(scene, decoded):
    return np.concatenate(list(Renderer(scene, decoded).blocks()))


# Where a clip sounds.


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([(1.0, 1.5)], [(1.0, 1.5)]),
        ([(1.0, 1.2), (1.6, 1.8)], [(1.0, 1.8)]),
        ([(1.0, 1.2), (1.9, 2.1)], [(1.0, 1.2), (1.9, 2.1)]),
        ([(0.0, 3.0)], [(0.0, 2.0)]),
        ([(0.1, 0.3), (1.0, 3.5), (4.2, 4.4)], [(0.1, 0.3), (1.0, 3.0)]),
        ([], []),
    ],
    ids=["one", "short pause", "long pause", "too long", "cut after the long one", "silence"],
)
def test_regions_are_where_the_sound_is(tmp_path, spans, expected):
    samples = soundfile.read(sound(tmp_path / "x.wav", 5, *spans), dtype="float32")[0]
    found = [(a / RATE, b / RATE) for a, b in regions(samples, RATE, Activity(max_event=2.0))]
    assert np.allclose(found, expected, atol=0.021)
    assert len(found) == len(expected)


def test_what_is_far_quieter_than_the_rest_of_a_clip_is_no_event(tmp_path):
    loud = soundfile.read(sound(tmp_path / "a.wav", 4, (0.5, 1)), dtype="float32")[0]
    quiet = soundfile.read(sound(tmp_path / "b.wav", 4, (2.5, 3)), dtype="float32")[0]
    assert len(regions(loud + 0.5 * quiet, RATE, Activity())) == 2
    assert len(regions(loud + 0.1 * quiet, RATE, Activity())) == 1


# Scenes.


def test_a_seed_gives_the_same_scene_and_another_one_another(clips, behind, decoded):
    backgrounds = read_backgrounds([behind])
    scenes = [
        make_scene(SceneConfig(), clips, backgrounds, 40, seed, Decoded(RATE)) for seed in ((1, 0), (1, 0), (1, 1))
    ]
    assert scenes[0] == scenes[1]
    assert np.array_equal(rendered(scenes[0], decoded), rendered(scenes[1], Decoded(RATE)))
    assert scenes[0] != scenes[2]


def test_blocks_are_cuts_of_one_scene(clips, behind, decoded):
    config = SceneConfig(gap=1, reverberation=1, background_reverberation=0.5, mix=0.5)
    scene = make_scene(config, clips, read_backgrounds([behind]), 35, (3, 0), decoded)
    whole = np.sum(Renderer(scene, decoded).layers(0, scene.length), axis=0)
    renderer = Renderer(scene, Decoded(RATE))
    edges = [0, 1, 70_003, 200_000, 200_001, 431_000, scene.length]
    pieces = [np.sum(renderer.layers(a, b), axis=0) for a, b in itertools.pairwise(edges)]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert len(rendered(scene, decoded)) == scene.length == 35 * RATE


def test_what_is_over_is_not_kept_in_memory(clips, decoded):
    scene = make_scene(SceneConfig(gap=30), clips, [PINK], 600, (0, 0), decoded)
    renderer = Renderer(scene, decoded)
    held = []
    for _ in renderer.blocks():
        sounds, stretches = renderer._sounds.values(), renderer._stretches.values()
        held.append(sum(map(len, sounds)) + sum(map(len, stretches)))
    assert max(held) < 200 * RATE


@pytest.mark.parametrize("snr", [-5.0, 10.0, 20.0])
@pytest.mark.parametrize("room", [0.0, 1.0])
def test_snr_is_what_was_asked_for(clips, behind, decoded, snr, room):
    config = SceneConfig(snr_db=(snr, snr), gap=1, overlap=0, reverberation=room, silence=0)
    scene = make_scene(config, clips, read_backgrounds([behind]), 60, (5, 0), decoded)
    background, sounds = Renderer(scene, decoded).layers(0, scene.length)
    measured = []
    for p in scene.placements:
        places = np.concatenate([np.arange(p.start + a, p.start + b) for a, b in p.regions])
        measured.append(10 * np.log10(np.mean(sounds[places] ** 2.0) / np.mean(background[places] ** 2.0)))
    assert len(measured) >= 8
    assert np.allclose(measured, snr, atol=0.5)


def test_a_range_of_snr_is_drawn_from(clips, decoded):
    scene = make_scene(SceneConfig(snr_db=(0, 20), gap=1), clips, [PINK], 120, (0, 0), decoded)
    drawn = [p.snr_db for p in scene.placements]
    assert min(drawn) >= 0
    assert max(drawn) <= 20
    assert np.std(drawn) > 3


def test_truth_is_where_the_sound_is(clips, decoded):
    """Over nothing but silence, all that is heard is the events."""
    config = SceneConfig(silence=1, overlap=0, reverberation=0, gap=1)
    scene = make_scene(config, clips, [PINK], 60, (2, 0), decoded)
    samples, events = rendered(scene, decoded), scene.truth().events
    active = np.zeros(len(samples), bool)
    assert len(events) >= 8
    for event in events:
        first, last = round(event.onset * RATE), round(event.offset * RATE)
        heard = np.flatnonzero(samples[max(0, first - RATE // 2) : last + RATE // 2]) + max(0, first - RATE // 2)
        assert abs(heard[0] - first) <= 0.021 * RATE
        assert abs(heard[-1] - last) <= 0.021 * RATE
        active[first:last] = True
    assert not samples[~active].any()
    dogs = [event for event in events if event.label == "dog"]
    assert np.allclose([d.offset - d.onset for d in dogs], BURST[1] - BURST[0], atol=0.03)


@pytest.mark.parametrize("share", [0.0, 0.4])
def test_the_share_of_overlaps(clips, decoded, share):
    many = [dataclasses.replace(clip, labels=(f"class {n}",)) for n, clip in enumerate(clips)]
    scene = make_scene(SceneConfig(gap=1, overlap=share), many, [PINK], 900, (0, 0), decoded)
    found = scene.placements
    overlapping = sum(a.end > b.start for a, b in itertools.pairwise(found))
    assert overlapping / len(found) == pytest.approx(share, abs=0.08)
    for a, b in itertools.combinations(scene.truth().events, 2):
        assert a.label != b.label or b.onset - a.offset >= 1.5


def test_a_class_that_may_be_in_the_background_is_not_placed_over_it(clips, behind, decoded):
    rainy = [b for b in read_backgrounds([behind]) if b.classes]
    assert rainy[0].classes == ("rain", "wind")
    truth = make_scene(SceneConfig(gap=0.5, silence=0), clips, rainy, 60, (0, 0), decoded).truth()
    assert {event.label for event in truth.events} == {"dog"}
    assert {(s.label) for s in truth.ignored} == {"rain", "wind"}
    assert sum(s.offset - s.onset for s in truth.ignored) == pytest.approx(2 * 60)


def test_stretches_fill_the_scene_and_are_of_the_kinds_that_were_given(clips, behind, decoded):
    config = dataclasses.replace(NEGATIVES, silence=0.3, mix=0.5)
    scene = make_scene(config, clips, read_backgrounds([behind]), 300, (0, 0), decoded)
    edges = [0, *(s.end for s in scene.stretches)]
    assert edges[-1] == scene.length
    assert [s.start for s in scene.stretches] == edges[:-1]
    assert {s.kind for s in scene.stretches} == {"speech", "music", MIXED, SILENCE}
    assert not scene.placements
    samples = rendered(scene, decoded)
    for stretch in scene.stretches:
        power = np.mean(samples[stretch.start : stretch.end] ** 2.0)
        if stretch.kind == SILENCE:
            assert power == 0
        elif stretch.end < scene.length and stretch.level_dbfs < -20:  # neither cut short nor clipped
            assert 10 * np.log10(power) == pytest.approx(stretch.level_dbfs, abs=0.3)


def test_pink_noise_has_the_same_power_in_every_octave():
    spectrum = np.abs(np.fft.rfft(pink(1 << 18, np.random.default_rng(0)))) ** 2
    octaves = [spectrum[1 << n : 2 << n].sum() for n in range(10, 17)]
    assert max(octaves) / min(octaves) < 1.2


def test_the_halves_share_no_source_whatever_the_order(behind):
    found = read_backgrounds([behind])
    pairs = [(b.kind, b.source) for b in found]
    assert halves(pairs) == halves(pairs[::-1])
    parts = [read_backgrounds([behind], half) for half in HALVES]
    assert sorted(b.path for part in parts for b in part) == sorted(b.path for b in found)
    assert not {b.source for b in parts[0]} & {b.source for b in parts[1]}
    assert all({b.kind for b in part} == {"speech", "music"} for part in parts)


def test_one_source_of_two_kinds_is_in_one_half():
    places = halves(itertools.product("xy", "abcd"))
    assert places.keys() == set("abcd")
    assert Counter(places.values()) == {"develop": 2, "report": 2}


def test_a_folder_without_a_table_is_of_its_own_kind(tmp_path):
    sound(tmp_path / "noise" / "fan.wav", 3, (0, 3))
    sound(tmp_path / "noise" / "running_tap.wav", 3, (0, 3))
    found = read_backgrounds([tmp_path / "noise"])
    assert [(b.path.name, b.kind, b.classes) for b in found] == [
        ("fan.wav", "noise", ()),
        ("running_tap.wav", "noise", ("pouring_water",)),
    ]
    assert read_backgrounds([]) == (PINK,)


def test_backgrounds_that_are_too_short_are_refused(tmp_path, clips, decoded):
    sound(tmp_path / "x" / "short.wav", 1, (0, 1))
    with pytest.raises(InputError, match="no background is long enough"):
        make_scene(SceneConfig(), clips, read_backgrounds([tmp_path / "x"]), 30, (0, 0), decoded)


def test_decoded_recordings_are_kept_on_disk_and_stay_the_same(tmp_path, clips):
    kept = [Decoded(RATE, tmp_path).read(clips[0].path) for _ in range(2)]
    assert np.array_equal(kept[0], kept[1])
    assert np.array_equal(kept[0], Decoded(RATE).read(clips[0].path))
    assert len(list(tmp_path.iterdir())) == 1


# Lists of events.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("onset,offset,label\n1.5,2,dog\n", {"": [Span(1.5, 2, "dog")]}),
        ("label,onset,offset\ndog,1.5,2\n", {"": [Span(1.5, 2, "dog")]}),
        ("1.5\t2\tdog\n3\t4\tdoor knock\n", {"": [Span(1.5, 2, "dog"), Span(3, 4, "door knock")]}),
        ("a.wav\t1\t2\tdog\nb.wav\t1\t2\train\n", {"a.wav": [Span(1, 2, "dog")], "b.wav": [Span(1, 2, "rain")]}),
        ("filename\tonset\toffset\tevent_label\nx.wav\t0\t1\tdog\n", {"x.wav": [Span(0, 1, "dog")]}),
        ("event_onset,event_offset,event_label\r\n1,2,dog\r\n\r\n", {"": [Span(1, 2, "dog")]}),
        ("onset,offset,label\n", {}),
        ("", {}),
    ],
)
def test_lists_of_others_are_read(tmp_path, text, expected):
    path = tmp_path / "list.csv"
    path.write_bytes(text.encode())
    assert read_spans(path) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("onset,offset,label\n1,2,dog\n2,1,dog\n", "line 3: from 2 to 1 s"),
        ("onset,offset,label\n1,x,dog\n", "line 2: offset is 'x'"),
        ("onset,offset,label\n1,nan,dog\n", "line 2: from 1 to nan"),
        ("onset,offset,label\n-1,2,dog\n", "line 2: from -1 to 2"),
        ("onset,offset,label\n1,2\n", "line 2 has 2 columns"),
        ("onset,offset,label\n1,2,\n", "line 2 has no label"),
    ],
)
def test_a_broken_list_names_the_line(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_spans(tmp_path / "x.csv")


def test_the_demo_and_our_own_lists_are_read(tmp_path):
    events = read_spans(ROOT / "examples" / "demo.csv")[""]
    assert events[0] == Span(1.5, 8.0, "vacuum_cleaner")
    write_spans(tmp_path / "x.csv", events)
    assert read_spans(tmp_path / "x.csv")[""] == events


# Scores, by hand.


def report(onset, offset, label="dog", decided=None):
    return Detection(onset, offset, label, onset + 1 if decided is None else decided)


@pytest.mark.parametrize(
    ("onset", "hits"),
    [(10.5, (1, 0)), (9.5, (1, 0)), (10.501, (0, 0)), (10.2, (1, 1)), (9.8, (1, 1)), (10.201, (1, 0))],
)
def test_exactly_at_the_collar_is_within_it(onset, hits):
    result = score(Truth(60, (Span(10, 12, "dog"),)), [report(onset, 12)])
    assert (result.micro("event").hits, result.micro("event_200ms").hits) == hits


def test_the_collar_is_exact_wherever_the_event_is():
    """0.7 - 0.2 is 0.49999999999999994, and 8.3 - 7.8 is 0.5000000000000009: neither is the event's fault."""
    for tenth in range(1, 900):
        event = Span(tenth / 10, 100, "dog")
        assert len(pairs([event], [report(tenth / 10 + 0.5, 100)], Collar())) == 1, tenth


@pytest.mark.parametrize(("offset", "hit"), [(15.0, 1), (14.99, 0), (25.0, 1), (25.01, 0)])
def test_an_offset_may_be_half_the_length_away(offset, hit):
    result = score(Truth(60, (Span(10, 20, "dog"),)), [report(10, offset)])
    assert result.micro("event_offset").hits == hit
    assert result.micro("event").hits == 1


@pytest.mark.parametrize(("offset", "hit"), [(10.7, 1), (10.71, 0)])
def test_of_a_short_event_the_offset_may_be_the_collar_away(offset, hit):
    assert score(Truth(60, (Span(10, 10.2, "dog"),)), [report(10, offset)]).micro("event_offset").hits == hit


def test_a_second_report_of_an_event_is_a_report_more_and_no_false_alarm():
    result = score(Truth(3600, (Span(10, 14, "dog"),)), [report(10.1, 11), report(12, 14)])
    assert result.micro("event") == Counts(hits=1, events=1, reports=2)
    assert result.micro("event").f1 == pytest.approx(2 / 3)
    assert not result.false_alarms


def test_as_many_pairs_as_possible_are_made_of_overlapping_events():
    """The first event could take either report, the second one only the later."""
    events, reports = (Span(1.0, 5, "dog"), Span(1.6, 5, "dog")), [report(0.7, 5), report(1.2, 5)]
    assert score(Truth(60, events), reports).micro("event").hits == 2
    assert score(Truth(60, events[::-1]), reports[::-1]).micro("event").hits == 2


def test_of_as_many_pairs_the_nearest_are_made():
    found = pairs([Span(1, 5, "dog"), Span(1.4, 5, "dog")], [report(1.35, 5), report(1.05, 5)], Collar())
    assert sorted((e.onset, r.onset) for e, r in found) == [(1, 1.05), (1.4, 1.35)]


def test_another_class_is_no_hit():
    result = score(Truth(3600, (Span(10, 14, "dog"),)), [report(10, 14, "cat")])
    assert result.micro("event") == Counts(0, 1, 1)
    assert result.false_alarms == {("cat", "unknown"): 1}


def hand_made():
    """Three events of two classes. One dog is found late, the cat in time; a cow is reported, and the other dog not."""
    truth = Truth(
        3600,
        (Span(10, 12, "dog"), Span(30, 32.5, "dog"), Span(20, 24, "cat")),
        stretches=(Span(0, 1800, "speech"), Span(1800, 3600, "music")),
    )
    reports = [
        report(11, 12.5, decided=12.6),  # no hit, but found
        report(20.3, 23.2, "cat", decided=21.3),
        report(2000, 2001, "cow"),
        report(100, 101, "dog"),
    ]
    return truth, reports


def test_figures_by_hand():
    found = figures(score(*hand_made()))
    assert (found["events"], found["reports"], found["found"]) == (3, 4, 2)
    assert found["event_precision"] == pytest.approx(1 / 4)
    assert found["event_recall"] == pytest.approx(1 / 3)
    assert found["event_f1"] == pytest.approx(2 * 1 / (3 + 4))
    assert found["event_f1_macro"] == pytest.approx((0 + 1) / 2)  # the cow is not there
    assert found["event_200ms_f1"] == 0
    assert found["event_offset_f1"] == pytest.approx(2 / 7)  # the cat: 0.8 s of 4
    # dog: 10, 11, 30, 31, 32 against 11, 12, 100; cat: 20–23 against 20–23; cow: 2000
    assert found["segment_f1"] == pytest.approx(2 * 5 / (9 + 8))
    assert found["segment_f1_macro"] == pytest.approx((2 / 8 + 1) / 2)
    assert found["false_alarms_per_hour"] == pytest.approx(2)
    assert found["false_alarms_per_hour_by_kind"] == {"music": pytest.approx(2), "speech": pytest.approx(2)}
    assert found["median_delay_s"] == pytest.approx((2.6 + 1.3) / 2)
    assert found["median_delay_impulsive_s"] == pytest.approx(2.6)
    assert found["p90_delay_s"] == pytest.approx(1.3 + 0.9 * 1.3)
    assert found["onset_error_s"] == pytest.approx((1 + 0.3) / 2)
    assert found["by_class"]["dog"]["false_alarms_per_hour"] == pytest.approx(1)
    assert found["by_class"]["cow"]["event_precision"] == 0


def test_recordings_add_up():
    total = Score()
    for _ in range(2):
        total.add(score(*hand_made()))
    once, twice = figures(score(*hand_made())), figures(total)
    assert twice["hours"] == 2
    assert twice["events"] == 2 * once["events"]
    for key in ("event_f1", "segment_f1_macro", "false_alarms_per_hour", "median_delay_s"):
        assert twice[key] == pytest.approx(once[key])


def test_nothing_to_count_is_none_not_a_number():
    found = figures(score(Truth(60, ()), []))
    assert found["event_f1"] is None
    assert found["median_delay_s"] is None
    assert found["false_alarms_per_hour"] == 0
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_classes_of_a_background_are_neither_expected_nor_false_while_it_lasts():
    truth = Truth(3600, (Span(50, 52, "rain"),), ignored=(Span(100, 200, "rain"),))
    reports = [report(50, 52, "rain"), report(120, 130, "rain"), report(99, 100.4, "rain"), report(150, 151, "dog")]
    result = score(truth, reports)
    assert result.micro("event") == Counts(hits=1, events=1, reports=2)
    assert result.false_alarms == {("dog", "unknown"): 1}
    assert result.micro("segment") == Counts(hits=2, events=2, reports=3)
    later = score(truth, [report(201, 205, "rain")])
    assert later.false_alarms == {("rain", "unknown"): 1}
    masked = score(Truth(3600, (Span(150, 152, "rain"),), ignored=truth.ignored), [])
    assert masked.micro("event") == Counts()


def test_segments_of_a_background_in_which_the_class_may_be_do_not_count():
    """A report that begins with an event, and lasts into such a background."""
    truth = Truth(60, (Span(8, 9.5, "rain"),), ignored=(Span(9.2, 30, "rain"),))
    assert score(truth, []).micro("segment") == Counts()  # the event reaches into it
    truth = dataclasses.replace(truth, ignored=(Span(9.6, 30, "rain"),))
    assert score(truth, [report(8, 14, "rain")]).micro("segment") == Counts(hits=2, events=2, reports=2)
    assert score(truth, [report(7, 14, "rain")]).micro("segment") == Counts(hits=2, events=2, reports=3)


def test_renamed_classes_are_scored_by_their_new_names():
    truth = Truth(60, (Span(1, 2, "dog"), Span(3, 4, "cat"), Span(5, 6, "rain")), ignored=(Span(0, 9, "cat"),))
    renamed = truth.renamed({"dog": "animal", "cat": "animal", "rain": None})
    assert [e.label for e in renamed.events] == ["animal", "animal"]
    assert renamed.ignored[0].label == "animal"


def test_who_reports_the_truth_of_a_scene_is_right_in_everything(clips, behind, decoded):
    scene = make_scene(SceneConfig(gap=1, overlap=0.3), clips, read_backgrounds([behind]), 200, (0, 0), decoded)
    truth = scene.truth()
    found = figures(score(truth, [report(e.onset, e.offset, e.label, decided=e.onset + 0.25) for e in truth.events]))
    for name in ("event", "event_200ms", "event_offset", "segment"):
        assert found[f"{name}_f1"] == found[f"{name}_f1_macro"] == 1
    assert found["false_alarms"] == found["onset_error_s"] == 0
    assert found["p90_delay_s"] == pytest.approx(0.25)
    assert found["events"] == len(truth.events) > 20


@pytest.mark.parametrize("seed", range(4))
def test_events_and_segments_are_counted_as_sed_eval_counts_them(seed):
    sed_eval = pytest.importorskip("sed_eval", reason="needs the extra [test]")
    from dcase_util.containers import MetaDataContainer

    rng = random.Random(seed)

    def draw(n, make):
        starts = [rng.uniform(0, 60) for _ in range(n)]
        return [make(s, s + rng.uniform(0.1, 6), rng.choice(["dog", "cat", "cow"])) for s in starts]

    truth, reports = Truth(70, tuple(draw(40, Span))), draw(40, report)
    lists = [
        MetaDataContainer(
            [{"filename": "x", "event_label": s.label, "onset": s.onset, "offset": s.offset} for s in spans]
        )
        for spans in (truth.events, reports)
    ]
    found = figures(score(truth, reports))
    labels = ["dog", "cat", "cow"]
    for name, collar, offset in (("event", 0.5, False), ("event_200ms", 0.2, False), ("event_offset", 0.5, True)):
        theirs = sed_eval.sound_event.EventBasedMetrics(
            labels, t_collar=collar, evaluate_offset=offset, percentage_of_length=0.5, event_matching_type="optimal"
        )
        theirs.evaluate(*lists)
        _same(found, name, theirs)
    theirs = sed_eval.sound_event.SegmentBasedMetrics(labels, time_resolution=1.0)
    theirs.evaluate(*lists)
    _same(found, "segment", theirs)


def _same(found, name, theirs):
    overall = theirs.results_overall_metrics()["f_measure"]
    assert found[f"{name}_f1"] == pytest.approx(overall["f_measure"])
    assert found[f"{name}_precision"] == pytest.approx(overall["precision"])
    assert found[f"{name}_recall"] == pytest.approx(overall["recall"])
    for label, own in theirs.results_class_wise_metrics().items():
        assert found["by_class"][label][f"{name}_f1"] == pytest.approx(own["f_measure"]["f_measure"])
    average = theirs.results_class_wise_average_metrics()["f_measure"]["f_measure"]
    assert found[f"{name}_f1_macro"] == pytest.approx(average)


# Hearing, and the whole.


def test_an_event_is_decided_when_it_was_told_to_have_begun(monkeypatch, classifier):
    """And not when it has ended, or is said to have begun."""
    told = {
        2.0: [_Event("a", "begin", "dog", 0.7, None)],
        3.0: [_Event("b", "begin", "cat", 2.5, None), _Event("a", "end", "dog", 0.7, 2.2)],
    }

    class Scripted:
        def __init__(self, spec):
            pass

        def push(self, window):
            return told.get(window.offset, [])

        def close(self):
            return [_Event("b", "end", "cat", 2.5, 4.0)]

    monkeypatch.setitem(sys.modules, "edge.decisions", types.SimpleNamespace(Detector=Scripted))
    windows = [types.SimpleNamespace(offset=float(n)) for n in range(1, 5)]
    assert detect(windows, classifier.spec) == [Detection(0.7, 2.2, "dog", 2.0), Detection(2.5, 4.0, "cat", 3.0)]
    assert detect([], classifier.spec) == []


def test_heard_windows_are_kept_as_they_were(tmp_path, clips, behind, decoded, classifier):
    scene = make_scene(SceneConfig(silence=0.5, gap=1), clips, read_backgrounds([behind]), 25, (0, 0), decoded)
    heard = Heard("x", scene.truth(), hear(SceneSource(scene, decoded, "x"), classifier))
    save_heard(heard, tmp_path / "new" / "x.npz")
    again = load_heard(tmp_path / "new" / "x.npz")
    assert (again.name, again.truth) == (heard.name, heard.truth)
    assert len(again.windows) == len(heard.windows) > 30
    assert all(w.time == w.offset and w.latency_ms == 0 for w in heard.windows)  # of another run as well
    for ours, theirs in zip(heard.windows, again.windows, strict=True):
        for field in dataclasses.fields(ours):
            a, b = getattr(ours, field.name), getattr(theirs, field.name)
            assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b, field.name


def test_a_scene_at_another_rate_is_refused(clips, decoded):
    scene = make_scene(SceneConfig(), clips, [PINK], 5, (0, 0), decoded)
    with pytest.raises(InputError, match="16000 Hz, not 8000"):
        next(SceneSource(scene, decoded, "x").blocks(8000, 800))
    stereo = next(SceneSource(scene, decoded, "x").blocks(RATE, 800, channels=2))
    assert stereo.samples.shape == (800, 2)


@dataclasses.dataclass
class _Event:
    id: str
    phase: str
    label: str
    onset: float
    offset: float | None


class _Detector:
    """The least that tells events, where the runtime's own is not there: the likely best class of a window."""

    def __init__(self, spec, config=None):
        self._open, self._n, self._at = None, 0, 0.0

    def push(self, window):
        label, best = window.top(1)[0]
        self._at = window.offset
        events = self.close() if self._open and (label != self._open.label or best < 0.3) else []
        if self._open is None and best >= 0.3:
            self._n += 1
            self._open = _Event(str(self._n), "begin", label, max(0, window.offset - 1), None)
            events.append(self._open)
        return events

    def close(self):
        ended, self._open = self._open, None
        return [dataclasses.replace(ended, phase="end", offset=self._at)] if ended else []


@pytest.fixture
def detector(monkeypatch):
    if importlib.util.find_spec("edge.decisions") is None:
        monkeypatch.setitem(sys.modules, "edge.decisions", types.SimpleNamespace(Detector=_Detector))


soundscapes = functools.partial(run_here, "benchmarks.soundscapes")


KEYS = {
    *("event_f1", "event_f1_macro", "event_precision", "event_recall", "event_200ms_f1", "event_offset_f1"),
    *("segment_f1", "segment_f1_macro", "false_alarms_per_hour", "false_alarms_per_hour_by_kind", "hours_by_kind"),
    *("median_delay_s", "p90_delay_s", "median_delay_impulsive_s", "p90_delay_impulsive_s", "onset_error_s"),
    *("events", "reports", "found", "found_share", "hours", "by_class", "model", "conditions"),
}


def test_a_run_from_clips_to_figures(tmp_path, data, behind, detector):
    paths = [tmp_path / "1.json", tmp_path / "2.json", tmp_path / "3.json"]
    for path, more in zip(paths, ([], [], ["--seed", "9"]), strict=True):
        done = soundscapes(
            "run", "--data", data, "--fold", 2, "--hours", 0.01, "--snr", "5,15", "--gap", 1, "--backgrounds", behind,
            "--half", "report", "--cache", tmp_path / "cache", "--json", path, *more,
        )  # fmt: skip
        assert "event F1, onset within 0.5 s" in done.output
        assert "Traceback" not in done.output
    first, again, other = (json.loads(path.read_text()) for path in paths)
    assert first.keys() >= KEYS
    assert first["hours"] == pytest.approx(0.01)
    assert first["events"] >= 4
    assert first["by_class"]["dog"]["events"] + first["by_class"]["rain"]["events"] == first["events"]
    assert sum(first["hours_by_kind"].values()) == pytest.approx(0.01)
    assert first == again
    assert first["by_class"] != other["by_class"]
    assert len(list((tmp_path / "cache" / "heard").iterdir())) == 2


@pytest.mark.parametrize("order", ["last", "before an option", "a dash"])
def test_json_without_a_file_is_all_that_is_printed(tmp_path, data, detector, order):
    command = ("run", "--data", data, "--fold", 2, "--hours", 0.01, "--cache", tmp_path / "cache", "--curve")
    shown = soundscapes(*command, "--json", tmp_path / "x.json").stdout
    assert "| event F1, onset within 0.5 s |" in shown
    assert "| thresholds × |" in shown
    last = {"last": ("--seed", 0, "--json"), "before an option": ("--json", "--seed", 0), "a dash": ("--json", "-")}
    printed = json.loads(soundscapes(*command, *last[order]).stdout)
    assert printed == json.loads((tmp_path / "x.json").read_text())
    assert printed.keys() >= KEYS | {"curve"}
    assert not (ROOT / "-").exists()


def test_where_figures_cannot_be_written_nothing_is_listened_to(tmp_path, data, monkeypatch):
    commands = importlib.import_module("benchmarks.soundscapes.__main__")
    monkeypatch.setattr(commands, "hear_all", lambda *_: pytest.fail("it has listened"))
    command = ("run", "--data", data, "--fold", 2, "--no-cache", "--json")
    there, below = tmp_path / "there.json", tmp_path / "there.json" / "x.json"
    there.write_text("kept")
    for path, why in ((tmp_path / "no" / "x.json", "No such file"), (below, "Not a directory")):
        done = soundscapes(*command, path, code=2)
        assert f"error: {path} cannot be written: {why}" in done.output
    soundscapes(*command, there, "--fold", 7, code=1)
    assert there.read_text() == "kept"
    assert [*tmp_path.iterdir()] == [there]


def test_a_disk_that_is_full_in_the_end_is_told_after_the_tables(tmp_path, data, monkeypatch, detector):
    def full(path, document):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(importlib.import_module("benchmarks.soundscapes.__main__"), "write_json", full)
    path = tmp_path / "x.json"
    done = soundscapes("run", "--data", data, "--fold", 2, "--hours", 0.002, "--no-cache", "--json", path, code=1)
    assert "| false alarms an hour |" in done.stdout
    assert f"error: {path} cannot be written: No space left on device (free some space" in done.stderr


def test_backgrounds_alone(tmp_path, behind, detector):
    done = soundscapes(
        "negatives",
        "--backgrounds",
        behind,
        "--hours",
        0.01,
        "--no-cache",
        "--json",
        tmp_path / "x.json",
        "--silence",
        0,
    )
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["events"] == 0
    assert found["false_alarms"] == round(found["false_alarms_per_hour"] * 0.01) <= found["reports"]
    assert found["hours_by_kind"].keys() <= {"speech", "music", MIXED}
    assert "event F1" not in done.output
    assert not (tmp_path / ".cache").exists()
    printed = soundscapes("negatives", "--backgrounds", behind, "--hours", 0.01, "--no-cache", "--silence", 0, "--json")
    assert json.loads(printed.stdout) == found


def test_rendered_scenes_can_be_heard_as_recordings(tmp_path, data, behind, detector):
    options = ("--data", data, "--fold", 2, "--hours", 0.01, "--gap", 1, "--backgrounds", behind, "--no-cache")
    out, files = tmp_path / "out", (tmp_path / "run.json", tmp_path / "recordings.json")
    done = soundscapes("render", *options, "--out", out)
    assert done.output.split() == [str(out / "scene-001.wav")]
    info = soundfile.info(out / "scene-001.wav")
    assert (info.samplerate, info.duration, info.channels) == (RATE, pytest.approx(36), 1)
    soundscapes("run", *options, "--json", files[0])
    soundscapes("recordings", out, "--json", files[1])
    assert json.loads(soundscapes("recordings", out, "--json").stdout) == json.loads(files[1].read_text())
    run, recordings = (json.loads(path.read_text()) for path in files)
    assert recordings["events"] == run["events"] == len(read_spans(out / "scene-001.csv")[""])
    assert recordings["hours_by_kind"] == pytest.approx(run["hours_by_kind"], abs=1e-4)
    for label, own in run["by_class"].items():
        assert recordings["by_class"][label]["events"] == own["events"]


def test_a_recording_with_the_list_of_a_whole_set(tmp_path, detector):
    sound(tmp_path / "a.wav", 6, (1, 2))
    (tmp_path / "all.tsv").write_text("filename\tonset\toffset\tevent_label\na.wav\t1\t2\tdog\nb.wav\t0\t1\tcat\n")
    soundscapes("recordings", tmp_path / "a.wav", "--truth", tmp_path / "all.tsv", "--json", tmp_path / "x.json")
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["events"] == 1
    assert found["by_class"]["dog"]["events"] == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "--data", "{data}", "--fold", 7], 1, "fold 7 has no clips"),
        (["run", "--data", "/nowhere"], 1, "/nowhere"),
        (["run", "--data", "{data}", "--fold", 1, "--snr", "loud"], 2, "'loud' is not one number"),
        (["run", "--data", "{data}", "--fold", 1, "--snr", "9,3"], 2, "first must not be above"),
        (["run", "--data", "{data}", "--fold", 1, "--backgrounds", "/nowhere"], 5, "/nowhere is no folder"),
        (["run", "--data", "{data}", "--fold", 1, "--hours", 0], 2, "--hours"),
        (["negatives"], 2, "needs --backgrounds"),
        (["recordings", "{data}"], 5, "has no truth beside it"),
        (["render", "--data", "{data}", "--out", "{data}/scenes"], 2, "give --fold"),
        (["run", "--data", "{data}", "--model", "/nowhere.onnx"], 3, "/nowhere.onnx"),
        (
            ["run", "--data", "{data}", "--fold", 1, "--cache", "{file}/y"],
            2,
            "{file}/y cannot be written: Not a directory",
        ),
        (
            ["render", "--data", "{data}", "--fold", 1, "--out", "{file}/y"],
            2,
            "{file}/y cannot be written: Not a directory",
        ),
        (["recordings", "--json", "{file}"], 2, "{file} has the name of a recording"),
    ],
)
def test_mistakes_are_told_in_a_line(data, detector, arguments, code, message):
    names = {"data": data, "file": data / "fold1" / "dog" / "0.wav"}
    done = soundscapes(*(str(a).format(**names) for a in arguments), code=code)
    assert message.format(**names) in done.output
    assert "Traceback" not in done.output


# The rules of a configuration file.

DEVICE = """
device = "USB"
hop = 0.5
top-k = 5
output = "jsonl"
log = "/var/lib/edge-listen/events.jsonl"

[clips]
folder = "/var/lib/edge-listen/clips"

[[sinks.mqtt]]
host = "broker"

[[sources]]
name = "yard"
device = "USB"

[update]
url = "https://models.example/"
"""


def counted(tmp_path, behind, text, code=0):
    """What is heard in a few backgrounds by the rules of a file, and what is said."""
    (tmp_path / "x.toml").write_text(text)
    done = soundscapes(
        "negatives", "--backgrounds", behind, "--hours", 0.01, "--cache", tmp_path / "cache", "--json",
        "--config", tmp_path / "x.toml", code=code,
    )  # fmt: skip
    return json.loads(done.stdout)["reports"] if code == 0 else None, done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[evnts]\nthreshold = 0.9\n", "x.toml: unknown key evnts; allowed: "),
        ("[events]\n[sink]\n", "x.toml: unknown key sink; allowed: "),
        ("treshold = 0.9\n[events]\n", "x.toml: unknown key treshold; allowed: "),
        ('threshold = "loud"\n', "Invalid value for '--threshold': 'loud'"),
        ("[events]\ntreshold = 0.9\n", "events has an unknown key 'treshold'"),
        ("events = 3\n", "events is 3 (make it a table"),
        ('[events]\nignore = ["dgo"]\n', "a class in events is 'dgo'"),
        ("[events\n", "x.toml: "),
    ],
)
def test_a_configuration_that_edge_listen_would_refuse_is_refused(tmp_path, behind, monkeypatch, text, message):
    commands = importlib.import_module("benchmarks.soundscapes.__main__")
    monkeypatch.setattr(commands, "hear_all", lambda *_: pytest.fail("it has listened"))
    _, said = counted(tmp_path, behind, text, code=2)
    assert message in said
    assert said.count("\n") == 1


def test_a_configuration_of_a_device_is_measured_by_its_rules(tmp_path, behind, monkeypatch):
    monkeypatch.setenv("EDGE_LISTEN_THRESHOLD", "1")  # of a listener on this machine
    everything = "threshold = 0.01\nbeginning = 0\n"
    usual, said = counted(tmp_path, behind, DEVICE)
    assert "x.toml has no table [events]: the default rules are measured" in said
    assert counted(tmp_path, behind, f"{DEVICE}[events]\n") == (usual, "")
    many, said = counted(tmp_path, behind, f"{DEVICE}[events]\n{everything}")
    assert many > usual
    assert said == ""


def test_the_threshold_of_a_configuration_comes_before_that_of_its_events(tmp_path, behind):
    """As in edge-listen."""
    rules = "[events]\nbeginning = 0\nthreshold = "
    many, none = (counted(tmp_path, behind, f"{rules}{value}\n")[0] for value in (0.01, 1))
    assert many > none
    assert counted(tmp_path, behind, f"threshold = 1\n{rules}0.01\n") == (none, "")
    assert counted(tmp_path, behind, f"threshold = 0.01\n{rules}1\n") == (many, "")
    _, said = counted(tmp_path, behind, "threshold = 0.9\n")
    assert "has no table [events]: but for its threshold, 0.9, the default rules are measured" in said


@pytest.mark.parametrize("number", ["nan", "inf", "1e999"])
@pytest.mark.parametrize(
    "option",
    ["--hours", "--gap", "--snr", "--level", "--silence", "--overlap", "--reverberation", "--merge-gap", "--max-event",
     "--hop"],
)  # fmt: skip
def test_what_is_no_number_is_refused(data, option, number):
    done = soundscapes("run", "--data", data, "--fold", 1, "--no-cache", option, number, code=2)
    assert f"Invalid value for '{option}'" in done.output


@pytest.mark.parametrize(
    ("option", "number"), [("--hours", "1e300"), ("--snr", "-201"), ("--level", "-30,1e5"), ("--max-event", "1e-9")]
)
def test_numbers_that_no_sound_has_are_refused(data, option, number):
    done = soundscapes("run", "--data", data, "--fold", 1, "--no-cache", option, number, code=2)
    assert "is not in the range" in done.output


def test_thresholds_are_scaled_and_a_curve_drawn(tmp_path, data, behind):
    soundscapes(
        "run", "--data", data, "--fold", 2, "--hours", 0.01, "--backgrounds", behind, "--no-cache", "--curve",
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    curve = json.loads((tmp_path / "x.json").read_text())["curve"]
    alarms = [point["false_alarms_per_hour"] for point in curve]
    assert [point["scale"] for point in curve] == sorted(point["scale"] for point in curve)
    assert alarms[0] >= alarms[-1]


@pytest.mark.slow
def test_processes_do_not_change_what_is_heard(clips, classifier):
    scenes = Scenes(SceneConfig(), tuple(clips), (PINK,), seconds=25, seed=0, part_seconds=10)
    listener = Listener(classifier.path, classifier.spec)
    alone, together = (list(hear_all(scenes, listener, jobs)) for jobs in (1, 2))
    assert [h.truth.seconds for h in alone] == [10, 10, 5]
    assert [h.truth for h in alone] == [h.truth for h in together]
    for a, b in zip(alone, together, strict=True):
        assert np.array_equal([w.probs for w in a.windows], [w.probs for w in b.windows])


def test_a_scene_does_not_depend_on_how_many_there_are(clips, behind, decoded):
    few, many = (
        Scenes(SceneConfig(), tuple(clips), read_backgrounds([behind]), seconds, seed=4, part_seconds=10)
        for seconds in (20, 45)
    )
    assert (len(few.parts), len(many.parts)) == (2, 5)
    assert [few.scene(n, decoded) for n in range(2)] == [many.scene(n, decoded) for n in range(2)]
    assert [few.digest(n) for n in range(2)] == [many.digest(n) for n in range(2)]
    assert many.scene(0, decoded) != many.scene(1, decoded)
    assert many.scene(4, decoded).length == 5 * RATE


@pytest.mark.slow
@pytest.mark.skipif(not (ESC50.is_dir() and NEGATIVES_FOLDER.is_dir()), reason=f"needs {ESC50} and {NEGATIVES_FOLDER}")
def test_real_clips_over_real_backgrounds(tmp_path, detector):
    soundscapes(
        "run", "--data", ESC50, "--fold", 5, "--hours", 0.03, "--half", "develop", "--no-cache",
        "--json", tmp_path / "x.json",
    )  # fmt: skip
    found = json.loads((tmp_path / "x.json").read_text())
    assert found["events"] >= 8
    assert found["segment_f1"] > 0
    assert found["hours_by_kind"].keys() <= {"speech", "music", "ambience", SILENCE}
