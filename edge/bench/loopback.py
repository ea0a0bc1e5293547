"""From sound to decision: a sound is played through an output, and the microphone listens as always.

The output's converter says when the sound left, the input's when it arrived; where in what was captured it arrived, its
cross-correlation with what was played tells. Its decision is the first whose samples hold HEARD_SECONDS of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.audio import Resampler, to_channels
from edge.bench.machine import resident_bytes
from edge.classifier import Classifier
from edge.errors import DeviceError, InputError
from edge.listener import Window, listen
from edge.sources.block import Block, Outage
from edge.sources.devices import portaudio, reason_of
from edge.sources.file import SoundFile
from edge.sources.microphone import Microphone
from edge.sources.watched import Watched
from edge.tuning import pick

F32 = NDArray[np.float32]

CHIRP_SECONDS, CHIRP_HZ = 0.25, (300.0, 3400.0)  # what any loudspeaker and any microphone can do
REFERENCE_SECONDS = 1.0  # of a clip: its beginning is looked for
HEARD_SECONDS = 0.05  # of the sound, that a decision must hold to count
ALIKE = 0.3  # correlation coefficient from which the sound has arrived
EARLY_SECONDS = 0.5  # by which clocks may be apart: so much before it left, the sound is looked for
LEAST_SECONDS = 1.5  # of a trial: the sound of the one before is not to be found again
PATIENCE_SECONDS = 5.0  # after which it has not arrived
NAMED_RISE = 0.2  # of the score of another class than before, from which a clip counts as named


@dataclass(frozen=True)
class Trial:
    """One sound, milliseconds."""

    driver_ms: float  # from the output's converter to the input's: the air, drivers, and how far they know their delay
    waiting_ms: float  # until its decision began: the rest of the hop, and what the sound card hands over at once
    compute_ms: float  # front end and network
    total_ms: float  # from the output's converter to the decision
    named_ms: float | None  # of a clip: until the first decision that names another class than before
    label: str | None  # that class


@dataclass(frozen=True)
class Loopback:
    """All trials."""

    microphone: str
    output: str
    sound: str
    hop_seconds: float
    memory_mb: float  # resident, with both devices open
    repeats: int
    trials: tuple[Trial, ...]  # those that were heard


class Tap:
    """What the last ``seconds`` of a source gave."""

    def __init__(self, rate: int, seconds: float) -> None:
        self._rate, self._seconds = rate, seconds
        self._blocks: deque[tuple[int, float, F32]] = deque()  # position, time of the first sample, samples

    def push(self, block: Block | Outage) -> None:
        """Keep it, and forget what is too old."""
        if isinstance(block, Outage):
            return
        samples = block.samples if block.samples.ndim == 1 else to_channels(block.samples, 1)
        self._blocks.append((block.position, block.adc_time, np.array(samples)))
        while self._blocks[0][1] < block.adc_time - self._seconds:
            self._blocks.popleft()

    def find(self, reference: F32, since: float) -> tuple[int, float] | None:
        """Position and time (Unix) of the first sample of ``reference`` in what was captured after ``since``."""
        kept = [b for b in self._blocks if b[1] + len(b[2]) / self._rate > since]
        if not kept:
            return None
        before = max(0, round((since - kept[0][1]) * self._rate))  # samples of the first block
        at = arrival(np.concatenate([samples for _, _, samples in kept])[before:], reference)
        if at is None:
            return None
        at += before
        for position, adc_time, samples in kept:
            if at < len(samples):
                return position + at, adc_time + at / self._rate
            at -= len(samples)
        return None


class Player:
    """An open output; silent but for what :meth:`play` starts."""

    def __init__(self, device: str | int | None, sound: F32, sample_rate: int) -> None:
        sd = portaudio()
        self.left: float | None = None  # Unix time at which the sound's first sample is converted
        self._next: int | None = None  # sample of the sound, negative before it begins; None: silent
        device = int(device) if device is not None and str(device).isdecimal() else device
        try:
            info = sd.query_devices(device, "output")
            rate = _output_rate(info, sample_rate)
            self._sound = Resampler(sample_rate, rate)(sound, last=True)
            self._stream = sd.OutputStream(
                device=info["index"], channels=1, samplerate=rate, dtype="float32", callback=self._callback
            )
            self._stream.start()
        except (sd.PortAudioError, ValueError) as error:
            there = ", ".join(repr(d["name"]) for d in sd.query_devices() if d["max_output_channels"] > 0)
            raise DeviceError(
                f"output device {device!r} cannot be used: {reason_of(error)}", remedy=f"there are: {there or 'none'}"
            ) from None
        self.name: str = info["name"]
        self.rate: int = rate

    def play(self, delay: float) -> None:
        """Start the sound after ``delay`` seconds; ``left`` tells when, as soon as it is known."""
        self.left = None
        self._next = -round(delay * self.rate)

    def close(self) -> None:
        """Close the device."""
        self._stream.close(ignore_errors=True)

    def _callback(self, data: Any, frames: int, times: Any, status: Any) -> None:
        data.fill(0)
        begin = self._next
        if begin is None:
            return
        if begin <= 0 < begin + frames:
            ahead = (times.outputBufferDacTime or times.currentTime) - times.currentTime
            self.left = time.time() + ahead - begin / self.rate
        piece = self._sound[max(0, begin) : max(0, begin + frames)]
        data[max(0, -begin) : max(0, -begin) + len(piece), 0] = piece
        self._next = begin + frames if begin + frames < len(self._sound) else None


def measure_loopback(
    *,
    device: str | None = None,
    output_device: str | None = None,
    clip: Path | None = None,
    repeats: int = 10,
    model: Path | None = None,
    provider: str = "auto",
    threads: int | None = None,
    hop: float | None = None,
) -> Loopback:
    """Play a chirp or ``clip`` ``repeats`` times, at random moments of a hop, and listen as edge-listen would.

    Raises:
        DeviceError: for a device that cannot be used, and where the sound never arrives.
        EdgeError: for a model or a clip that cannot be used.
    """
    setup = pick(model, provider, threads)
    classifier = Classifier(setup.model, provider=setup.provider, threads=setup.threads)
    spec = classifier.spec
    rate = spec.frontend.sample_rate
    sound = chirp(rate) if clip is None else SoundFile(clip).read(rate)
    reference = sound[: round(REFERENCE_SECONDS * rate)]
    if not reference.any():
        raise InputError(f"{clip} begins with a second of digital silence", remedy="cut it, or give another clip")
    seconds = len(sound) / rate
    hop_seconds = spec.hop_samples(hop) / rate
    # A clip is named by windows full of it, and its next trial must not begin with one of them.
    follow = LEAST_SECONDS if clip is None else seconds + spec.window_seconds
    tap = Tap(rate, PATIENCE_SECONDS + follow + hop_seconds)
    source = Watched(Microphone(device), tap.push)
    random = np.random.default_rng(0)
    trials = []
    with closing(listen(source, classifier, hop)) as windows, closing(Player(output_device, sound, rate)) as player:  # type: ignore[type-var]
        before = next(windows)
        for _ in range(repeats):
            player.play(float(random.uniform(0, hop_seconds)))
            decisions, found = _listen(windows, tap, player, reference, follow)
            if found and player.left:
                position, arrived = found
                trial = trial_of(decisions, player.left, position / rate, arrived, before, named=clip is not None)
                trials += [trial] if trial else []
            before = decisions[-1][0]
        memory = resident_bytes()
    if not trials:
        raise DeviceError(
            f"{source.name!r} does not hear what {player.name!r} plays",
            remedy="turn both up, bring them closer, and see edge-listen --list-devices",
        )
    return Loopback(
        microphone=source.name,
        output=player.name,
        sound=f"chirp of {CHIRP_SECONDS:g} s" if clip is None else clip.name,
        hop_seconds=hop_seconds,
        memory_mb=round(memory / 1e6, 1),
        repeats=repeats,
        trials=tuple(trials),
    )


def _listen(
    windows: Iterator[Window], tap: Tap, player: Player, reference: F32, follow: float
) -> tuple[list[tuple[Window, float]], tuple[int, float] | None]:
    """The decisions from now until ``follow`` seconds after the sound left, each with its time, and where it arrived.

    Where it does not arrive, None, after PATIENCE_SECONDS more.
    """
    decisions: list[tuple[Window, float]] = []
    found: tuple[int, float] | None = None
    started = time.time()
    for window in windows:
        decisions.append((window, time.time()))
        left = player.left
        if left is not None:
            found = found or tap.find(reference, left - EARLY_SECONDS)
        until = follow if found else follow + PATIENCE_SECONDS
        if time.time() > (left or started) + until:
            break
    return decisions, found


def trial_of(
    decisions: list[tuple[Window, float]], left: float, heard: float, arrived: float, before: Window, *, named: bool
) -> Trial | None:
    """Of a sound that left at ``left`` and arrived at ``arrived`` (Unix times), ``heard`` seconds into the stream.

    ``decisions``: the windows since then, and when each was there. None where no window holds the sound.
    """
    holding = [(w, at) for w, at in decisions if w.offset >= heard + HEARD_SECONDS]
    if not holding:
        return None
    window, decided = holding[0]
    known = before.top(1)[0][0]
    other = next(((w, at) for w, at in holding if _names_another(w, known, before)), None) if named else None
    return Trial(
        driver_ms=_ms(arrived - left),
        waiting_ms=_ms(decided - arrived - window.busy_ms / 1000),
        compute_ms=round(window.busy_ms, 2),
        total_ms=_ms(decided - left),
        named_ms=_ms(other[1] - left) if other else None,
        label=other[0].top(1)[0][0] if other else None,
    )


def _names_another(window: Window, known: str, before: Window) -> bool:
    label, score = window.top(1)[0]
    return label != known and score >= NAMED_RISE + float(before.probs[window.labels.index(label)])


def chirp(sample_rate: int) -> F32:
    """A sweep that is easily found again: float32 [n_samples]."""
    seconds = np.arange(round(CHIRP_SECONDS * sample_rate)) / sample_rate
    low, high = CHIRP_HZ
    sweep = np.sin(2 * np.pi * (low * seconds + (high - low) / (2 * CHIRP_SECONDS) * seconds**2))
    return (0.5 * sweep * np.hanning(len(seconds)) ** 0.25).astype(np.float32)


def arrival(captured: F32, reference: F32) -> int | None:
    """Where ``reference`` [m] begins in ``captured`` [n]: where they correlate best, if at least ALIKE."""
    n, m = len(captured), len(reference)
    if n < m:
        return None
    size = 1 << (n + m - 1).bit_length()
    captured64 = captured.astype(np.float64)
    products = np.fft.irfft(np.fft.rfft(captured64, size) * np.conj(np.fft.rfft(reference, size)), size)[: n - m + 1]
    energy = np.concatenate([[0.0], np.cumsum(captured64**2)])
    norms = np.sqrt(np.maximum(energy[m:] - energy[:-m], 0)) * float(np.linalg.norm(reference))
    alike = np.where(norms > 1e-6, np.abs(products) / np.maximum(norms, 1e-6), 0.0)  # wires may be crossed
    at = int(np.argmax(alike))
    return at if alike[at] >= ALIKE else None


def _output_rate(info: dict[str, Any], wanted: int) -> int:
    """The wanted rate where the device takes it, else its own."""
    sd = portaudio()
    try:
        sd.check_output_settings(device=info["index"], channels=1, dtype="float32", samplerate=wanted)
    except (sd.PortAudioError, ValueError):
        return round(float(info["default_samplerate"]))
    return wanted


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
