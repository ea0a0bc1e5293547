"""A checkpoint's network as one graph for each precision."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import nn

from export.caches import with_caches
from export.half import half
from export.quantize import SCHEMES, asymmetric_convolutions, float_convolutions, quantize
from export.to_onnx import to_onnx
from export.verify import ParityError
from models.checkpoint import Checkpoint

F32 = NDArray[np.float32]

SUFFIXES = {"fp32": ".onnx", "int8": ".int8.onnx", "int8-s8s8": ".s8s8.onnx", "fp16": ".fp16.onnx"}  # by precision
ALWAYS = ("fp32", "int8")  # the one is what all others are held against, the other is what a device runs


def graphs(
    checkpoint: Checkpoint,
    windows: Sequence[F32],
    precisions: Collection[str] = ALWAYS,
    ranges: Mapping[str, str] | None = None,
) -> dict[str, onnx.ModelProto]:
    """The network as graphs of whole windows that end in logits, by precision; int8 is fp32 where it serves nothing of
    a network.

    ``windows`` [channels, n_mels, window_frames] and ``ranges`` (by precision; "minmax" where not named) are those of
    :func:`export.quantize.quantize`. Raises ParityError when convolutions are left in float32.
    """
    network, made = checkpoint.model(), {}
    fp32 = to_onnx(network)
    for precision in precisions:
        kind = kind_of(network, precision)
        if kind == "fp16":
            made[precision] = half(fp32)
        elif kind == "fp32":
            made[precision] = fp32
        else:
            made[precision] = quantize(fp32, windows, precision, (ranges or {}).get(precision, "minmax"))
            _check_quantised(as_run(made[precision])[0], precision)
    return made


def kind_of(network: nn.Module, precision: str) -> str:
    """What a file of ``precision`` is in truth: "fp32" instead of int8 where that serves nothing of the network."""
    return precision if network.int8 or precision not in SCHEMES else "fp32"


def as_run(model: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A graph of whole windows as a device runs it, and what its contract says of that: a network that streams is
    given caches.
    """
    if all(output.name != "columns" for output in model.graph.output):
        return model, {}
    cached, caches = with_caches(model)
    return cached, vars(caches)


def _check_quantised(model: onnx.ModelProto, precision: str) -> None:
    if precision == "int8":
        left = [name for name, source in float_convolutions(model).items() if source != "frames"]  # but the stem
        what = "stay in float32 after optimisation"
    else:
        left, what = asymmetric_convolutions(model), "read something else than symmetric int8"
    if left:
        raise ParityError(f"{precision}: {len(left)} convolutions {what}: {', '.join(left)}")
