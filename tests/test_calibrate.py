"""Thresholds for a place: the promise is kept on what was not listened to, and what cannot be promised is said."""

import contextlib
import dataclasses
import errno
import json
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from edge.calibration import (
    HIGHEST,
    Calibration,
    OtherModelError,
    Site,
    Tail,
    allowance,
    calibrated,
    poisson_bound,
    require_place,
    undo,
)
from edge.cli.listen import model_of
from edge.decisions import Detector, model_id
from edge.errors import SettingsError
from edge.rules import EventConfig, Rule
from tests.conftest import NOT_TO_BE_ENTERED, ROOT, run_module
from tests.test_decisions import HOP, LABELS, spec, window  # noqa: F401  # a fixture
from tests.test_listen import SCHEMA
from tests.test_several import ffmpeg, serving  # noqa: F401  # a fixture

BLOCK = 63  # windows in a block, of 0.48 s by the model's hop
RATE = 16_000


def quiet_place(hours, seed, scale=0.6):
    """Windows of a place where nothing is to be detected: log-odds with an exponential tail, of two labels."""
    rng = np.random.default_rng(seed)
    n = round(hours * 3600 / HOP)
    odds = -4 + scale * rng.exponential(size=(n, 2)) * (rng.random((n, 2)) < 0.05)
    held = np.maximum(odds, np.roll(odds, 1, axis=0))  # what one window hears, the next hears as well
    scores = 1 / (1 + np.exp(-held))
    for place, (dog, siren) in enumerate(scores):
        yield window(place, dog=dog, siren=siren)


def learnt(spec, windows, budget=1.0, config=EventConfig()):  # noqa: B008, F811
    calibration = Calibration(spec, config)
    for w in windows:
        calibration.push(w)
    return calibration.site(budget, "2030-01-01T00:00:00.000Z")


def told(spec, config, windows):  # noqa: F811
    detector = Detector(spec, config)
    return sum(event.phase == "begin" for w in windows for event in detector.push(w))


def test_the_promise_is_kept_on_other_hours(spec):  # noqa: F811
    """Learnt from three hours, counted in 12 others; before, the place had some thousand a day."""
    config = EventConfig(Rule(confirm=2))
    loose = dataclasses.replace(spec, thresholds=dict.fromkeys(LABELS, 0.05))
    site = learnt(loose, quiet_place(3, 1), 4.0, config)
    assert told(loose, config, quiet_place(3, 2)) > 100
    assert set(site.thresholds) == {"dog", "siren"}
    assert site.muted == ()
    assert site.expected_per_day <= 4.0
    assert told(loose, site.applied(config), quiet_place(24, 3)) <= 8


def test_more_is_allowed_more_is_heard(spec):  # noqa: F811
    loose = dataclasses.replace(spec, thresholds=dict.fromkeys(LABELS, 0.05))
    windows = list(quiet_place(1, 4))
    few, many = (learnt(loose, windows, budget).thresholds for budget in (1.0, 100.0))
    assert all(few[label] > many[label] > 0.05 for label in ("dog", "siren"))


def test_thresholds_are_never_lowered(spec):  # noqa: F811
    site = learnt(spec, (window(n, dog=0.01) for n in range(30 * BLOCK)))
    assert (site.thresholds, site.muted, site.heard) == ({}, (), 0)


def test_what_no_threshold_keeps_quiet_is_muted(spec):  # noqa: F811
    """A siren that always howls here."""
    windows = [window(n, siren=0.9999 if n % 100 < 50 else 0.0) for n in range(40 * BLOCK)]
    site = learnt(spec, windows)
    assert site.muted == ("siren",)
    assert told(spec, EventConfig(), windows) > 0
    assert told(spec, site.applied(EventConfig()), windows) == 0


def test_unknown_and_quiet_windows_are_no_false_alarms(spec):  # noqa: F811
    config = EventConfig(Rule(min_level_dbfs=-50.0))
    loud = [window(n, dog=0.9, unknown=True) for n in range(25 * BLOCK)]
    faint = [window(n, dog=0.9, level=-60.0) for n in range(25 * BLOCK)]
    assert learnt(spec, loud).thresholds == {}
    assert learnt(spec, faint, config=config).thresholds == {}


def test_a_single_window_is_none_where_two_must_confirm(spec):  # noqa: F811
    alone = [window(n, dog=0.9 if n % 20 == 0 else 0.0) for n in range(25 * BLOCK)]
    assert learnt(spec, alone, config=EventConfig(Rule(confirm=2))).thresholds == {}
    assert learnt(spec, alone, config=EventConfig(Rule(confirm=1))).thresholds or learnt(
        spec, alone, config=EventConfig(Rule(confirm=1))
    ).muted == ("dog",)


@pytest.mark.parametrize("blocks", [19, 20])
def test_too_little_promises_nothing(spec, blocks):  # noqa: F811
    windows = [window(n) for n in range(blocks * BLOCK)]
    if blocks >= 20:
        assert learnt(spec, windows).hours == pytest.approx(blocks * 30.24 / 3600, abs=1e-3)
        return
    with pytest.raises(SettingsError, match=r"9\.6 minutes are too few to promise anything"):
        learnt(spec, windows)


def test_counting_proves_what_the_rule_of_three_says():
    assert poisson_bound(0) == pytest.approx(-math.log(0.05))
    assert poisson_bound(3) == pytest.approx(7.754, abs=1e-3)  # half of the chi-squared quantile of 8 degrees at 95 %


def test_who_needs_less_leaves_it_to_the_others():
    assert allowance([1, 1, 1, 1], 2) == 0.5
    assert allowance([0.1, 5, 5], 1) == pytest.approx(0.45)
    assert allowance([0.1, 0.2], 1) == math.inf


def probability(odds):
    return 1 / (1 + np.exp(-np.asarray(odds)))


def test_a_tail_is_what_it_was_made_of():
    rng = np.random.default_rng(0)
    tail = Tail.of(probability(0.8 * rng.exponential(size=2_000_000) - 3))
    assert tail.scale == pytest.approx(0.8, rel=0.1)
    for score in (0.1, 0.5, 0.9, 0.999):  # the last is beyond where the tail begins
        true = 2880 * math.exp(-(math.log(score / (1 - score)) + 3) / 0.8)
        assert tail.per_day(score) == pytest.approx(true, rel=0.5)
        assert true * 0.9 <= tail.per_day(tail.threshold(true)) <= true * (1 + 1e-9)


def test_a_tail_contradicts_nothing_that_was_heard():
    """Three loud blocks among 600 quiet ones: their number is not what the fall of the others lets expect."""
    odds = np.r_[-8 + 0.1 * np.random.default_rng(0).exponential(size=597), 2.0, 2.5, 3.0]
    tail = Tail.of(probability(odds))
    assert tail.per_day(0.8) == pytest.approx(2880 * 3 / 600)
    assert tail.threshold(2.0) > probability(3.0)  # less than one in the time that was listened to
    assert probability(2.5) < tail.threshold(5.0) <= probability(3.0)  # one of them is allowed
    assert tail.threshold(2880) <= 1e-4


def test_little_listening_means_high_thresholds():
    few, many = (
        Tail.of(probability(-0.8 * np.log((np.arange(n) + 0.5) / n) - 3)).threshold(1.0)  # the same tail
        for n in (50, 2000)
    )
    assert few > many > 0.5


def test_what_is_muted_leaves_its_share_to_the_others(spec):  # noqa: F811
    """A siren that no threshold keeps quiet costs the dog nothing."""
    rng = np.random.default_rng(5)
    peaks = [probability(0.6 * rng.exponential() - 1.0) for _ in range(240)]
    alone, beside = (
        learnt(
            spec,
            (
                window(n, dog=peaks[n // BLOCK], siren=siren if n % BLOCK < 30 else 0.0)
                for n in range(len(peaks) * BLOCK)
            ),
            budget=2.0,
        )
        for siren in (0.0, 0.9999)
    )
    assert (alone.muted, beside.muted) == ((), ("siren",))
    assert 0.6 < beside.thresholds["dog"] == alone.thresholds["dog"]
    assert 1.9 < beside.expected_per_day <= 2.0


def test_a_site_comes_back_and_is_undone(spec, tmp_path):  # noqa: F811
    path = tmp_path / "deep" / "site.json"
    site = learnt(spec, (window(n) for n in range(20 * BLOCK)))
    first = dataclasses.replace(site, thresholds={"dog": 0.9}, muted=("rain",))
    first.save(path)
    assert Site.load(path) == first
    config = calibrated(EventConfig(labels={"dog": Rule(confirm=1)}), spec, path)
    assert {o.label: o.threshold for o in Detector(spec, config).outcomes} == {"dog": 0.9, "cat": 0.5, "siren": 0.5}
    config = calibrated(EventConfig(Rule(threshold=0.1)), spec, path)  # the user's own word comes first
    assert {o.threshold for o in Detector(spec, config).outcomes} == {0.1}
    site.save(path)
    assert undo(path)
    assert Site.load(path) == first
    assert not undo(path)
    with pytest.raises(SettingsError, match=r"site\.json is not there"):
        undo(path)


def test_sites_that_cannot_be_used(spec, tmp_path, monkeypatch, caplog):  # noqa: F811
    path = tmp_path / "site.json"
    with pytest.raises(SettingsError, match=r"site\.json is not there \(name another file, or calibrate\)"):
        calibrated(EventConfig(), spec, path)
    for text, message in (
        ("{", "cannot be read"),
        ("[]", "schema_version None"),
        ('{"schema_version": 99}', "schema_version 99"),
        ('{"schema_version": 2}', "has no 'model'"),
        ('{"schema_version": 1, "model": "m"}', "has schema_version 1"),
    ):
        path.write_text(text)
        with pytest.raises(SettingsError, match=message):
            calibrated(EventConfig(), spec, path)
    learnt(spec, (window(n) for n in range(20 * BLOCK))).save(path)
    other = dataclasses.replace(spec, name="another")
    with pytest.raises(OtherModelError, match="is of the model"):
        calibrated(EventConfig(), other, path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (tmp_path / "edge-listen").mkdir()
    path.rename(tmp_path / "edge-listen" / "site.json")
    assert calibrated(EventConfig(), other, None) == EventConfig()  # found by itself, and not fitting: as if not there
    assert "not used: " in caplog.text


@pytest.mark.parametrize(
    ("config", "hop", "said"),
    [
        (EventConfig(), None, ""),
        (EventConfig(), 0.5, ""),  # the nearest hop is the same one
        (EventConfig(Rule(threshold=0.9), ignore=("cat",)), None, ""),  # the user's own word, and less of it
        (EventConfig(Rule(refractory=60, release=0.2)), None, ""),  # what comes once it has begun
        (EventConfig(), 0.24, r"dog as dog every 0\.48 s, .*; now as dog every 0\.24 s, .*, and 2 more"),
        (EventConfig(Rule(beginning=0)), None, r"beginning 1, .*; now .*beginning 0, .*, and 2 more"),
        (EventConfig(labels={"cat": Rule(confirm=3)}), None, r"\(cat .*confirm 1, .*; now .*confirm 3, smoothing 0\)"),
        (EventConfig(Rule(smoothing=0.5)), None, r"smoothing 0; now .*smoothing 0\.5, and 2 more"),
        (EventConfig(aliases={"cat": "puss"}), None, r"\(cat as cat .*; now as puss "),
        (EventConfig(groups={"pet": ("dog", "rain")}), None, r"\(dog as dog .*; now as pet "),
    ],
)
def test_a_promise_by_other_rules_is_none(spec, tmp_path, caplog, config, hop, said):  # noqa: F811
    path = tmp_path / "site.json"
    # Rain is left out on purpose, and may be listened to without a word.
    learnt(spec, (window(n) for n in range(20 * BLOCK)), config=EventConfig(ignore=("rain",))).save(path)
    assert calibrated(config, spec, path, hop).calibrated == Site.load(path).thresholds  # better than none
    if said:
        assert re.search(f"promises nothing here: it was learnt by other rules .*{said}", caplog.text)
    else:
        assert "promises" not in caplog.text


def test_in_a_home_that_may_not_be_entered_nothing_is_calibrated(spec, monkeypatch, caplog):  # noqa: F811
    monkeypatch.setenv("XDG_STATE_HOME", NOT_TO_BE_ENTERED)
    assert calibrated(EventConfig(), spec, None) == EventConfig()
    assert not caplog.records
    named = Path(NOT_TO_BE_ENTERED, "site.json")
    with pytest.raises(SettingsError, match=r"site\.json cannot be read"):
        calibrated(EventConfig(), spec, named)
    with pytest.raises(SettingsError, match=r"site\.json is not there"):
        undo(named)


# As a user runs it


def calibrate(*arguments, code=0, **env):
    return run_module("edge.cli.calibrate", *arguments, code=code, env=os.environ | env)


@pytest.fixture(scope="module")
def hiss(tmp_path_factory):
    """Eleven minutes of soft noise."""
    path = tmp_path_factory.mktemp("hiss") / "hiss.wav"
    soundfile.write(path, 0.01 * np.random.default_rng(0).standard_normal(11 * 60 * RATE), RATE)
    return path


def test_edge_calibrate_and_edge_listen(hiss, demo, classifier, tmp_path):
    done = calibrate("--input", hiss, "--max-false-per-day", 2, XDG_STATE_HOME=str(tmp_path))
    assert "thresholds for 2 false alarms a day" in done.stdout
    path = tmp_path / "edge-listen" / "site.json"
    site = Site.load(path)
    assert site.model == model_id(classifier.spec)
    assert site.at_most_per_day > 2  # eleven minutes prove little
    assert "counting alone proves 2 a day after 1.5 quiet days" in done.stdout
    dataclasses.replace(site, muted=("siren",)).save(path)
    heard = listen_there(tmp_path, "--input", demo, "--output", "jsonl")
    lines = [json.loads(line) for line in heard.stdout.splitlines()]
    labels = {r["label"] for r in lines if r["type"] == "event"}
    SCHEMA.validate(lines[0])
    assert lines[0]["site"] == {"file": str(path), "raised": site.thresholds, "muted": ["siren"]}
    said = f"by the thresholds of {path}: {len(site.thresholds)} raised; muted: siren"
    assert heard.stderr == f"listening to {demo} {said}\n"
    assert "siren" not in labels
    assert "car_horn" in labels
    assert "back to the calibration before" in calibrate("--undo", XDG_STATE_HOME=str(tmp_path)).stdout


def listen_there(home, *arguments):
    return run_module("edge.cli.listen", *arguments, env=os.environ | {"XDG_STATE_HOME": str(home)})


def test_the_terminal_says_once_by_what_thresholds_it_listens(spec, classifier, demo, tmp_path):  # noqa: F811
    site = dataclasses.replace(
        learnt(spec, (window(n) for n in range(20 * BLOCK))), model=model_id(classifier.spec), manners={}
    )
    path = tmp_path / "edge-listen" / "site.json"
    asked = ("--input", demo, "--duration", 8, "--output", "text")
    site.save(path)
    assert "by the thresholds" not in listen_there(tmp_path, *asked).stdout  # it changes nothing
    dataclasses.replace(site, thresholds={"dog": 0.9, "rain": 0.8}, muted=("siren", "cat")).save(path)
    lines = listen_there(tmp_path, *asked).stdout.splitlines()
    assert lines[1] == f"by the thresholds of {path}: 2 raised; muted: siren, cat"
    assert sum("by the thresholds" in line for line in lines) == 1
    assert f"{path}: 0 raised; muted: siren, cat" in listen_there(tmp_path, *asked, "--threshold", 0.5).stdout


def test_mistakes_of_edge_calibrate(hiss, demo, tmp_path):
    short = calibrate("--input", demo, "--site", tmp_path / "s.json", code=2)
    assert "0.9 minutes are too few" in short.stderr
    assert not (tmp_path / "s.json").exists()
    assert "'soon' is no time" in calibrate("--duration", "soon", code=2).stderr
    assert "'0h' is no time" in calibrate("--duration", "0h", code=2).stderr
    assert "exclude each other" in calibrate("--input", hiss, "--device", "usb", code=2).stderr
    assert "is not there" in calibrate("--undo", "--site", tmp_path / "s.json", code=2).stderr
    (tmp_path / "file").write_text("")
    unwritable = calibrate("--input", hiss, "--site", tmp_path / "file" / "s.json", code=2)
    assert "cannot be written" in unwritable.stderr


def test_a_configuration_of_edge_listen_is_taken_as_it_is(hiss, tmp_path):
    site = tmp_path / "s.json"
    config = tmp_path / "c.toml"
    config.write_text(
        (ROOT / "deployment" / "raspberry_pi" / "edge-listen.toml").read_text()
        + f'site = "{site}"\nclips = "/nowhere"\nthreshold = 0.02\n'
        + '[events]\nconfirm = 2\nonly = ["wind", "rain", "dog"]\n[events.aliases]\n'
        + 'dog = "pet"\n[sinks.file]\npath = "/nowhere"\n'
    )
    done = calibrate("--config", config, "--input", hiss, "-v")
    assert "the thresholds that you name for all labels come before those that are learnt" in done.stderr
    found = Site.load(site)
    assert {name: manner.split(" every")[0] for name, manner in found.manners.items()} == {
        "dog": "as pet", "wind": "as wind", "rain": "as rain",
    }  # fmt: skip
    assert all("confirm 2" in manner for manner in found.manners.values())
    assert found.thresholds  # 0.02 is too low for anything, and edge-listen would go by it all the same
    assert (
        f"not used while you name a lower threshold, with which the promise does not hold: {min(found.thresholds)}"
        in (done.stdout)
    )
    assert (
        f"edge-listen --config {config} uses it; edge-calibrate --config {config} --undo takes it back" in done.stdout
    )
    assert f"{site}: removed" in calibrate("--config", config, "--undo").stdout
    config.write_text("volume = 3\nwait = true\n")
    assert "unknown key volume; allowed: " in calibrate("--config", config, "--input", hiss, code=2).stderr
    config.write_text("threshold = 7\n")
    assert "7.0 is not in the range" in calibrate("--config", config, "--input", hiss, code=2).stderr
    config.write_text("[update]\nx = 1\n")  # where models are is said there
    assert "update has an unknown key 'x'" in calibrate("--config", config, "--site", site, code=2).stderr
    assert model_of("update", {"update": {"state": "/models"}}) == "update:/models"


@pytest.mark.parametrize(
    ("sound", "refusal"),
    [("-", "standard input is for edge-listen alone"), ("gone.wav", "'gone.wav' does not exist")],
)
def test_an_input_of_the_file_that_is_not_listened_to_may_be_anything(tmp_path, sound, refusal):
    site, config = tmp_path / "s.json", tmp_path / "c.toml"
    config.write_text(f'input = "{sound}"\nsite = "{site}"\n')
    site.write_text('{"max_false_per_day": 1}')
    asked = ("--config", config)
    assert refusal in calibrate(*asked, code=2).stderr
    assert "5.0 minutes are too few" in calibrate(*asked, "--device", "usb", "--duration", "5m", code=2).stderr
    assert calibrate(*asked, "--undo").stdout == f"{site}: removed\n"


def test_a_source_is_calibrated_by_its_rules_for_its_place(hiss, tmp_path):
    config, site = tmp_path / "c.toml", tmp_path / "yard.json"
    yard = f'[[sources]]\nname = "yard"\ninput = "{hiss}"\nsite = "{site}"\nevents.only = ["dog"]\n'
    config.write_text(f"[events]\nconfirm = 3\n{yard}")
    calibrate("--config", config, "--duration", "10m")  # the only one need not be named
    (manner,) = Site.load(site).manners.values()
    assert "as dog " in manner
    assert "confirm 3" in manner
    config.write_text(f'{yard}[[sources]]\nname = "gate"\ninput = "{hiss}"\n')
    refused = calibrate("--config", config, code=2).stderr
    assert refused == "error: the file has 2 sources (take one by --source: yard, gate)\n"
    assert "there is no source 'gait' (there are: yard, gate)" in calibrate(
        "--config", config, "--source", "gait", code=2
    ).stderr  # fmt: skip
    assert "there is no source 'yard' (there are: none" in calibrate("--source", "yard", code=2).stderr
    done = calibrate("--config", config, "--source", "yard", "--duration", "10m", "--input", hiss)
    assert list(Site.load(site).manners) == ["dog"]
    assert f"edge-calibrate --config {config} --source yard --undo takes it back" in done.stdout
    assert "back to" in calibrate("--config", config, "--source", "yard", "--undo").stdout
    done = calibrate("--config", config, "--source", "gate", "--duration", "10m", XDG_STATE_HOME=str(tmp_path))
    assert done.stderr == "gate has no site of its own: what is learnt there is of all sources without one\n"
    assert len(Site.load(tmp_path / "edge-listen" / "site.json").manners) == 50
    calibrate("--config", config, "--input", hiss, "--site", tmp_path / "all.json", "--duration", "10m")
    assert len(Site.load(tmp_path / "all.json").manners) == 50
    config.write_text(f'device = "usb"\n{yard}')
    assert "the file has device beside [[sources]]" in calibrate("--config", config, code=2).stderr


def test_a_stream_is_a_place_as_well(hiss, tmp_path, ffmpeg):  # noqa: F811
    script = Path(ffmpeg["PATH"].split(os.pathsep)[0], "ffmpeg")
    script.write_text(script.read_text().replace("native == 2 * rate", "native == rate").replace("[::2]", ""))
    site = tmp_path / "s.json"
    with serving(hiss.parent) as url:
        live = f"{url}/hiss.wav?forever&key=secret"
        done = calibrate("--input", live, "--site", site, "--duration", "10m", "-v", **ffmpeg)
        assert Site.load(site).hours == pytest.approx(1 / 6, abs=0.01)
        assert f"input = {url}/hiss.wav (command line)" in done.stderr
        assert "secret" not in done.stdout + done.stderr
    gone = calibrate("--input", "rtsp://me:secret@127.0.0.1:1/missing", "--site", site, code=5, **ffmpeg)
    assert gone.stderr.startswith("error: rtsp://127.0.0.1:1/missing cannot be heard: ")
    assert "secret" not in gone.stderr
    for more in (hiss, "http://b"):
        refused = calibrate("--input", "http://a", "--input", more, "--site", site, code=2)
        assert "a URL is listened to alone" in refused.stderr
    assert "standard input is for edge-listen alone" in calibrate("--input", "-", "--site", site, code=2).stderr
    assert "'no.wav' does not exist" in calibrate("--input", "no.wav", "--site", site, code=2).stderr


def test_what_cannot_be_kept_is_refused_before_listening(hiss, tmp_path):
    """Whoever has listened for hours must not hear then that it was in vain."""
    missing = tmp_path / "missing.wav"  # which nobody gets to open
    missing.write_bytes(b"no sound")
    for content in (b"precious", b"[1, 2]", b'{"schema_version": 1, "candidates": []}', b"\xff\xfe", b"\0" * 100):
        (tmp_path / "other").write_bytes(content)
        refused = calibrate("--input", missing, "--site", tmp_path / "other", code=2)
        assert "holds something else than a calibration" in refused.stderr
        refused = calibrate("--undo", "--site", tmp_path / "other", code=2)
        assert "holds something else than a calibration" in refused.stderr
        assert (tmp_path / "other").read_bytes() == content
    os.mkfifo(tmp_path / "pipe")
    assert "is no file" in calibrate("--input", missing, "--site", tmp_path / "pipe", code=2).stderr
    asked = ("--input", missing, "--site", tmp_path / "s.json")
    assert "5.0 minutes are too few to promise anything" in calibrate(*asked, "--duration", "5m", code=2).stderr
    for budget in ("inf", "nan", "0", "-1"):
        refused = calibrate(*asked, "--max-false-per-day", budget, code=2)
        assert f"{budget} is no number of events; allowed: any above 0" in refused.stderr
    (tmp_path / "empty").mkdir()
    refused = calibrate("--input", tmp_path / "empty", "--site", tmp_path / "s.json", code=5)
    assert "no recordings in " in refused.stderr
    assert not (tmp_path / "s.json").exists()


def test_recordings_that_cannot_be_read_are_left_out(hiss, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"RIFF")
    (tmp_path / "empty.wav").write_bytes(b"")
    site = tmp_path / "place with spaces.json"
    asked = ("--input", tmp_path / "broken.wav", "--input", tmp_path / "empty.wav")
    refused = calibrate(*asked, "--site", site, code=5)
    assert "2 recordings could not be read, and no other was" in refused.stderr
    done = calibrate(*asked, "--input", hiss, "--site", site)
    assert "broken.wav" in done.stderr
    assert "empty.wav" in done.stderr
    assert Site.load(site).hours == pytest.approx(11 / 60, abs=0.01)
    assert f"edge-calibrate --site '{site}' --undo takes it back" in done.stdout


def test_what_was_learnt_is_shown_where_the_disk_is_full(hiss, tmp_path, monkeypatch, capsys):
    from edge.cli.calibrate import main

    def full(self, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Site, "save", full)
    monkeypatch.setattr("edge.cli.common.log_to_stderr", lambda verbose: None)
    monkeypatch.setattr("edge.cli.calibrate.log_to_stderr", lambda verbose: None)
    monkeypatch.setattr("edge.cli.calibrate.Interrupts", Calm)
    with pytest.raises(SystemExit) as ended:
        main(["--input", str(hiss), "--site", str(tmp_path / "s.json")], standalone_mode=False)
    shown = capsys.readouterr()
    assert ended.value.code == 2
    assert "No space left" in shown.err
    (tmp_path / "by hand.json").write_text(shown.out)
    assert Site.load(tmp_path / "by hand.json").hours > 0.1


class Calm:
    """Interrupts that leave the signals of the test run alone."""

    raised = contextlib.nullcontext


def test_a_calibration_before_is_kept_byte_for_byte(spec, tmp_path):  # noqa: F811
    site = learnt(spec, (window(n) for n in range(20 * BLOCK)))
    path = tmp_path / "s.json"
    before = b'{"max_false_per_day": 1,\t"note": 0}'
    path.write_bytes(before)
    site.save(path)
    assert undo(path)
    assert path.read_bytes() == before


def test_a_linked_calibration_is_kept_and_taken_back_where_it_leads_to(spec, tmp_path):  # noqa: F811
    site = learnt(spec, (window(n) for n in range(20 * BLOCK)))
    (tmp_path / "card").mkdir()
    own, link = tmp_path / "card" / "site.json", tmp_path / "link.json"
    link.symlink_to(own)
    site.save(link)
    first = own.read_bytes()
    dataclasses.replace(site, muted=("dog",)).save(link)
    assert undo(link)
    assert own.read_bytes() == first
    assert not undo(link)
    assert [p.name for p in tmp_path.rglob("*")] == ["card", "link.json"]
    own.parent.rmdir()
    own.parent.write_text("a file, no folder")
    with pytest.raises(SettingsError, match=r"link\.json cannot be written"):
        require_place(link)


def test_the_command_line_comes_before_the_file(hiss, tmp_path):
    """Of a recording and a microphone; and -v says where each setting is from."""
    (tmp_path / "c.toml").write_text('device = "usb"\nmax-false-per-day = 3\n')
    done = calibrate("--config", tmp_path / "c.toml", "--input", hiss, "--site", tmp_path / "s.json", "-v")
    assert Site.load(tmp_path / "s.json").max_false_per_day == 3
    assert "max-false-per-day = 3.0 (file)" in done.stderr


def test_highest_is_a_threshold_that_scores_can_reach():
    assert np.float32(HIGHEST) < 1
