"""The contract of a model file: built from the checkpoint, proven by golden vectors, written into the metadata."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from edge.classifier import Classifier, golden_samples
from edge.config import METADATA_KEY, Golden, ModelSpec
from edge.errors import ContractError
from edge.features import make_frontend
from edge.files import replacing
from export.graphs import as_run, kind_of
from export.to_onnx import decided
from models.checkpoint import Checkpoint
from models.cost import count_macs
from models.spec import spec_of

F32 = NDArray[np.float32]

GOLDEN_SECONDS = 0.25
FRAMES_TOLERANCE = 1e-3  # float32 FFTs of different libraries differ by 1e-5
# With seven-bit weights int8 is exact; what is left is float32, in the stem and the head. What is for a GPU is computed
# here on a processor: the GPU sums in another order, and rounds the other way what lies between two steps.
PROBS_TOLERANCE = {"fp32": 1e-3, "int8": 0.02, "int8-s8s8": 0.05, "fp16": 0.02}


@contextmanager
def named(folder: Path, place: Path) -> Iterator[None]:
    """Errors of files in the temporary ``folder`` name them in ``place``, where they were to be."""
    try:
        yield
    except ContractError as error:
        raise ContractError(error.what.replace(str(folder), str(place)), remedy=error.remedy) from None


def build_spec(checkpoint: Checkpoint, *, name: str, temperature: float, licence: str, precision: str) -> ModelSpec:
    """The contract of ``checkpoint``, without golden vectors yet."""
    model, frontend = checkpoint.model(), checkpoint.frontend
    frames = torch.zeros(1, frontend.channels, frontend.n_mels, model.window_frames)
    return spec_of(
        checkpoint,
        model,
        name=name,
        precision=kind_of(model, precision),
        macs=count_macs(model, frames),
        temperature=temperature,
        licence=licence,
    )


def write(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> ModelSpec:
    """Write ``model``, a graph of whole windows that ends in logits or in probabilities, as a device runs it, with
    ``spec`` in its metadata to ``path``: whole, or not at all. Returns the contract as written.

    The metadata stands at the end, so that the contract can hold the digest of all that is before it.
    """
    model, kept = as_run(decided(model, spec.temperature, spec.scores))
    del model.metadata_props[:]
    graph = model.SerializeToString(deterministic=True)
    digest = hashlib.sha256(graph).hexdigest()
    spec = dataclasses.replace(spec, graph_bytes=len(graph), graph_sha256=digest, **kept)
    metadata = onnx.ModelProto()
    onnx.helper.set_model_props(metadata, {METADATA_KEY: spec.to_json()})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(graph + metadata.SerializeToString())  # one message: protobuf merges what is concatenated
    return spec


def write_with_golden(model: onnx.ModelProto, spec: ModelSpec, path: Path) -> ModelSpec:
    """Write ``model`` with golden vectors, computed by the runtime that will check them. Returns the whole contract."""
    write(model, dataclasses.replace(spec, golden=None), path)
    pcm = golden_signal(spec.frontend.sample_rate)
    frames = np.ascontiguousarray(make_frontend(spec.frontend)(golden_samples(pcm, spec.window_samples, spec)))
    classifier = Classifier(path, self_test=False)
    decision = classifier.run(frames)
    n_frames = spec.frontend.n_frames(len(pcm))
    golden = Golden(
        pcm=_base64(pcm.astype("<i2")),
        frames=_base64(frames.transpose(2, 0, 1)[:n_frames].astype("<f4")),
        probs=_base64(decision.probs.astype("<f4")),
        frames_tolerance=FRAMES_TOLERANCE,
        probs_tolerance=PROBS_TOLERANCE[spec.provenance.precision],
    )
    return write(model, dataclasses.replace(spec, golden=golden), path)


def golden_signal(sample_rate: int) -> NDArray[np.int16]:
    """A chirp over the whole band with a burst of noise: [n_samples], synthesised, the same on every machine."""
    time = np.arange(round(GOLDEN_SECONDS * sample_rate)) / sample_rate
    sweep = 0.3 * np.sin(2 * np.pi * (100 * time + sample_rate * 0.8 * time**2))
    noise = 0.05 * np.random.default_rng(0).standard_normal(len(time)) * (time > 0.6 * GOLDEN_SECONDS)
    return np.round((sweep + noise) * 32767).astype(np.int16)


def _base64(values: NDArray[np.generic]) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()
