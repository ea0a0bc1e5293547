"""The health of a source: one state and its reasons, the same wherever it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
