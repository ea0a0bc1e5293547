"""What is measured: anything that decides on a hop and on a window, as functions without arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.audio import to_channels
from edge.bench.sound import Sound, Turns, looped
from edge.classifier import Classifier
from edge.features import make_frontend

Stages = dict[str, Callable[[], object]]  # "hop" and "window" are there for every subject

STAGES = ("frontend_window", "network_window", "window", "frontend_hop", "network_hop", "hop")  # of a model of ours


@dataclass(frozen=True)
class Facts:
    """What is known of a subject before anything is measured."""

    file: str  # without its folder, which is nobody's business
    kind: str  # "edge-listen", "onnx", "tflite" or what else a benchmark brings
    precision: str | None  # "int8" or "fp32"; None where the file does not tell
    bytes: int
    input: str  # what the network is fed, in words
    hop_seconds: float  # between its decisions
    window_seconds: float  # that ``window`` covers
    patches: int  # calls of the network for such a window


class Subject(Protocol):
    """What :func:`edge.bench.rounds.measure_rounds` takes."""

    name: str  # in the report
    facts: Facts
    stages: Stages


class OurModel:
    """A model file with our contract, by stage: front end and network, of a hop and of a whole window."""

    def __init__(
        self,
        model: str | Path | None,
        sound: Sound,
        *,
        hop: float | None = None,
        provider: str = "auto",
        threads: int = 1,
    ) -> None:
        self.classifier = Classifier(model, provider=provider, threads=threads)
        spec, path = self.classifier.spec, self.classifier.path
        frontend, rate = spec.frontend, spec.frontend.sample_rate
        audio = to_channels(sound(rate)[:, None], frontend.channels)
        stream = self.classifier.stream(hop)
        self.name = path.stem
        self.facts = Facts(
            file=path.name,
            kind="edge-listen",
            precision=spec.provenance.precision,
            bytes=path.stat().st_size,
            input=f"{spec.window_frames} frames, streamed" if spec.streams else f"{spec.window_frames} frames",
            hop_seconds=stream.hop_samples / rate,
            window_seconds=spec.window_seconds,
            patches=1,
        )
        window = looped(audio, spec.window_samples)
        whole, streamed = make_frontend(frontend), make_frontend(frontend)
        of_window = self.classifier.bind(spec.window_frames)
        of_hop = self.classifier.bind(stream.keep + stream.hop_frames)
        of_window.frames[:] = whole(window).transpose(0, 2, 1)
        of_hop.frames[:] = of_window.frames[:, : stream.keep + stream.hop_frames]
        of_window()
        of_hop.follow(of_window)

        def recompute() -> None:
            of_window.frames[:] = whole(window).transpose(0, 2, 1)
            of_window()

        streamed.push(window)
        stream.push(window)
        next_of_frontend, next_of_stream = Turns(audio, stream.hop_samples), Turns(audio, stream.hop_samples)
        self.stages: Stages = {
            "frontend_window": lambda: whole(window),
            "network_window": of_window,
            "window": recompute,
            "frontend_hop": lambda: streamed.push(next_of_frontend()),
            "network_hop": of_hop,
            "hop": lambda: stream.push(next_of_stream()),
        }
