"""A model file → probabilities, for whole windows and streamed."""

from __future__ import annotations

import base64
import math
import platform
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.audio import Resampler, first_bad, padded, to_channels
from edge.config import PROVIDERS, ModelSpec
from edge.errors import ContractError, InputError, ProviderError
from edge.features import make_frontend
from edge.model_file import read_model
from edge.models import resolve

F32 = NDArray[np.float32]

CHUNK_SECONDS = 30.0  # of a long array, taken at once
STREAMED_TOLERANCE = 1e-5  # of a probability, in the self-test: where kernels depend on the shape, the last bits differ
SAME_SUMS = platform.machine() in ("x86_64", "AMD64")  # of float32, whatever the length; not on ARM
# Rounded after sums whose last bits may differ, so that a bit may become a whole step: what is for GPUs, and int8
# behind its first convolution, which is in float32.
ROUNDED = ("int8-s8s8", "fp16") if SAME_SUMS else ("int8-s8s8", "fp16", "int8")

TYPES = {  # of numpy, by onnxruntime's names
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
}


class Decision(NamedTuple):
    """What the network says of one window."""

    probs: F32  # [n_labels]
    energy: float | None  # of :class:`edge.config.Unknown`; None of a model that does not tell
    frames: F32 | None = None  # of a stream: [channels, n_mels, n], those that are new with this decision


class Classifier:
    """A model file, proven to work here: ``Classifier()`` is the bundled model, and other names are those of
    :func:`edge.models.resolve`.

    Raises:
        ContractError: when the file is no model of ours, or does not reproduce its own golden vectors.
        ProviderError: when the execution provider is not there.
    """

    def __init__(
        self, model: str | Path | None = None, *, provider: str = "auto", threads: int = 1, self_test: bool = True
    ) -> None:
        self.path = resolve(model)
        graph, self.spec = read_model(self.path)
        self.session = _open_session(self.path, graph, provider, threads, self.spec.provenance.precision)
        self.provider: str = self.session.get_providers()[0]
        with np.errstate(all="ignore"):  # mel filters of no width: the golden frames will tell
            self._frontend = make_frontend(self.spec.frontend)
        _check_signature(self.path, self.spec, self.session)
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
        return np.stack([decision.probs for piece in pieces for decision in stream.push(piece)])

    def stream(self, hop: float | None = None) -> Stream:
        """A new stream of decisions every ``hop`` seconds, or the nearest that the model can."""
        return Stream(self, self.spec.hop_frames(hop))

    def run(self, frames: F32) -> Decision:
        """The decision on a whole window of ``frames`` [channels, n_mels, window_frames]."""
        call = self.bind(self.spec.window_frames)
        call.frames[:] = frames.transpose(0, 2, 1)
        return call()

    def bind(self, n_frames: int) -> Call:
        """A call of the network, to be made again and again: on a whole window, or on a hop of ``n_frames``, of which
        the first ``kept_frames`` are those at the end of the call that it is to :meth:`Call.follow`.
        """
        return Call(self, n_frames)

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
        call = self.bind(spec.window_frames)
        call.frames[:] = window.transpose(0, 2, 1)
        whole = call()
        self._compare("probs", whole.probs, expected, golden.probs_tolerance, "network")
        if whole.energy is not None and not math.isfinite(whole.energy):
            raise self._refusal(f"fails its self-test: its energy is {whole.energy}")
        if not spec.streams:
            return
        if not call.keeps_numbers():
            raise self._refusal("fails its self-test: the network keeps values that are not numbers")
        whole = self.run(self._frontend(samples[-spec.window_samples :]))
        streamed = Stream(self, spec.column_stride).push(samples)
        rounded = spec.provenance.precision in ROUNDED
        self._compare(
            "probs, streamed,",
            streamed[-1].probs,
            whole.probs,
            golden.probs_tolerance if rounded else STREAMED_TOLERANCE,
            "column_stride, receptive_field or caches",
        )

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
    """Samples as they come → decisions, one for each hop. Each frame and each column is computed once."""

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
        self._frontend = make_frontend(spec.frontend)
        # A hop of more columns than a window has skips some frames: each is a window of its own.
        streams = spec.streams and hop_frames <= spec.n_columns * spec.column_stride
        self.keep = spec.kept_frames if streams else spec.window_frames - hop_frames
        # A window comes first, and then the hops: two calls that take turns, each reads what the other has kept.
        self._call = classifier.bind(spec.window_frames)
        self._next = classifier.bind(self.keep + hop_frames)
        self._after = classifier.bind(self.keep + hop_frames)
        self._filled = 0  # frames of the present call
        self._kept = 0  # of these, how many the call before had as well

    def push(self, samples: F32) -> list[Decision]:
        """Samples at the model's rate → each decision that they complete.

        [n] for a model of one channel, [n, channels] for another.
        """
        new, decisions = self._frontend.push(samples).transpose(0, 2, 1), []  # [channels, n, n_mels]
        while new.shape[1]:
            frames = self._call.frames
            taken = min(new.shape[1], frames.shape[1] - self._filled)
            frames[:, self._filled : self._filled + taken] = new[:, :taken]
            new = new[:, taken:]
            self._filled += taken
            if self._filled == frames.shape[1]:
                decision, seen = self._call(), frames[:, self._kept :].copy()
                decisions.append(decision._replace(frames=seen.transpose(0, 2, 1)))
                self._advance()
        return decisions

    def _advance(self) -> None:
        """Keep what the next columns see again."""
        frames, following = self._call.frames, self._next.frames
        following[:, : self.keep] = frames[:, frames.shape[1] - self.keep :]
        self._filled = self._kept = self.keep
        self._next.follow(self._call)
        self._call, self._next, self._after = self._next, self._after, self._next


class Call:
    """A call of the network on arrays of its own, again and again, without a copy but that of the decision."""

    def __init__(self, classifier: Classifier, n_frames: int) -> None:
        spec, self._session = classifier.spec, classifier.session
        self._path = classifier.path
        self._rows = _kept_rows(spec, n_frames)
        self._inputs: dict[str, NDArray[Any]] = {}
        for value in self._session.get_inputs():
            shape: tuple[int, ...] = (self._rows.get(value.name, 0), *value.shape[2:])
            if value.name == "frames":
                shape = _frames_shape(spec, n_frames)
            self._inputs[value.name] = np.zeros((1, *shape), TYPES[value.type])
        frames: F32 = self._inputs["frames"][0]
        # [channels, n_frames, n_mels], to be filled before a call
        self.frames = frames if spec.streams else frames.transpose(0, 2, 1)
        self._outputs: dict[str, NDArray[Any]] = {}
        self._binding: Any = None
        self._followed: Call | None = None

    def follow(self, other: Call) -> None:
        """Read, from now on, the end of what ``other``, which has been called, keeps.

        Raises ContractError where that is less than the contract says.
        """
        if other is self._followed:
            return
        self._followed = other
        for name, rows in self._rows.items():
            kept = other._outputs[f"{name}_out"]
            if (there := kept.shape[1]) < rows:
                found = f"{self._path} keeps {there} rows of its {name}; its contract says {rows}"
                raise ContractError(found, remedy="export it again")
            self._inputs[name] = kept[:, there - rows :]
            if self._binding is not None:
                _bind(self._binding.bind_input, name, self._inputs[name])

    def keeps_numbers(self) -> bool:
        """Whether all that the next call may read is finite."""
        return all(np.isfinite(array).all() for name, array in self._outputs.items() if name.endswith("_out"))

    def __call__(self) -> Decision:
        """The decision; what is kept is in its arrays."""
        if self._binding is None:
            self._bind_all()
        else:
            self._session.run_with_iobinding(self._binding)
        energy = self._outputs.get("energy")
        return Decision(self._outputs["probs"][0].copy(), None if energy is None else float(energy[0]))

    def _bind_all(self) -> None:
        """The first call: the arrays that it gives are those that all others write."""
        names = [output.name for output in self._session.get_outputs()]
        self._outputs = dict(zip(names, self._session.run(names, self._inputs), strict=True))
        self._binding = self._session.io_binding()  # of addresses alone
        for name, array in self._inputs.items():
            _bind(self._binding.bind_input, name, array)
        for name, array in self._outputs.items():
            _bind(self._binding.bind_output, name, array)


def _bind(bind: Any, name: str, array: NDArray[Any]) -> None:
    bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


def _kept_rows(spec: ModelSpec, n_frames: int) -> dict[str, int]:
    """By name, the rows that a call on ``n_frames`` reads of the one before: none for a whole window."""
    if n_frames == spec.window_frames:
        return {}
    new_columns = (n_frames - spec.kept_frames) // spec.column_stride
    rows = {cache_name(index): rows for index, (rows, *_) in enumerate(spec.caches)}
    return rows | {"ring": spec.n_columns - new_columns}


def cache_name(index: int) -> str:
    """The input of a graph that is cache ``index``; the output has the same name and ``_out``."""
    return f"cache_{index}"


def _frames_shape(spec: ModelSpec, n_frames: int) -> tuple[int, int, int]:
    """Of the network's input: a network that streams wants time before mel."""
    channels, n_mels = spec.frontend.channels, spec.frontend.n_mels
    return (channels, n_frames, n_mels) if spec.streams else (channels, n_mels, n_frames)


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


def _open_session(path: Path, graph: bytes, provider: str, threads: int, precision: str) -> Any:
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
        asked = [(PROVIDERS[provider], _provider_options(provider, graph, precision))]
        session = ort.InferenceSession(graph, options, providers=asked, enable_fallback=fallback)
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise ContractError(
            f"{path} is not an ONNX model that can be loaded: {_first_line(error)}", remedy="copy or export it again"
        ) from None
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"the {provider} provider is installed but does not start here", remedy="check the driver, or use cpu"
        )
    return session


def _provider_options(provider: str, graph: bytes, precision: str) -> dict[str, str]:
    if provider != "tensorrt":
        return {}
    from edge.engine_cache import tensorrt_options

    return tensorrt_options(graph, precision)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:200]


def _check_signature(path: Path, spec: ModelSpec, session: Any) -> None:
    """The graph's inputs and outputs must be those that the contract speaks of."""
    inputs = {i.name: i.shape for i in session.get_inputs()}
    outputs = {o.name: o.shape for o in session.get_outputs()}
    if spec.unknown is None:
        outputs.pop("energy", None)  # told, but of no use
    n_frames: Any = "T" if spec.streams else spec.window_frames
    expected_inputs: dict[str, list[Any]] = {"frames": [1, *_frames_shape(spec, n_frames)]}
    expected_outputs: dict[str, list[Any]] = {"probs": [1, len(spec.labels)]}
    if spec.unknown is not None:
        expected_outputs["energy"] = [1]
    if spec.streams:
        kept = {cache_name(index): sizes for index, (_, *sizes) in enumerate(spec.caches)} | {"ring": [spec.n_channels]}
        for name, sizes in kept.items():
            expected_inputs[name] = expected_outputs[f"{name}_out"] = [1, "rows", *sizes]
    for what, found, expected in (("inputs", inputs, expected_inputs), ("outputs", outputs, expected_outputs)):
        same = found.keys() == expected.keys() and all(
            len(found[k]) == len(v) and all(isinstance(b, str) or a == b for a, b in zip(found[k], v, strict=True))
            for k, v in expected.items()
        )
        if not same:
            raise ContractError(f"{path} has {what} {found}; its contract says {expected}", remedy="export it again")
