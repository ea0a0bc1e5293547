"""Networks of others, ONNX and TFLite: one input that takes sound, as samples or as a log-mel patch.

What their user has to pay as well is inside the measured time: quantising the input, and the log-mel. That is computed
in numpy by the front end of ours, streamed, so that a peer too pays for new frames only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from edge.bench.sound import Sound, Turns, looped
from edge.bench.subjects import Facts, OurModel, Stages, Subject, patches_of
from edge.bench.theirs import KINDS
from edge.config import METADATA_KEY, FrontendConfig
from edge.errors import ContractError, EdgeError
from edge.features import make_frontend

F32 = NDArray[np.float32]

PATCH_SECONDS = 0.975  # of an input whose length is free: that of YAMNet
LEAST_SAMPLES = 1000  # an input of one axis with fewer values takes something else than sound
FRAME_SECONDS, FRAME_HOP_SECONDS = 0.025, 0.010  # of a log-mel patch: as VGGish and YAMNet have it
MEL_RANGE = (125.0, 7500.0)  # Hz, likewise


@dataclass(frozen=True)
class Patch:
    """What one call of a network takes: ``n_steps`` samples or frames, in an array of ``shape``."""

    shape: tuple[int, ...]
    n_steps: int
    n_mels: int  # 0: the samples themselves
    time_first: bool  # frames before mel bands

    @classmethod
    def of(cls, shape: Sequence[int], sample_rate: int) -> Patch:
        """Of an input's ``shape``, where 0 and less is a free axis. Raises ValueError where it takes no sound.

        A free first axis is the batch. Of two axes that are not 1, the free one is time, else the longer one.
        """
        sizes = [max(0, n) for n in shape]
        if len(sizes) > 1 and sizes[0] == 0:
            sizes[0] = 1
        axes = [axis for axis, size in enumerate(sizes) if size != 1]
        free = [axis for axis in axes if sizes[axis] == 0]
        if len(axes) not in (1, 2) or len(free) > 1:
            raise ValueError
        time = free[0] if free else max(axes, key=lambda axis: sizes[axis])
        if len(axes) == 1:
            sizes[time] = sizes[time] or round(PATCH_SECONDS * sample_rate)
            if sizes[time] < LEAST_SAMPLES:
                raise ValueError
            return cls(tuple(sizes), sizes[time], 0, time_first=True)
        sizes[time] = sizes[time] or round(PATCH_SECONDS / FRAME_HOP_SECONDS) - 1
        n_mels = next(sizes[axis] for axis in axes if axis != time)
        return cls(tuple(sizes), sizes[time], n_mels, time_first=time == axes[0])


@dataclass(frozen=True)
class Network:
    """An opened network: ``run`` takes an array of the patch's shape and of ``dtype``."""

    patch: Patch
    dtype: np.dtype[Any]
    run: Callable[[NDArray[Any]], object]
    scale: float = 0.0  # of a quantised input; 0 for one of floats
    zero_point: int = 0

    def __call__(self, values: F32) -> object:
        """One call of the network for samples [n_steps] or frames [n_mels, n_steps]."""
        if self.patch.n_mels and self.patch.time_first:
            values = values.T
        if self.scale:
            limits = np.iinfo(self.dtype)
            values = np.clip(np.rint(values / self.scale) + self.zero_point, limits.min, limits.max)
        return self.run(np.ascontiguousarray(values, self.dtype).reshape(self.patch.shape))


class Peer:
    """A network of others, which decides every ``hop_seconds`` on its latest patch; a window takes several."""

    def __init__(
        self,
        path: Path,
        sound: Sound,
        *,
        hop_seconds: float,
        window_seconds: float,
        sample_rate: int = 16_000,
        threads: int = 1,
        sha256: str = "",
    ) -> None:
        """``sha256`` is that of the file: given, since a process of its own must not pay for it in its start."""
        kind = _kind(path)
        network = (_open_tflite if kind == "tflite" else _open_onnx)(path, sample_rate, threads)
        patch, hop = network.patch, round(hop_seconds * sample_rate)
        if patch.n_mels:
            seconds = patch.n_steps * FRAME_HOP_SECONDS
            hears = f"log-mel of {patch.n_steps} frames, {patch.n_mels} bands"
        else:
            seconds = patch.n_steps / sample_rate
            hears = f"{patch.n_steps} samples at {sample_rate} Hz"
        patches = patches_of(window_seconds, seconds)
        self.name = path.stem
        self.facts = Facts(
            file=path.name,
            kind=kind,
            precision=None,
            bytes=path.stat().st_size,
            sha256=sha256,
            input=f"{hears} ({network.dtype})",
            hop_seconds=hop / sample_rate,
            window_seconds=window_seconds,
            patches=patches,
        )
        stages = _of_frames if patch.n_mels else _of_samples
        self.stages: Stages = stages(network, sound(sample_rate), hop, patches, sample_rate)

    def check(self, path: Path) -> None:
        """One decision that does not count. Raises ContractError: what can be loaded may yet fail when run."""
        try:
            self.stages["hop"]()
        except Exception as error:  # onnxruntime raises a class of its own for each kind of failure
            raise _unusable(path, error, "run") from None


def open_peer(
    path: Path,
    sound: Sound,
    *,
    hop_seconds: float,
    window_seconds: float,
    sample_rate: int,
    threads: int,
    provider: str,
) -> Subject:
    """The file as a subject: one with our contract as ours, any other as a peer. Raises EdgeError."""
    if _kind(path) == "onnx" and METADATA_KEY in _session(path, threads).get_modelmeta().custom_metadata_map:
        return OurModel(path, sound, hop=hop_seconds, window_seconds=window_seconds, provider=provider, threads=threads)
    peer = Peer(
        path,
        sound,
        hop_seconds=hop_seconds,
        window_seconds=window_seconds,
        sample_rate=sample_rate,
        threads=threads,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )
    peer.check(path)  # here and not when it is made: a process of its own for it would pay for one decision more
    return peer


def _of_samples(network: Network, samples: F32, hop: int, patches: int, sample_rate: int) -> Stages:
    length, step = network.patch.n_steps, network.patch.n_steps // 2
    window = looped(samples, length + (patches - 1) * step)
    latest = Turns(samples, hop, length)

    def whole() -> None:
        for index in range(patches):
            network(window[index * step : index * step + length])

    return {"window": whole, "hop": lambda: network(latest())}


def _of_frames(network: Network, samples: F32, hop: int, patches: int, sample_rate: int) -> Stages:
    length, step = network.patch.n_steps, network.patch.n_steps // 2
    win_length = round(FRAME_SECONDS * sample_rate)
    config = FrontendConfig(
        sample_rate=sample_rate,
        win_length=win_length,
        hop_length=round(FRAME_HOP_SECONDS * sample_rate),
        n_fft=1 << (win_length - 1).bit_length(),
        n_mels=network.patch.n_mels,
        f_min=MEL_RANGE[0],
        f_max=min(MEL_RANGE[1], sample_rate / 2),
        log_floor=1e-3,
        log_mean=0.0,
        log_std=1.0,
    )
    whole_frontend, streamed = make_frontend(config), make_frontend(config)
    window = looped(samples, config.n_samples(length + (patches - 1) * step))
    latest = np.array(whole_frontend(window)[0, :, :length])  # [n_mels, n_steps]
    turn = Turns(samples, hop)

    def whole() -> None:
        frames = whole_frontend(window)[0]
        for index in range(patches):
            network(frames[:, index * step : index * step + length])

    def on_hop() -> object:
        new = streamed.push(turn())[0][:, -length:]
        kept = latest[:, new.shape[1] :].copy()
        latest[:, : kept.shape[1]], latest[:, kept.shape[1] :] = kept, new
        return network(latest)

    return {"window": whole, "hop": on_hop}


def _kind(path: Path) -> str:
    """Raises ContractError for what is neither ONNX nor TFLite, or not there."""
    if path.suffix.lower() not in KINDS:
        raise ContractError(f"{path} is neither .onnx nor .tflite", remedy="compare with files of these kinds")
    if not path.is_file():
        raise ContractError(f"{path} does not exist", remedy="check --compare")
    return KINDS[path.suffix.lower()]


def _session(path: Path, threads: int) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    for kind in ("intra", "inter"):
        options.add_session_config_entry(f"session.{kind}_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a class of its own for each kind of damage
        raise _unusable(path, error) from None


def _open_onnx(path: Path, sample_rate: int, threads: int) -> Network:
    session = _session(path, threads)
    inputs = session.get_inputs()
    shapes = [[n if isinstance(n, int) else 0 for n in i.shape] for i in inputs]
    types = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
    if len(inputs) != 1 or inputs[0].type not in types:
        raise _no_sound(path, shapes)
    patch, name = _patch(path, shapes[0], sample_rate), inputs[0].name
    return Network(patch, np.dtype(types[inputs[0].type]), lambda values: session.run(None, {name: values}))


def _open_tflite(path: Path, sample_rate: int, threads: int) -> Network:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise EdgeError(
            f"{path.name} needs ai-edge-litert, which is not installed", remedy="pip install 'edge-listen[bench]'"
        ) from None
    try:
        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError) as error:
        raise _unusable(path, error) from None
    shapes = [[int(n) for n in i["shape_signature"]] for i in inputs]
    if len(inputs) != 1 or not outputs:
        raise _no_sound(path, shapes)
    dtype = np.dtype(inputs[0]["dtype"])
    scale, zero_point = inputs[0]["quantization"]
    if dtype.kind != "f" and not scale:
        raise _no_sound(path, shapes)
    patch, index, output = _patch(path, shapes[0], sample_rate), inputs[0]["index"], outputs[0]["index"]
    try:
        if tuple(inputs[0]["shape"]) != patch.shape:
            interpreter.resize_tensor_input(index, patch.shape)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise _unusable(path, error) from None

    def run(values: NDArray[Any]) -> object:
        interpreter.set_tensor(index, values)
        interpreter.invoke()
        return interpreter.get_tensor(output)

    return Network(patch, dtype, run, 0.0 if dtype.kind == "f" else float(scale), int(zero_point))


def _patch(path: Path, shape: Sequence[int], sample_rate: int) -> Patch:
    try:
        return Patch.of(shape, sample_rate)
    except ValueError:
        raise _no_sound(path, [shape]) from None


def _unusable(path: Path, error: Exception, what: str = "loaded") -> ContractError:
    reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
    return ContractError(f"{path} cannot be {what}: {reason}", remedy="copy the file again, or leave it out")


def _no_sound(path: Path, shapes: Sequence[Sequence[int]]) -> ContractError:
    found = ", ".join("[" + ", ".join(str(n) if n > 0 else "?" for n in shape) + "]" for shape in shapes)
    return ContractError(
        f"{path} has inputs {found or 'of no kind'}, which are not one of samples or of a log-mel patch",
        remedy="compare with a network that takes sound",
    )
