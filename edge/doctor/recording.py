"""Some seconds of each microphone: whether there is sound, and whether it is as it should be. Nothing of it is kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.microphone import by_portaudio, rate_of_model, try_to_find
from edge.doctor.subject import Subject
from edge.errors import EdgeError
from edge.health import DEGRADED
from edge.sources.block import Outage, Signal, Source

FAINT_DBFS = -70.0  # below the hiss of most microphones in a quiet room
LOUD_DBFS = -6.0  # no room is that loud
CLIPPED = 1e-3  # share of the samples, from which it is heard
OFFSET = 0.02  # of full scale
DRIFT_PPM = 500.0  # a crystal is off by less than a hundred
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Recording:
    """What is left of the sound: numbers."""

    samples: int  # that came
    seconds: float  # that they last
    level_dbfs: float | None  # RMS, 0 dB is full scale; None for all zeros
    peak_dbfs: float | None
    lost: int  # samples
    overflows: int  # flags of PortAudio
    signal: Signal | None  # what the source has measured; None where it has not
    outage: Outage | None  # why it ended early


def record(source: Source, rate: int, seconds: float) -> Recording:
    """Listen to ``source`` at ``rate`` Hz for so many seconds of sound, or until it is away. Raises EdgeError."""
    n = lost = overflows = 0
    power = peak = 0.0
    signal: Signal | None = None
    outage: Outage | None = None
    with closing(source.blocks(rate, rate // 10)) as blocks:  # type: ignore[type-var]  # a generator
        for block in blocks:
            if isinstance(block, Outage):
                outage = block
                break
            n, lost, overflows = n + len(block.samples), lost + block.lost, overflows + block.overflows
            power += float(np.vdot(block.samples, block.samples))
            peak = max(peak, float(np.abs(block.samples).max(initial=0)))
            signal = block.signal or signal
            if n >= seconds * rate:
                break
    level = 10 * math.log10(power / n) if power > 0 else None
    return Recording(
        n, n / rate, level, 20 * math.log10(peak) if peak > 0 else None, lost, overflows, signal, outage
    )  # fmt: skip


@by_portaudio("level")
def recordings(subject: Subject) -> Iterator[Check]:
    """Record from each microphone, and judge it."""
    from edge.sources.microphone import Microphone

    rate = rate_of_model(subject.model)
    for ear in subject.microphones:
        if try_to_find(ear) is None:
            yield skipped(ear.called("level"), "there is no device to record from")
            continue
        try:
            heard = record(Microphone(ear.device, channel=ear.channel), rate, subject.seconds)
        except EdgeError as error:
            yield failure(ear.called("level"), error.what, error.remedy)
            continue
        for check in judged(heard):
            yield Check(ear.called(check.name), check.status, check.found, check.remedy, check.data)


def judged(heard: Recording) -> Iterator[Check]:
    """What a recording tells, a check for each kind of trouble."""
    if heard.outage is not None:
        yield failure("level", heard.outage.message, heard.outage.remedy, reason=heard.outage.reason)
        return
    yield _level(heard)
    if heard.level_dbfs is not None:
        yield from _signal(heard.signal)
    yield _clock(heard.signal)
    found = f"{heard.lost} samples lost, {heard.overflows} overflows in {heard.seconds:.1f} s"
    if heard.lost or heard.overflows:
        yield warning("lost samples", found, DEGRADED["lost_samples"], lost=heard.lost, overflows=heard.overflows)
    else:
        yield ok("lost samples", found, lost=0, overflows=0)


def _level(heard: Recording) -> Check:
    level, peak = heard.level_dbfs, heard.peak_dbfs
    data = {"level_dbfs": level, "peak_dbfs": peak, "seconds": heard.seconds}
    if level is None or peak is None:
        found = f"nothing but zeros in {heard.seconds:.1f} s"
        return failure("level", found, "unmute it: alsamixer, F4, M; or choose another --device", **data)
    found = f"{level:.1f} dBFS, peak {peak:.1f} dBFS in {heard.seconds:.1f} s"
    if level < FAINT_DBFS:
        return warning("level", f"very quiet: {found}", "raise the capture gain: alsamixer, F4", **data)
    if level > LOUD_DBFS:
        return warning("level", f"very loud: {found}", "lower the capture gain: alsamixer, F4", **data)
    return ok("level", found, **data)


def _signal(signal: Signal | None) -> Iterator[Check]:
    if signal is None:
        for name in ("clipping", "dc offset", "channels"):
            yield skipped(name, NOT_MEASURED)
        return
    clipped, offset, dead = signal.clipped, signal.dc_offset, list(signal.dead_channels)
    yield _within("clipping", clipped <= CLIPPED, f"{clipped:.2%} of the samples", "clipping", clipped=clipped)
    yield _within("dc offset", abs(offset) <= OFFSET, f"{offset:+.4f} of full scale", "dc_offset", dc_offset=offset)
    found = f"nothing but zeros in {', '.join(map(str, dead))}" if dead else "all of them deliver sound"
    yield _within("channels", not dead, found, "dead_channel", dead=dead)


def _clock(signal: Signal | None) -> Check:
    name = "clock of the microphone"
    if signal is None or signal.drift_ppm is None:
        return skipped(name, NOT_MEASURED + ("" if signal is None else ": that takes longer"))
    found = f"{signal.drift_ppm:+.0f} ppm beside the computer's"
    return _within(name, abs(signal.drift_ppm) <= DRIFT_PPM, found, "clock", drift_ppm=signal.drift_ppm)


def _within(name: str, holds: bool, found: str, reason: str, **data: float | list[int]) -> Check:
    return ok(name, found, **data) if holds else warning(name, found, DEGRADED[reason], **data)
