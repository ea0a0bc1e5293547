"""By what a candidate is promoted or rejected."""

import math
from dataclasses import replace

import pytest

from edge.errors import SettingsError
from edge.update.rules import BOUNDS, ShadowReport, ShadowRules, judge, rules_of

RULES = ShadowRules()
GOOD = ShadowReport(
    seconds=3600, windows=7200, disagreements=100, events_current=20, events_candidate=22, latency_p50_current=3,
    latency_p95_current=5, latency_p50_candidate=4, latency_p95_candidate=7, memory_mib=3,
)  # fmt: skip


def test_a_good_candidate_is_promoted():
    assert judge(RULES, GOOD).decision == "promote"


@pytest.mark.parametrize("short", [{"seconds": 3599}, {"windows": 499}, {"seconds": 0.0, "windows": 0}])
def test_it_takes_its_time(short):
    verdict = judge(RULES, replace(GOOD, disagreements=0) if not short else replace(GOOD, **short))
    assert verdict.decision == "wait"
    assert "s," in verdict.reason


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        ({"crashed": "onnxruntime: bad"}, "it crashed: onnxruntime: bad"),
        ({"memory_mib": 64.1}, "memory grew by 64.1 MiB; allowed: 64"),
        ({"memory_mib": math.nan}, "memory grew by nan"),
        ({"latency_p95_candidate": 251.0}, "latency is 251.0 ms .95th percentile.; allowed: 250"),
    ],
)
def test_harm_is_not_waited_for(harm, reason):
    for seconds in (1, 3600):
        verdict = judge(RULES, replace(GOOD, seconds=seconds, windows=20, **harm))
        assert verdict.decision == "reject"
        assert reason.split(".95")[0] in verdict.reason


def test_the_first_calls_may_be_slow():
    early = replace(GOOD, seconds=1, windows=19, latency_p95_candidate=900)
    assert judge(RULES, early).decision == "wait"


@pytest.mark.parametrize(
    ("difference", "allowed", "reason"),
    [
        ({"disagreements": 1441}, {"disagreements": 1440}, "disagrees in 20.0%"),
        ({"events_candidate": 71}, {"events_candidate": 70}, "71 events, where the current model has 20"),
        ({"events_current": 77}, {"events_current": 76}, "22 events, where the current model has 77"),
        ({"latency_p95_candidate": 10.1}, {"latency_p95_candidate": 10.0}, "allowed ratio: 2"),
        ({"latency_p95_candidate": math.nan}, {}, "latency"),
    ],
)
def test_differences_are_judged_at_the_end(difference, allowed, reason):
    verdict = judge(RULES, replace(GOOD, **difference))
    assert verdict.decision == "reject"
    assert reason in verdict.reason
    assert judge(RULES, replace(GOOD, **allowed)).decision == "promote"
    if not math.isnan(next(iter(difference.values()))):
        assert judge(RULES, replace(GOOD, seconds=10, **difference)).decision == "wait"


def test_few_events_say_little():
    assert judge(RULES, replace(GOOD, events_current=0, events_candidate=5)).decision == "promote"


def test_a_release_asks_within_bounds_and_the_device_has_the_last_word():
    assert rules_of({"seconds": 600}).seconds == 600
    assert rules_of({"seconds": 0, "min_windows": 0, "max_disagreement": 1.0, "max_memory_mib": 1e9}) == replace(
        RULES, **{name: BOUNDS[name][end] for name, end in
                  (("seconds", 0), ("min_windows", 0), ("max_disagreement", 1), ("max_memory_mib", 1))},
    )  # fmt: skip
    assert rules_of({"seconds": 600}, {"seconds": 5, "max_disagreement": 0.9}) == replace(
        RULES, seconds=5.0, max_disagreement=0.9
    )


@pytest.mark.parametrize("asked", [{"second": 1}, {"seconds": "long"}, {"seconds": -1}, {"min_windows": 1.5}])
def test_what_is_no_rule(asked):
    with pytest.raises(SettingsError):
        rules_of(asked)
