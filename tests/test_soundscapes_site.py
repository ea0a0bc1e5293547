"""``benchmarks.soundscapes site``: it counts what the promise is about, and hides no cost."""

import itertools
import json

import numpy as np
import pytest

from benchmarks.soundscapes.decide import names_of
from benchmarks.soundscapes.hear import Heard
from benchmarks.soundscapes.run import Listener
from benchmarks.soundscapes.site import judged, learnt, site_tables
from benchmarks.soundscapes.truth import Span, Truth
from edge.errors import SettingsError
from edge.rules import EventConfig, Rule
from tests.test_decisions import HOP, spec, window  # noqa: F401  # a fixture
from tests.test_soundscapes import behind, data, sound, soundscapes  # noqa: F401  # fixtures

HOURS = 0.5
CONFIG = EventConfig(Rule(threshold=None))


@pytest.fixture
def listener(spec, classifier):  # noqa: F811
    return Listener(classifier.path, spec)


def heard(rows, events=(), ignored=()):
    """A recording of which the model makes ``rows``, a window each."""
    seconds = 4 + len(rows) * HOP
    return Heard("x", Truth(seconds, tuple(events), tuple(ignored)), tuple(window(n, **r) for n, r in enumerate(rows)))


def barking(hours, seed, best=0.9):
    """A place where a dog's score is above 0.6 a few times an hour, for three windows, and below ``best``."""
    rng = np.random.default_rng(seed)
    peaks = (best * rng.random() if n % 60 < 3 else 0.0 for n in itertools.count())
    return heard([{"dog": next(peaks)} for _ in range(round(hours * 3600 / HOP))])


def of(listener, place, test, scenes, budget=1.0):
    site = learnt(place, listener, CONFIG, budget)
    return site, judged(site, test, scenes, listener, CONFIG)


def test_it_counts_what_is_told_before_and_after(listener):
    dog = [{"dog": 0.9995}] * 6
    scene = heard(dog + [{}] * 20 + [{"dog": 0.7}] * 6 + [{}] * 20, [Span(3.0, 7.0, "dog"), Span(16.0, 20.0, "dog")])
    place = [barking(HOURS, 1)]
    site, found = of(listener, place, [barking(HOURS, 2), barking(HOURS, 3)], [scene], budget=20)
    assert 0.7 < site.thresholds["dog"] < 0.9995
    assert found["false_events"]["before"] > 2
    assert found["false_events"]["after"] == 0
    assert found["false_per_day"]["before"] == pytest.approx(
        found["false_events"]["before"] / (2 * HOURS / 24), rel=0.01
    )
    assert found["false_per_day_at_most"] == pytest.approx(3 / (2 * HOURS / 24), rel=0.01)
    assert found["chance_if_kept"] == 1
    assert (found["promised"], found["expected_per_day"]) == (20, site.expected_per_day)
    assert found["found_share"] == {"before": 1.0, "after": 0.5}  # the quieter of both dogs is lost
    assert found["event_recall"]["after"] <= found["event_recall"]["before"]
    json.dumps(found)


def test_a_promise_that_is_broken_is_seen(listener):
    """Learnt in a quiet place, counted in a loud one."""
    _, found = of(listener, [heard([{}] * 3600)], [barking(HOURS, 2)], [heard([{}] * 9, [Span(1, 2, "dog")])])
    assert found["false_events"]["before"] == found["false_events"]["after"] > 2
    assert found["chance_if_kept"] < 0.01
    assert found["false_by_class"] == {"dog": found["false_events"]["after"]}
    assert "| chance of so many or more, were the promise kept | 0.00 |" in site_tables(found)


def test_what_may_be_in_a_background_is_false_as_well(listener):
    """edge-calibrate does not know that it is there: the promise is of all that is told."""
    there = heard([{"dog": 0.9} if n % 60 < 5 else {} for n in range(3600)], ignored=[Span(0.0, 2000.0, "dog")])
    _, found = of(listener, [heard([{}] * 3600)], [there], [heard([{}] * 9, [Span(1, 2, "cat")])])
    assert found["false_events"]["before"] == 60


def test_what_is_muted_is_missed_and_not_forgotten(listener):
    """A class that is not reported any more is still expected in the scenes."""
    always = heard([{"dog": 0.9999} if n % 100 < 50 else {} for n in range(3600)])
    scene = heard([{}, {}, *[{"dog": 0.9999}] * 4, *[{}] * 9], [Span(3.0, 7.0, "dog")])
    site, found = of(listener, [always], [always], [scene])
    assert site.muted == ("dog",)
    assert found["muted"] == ["dog"]
    assert found["found_share"] == {"before": 1.0, "after": 0.0}
    assert found["event_recall"]["after"] == 0.0
    assert names_of(listener.spec, site.applied(CONFIG))["dog"] == "dog"
    assert names_of(listener.spec, EventConfig(ignore=("dog",)))["dog"] is None


def test_too_little_is_refused(listener):
    with pytest.raises(SettingsError, match="too few to promise anything"):
        learnt([heard([{}] * 100)], listener, CONFIG, 1.0)


# As a user runs it


SITE = ("--fold", 2, "--jobs", 1)


def run_site(tmp_path, *more, code=0):
    return soundscapes("site", *SITE, "--json", tmp_path / "x.json", *more, code=code)


def test_the_whole_command(tmp_path, data, behind):  # noqa: F811
    options = ("--data", data, "--backgrounds", behind, "--hop", 3, "--cache", tmp_path / "cache")
    hours = ("--hours", 0.17, "--test-hours", 0.02, "--scene-hours", 0.01, "--max-false-per-day", 50)
    done = run_site(tmp_path, *options, *hours)
    found = json.loads((tmp_path / "x.json").read_text())
    assert (found["hours"], found["test_hours"]) == (pytest.approx(0.17, abs=0.01), pytest.approx(0.02))
    assert found["false_per_day"]["after"] <= found["false_per_day"]["before"]
    assert found["conditions"]["half"] == "report"
    assert "| promised | 50.00 |" in done.output
    assert "muted: " in done.output
    scenes = set((tmp_path / "cache" / "heard").iterdir())
    assert len(scenes) == 3  # the place, the test and the events are three different scenes
    run_site(tmp_path, *options, *hours, "--other-half")
    assert len(set((tmp_path / "cache" / "heard").iterdir()) - scenes) == 2  # the place is the same, the others are not
    other = json.loads((tmp_path / "x.json").read_text())
    printed = soundscapes("site", *SITE, *options, *hours, "--other-half", "--json").stdout
    assert json.loads(printed) == other
    assert other["thresholds"] == found["thresholds"]
    assert other["conditions"]["other_half"] is True


def test_mistakes_of_site(tmp_path, data, behind):  # noqa: F811
    assert "needs --backgrounds" in run_site(tmp_path, "--data", data, code=2).output
    short = run_site(tmp_path, "--data", data, "--backgrounds", behind, "--hours", 0.01, "--no-cache", code=2)
    assert "too few to promise anything" in short.output
    endless = run_site(tmp_path, "--data", data, "--max-false-per-day", "nan", code=2)
    assert "nan is not a finite number" in endless.output
    assert not (tmp_path / "x.json").exists()
