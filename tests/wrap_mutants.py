"""Damaged classifiers of others, for test_wrap.py: in the place of the model files of :mod:`tests.mutants`."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from edge.errors import ContractError
from export.wrap import wrap
from tests import mutants
from tests.mutants import Random

CONTRACT = {
    "labels": ["dog", "rain", "siren"], "layout": "BTM", "scores": "logits", "licence": "MIT", "dataset": "birds",
    "frontend": {
        "kind": "log_mel", "sample_rate": 16000, "channels": 1, "win_length": 400, "hop_length": 160, "n_fft": 512,
        "n_mels": 40, "f_min": 50.0, "f_max": 7600.0, "window": "hann", "mel_scale": "slaney", "mel_norm": "slaney",
        "log_floor": 1e-5, "log_mean": 0.0, "log_std": 1.0,
    },
}  # fmt: skip


@functools.cache
def model() -> bytes:
    """A mean over time, a matrix and a sum: [1, 98, 40] → [1, 3]."""
    weights = numpy_helper.from_array(np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), "W")
    bias = numpy_helper.from_array(np.zeros(3, np.float32), "b")
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "W"], ["sum"]),
        helper.make_node("Add", ["sum", "b"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", [1, 98, 40]), ("y", [1, 3]))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [weights, bias])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return made.SerializeToString()


def bytes_changed(rng: Random) -> bytes:
    """Bits, bytes and their number changed, half of the time in what is no weight."""
    data = bytearray(model())
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.choice((rng.randrange(len(data)), rng.randrange(100), len(data) - 1 - rng.randrange(110)))
        match rng.randrange(3):
            case 0:
                data[at] ^= 1 << rng.randrange(8)
            case 1:
                data[at] = rng.randrange(256)
            case _:
                del data[at : at + rng.randrange(1, 5)]
    return bytes(data)


def fields_changed(rng: Random) -> bytes:
    """Fields of the message changed."""
    message = mutants.onnx.ModelProto.FromString(model())
    for _ in range(rng.choice((1, 1, 2, 5))):
        mutants.mutate_message(rng, message)
    return message.SerializeToString()


def mutant(seed: int) -> tuple[str, bytes]:
    """See :func:`tests.mutants.mutant`."""
    rng = Random(seed)
    kind = rng.choice((bytes_changed, bytes_changed, fields_changed))
    return kind.__name__, kind(rng)


def load(path: Path) -> str:
    """See :func:`tests.mutants.load`."""
    contract, out = path.with_name("contract.json"), path.with_name("out")
    contract.write_text(json.dumps(CONTRACT))
    try:
        wrap(path, contract, out)
    except ContractError as error:
        left = [entry.name for entry in out.glob("*")]
        return f"raised: {left} is left" if left else f"refused: {error}"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    (out / path.name).unlink()
    return "wrapped"


def install() -> None:
    """In the worker of :mod:`tests.mutants`: these mutants, and this way to load them, which writes files."""
    mutants.mutant, mutants.load, mutants.forbid_writing = mutant, load, lambda: None
