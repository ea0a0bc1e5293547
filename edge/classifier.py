"""A model file → probabilities, for whole windows and streamed."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.audio import Resampler, first_bad, padded, to_channels
from edge.config import PROVIDERS, ModelSpec
from edge.errors import ContractError, InputError, ProviderError
from edge.features import make_frontend
from edge.model_file import read_model

F32 = NDArray[np.float32]

BUNDLED = Path(__file__).parent / "assets" / "edge-listen.int8.onnx"
BUNDLED_NAMES = {"tiny": BUNDLED.with_name("edge-listen-tiny.int8.onnx")}
CHUNK_SECONDS = 30.0  # of a long array, taken at once
STREAMED_TOLERANCE = 1e-5  # of a probability, in the self-test: where kernels depend on the shape, the last bits differ


class Classifier:
    """A model file, proven to work here: ``Classifier()`` is the bundled model, ``Classifier("tiny")`` the small one.

    Raises:
        ContractError: when the file is no model of ours, or does not reproduce its own golden vectors.
        ProviderError: when the execution provider is not there.
    """

    def __init__(
        self, model: str | Path | None = None, *, provider: str = "auto", threads: int = 1, self_test: bool = True
    ) -> None:
        self.path = BUNDLED if model is None else BUNDLED_NAMES.get(str(model), Path(model))
        graph, self.spec = read_model(self.path)
        self._session = _open_session(self.path, graph, provider, threads)
        self.provider: str = self._session.get_providers()[0]
        with np.errstate(all="ignore"):  # mel filters of no width: the golden frames will tell
            self._frontend = make_frontend(self.spec.frontend)
        _check_signature(self.path, self.spec, self._session)
        if self_test:  # an export has no golden vectors until this class has computed them
            self.self_test()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.spec.labels

    def classify(self, samples: F32, sample_rate: int | None = None, *, hop: float | None = None) -> F32:
        """Probabilities of a whole recording, the mean over its windows: [n_labels].

        ``samples``: float in [-1, 1] or signed integers, [n] or [n, channels], at ``sample_rate`` Hz (the model's,
        when not given).
        Raises InputError when it is shorter than one frame or has values that are not numbers.
        """
        probs: F32 = self.windows(samples, sample_rate, hop=hop).mean(axis=0)
        return probs

    def windows(self, samples: F32, sample_rate: int | None = None, *, hop: float | None = None) -> F32:
        """Probabilities of each window of a recording: [n_windows, n_labels]; see :meth:`classify`.

        What is shorter than one window is followed by silence up to one; a rest shorter than a hop is left out.
        """
        frontend = self.spec.frontend
        samples = _as_samples(samples, frontend.channels)
        if sample_rate is not None:
            samples = Resampler(sample_rate, frontend.sample_rate, frontend.channels)(samples, last=True)
        if len(samples) < (least := frontend.win_length):
            raise InputError(f"{len(samples)} samples are too few", remedy=f"give at least one frame, {least} samples")
        samples = padded(samples, self.spec.window_samples)
        stream, size = self.stream(hop), round(CHUNK_SECONDS * frontend.sample_rate)
        pieces = (samples[start : start + size] for start in range(0, len(samples), size))
        return np.stack([probs for piece in pieces for probs in stream.push(piece)])

    def stream(self, hop: float | None = None) -> Stream:
        """A new stream of decisions every ``hop`` seconds, or the nearest that the model can."""
        return Stream(self, self.spec.hop_frames(hop))

    def run(self, frames: F32, ring: F32 | None) -> tuple[F32, F32 | None]:
        """One call of the network.

        ``frames`` [channels, n_mels, T], ``ring`` [n_channels, n_columns] → probabilities [n_labels] and the ring with
        the new columns at its end. A model that does not stream has no ring.
        """
        if ring is None:
            return self._session.run(["probs"], {"frames": frames[None]})[0][0], None
        probs, new_ring = self._session.run(["probs", "ring_out"], {"frames": frames[None], "ring": ring[None]})
        return probs[0], new_ring[0]

    def new_ring(self) -> F32 | None:
        """The ring before anything was heard; a whole window replaces all of it."""
        return np.zeros((self.spec.n_channels, self.spec.n_columns), np.float32) if self.spec.streams else None

    def self_test(self) -> None:
        """Prove front end, network and streaming on the file's golden vectors. Raises ContractError where they fail."""
        try:
            with np.errstate(all="ignore"):  # what is no number is found by comparing
                self._prove()
        except ContractError:
            raise
        except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
            raise self._refusal(f"fails its self-test: {_first_line(error)}") from None

    def _prove(self) -> None:
        spec, golden = self.spec, self.spec.golden
        if golden is None:
            raise self._refusal("has no golden vectors")
        pcm = self._golden("pcm", golden.pcm, "<i2")
        frames = self._golden("frames", golden.frames, "<f4")
        expected = self._golden("probs", golden.probs, "<f4", len(spec.labels))
        samples = golden_samples(pcm, spec.window_samples + spec.column_stride * spec.frontend.hop_length, spec)
        window = np.ascontiguousarray(self._frontend(samples[: spec.window_samples]))
        if len(frames) > window.size:
            raise self._refusal("has golden.frames that are longer than a window")
        in_time = window.transpose(2, 0, 1).reshape(-1)  # [n_frames, channels, n_mels], flat
        self._compare("frames", in_time[: len(frames)], frames, golden.frames_tolerance, "front end")
        whole, ring = self.run(window, self.new_ring())
        self._compare("probs", whole, expected, golden.probs_tolerance, "network")
        if ring is None:
            return
        if not np.isfinite(ring).all():
            raise self._refusal("fails its self-test: the network's ring has values that are not numbers")
        next_window = np.ascontiguousarray(self._frontend(samples[-spec.window_samples :]))
        whole, _ = self.run(next_window, self.new_ring())
        streamed = Stream(self, spec.column_stride).push(samples)
        self._compare("probs, streamed,", streamed[-1], whole, STREAMED_TOLERANCE, "column_stride or receptive_field")

    def _golden(self, name: str, text: str, kind: str, length: int | None = None) -> NDArray[Any]:
        try:
            values: NDArray[Any] = np.frombuffer(base64.b64decode(text, validate=True), kind)
        except ValueError:
            raise self._refusal(f"has a damaged golden.{name}") from None
        if not len(values) or (length is not None and len(values) != length):
            raise self._refusal(f"has a golden.{name} of {len(values)} values")
        return values

    def _compare(self, name: str, found: F32, expected: F32, allowed: float, blame: str) -> None:
        error = float(np.max(np.abs(found - expected)))
        if not error <= allowed:  # also NaN
            raise self._refusal(
                f"fails its self-test: golden.{name} is off by {error:.2g}, allowed {allowed:.2g}; "
                f"its {blame} cannot be reproduced here"
            )

    def _refusal(self, what: str) -> ContractError:
        return ContractError(f"{self.path} {what}", remedy="copy the file again, or export it again")


class Stream:
    """Samples as they come → probabilities, one row for each hop. Each frame and each column is computed once."""

    def __init__(self, classifier: Classifier, hop_frames: int) -> None:
        spec = classifier.spec
        step = max(1, spec.column_stride)
        if hop_frames < 1 or hop_frames % step or hop_frames > spec.window_frames:
            raise ContractError(
                f"hop_frames is {hop_frames}", remedy=f"use a multiple of {step} up to {spec.window_frames}"
            )
        self.spec = spec
        self.hop_frames = hop_frames
        self.hop_samples = hop_frames * spec.frontend.hop_length
        self._classifier = classifier
        self._frontend = make_frontend(spec.frontend)
        # A column sees receptive_field frames, so that many less one stride are fed again with the new ones.
        self.keep = spec.receptive_field - spec.column_stride if spec.streams else spec.window_frames - hop_frames
        self._ring = classifier.new_ring()
        self._frames = self._room(spec.window_frames)  # of the first window
        self._filled = 0  # frames in it

    def push(self, samples: F32) -> list[F32]:
        """Samples at the model's rate → probabilities [n_labels] of each decision that they complete.

        [n] for a model of one channel, [n, channels] for another.
        """
        new, decisions = self._frontend.push(samples), []
        while new.shape[2]:
            taken = new[:, :, : self._frames.shape[2] - self._filled]
            new = new[:, :, taken.shape[2] :]
            self._frames[:, :, self._filled : self._filled + taken.shape[2]] = taken
            self._filled += taken.shape[2]
            if self._filled == self._frames.shape[2]:
                probs, self._ring = self._classifier.run(self._frames, self._ring)
                self._advance()
                decisions.append(probs)
        return decisions

    def _advance(self) -> None:
        """Keep the frames that the next columns see again."""
        kept = self._frames[:, :, self._frames.shape[2] - self.keep :]
        size = self.keep + self.hop_frames
        if self._frames.shape[2] != size:
            self._frames = self._room(size)
        self._frames[:, :, : self.keep] = kept
        self._filled = self.keep

    def _room(self, n_frames: int) -> F32:
        frontend = self.spec.frontend
        return np.empty((frontend.channels, frontend.n_mels, n_frames), np.float32)


def golden_samples(pcm: NDArray[np.int16], length: int, spec: ModelSpec) -> F32:
    """The golden input: ``pcm`` repeated up to ``length`` samples, in [-1, 1], the same for each channel."""
    samples = np.resize(pcm, length).astype(np.float32) / np.float32(32768)
    return to_channels(samples[:, None], spec.frontend.channels)


def _as_samples(samples: Any, channels: int) -> F32:
    """Float32 in [-1, 1], [n] or [n, channels], of float or signed integer samples. Raises InputError."""
    samples = np.asarray(samples)
    if np.issubdtype(samples.dtype, np.signedinteger):
        samples = samples / -float(np.iinfo(samples.dtype).min)
    elif not np.issubdtype(samples.dtype, np.floating):
        raise InputError(f"samples of type {samples.dtype}", remedy="give float in [-1, 1], or signed integers")
    if samples.ndim not in (1, 2):
        raise InputError(f"samples of shape {samples.shape}", remedy="give [n] or [n, channels]")
    samples = samples.astype(np.float32, copy=False)
    chosen = to_channels(samples if samples.ndim == 2 else samples[:, None], channels)
    if (bad := first_bad(chosen)) is not None:
        raise InputError(f"sample {bad[0]} is {bad[1]:g}, which is no sample", remedy="repair the recording")
    return chosen


def available_providers() -> list[str]:
    """Our names of the execution providers that this onnxruntime has."""
    return [name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers()]


def _open_session(path: Path, graph: bytes, provider: str, threads: int) -> Any:
    if provider not in ("auto", *PROVIDERS):
        raise ProviderError(f"unknown provider {provider!r}", remedy=f"use one of auto, {', '.join(PROVIDERS)}")
    # A network this small is faster on the CPU than the way to a GPU and back.
    provider = "cpu" if provider == "auto" else provider
    if provider not in (there := available_providers()):
        raise ProviderError(
            f"this onnxruntime has no {provider} provider",
            remedy=f"it has {', '.join(there)}; for NVIDIA, install onnxruntime-gpu",
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised, and told in one line
    # Else bytes that look like onnxruntime's own format are read as that, and not as what was checked.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    # Spinning threads cost 13 % of a core at four decisions a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    try:
        # The CPU has nothing to fall back to; onnxruntime would try, and print that to stdout, among our records.
        fallback = provider != "cpu"
        session = ort.InferenceSession(graph, options, providers=[PROVIDERS[provider]], enable_fallback=fallback)
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise ContractError(
            f"{path} is not an ONNX model that can be loaded: {_first_line(error)}", remedy="copy or export it again"
        ) from None
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"the {provider} provider is installed but does not start here", remedy="check the driver, or use cpu"
        )
    return session


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _check_signature(path: Path, spec: ModelSpec, session: Any) -> None:
    """The graph's inputs and outputs must be those that the contract speaks of."""
    inputs = {i.name: i.shape for i in session.get_inputs()}
    outputs = {o.name: o.shape for o in session.get_outputs()}
    n_frames = "T" if spec.streams else spec.window_frames
    expected_inputs: dict[str, list[Any]] = {"frames": [1, spec.frontend.channels, spec.frontend.n_mels, n_frames]}
    expected_outputs: dict[str, list[Any]] = {"probs": [1, len(spec.labels)]}
    if spec.streams:
        ring = [1, spec.n_channels, spec.n_columns]
        expected_inputs["ring"], expected_outputs["ring_out"] = ring, ring
    for what, found, expected in (("inputs", inputs, expected_inputs), ("outputs", outputs, expected_outputs)):
        same = found.keys() == expected.keys() and all(
            len(found[k]) == len(v) and all(isinstance(b, str) or a == b for a, b in zip(found[k], v, strict=True))
            for k, v in expected.items()
        )
        if not same:
            raise ContractError(f"{path} has {what} {found}; its contract says {expected}", remedy="export it again")
