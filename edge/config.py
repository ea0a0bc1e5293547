"""The contract between training and the device: the front end and the model, as frozen dataclasses.

Both travel inside the ``.onnx`` file, as JSON under one metadata key. Whoever reads them gets exactly what was
written, or a :class:`ContractError` that names the field.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import sys
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.errors import ContractError

DEFAULT_HOP = 0.5  # seconds between decisions; a model takes the nearest that it can, or its window if shorter
THIRD_PARTY = "third-party"  # the architecture of a model that was not trained here
PROVIDERS = {  # our names of onnxruntime's execution providers
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
PRECISIONS = ("fp32", "int8", "int8-s8s8", "fp16")
METADATA_KEY = "edge_listen"  # the key in ONNX metadata_props that holds ModelSpec.to_json()
SCHEMA_VERSION = 5  # raised when a reader of the former version could misread the contract
# What a contract of a former version lacks, by that version: read today, it means what it meant then.
MIGRATIONS: dict[int, dict[str, Any]] = {
    2: {"unknown": None},
    3: {"kept_frames": 0, "caches": []},
    4: {"provenance": {"other_data": []}},
}
STREAMING_SINCE = 4  # the first version whose networks keep more than their columns from hop to hop
DIGEST = "contract_sha256"  # the key in the JSON that holds the digest of all others
DIGEST_SINCE = 3  # the first version that has one

# What no sensible model reaches: a damaged contract must not ask for gigabytes.
MAX_LABELS = 10_000
MAX_FILTERBANK = 1 << 22  # n_fft x n_mels
MAX_WINDOW = 1 << 24  # window_frames x n_fft; of a waveform, samples
MAX_RING = 1 << 22  # values of what a hop keeps for the next one: of n_columns x n_channels, and of each cache
MAX_ENERGY = 1e6  # of a threshold, whichever its sign: far within float32
MAX_TOLERANCE = 0.1  # of golden vectors; a larger one would prove nothing

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")  # terminals, logs and JSON Lines would suffer
ALLOWED = {
    int: "a whole number of 64 bits",
    float: "a number",
    str: "text of one line without control characters",
    bool: "true or false",
    tuple: "a list",
    dict: "a table",
}  # as a message says it

T = TypeVar("T")


@dataclass(frozen=True)
class FrontendConfig:
    """The front end. A frame depends on its own samples only, so streamed equals whole-window.

    ``log_mel = (ln(mel_power + log_floor) - log_mean) / log_std``, with ``mel_power`` the mel-weighted squared
    magnitude of the windowed FFT of samples in [-1, 1]. A ``waveform`` is the samples themselves: one is a frame of one
    value, and of the other fields only ``sample_rate`` and ``channels`` count.
    """

    kind: str = "log_mel"  # "log_mel" or "waveform"
    sample_rate: int = 16_000  # Hz
    channels: int = 1  # 1: a mix of what is captured; 2: the first two, each with frames of its own
    win_length: int = 512  # samples in one frame
    hop_length: int = 160  # samples between frames
    n_fft: int = 512  # FFT size; a frame is zero-padded up to it
    n_mels: int = 64  # mel bands
    f_min: float = 20.0  # Hz, lower edge of the lowest band
    f_max: float = 8_000.0  # Hz, upper edge of the highest band
    window: str = "hann"  # periodic Hann is the only window
    mel_scale: str = "htk"  # "htk" or "slaney"
    mel_norm: str = "none"  # "none" (peak 1) or "slaney" (area 1)
    log_floor: float = 1e-6  # power added before the logarithm
    log_mean: float = -2.0  # subtracted after the logarithm, nepers
    log_std: float = 4.0  # divides after the subtraction, nepers

    def __post_init__(self) -> None:
        for name in ("sample_rate", "win_length", "hop_length", "n_fft", "n_mels"):
            _require(getattr(self, name) > 0, f"frontend.{name}", getattr(self, name), "a whole number above 0")
        _require(self.kind in ("log_mel", "waveform"), "frontend.kind", self.kind, "'log_mel' or 'waveform'")
        _require(self.channels in (1, 2), "frontend.channels", self.channels, "1 or 2")
        _require(self.sample_rate <= 768_000, "frontend.sample_rate", self.sample_rate, "at most 768000")
        _require(self.n_fft <= 1 << 16, "frontend.n_fft", self.n_fft, "at most 65536")
        _require(self.f_min >= 0, "frontend.f_min", self.f_min, "a number from 0")
        _require(self.window == "hann", "frontend.window", self.window, "'hann'")
        _require(self.mel_scale in ("htk", "slaney"), "frontend.mel_scale", self.mel_scale, "'htk' or 'slaney'")
        _require(self.mel_norm in ("none", "slaney"), "frontend.mel_norm", self.mel_norm, "'none' or 'slaney'")
        # Far within float32, in which the front end computes.
        _require(1e-30 <= self.log_floor <= 1e6, "frontend.log_floor", self.log_floor, "1e-30 to 1e6")
        _require(abs(self.log_mean) <= 1e6, "frontend.log_mean", self.log_mean, "-1e6 to 1e6")
        _require(1e-6 <= self.log_std <= 1e6, "frontend.log_std", self.log_std, "1e-6 to 1e6")
        if self.kind == "log_mel":
            self._require_mels()
        for name in ("win_length", "hop_length", "n_mels") if self.kind == "waveform" else ():
            _require(getattr(self, name) == 1, f"frontend.{name}", getattr(self, name), "1 for a waveform")

    def _require_mels(self) -> None:
        _require(self.win_length <= self.n_fft, "frontend.win_length", self.win_length, f"at most n_fft {self.n_fft}")
        _require(
            self.hop_length <= self.win_length,
            "frontend.hop_length",
            self.hop_length,
            f"at most win_length {self.win_length}",
        )
        most = min(self.n_fft // 2, MAX_FILTERBANK // self.n_fft)
        _require(self.n_mels <= most, "frontend.n_mels", self.n_mels, f"at most {most}")
        nyquist = self.sample_rate / 2
        _require(self.f_min < self.f_max, "frontend.f_min", self.f_min, f"0 up to f_max {self.f_max}")
        _require(self.f_max <= nyquist, "frontend.f_max", self.f_max, f"at most half the sample rate, {nyquist}")

    def n_frames(self, n_samples: int) -> int:
        """Whole frames in ``n_samples`` samples; there is no padding."""
        return max(0, 1 + (n_samples - self.win_length) // self.hop_length)

    def n_samples(self, n_frames: int) -> int:
        """Samples that ``n_frames`` frames cover."""
        return self.win_length + (n_frames - 1) * self.hop_length


@dataclass(frozen=True)
class Golden:
    """A short PCM input and what must come out of it: a device proves its front end and its network with it.

    The input is repeated until it fills one window. Arrays are base64 of little-endian numbers.
    """

    pcm: str  # int16 samples at the front end's rate, the same for each channel
    frames: str  # float32 [n_frames, channels, n_mels]: the first frames of that window
    probs: str  # float32 [n_labels]
    frames_tolerance: float  # largest absolute difference allowed
    probs_tolerance: float  # largest absolute difference allowed

    def __post_init__(self) -> None:
        for name in ("frames_tolerance", "probs_tolerance"):
            value = getattr(self, name)
            _require(0 < value <= MAX_TOLERANCE, f"golden.{name}", value, f"above 0, at most {MAX_TOLERANCE}")


@dataclass(frozen=True)
class Provenance:
    """Where the weights came from."""

    architecture: str  # name in the registry of models, or THIRD_PARTY
    dataset: str  # what it was trained on
    train_folds: tuple[int, ...]
    test_fold: int | None  # the fold that no weight has seen; None when nothing was held out
    seed: int
    epochs: int  # 0 of THIRD_PARTY
    git_revision: str
    precision: str  # "fp32", "int8" (U8S8), "int8-s8s8" or "fp16"
    macs: int  # multiply-accumulates of one whole window; 0 where they could not be counted
    accuracy: float | None = None  # on test_fold, of the clip, through the runtime; None when not measured
    other_data: tuple[str, ...] = ()  # what else it has learnt from, beside the data set: its name, and as what

    def __post_init__(self) -> None:
        _require(self.macs >= 0, "provenance.macs", self.macs, "a whole number from 0")
        within = self.accuracy is None or 0 <= self.accuracy <= 1
        _require(within, "provenance.accuracy", self.accuracy, "0 to 1, or null")


@dataclass(frozen=True)
class Unknown:
    """When a decision is none of the classes: its energy is below ``threshold``.

    The energy is ln Σ exp(logit) of a softmax (Liu 2020), Σ ln(1 + exp(logit)) of independent scores (Wang 2021), with
    logits that no temperature has divided: high for what resembles the training data.
    """

    threshold: float
    known_share: float  # of held-out windows of the classes, those whose energy is at least the threshold

    def __post_init__(self) -> None:
        _require(abs(self.threshold) <= MAX_ENERGY, "unknown.threshold", self.threshold, f"at most {MAX_ENERGY:g}")
        _require(0 < self.known_share <= 1, "unknown.known_share", self.known_share, "above 0, up to 1")


@dataclass(frozen=True)
class ModelSpec:
    """Everything that the device must know of a model, beside its weights."""

    name: str
    labels: tuple[str, ...]
    frontend: FrontendConfig
    window_frames: int  # frames of one decision
    column_stride: int  # frames between columns; 0, as the five that follow, for a model that does not stream
    receptive_field: int  # frames that one column sees
    n_columns: int  # columns of one window, the length of the ring
    n_channels: int  # values in one column
    kept_frames: int  # frames before its new ones that a hop is fed again
    caches: tuple[tuple[int, ...], ...]  # what a hop reads again of what layers made: rows, mel bands, channels of each
    scores: str  # "softmax": one class at a time; "sigmoid": each class for itself
    temperature: float  # the logits were divided by it
    thresholds: dict[str, float]  # label → least score that counts; labels not named use the default
    unknown: Unknown | None  # None: every decision is one of the classes
    provenance: Provenance
    licence: str
    graph_bytes: int  # the file without the contract, which stands at its end
    graph_sha256: str  # of those bytes
    golden: Golden | None = None
    schema_version: int = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        _require(all(map(str.strip, self.labels)), "labels", list(self.labels), "texts that are not empty")
        _require(len(self.labels) >= 1, "labels", list(self.labels), "at least one label")
        _require(len(self.labels) <= MAX_LABELS, "len(labels)", len(self.labels), f"at most {MAX_LABELS}")
        _require(len(set(self.labels)) == len(self.labels), "labels", list(self.labels), "different labels")
        most = MAX_WINDOW // (1 if self.frontend.kind == "waveform" else self.frontend.n_fft)
        _require(0 < self.window_frames <= most, "window_frames", self.window_frames, f"1 to {most}")
        _require(self.column_stride >= 0, "column_stride", self.column_stride, "a whole number from 0")
        _require(self.scores in ("softmax", "sigmoid"), "scores", self.scores, "'softmax' or 'sigmoid'")
        _require(1e-6 <= self.temperature <= 1e6, "temperature", self.temperature, "1e-6 to 1e6")
        unknown = sorted(set(self.thresholds) - set(self.labels))
        _require(not unknown, "thresholds", unknown, "only the model's labels")
        for label, least in self.thresholds.items():
            _require(0 <= least <= 1, f"thresholds[{_shown(label)}]", least, "0 to 1")
        if self.streams:
            for name in ("receptive_field", "n_columns", "n_channels"):
                _require(getattr(self, name) > 0, name, getattr(self, name), "a whole number above 0")
            _require(
                self.receptive_field >= self.column_stride,
                "receptive_field",
                self.receptive_field,
                f"at least column_stride {self.column_stride}",
            )
            most = MAX_RING // self.n_columns
            _require(self.n_channels <= most, "n_channels", self.n_channels, f"at most {most}")
            most = self.receptive_field - self.column_stride  # so many no layer would have to keep anything for
            _require(0 <= self.kept_frames <= most, "kept_frames", self.kept_frames, f"0 to {most}")
            for cache in self.caches:
                fits = len(cache) == 3 and min(cache) > 0 and cache[0] <= most and math.prod(cache) <= MAX_RING
                allowed = f"three numbers above 0, of them the first at most {most}, their product {MAX_RING}"
                _require(fits, "caches", cache, allowed)
            frames = self.receptive_field + self.column_stride * (self.n_columns - 1)
            _require(
                self.window_frames == frames,
                "window_frames",
                self.window_frames,
                f"receptive_field + column_stride x (n_columns - 1) = {frames}",
            )
        _require(self.window_samples <= 120 * self.frontend.sample_rate, "window_frames", self.window_frames, "≤ 120 s")

    def _require_of_a_file(self) -> None:
        """What a checkpoint that runs without a file need not have."""
        for name in ("name", "licence"):
            _require(bool(getattr(self, name).strip()), name, getattr(self, name), "a text that is not empty")
        precision = self.provenance.precision
        _require(precision in PRECISIONS, "provenance.precision", precision, ", ".join(PRECISIONS))

    @property
    def streams(self) -> bool:
        """Whether the model keeps columns and caches, so that a hop costs only its new frames."""
        return self.column_stride > 0

    @property
    def window_samples(self) -> int:
        """Samples of one decision."""
        return self.frontend.n_samples(self.window_frames)

    @property
    def window_seconds(self) -> float:
        """Seconds of one decision."""
        return self.window_samples / self.frontend.sample_rate

    @property
    def step_seconds(self) -> float:
        """The smallest hop between decisions, in seconds: one column, or one frame for a model without columns."""
        return max(1, self.column_stride) * self.frontend.hop_length / self.frontend.sample_rate

    def hop_frames(self, seconds: float | None = None) -> int:
        """Frames of the hop nearest to ``seconds`` that is a whole number of columns, at least one, at most a window.
        None: DEFAULT_HOP, or a window where that is shorter.

        Raises:
            ContractError: when ``seconds`` is not above zero, or longer than the window.
        """
        if seconds is None:
            seconds = min(DEFAULT_HOP, self.window_seconds)
        if not (math.isfinite(seconds) and 0 < seconds <= self.window_seconds):
            raise ContractError(
                f"hop of {seconds} s is not possible", remedy=f"use {self.step_seconds:g} to {self.window_seconds:g} s"
            )
        step = max(1, self.column_stride)
        steps = max(1, round(seconds / self.step_seconds))
        return min(steps, self.window_frames // step) * step

    def hop_samples(self, seconds: float | None = None) -> int:
        """Samples of that hop; see :meth:`hop_frames`."""
        return self.hop_frames(seconds) * self.frontend.hop_length

    def hop_seconds(self, seconds: float | None = None) -> float:
        """That hop itself; see :meth:`hop_frames`."""
        return self.hop_samples(seconds) / self.frontend.sample_rate

    def to_json(self) -> str:
        """The contract as JSON with its digest, the keys sorted: equal specs give equal bytes."""
        data = dataclasses.asdict(self)
        return _canonical(data | {DIGEST: digest_of(data)})

    @classmethod
    def from_json(cls, text: str) -> ModelSpec:
        """Read :meth:`to_json`.

        Raises:
            ContractError: names the first field that is missing, unknown, of another type or out of its bounds; or says
                that the contract is damaged.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ContractError(f"the model's contract is not JSON: {error}", remedy="export the model again") from None
        if not isinstance(data, dict):
            raise ContractError("the model's contract is not a JSON object", remedy="export the model again")
        said, digest = data.pop(DIGEST, None), digest_of(data)
        now = migrated(data)
        version = data["schema_version"]
        if version < STREAMING_SINCE and data.get("column_stride"):
            found = (
                f"schema_version is {version}, and since {STREAMING_SINCE} a network that streams keeps more than its"
            )
            raise ContractError(f"{found} columns", remedy="convert the file: python -m export upgrade FILE")
        spec = build(cls, now)
        spec._require_of_a_file()
        if version >= DIGEST_SINCE and said != digest:  # said last: a field that makes no sense says more
            raise ContractError(f"{DIGEST} is {_shown(said)}; of what is there: {digest}", remedy="copy the file again")
        return spec


def migrated(data: dict[str, Any]) -> dict[str, Any]:
    """The contract ``data``, without its ``DIGEST``, as this version would have written it.

    Raises ContractError where its version is none that can be read.
    """
    version = data.get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        found = f"the model's contract has schema_version {_shown(version)}"
        raise ContractError(
            f"{found}; this edge-listen reads up to {SCHEMA_VERSION}",
            remedy="upgrade edge-listen, or export the model with this version",
        )
    if type(version) is not int or version < min(MIGRATIONS):
        allowed = f"{min(MIGRATIONS)} to {SCHEMA_VERSION}"
        raise ContractError(f"schema_version is {_shown(version)}; allowed: {allowed}", remedy="export it again")
    for former in range(version, SCHEMA_VERSION):
        data = merged(MIGRATIONS[former], data) | {"schema_version": former + 1}
    return data


def merged(table: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """``table`` with the keys of ``more``, also within tables in it."""
    result = dict(table)
    for key, value in more.items():
        there = result.get(key)
        result[key] = merged(there, value) if isinstance(there, dict) and isinstance(value, dict) else value
    return result


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def digest_of(data: dict[str, Any]) -> str:
    """The digest of a contract without its ``DIGEST``."""
    return hashlib.sha256(_canonical(data).encode(errors="surrogatepass")).hexdigest()


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ContractError(f"{name} is {_shown(value)}; allowed: {allowed}", remedy="correct the model's contract")


def _shown(value: object) -> str:
    """For a message: short, however long it is in a damaged contract."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def build(cls: type[T], data: dict[str, Any], prefix: str = "") -> T:
    """A dataclass from a JSON object that has every field, also those with a default: a contract says everything.

    Raises ContractError, which names, after ``prefix``, the fields that are unknown, missing or of another type.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    remedy = "export the model again with this version of edge-listen"
    for what, keys in (("unknown", data.keys() - fields), ("missing", fields.keys() - data)):
        if keys:
            names = _shown([prefix + key for key in sorted(keys)])[1:-1]
            raise ContractError(f"{what} key {names} in the model's contract", remedy=remedy)
    return cls(**{key: coerce(hints[key], data[key], prefix + key) for key in fields})


def coerce(hint: Any, value: Any, name: str) -> Any:
    """``value`` as the type of the field ``name``; JSON has no tuples, and writes whole floats as integers."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else coerce(next(a for a in args if a is not type(None)), value, name)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, dict):
            return build(hint, value, name + ".")
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(coerce(args[0], item, f"{name}[{i}]") for i, item in enumerate(value))
    elif origin is dict:
        if isinstance(value, dict):
            return {str(key): coerce(args[1], item, f"{name}[{_shown(key)}]") for key, item in value.items()}
    elif _fits(hint, value):
        return float(value) if hint is float else value
    expected = ALLOWED.get(origin or hint, getattr(hint, "__name__", str(hint)))
    raise ContractError(f"{name} is {_shown(value)}; allowed: {expected}", remedy="export the model again")


def _fits(hint: Any, value: Any) -> bool:
    """Whether ``value`` is of the type, and can be computed with and shown anywhere."""
    if hint is float:
        return type(value) in (int, float) and abs(value) <= sys.float_info.max
    if hint is int:
        return type(value) is int and abs(value) < 1 << 63
    if hint is str:
        return type(value) is str and not CONTROL.search(value)
    return type(value) is hint
