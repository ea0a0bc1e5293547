"""All checks, in the order in which a person would look: software, microphone, sound, model, and what is around it."""

from __future__ import annotations

from edge.doctor import access, clock, machine, microphone, model, places, recording, service, software, storage
from edge.doctor.check import Step

RECORDING_SECONDS = 12.0  # beside the recording itself: to open a device may take long


def all_steps(seconds: float, microphones: int) -> tuple[Step, ...]:
    """The steps for so many microphones, each recorded for ``seconds``."""
    return (
        Step("python", software.python),
        Step("packages", software.packages),
        Step("permissions", access.permissions),
        Step("sound server", access.sound_server),
        Step("in use", access.in_use),
        Step("portaudio", microphone.library, 20),
        Step("device", microphone.devices, 20, asked=True),
        Step("rates", microphone.rates, 20, asked=True),
        Step("recording", recording.recordings, max(1, microphones) * (seconds + RECORDING_SECONDS), asked=True),
        Step("model", model.model, 60, asked=True),
        Step("input", places.streams, 30, asked=True),
        Step("sinks", places.places, 60, asked=True),
        Step("disk", storage.disk, asked=True),
        Step("wear", storage.wear, asked=True),
        Step("clock", clock.clock),
        Step("temperature", machine.temperature),
        Step("throttling", machine.throttling),
        Step("memory", machine.memory),
        Step("load", machine.load),
        Step("service", service.service),
    )
