"""A model file → probabilities, for whole windows and streamed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.audio import Resampler, to_mono
from edge.config import METADATA_KEY, ModelSpec
from edge.errors import ContractError, InputError, ProviderError
from edge.features import LogMel

if TYPE_CHECKING:
    from edge.config import Golden

F32 = NDArray[np.float32]

BUNDLED = Path(__file__).parent / "assets" / "edge-listen.int8.onnx"
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
DEFAULT_HOP = 0.5  # seconds between decisions; the model takes the nearest that it can


class Classifier:
    """A model file, proven to work here: ``Classifier()`` is the bundled model.

    Raises:
        ContractError: when the file is no model of ours, or does not reproduce its own golden vectors.
        ProviderError: when the execution provider is not there.
    """

    def __init__(self, model: str | Path | None = None, *, provider: str = "auto", threads: int = 1) -> None:
        self.path = BUNDLED if model is None else Path(model)
        self._session = _open_session(self.path, provider, threads)
        self.spec = _read_spec(self.path, self._session)
        self.provider: str = self._session.get_providers()[0]
        self._log_mel = LogMel(self.spec.frontend)
        _check_signature(self.path, self.spec, self._session)
        if self.spec.golden is not None:
            self._self_test(self.spec.golden)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, in the order of the probabilities."""
        return self.spec.labels

    def classify(self, samples: F32, sample_rate: int | None = None, *, hop: float = DEFAULT_HOP) -> F32:
        """Probabilities of a whole recording, the mean over its windows: [n_labels].

        ``samples``: float in [-1, 1], [n] or [n, channels], at ``sample_rate`` Hz (the model's, when not given).
        Raises InputError when it is shorter than one frame or has values that are not numbers.
        """
        probs: F32 = self.windows(samples, sample_rate, hop=hop).mean(axis=0)
        return probs

    def windows(self, samples: F32, sample_rate: int | None = None, *, hop: float = DEFAULT_HOP) -> F32:
        """Probabilities of each window of a recording: [n_windows, n_labels]; see :meth:`classify`.

        What is shorter than one window is followed by silence up to one; a rest shorter than a hop is left out.
        """
        samples = np.asarray(samples, np.float32)
        mono = samples if samples.ndim == 1 else to_mono(samples, None)
        if sample_rate is not None:
            mono = Resampler(sample_rate, self.spec.frontend.sample_rate)(mono, last=True)
        if len(mono) < (least := self.spec.frontend.win_length):
            raise InputError(f"{len(mono)} samples are too few", remedy=f"give at least one frame, {least} samples")
        if not np.isfinite(mono).all():
            raise InputError("a sample is not a number", remedy="repair the recording")
        if (missing := self.spec.window_samples - len(mono)) > 0:
            mono = np.pad(mono, (0, missing))
        return np.stack(list(self.stream(hop).push(mono)))

    def stream(self, hop: float = DEFAULT_HOP) -> Stream:
        """A new stream of decisions every ``hop`` seconds, or the nearest that the model can."""
        return Stream(self, self.spec.hop_frames(hop))

    def run(self, frames: F32, ring: F32 | None) -> tuple[F32, F32 | None]:
        """One call of the network.

        ``frames`` [n_mels, T], ``ring`` [n_channels, n_columns] → probabilities [n_labels] and the ring with the
        new columns at its end. A model that does not stream has no ring.
        """
        if ring is None:
            return self._session.run(["probs"], {"frames": frames[None, None]})[0][0], None
        probs, new_ring = self._session.run(["probs", "ring_out"], {"frames": frames[None, None], "ring": ring[None]})
        return probs[0], new_ring[0]

    def new_ring(self) -> F32 | None:
        """The ring before anything was heard; a whole window replaces all of it."""
        return np.zeros((self.spec.n_channels, self.spec.n_columns), np.float32) if self.spec.streams else None

    def _self_test(self, golden: Golden) -> None:
        """Prove the front end and the network on the file's golden vectors, or refuse the file."""
        spec, expected = self.spec, {}
        for name, kind in (("pcm", "<i2"), ("log_mel", "<f4"), ("probs", "<f4")):
            try:
                expected[name] = np.frombuffer(base64.b64decode(getattr(golden, name), validate=True), kind)
            except ValueError:
                raise ContractError(f"{self.path}: golden.{name} is damaged", remedy="copy the file again") from None
        if not len(expected["pcm"]) or len(expected["probs"]) != len(spec.labels):
            raise ContractError(f"{self.path}: golden.pcm or golden.probs is too short", remedy="export it again")
        samples = np.resize(expected["pcm"], spec.window_samples).astype(np.float32) / np.float32(32768)
        log_mel = self._log_mel(samples)
        probs, _ = self.run(np.ascontiguousarray(log_mel), self.new_ring())
        some = log_mel.T.reshape(-1)[: len(expected["log_mel"])]
        for name, found, allowed, blame in (
            ("log_mel", some, golden.log_mel_tolerance, "frontend"),
            ("probs", probs, golden.probs_tolerance, "weights"),
        ):
            error = float(np.max(np.abs(found - expected[name]), initial=0.0))
            if not error <= allowed:  # also NaN
                raise ContractError(
                    f"{self.path} fails its self-test: golden.{name} is off by {error:.2g}, allowed {allowed:.2g}; "
                    f"its {blame} cannot be reproduced here",
                    remedy="copy the file again, or export it again",
                )


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
        self._log_mel = LogMel(spec.frontend)
        # A column sees receptive_field frames, so that many less one stride are fed again with the new ones.
        self._keep = spec.receptive_field - spec.column_stride if spec.streams else spec.window_frames - hop_frames
        self._ring = classifier.new_ring()
        self._frames = np.empty((spec.frontend.n_mels, spec.window_frames), np.float32)  # the first window
        self._filled = 0  # frames in it

    def push(self, samples: F32) -> Iterator[F32]:
        """[n] samples at the model's rate → probabilities [n_labels] for each decision that they complete."""
        new = self._log_mel.push(samples)
        while new.shape[1]:
            taken = new[:, : self._frames.shape[1] - self._filled]
            new = new[:, taken.shape[1] :]
            self._frames[:, self._filled : self._filled + taken.shape[1]] = taken
            self._filled += taken.shape[1]
            if self._filled == self._frames.shape[1]:
                probs, self._ring = self._classifier.run(self._frames, self._ring)
                self._advance()
                yield probs

    def _advance(self) -> None:
        """Keep the frames that the next columns see again."""
        kept = self._frames[:, self._frames.shape[1] - self._keep :]
        size = self._keep + self.hop_frames
        if self._frames.shape[1] == size:
            self._frames[:, : self._keep] = kept
        else:
            self._frames = np.concatenate([kept, np.empty((len(kept), self.hop_frames), np.float32)], axis=1)
        self._filled = self._keep


def available_providers() -> list[str]:
    """Our names of the execution providers that this onnxruntime has."""
    return [name for name, provider in PROVIDERS.items() if provider in ort.get_available_providers()]


def _open_session(path: Path, provider: str, threads: int) -> Any:
    if provider not in ("auto", *PROVIDERS):
        raise ProviderError(f"unknown provider {provider!r}", remedy=f"use one of auto, {', '.join(PROVIDERS)}")
    # A network this small is faster on the CPU than the way to a GPU and back.
    provider = "cpu" if provider == "auto" else provider
    if provider not in available_providers():
        raise ProviderError(
            f"this onnxruntime has no {provider} provider",
            remedy=f"it has {', '.join(available_providers())}; for NVIDIA, install onnxruntime-gpu",
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what goes wrong is raised, and told in one line
    # Spinning threads cost 13 % of a core at four decisions a second.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if not path.is_file():
        raise ContractError(f"model {path} does not exist", remedy="check --model")
    try:
        session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        reason = str(error).strip().splitlines()[0][:200]
        raise ContractError(
            f"{path} is not an ONNX model that can be loaded: {reason}", remedy="copy or export it again"
        ) from None
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise ProviderError(
            f"the {provider} provider is installed but does not start here", remedy="check the driver, or use cpu"
        )
    return session


def _read_spec(path: Path, session: Any) -> ModelSpec:
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in metadata:
        raise ContractError(
            f"{path} is an ONNX model without a contract of edge-listen", remedy="export it with python -m export"
        )
    try:
        return ModelSpec.from_json(metadata[METADATA_KEY])
    except ContractError as error:
        raise ContractError(f"{path}: {error.what}", remedy=error.remedy) from None


def _check_signature(path: Path, spec: ModelSpec, session: Any) -> None:
    """The graph's inputs and outputs must be those that the contract speaks of."""
    inputs = {i.name: i.shape for i in session.get_inputs()}
    outputs = {o.name: o.shape for o in session.get_outputs()}
    expected_inputs: dict[str, list[Any]] = {"frames": [1, 1, spec.frontend.n_mels, "T"]}
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
