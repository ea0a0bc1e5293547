"""A run of the benchmark: every model and peer in the same interleaved rounds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

from edge.bench.fresh import Fresh, Started, measure_fresh
from edge.bench.machine import conditions
from edge.bench.peers import open_peer
from edge.bench.report import Report, Settings, result_of
from edge.bench.rounds import Paced, measure_paced, measure_rounds
from edge.bench.sound import sound_of
from edge.bench.subjects import OurModel, Subject
from edge.config import ModelSpec
from edge.errors import SettingsError

log = logging.getLogger("edge.bench")


def bench(settings: Settings) -> Report:
    """Measure all models and peers in one run, interleaved. Raises EdgeError for what cannot be used."""
    before = conditions()
    subjects, fresh = open_all(settings)
    return measure(subjects, settings, [partial(measure_fresh, f) for f in fresh], before)


def open_all(settings: Settings) -> tuple[list[Subject], list[Fresh]]:
    """The subjects, the models first; and with what a process of each is started. Raises EdgeError.

    All decide as often as the first one, and on a window as long as its own.
    """
    sound = sound_of(settings.input)
    first, *others = settings.models
    how: dict[str, Any] = {"provider": settings.provider, "threads": settings.threads}
    ours = [OurModel(first, sound, hop=settings.hop, **how)]
    facts = ours[0].facts
    alike: dict[str, Any] = {"hop_seconds": facts.hop_seconds, "window_seconds": facts.window_seconds}
    ours += [
        OurModel(path, sound, hop=facts.hop_seconds, window_seconds=facts.window_seconds, **how) for path in others
    ]
    subjects: list[Subject] = [*ours]
    rates = [model.classifier.spec.frontend.sample_rate for model in ours]
    for path, rate in settings.compare:
        subject = open_peer(path, sound, sample_rate=rate or settings.compare_rate, **alike, **how)
        subjects.append(subject)
        rates.append(_rate_of(subject, rate) or settings.compare_rate)
    _require_one_hop([subject for subject in subjects if isinstance(subject, OurModel)])
    _name_apart(subjects)
    paths = [*(model.classifier.path for model in ours), *(path for path, _ in settings.compare)]
    fresh = [
        Fresh(
            path=path,
            kind=subject.facts.kind,
            hop_seconds=subject.facts.hop_seconds,
            window_seconds=facts.window_seconds,
            sample_rate=rate,
            provider=settings.provider,
            threads=settings.threads,
            input=settings.input,
            hops=settings.hops,
        )
        for subject, path, rate in zip(subjects, paths, rates, strict=True)
    ]
    return subjects, fresh


def measure(
    subjects: Sequence[Subject],
    settings: Settings,
    starts: Sequence[Callable[[], Started] | None],
    before: dict[str, Any] | None = None,
) -> Report:
    """The report of ``subjects``, with what ``starts`` say of their start-up and memory."""
    before = before or conditions()
    log.info("%d interleaved rounds of %s", settings.rounds, ", ".join(s.name for s in subjects))
    hot = measure_rounds(subjects, settings.rounds)
    log.info("the same, cold")
    cold = measure_rounds(subjects, max(10, settings.rounds // 4), cold=True)
    log.info("%g s of each in real time", settings.seconds)
    paced: list[Paced | None] = [None] * len(subjects)
    if settings.seconds > 0:
        paced = [*measure_paced(subjects, settings.seconds)]
    log.info("processes of their own")
    results = {
        subject.name: result_of(subject.facts, of_hot, of_cold, of_paced, start and start())
        for subject, of_hot, of_cold, of_paced, start in zip(subjects, hot, cold, paced, starts, strict=True)
    }
    return Report(settings, results, before, conditions())


def _rate_of(subject: Subject, named: int | None) -> int | None:
    """Hz: of a model of ours by its contract, else as ``named``. Raises SettingsError where the two differ."""
    if not isinstance(subject, OurModel):
        return named
    rate = subject.classifier.spec.frontend.sample_rate
    if named not in (None, rate):
        raise SettingsError(
            f"{subject.facts.file} hears {rate} Hz by its contract, not {named}", remedy="leave out its rate"
        )
    return rate


def _require_one_hop(models: Sequence[OurModel]) -> None:
    """Raises SettingsError where one cannot decide as often as the first: it took the nearest hop that it can."""
    first = models[0]
    for other in models[1:]:
        if not math.isclose(first.facts.hop_seconds, other.facts.hop_seconds):
            hop = common_hop([model.classifier.spec for model in models], first.facts.hop_seconds)
            raise SettingsError(
                f"{first.facts.file} decides every {first.facts.hop_seconds:g} s and {other.facts.file} every "
                f"{other.facts.hop_seconds:g} s, which cannot be compared",
                remedy="leave one out: they have no hop in common" if hop is None else f"use --hop {hop:g}",
            )


def common_hop(specs: Sequence[ModelSpec], wanted: float) -> float | None:
    """Seconds of the hop nearest to ``wanted`` that all of ``specs`` can do; None where there is none."""
    steps = [Fraction(max(1, s.column_stride) * s.frontend.hop_length, s.frontend.sample_rate) for s in specs]
    step = Fraction(math.lcm(*(f.numerator for f in steps)), math.gcd(*(f.denominator for f in steps)))
    most = min(int(s.window_frames * s.frontend.hop_length / (step * s.frontend.sample_rate)) for s in specs)
    return float(step * min(most, max(1, round(wanted / step)))) if most else None


def _name_apart(subjects: Sequence[Subject]) -> None:
    """Files of the same name, in several folders: the second is …#2."""
    seen: dict[str, int] = {}
    for subject in subjects:
        seen[subject.name] = seen.get(subject.name, 0) + 1
        if seen[subject.name] > 1:
            subject.name += f"#{seen[subject.name]}"
