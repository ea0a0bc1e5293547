"""The health of a source: one state and its reasons, the same wherever it is shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from edge.listener import Window
    from edge.sources.block import Outage

State = Literal["starting", "listening", "degraded", "lost"]

# Every reason that a state can have, and what to do about it. The first ones end in "lost", the others in "degraded".
LOST = {
    "missing": "no such microphone is there: plug it in; edge-listen --list-devices shows what is",
    "stopped": "the microphone delivers no sound any more: it was unplugged, suspended, or its server hangs",
    "replaced": "another microphone has come in its place, and is not listened to: plug the first one in again",
    "busy": "another program uses the microphone: fuser -v /dev/snd/* names it",
    "refused": "the microphone cannot be opened: edge-doctor says why",
    "unreachable": "the stream cannot be had: check its address and the network",
}
DEGRADED = {
    "silent": "only zeros arrive: is the microphone muted?",
    "dead_channel": "a channel delivers nothing but zeros: check the cable, or choose another with --channel",
    "clipping": "the sound is louder than the microphone can tell: turn its gain down (alsamixer)",
    "dc_offset": "the samples are not centred on zero: the microphone or its converter is faulty",
    "lost_samples": "samples are lost: the machine is too busy, or the bus to the microphone",
    "late": "decisions come later than one hop: the machine is too busy; try --hop 1, or a smaller model",
    "clock": "the clock of the microphone is off: it delivers another rate than it was opened with",
    "sink": "a place for records does not take them; they wait, or are dropped: see the log",
}
REASONS = {**LOST, **DEGRADED}


@dataclass(frozen=True)
class Health:
    """How it is with a source."""

    state: State = "starting"
    reasons: tuple[str, ...] = ()  # keys of REASONS, why it is degraded or lost; sorted
    message: str = ""  # for people; empty while there is nothing to say


@dataclass(frozen=True)
class Limits:
    """From when on something is a reason, and for how long."""

    clipped: float = 0.001  # share of the samples at full scale
    dc_offset: float = 0.05  # distance of the mean from zero, of full scale
    drift_ppm: float = 1000.0  # by which the device's clock may differ from the computer's
    late_windows: int = 5  # of the last `late_of`, that came late
    late_of: int = 20
    usual_latency: float = (
        1.0  # seconds at most that are a device's own: PortAudio's buffer holds two, given in quarters
    )
    hold: float = 10.0  # seconds of stream that a reason stays after it was last seen, so that it does not flap
    lost_hold: float = 60.0  # the same, of lost samples


class Lateness:
    """Whether decisions come later than a hop, by what the device and the machine do; not by the clock alone.

    A host may deliver sound in lumps, so that a decision waits for the next one: that delay is the device's own. It is
    taken as the longest of ``late_of`` decisions in a row, of those where it was shortest. What comes a hop after that
    has waited for the machine. A network that takes longer than a hop is late whatever the latency says: of a file
    that is read as fast as possible, and of a pipe, it says nothing, and is short.
    """

    def __init__(self, hop_seconds: float, limits: Limits) -> None:
        self._hop, self._most, self._length = hop_seconds, limits.usual_latency, limits.late_of
        self.count = 0  # windows that came late, since the start
        self._usual = self._most  # seconds, the device's own
        self._longest, self._n = 0.0, 0  # of the windows in a row that are being looked at
        self._last: deque[bool] = deque(maxlen=limits.late_of)

    @property
    def recent(self) -> int:
        """How many of the last ``late_of`` came late."""
        return sum(self._last)

    def push(self, latency: float, busy: float) -> None:
        """A window's, in seconds."""
        late = busy > self._hop or latency > self._usual + self._hop
        self.count += late
        self._last.append(late)
        self._longest, self._n = max(self._longest, latency), self._n + 1
        if self._n == self._length:
            self._usual, self._longest, self._n = min(self._usual, self._longest), 0.0, 0

    def forget(self) -> None:
        """The device is opened anew, and may be another."""
        self._usual, self._longest, self._n = self._most, 0.0, 0
        self._last.clear()


class Monitor:
    """The health of one source. What it is given, it answers with the new health, or with None where nothing changed.

    Time is that of the stream, so that a file that is read in a moment is judged as a microphone is.
    """

    def __init__(self, hop_seconds: float, limits: Limits = Limits()) -> None:
        self.health = Health()
        self._limits = limits
        self._lateness = Lateness(hop_seconds, limits)
        self._until: dict[str, float] = {}  # reason → seconds of stream, at which it is over

    @property
    def late(self) -> int:
        """Windows that came later than a hop, since the start."""
        return self._lateness.count

    def window(self, window: Window, sinks: Sequence[str] = ()) -> Health | None:
        """It hears; ``sinks`` are the names of those that do not take records."""
        limits, now = self._limits, window.offset
        self._lateness.push(window.latency_ms / 1000, window.busy_ms / 1000)
        for reason in self._seen(window):
            self._until[reason] = now + (limits.lost_hold if reason == "lost_samples" else limits.hold)
        self._until = {reason: until for reason, until in self._until.items() if until > now}
        reasons = (*self._until, *(["sink"] if sinks else []))
        return self._become("degraded" if reasons else "listening", reasons, sinks)

    def outage(self, outage: Outage, sinks: Sequence[str] = ()) -> Health | None:
        """It is away. What was wrong with its sound is forgotten: it may come back as another one."""
        self._until.clear()
        self._lateness.forget()
        reasons = (outage.reason, *(["sink"] if sinks else []))
        return self._become("lost", reasons, sinks, f"{outage.message} ({outage.remedy})")

    def failed(self, what: str, reason: str = "refused") -> Health | None:
        """It cannot be listened to any more; ``what`` and the remedy are in the message."""
        return self._become("lost", (reason,), (), what)

    def _seen(self, window: Window) -> Iterator[str]:
        """The reasons that hold for this window."""
        limits, signal = self._limits, window.signal
        if window.silent:
            yield "silent"
        if window.lost or window.overflows:
            yield "lost_samples"
        if self._lateness.recent >= limits.late_windows:
            yield "late"
        if signal is None:
            return
        if signal.dead_channels and not window.silent:
            yield "dead_channel"
        if signal.clipped > limits.clipped:
            yield "clipping"
        if abs(signal.dc_offset) > limits.dc_offset:
            yield "dc_offset"
        if signal.drift_ppm is not None and abs(signal.drift_ppm) > limits.drift_ppm:
            yield "clock"

    def _become(self, state: State, reasons: Sequence[str], sinks: Sequence[str], lost: str = "") -> Health | None:
        reasons = tuple(sorted(reasons))
        if (state, reasons) == (self.health.state, self.health.reasons):
            return None
        parts = [lost] if lost else []
        parts += [REASONS[reason] for reason in reasons if reason in DEGRADED and reason != "sink"]
        if sinks:
            parts.append(f"{', '.join(sinks)}: {REASONS['sink']}")
        self.health = Health(state, reasons, "; ".join(parts))
        return self.health
