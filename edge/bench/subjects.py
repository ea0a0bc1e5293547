"""What is measured: anything that decides on a hop and on a window, as functions without arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge.audio import to_channels
from edge.bench.sound import Sound, Turns, looped
from edge.classifier import Classifier
from edge.errors import ContractError
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
    sha256: str  # by which figures can be tied to it: of the graph, where the file has our contract; else of the file
    input: str  # what the network is fed, in words
    hop_seconds: float  # between its decisions
    window_seconds: float  # that ``window`` covers
    patches: int  # calls of the network for such a window


class Subject(Protocol):
    """What :func:`edge.bench.rounds.measure_rounds` takes."""

    name: str  # in the report
    facts: Facts
    stages: Stages


def patches_of(window: float, patch: float) -> int:
    """How many patches, each half over the one before, lie in a window of the same unit; at least one."""
    return 1 + max(0, int((window - patch) / (patch / 2) + 1e-6))


class OurModel:
    """A model file with our contract, by stage: front end and network, of a hop and of a whole window.

    ``window_seconds``: that of the model which it is compared with; where its own is shorter, as many of its own are
    decided on as lie in it, as with networks of others. Raises EdgeError.
    """

    def __init__(
        self,
        model: str | Path | None,
        sound: Sound,
        *,
        hop: float | None = None,
        window_seconds: float = 0.0,
        provider: str = "auto",
        threads: int = 1,
    ) -> None:
        self.classifier = Classifier(model, provider=provider, threads=threads)
        spec, path = self.classifier.spec, self.classifier.path
        frontend, rate = spec.frontend, spec.frontend.sample_rate
        audio = to_channels(sound(rate)[:, None], frontend.channels)
        try:
            stream = self.classifier.stream(hop)
        except ContractError as error:  # of one among several models
            raise ContractError(f"{path}: {error.what}", remedy=error.remedy) from None
        patches = patches_of(window_seconds, spec.window_seconds)
        self.name = path.stem
        self.facts = Facts(
            file=path.name,
            kind="edge-listen",
            precision=spec.provenance.precision,
            bytes=path.stat().st_size,
            sha256=spec.graph_sha256,
            input=f"{spec.window_frames} frames, streamed" if spec.streams else f"{spec.window_frames} frames",
            hop_seconds=stream.hop_samples / rate,
            window_seconds=max(window_seconds, spec.window_seconds),
            patches=patches,
        )
        starts = [index * (spec.window_frames // 2) for index in range(patches)]  # of the patches, in frames
        window = looped(audio, frontend.n_samples(starts[-1] + spec.window_frames))
        whole, streamed = make_frontend(frontend), make_frontend(frontend)
        of_window = self.classifier.bind(spec.window_frames)
        of_hop = self.classifier.bind(stream.keep + stream.hop_frames)
        of_window.frames[:] = whole(window)[:, :, : spec.window_frames].transpose(0, 2, 1)
        of_hop.frames[:] = of_window.frames[:, : stream.keep + stream.hop_frames]
        of_window()
        of_hop.follow(of_window)

        def decide() -> None:
            for _ in starts:
                of_window()

        def recompute() -> None:
            frames = whole(window).transpose(0, 2, 1)
            for start in starts:
                of_window.frames[:] = frames[:, start : start + spec.window_frames]
                of_window()

        streamed.push(window)
        stream.push(window)
        next_of_frontend, next_of_stream = Turns(audio, stream.hop_samples), Turns(audio, stream.hop_samples)
        self.stages: Stages = {
            "frontend_window": lambda: whole(window),
            "network_window": decide,
            "window": recompute,
            "frontend_hop": lambda: streamed.push(next_of_frontend()),
            "network_hop": of_hop,
            "hop": lambda: stream.push(next_of_stream()),
        }
