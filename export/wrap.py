"""A classifier that others have made: layout, batch and scores become ours by nodes around its graph.

What a person knows of it, and its file does not say, is in a contract of a few lines: :class:`Contract`.
"""

from __future__ import annotations

import csv
import json
import math
import resource
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError, Message
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto, compose, helper, inliner

from edge.classifier import Classifier, golden_samples
from edge.config import CONTROL, METADATA_KEY, THIRD_PARTY, FrontendConfig, ModelSpec, Provenance, build
from edge.errors import ContractError, EdgeError
from edge.features import make_frontend
from export.contract import golden_signal, named, write_with_golden
from export.macs import count_macs, tensors

F32 = NDArray[np.float32]

SCORES = {  # what a graph may give: the contract's scores, and the node that makes probabilities of it
    "probabilities": ("softmax", None),
    "logits": ("softmax", "Softmax"),
    "sigmoid probabilities": ("sigmoid", None),
    "sigmoid logits": ("sigmoid", "Sigmoid"),
}
AXES = "BCMT"  # of our frames, which a layout names: batch, channels, mel bands, frames; samples are N instead of T
OPTIONAL: dict[str, Any] = {
    "input": None, "output": None, "window_frames": None, "temperature": 1.0, "thresholds": {}, "accuracy": None,
}  # fmt: skip
SOUND = ("kind", "sample_rate", "channels")  # what a front end of samples must say, of others everything
WAVEFORM = asdict(FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1))
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
LEAST_OPSET = 7  # of onnxruntime
OPSET = 17  # of our nodes, where the graph has operators of other domains alone
PREFIX = "wrapped/"  # of the graph's own names, which may be ours
TOLERANCE = 0.01  # of probabilities, and of their sum
INT8_TOLERANCE = 0.1  # of the sum of probabilities that are rounded to a byte each
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"}


@dataclass(frozen=True)
class Contract:
    """What a person says of a model."""

    labels: tuple[str, ...]
    frontend: FrontendConfig
    layout: str  # of the graph's input: letters of AXES
    scores: str  # what the graph gives, of SCORES
    licence: str
    dataset: str  # that it was trained on
    input: str | None  # its name in the graph; None: there is one
    output: str | None
    window_frames: int | None  # None: the graph's input has a fixed length
    temperature: float  # that logits are divided by
    thresholds: dict[str, float]  # label → least score that counts
    accuracy: float | None  # of clips, as its makers say

    def __post_init__(self) -> None:
        if self.scores not in SCORES:
            raise ContractError(f"scores is {self.scores!r}; allowed: {', '.join(SCORES)}", remedy="correct it")
        if not self.licence.strip():
            raise ContractError("licence is empty", remedy="say under which one its makers give it")
        if self.temperature != 1 and SCORES[self.scores][1] is None:
            raise ContractError(
                f"temperature is {self.temperature:g}; allowed where scores is {self.scores!r}: 1",
                remedy="leave it out, or name an output of logits",
            )
        f, axes = self.frontend, self.axes
        needed = {"T", *(["M"] if f.n_mels > 1 else []), *(["C"] if f.channels > 1 else [])}
        known = set("BCN" if self.is_sound else AXES)
        if len(set(axes)) < len(axes) or not needed <= set(axes) or not set(self.layout) <= known:
            raise ContractError(
                f"layout is {self.layout!r}; allowed: one letter for each axis of the input, "
                + ("B, C and N" if self.is_sound else "B, C, M and T"),
                remedy="correct it",
            )

    @property
    def sizes(self) -> dict[str, int]:
        """The length of each axis but T, which is the window's."""
        return {"B": 1, "C": self.frontend.channels, "M": self.frontend.n_mels}

    @property
    def is_sound(self) -> bool:
        """Whether the graph takes samples, not mel bands."""
        return self.frontend.kind == "waveform"

    @property
    def axes(self) -> str:
        """The layout in letters of AXES."""
        return self.layout.replace("N", "T") if self.is_sound else self.layout


def wrap(model: Path, contract: Path, out: Path, *, name: str | None = None) -> tuple[Path, ModelSpec]:
    """Write OUT/NAME.onnx (the name of ``model``, when None): ``model`` with our signature and contract, proven by the
    runtime. Returns its path, and the contract as written.

    Raises:
        ContractError: when the two do not go together, or onnxruntime does not run it; nothing is written then.
    """
    said, graph = read_contract(contract), read_model(model)
    name = name or model.stem
    if CONTROL.search(name):
        raise ContractError(f"{name!r} can be no name of a model", remedy="give --name")
    path = out / f"{name}.onnx"
    if path.resolve() == model.resolve():
        raise ContractError(f"{path} would take the place of the model itself", remedy="give another --out or --name")
    try:
        wrapped, spec = _wrapped(graph, said, name)
    except ContractError as error:
        raise ContractError(f"{model} with {contract}: {error.what}", remedy=error.remedy) from None
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".wrap-") as folder, named(Path(folder), out):
        proven = Path(folder) / path.name
        write_with_golden(wrapped, spec, proven)
        spec = Classifier(proven).spec
        proven.replace(path)
    return path, spec


def wrap_apart(model: Path, contract: Path, out: Path, *, name: str | None = None) -> tuple[Path, ModelSpec]:
    """:func:`wrap` in a process of its own: some graphs end the one in which onnxruntime or onnx reads them.

    Raises ContractError as :func:`wrap` does, and where the process dies; OSError where ``out`` cannot be written.
    """
    command = [sys.executable, "-m", "export.wrap", *map(str, (model, contract, out)), *([name] if name else [])]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        how = f"ended in {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"failed: {last:.200}"
        raise ContractError(
            f"{model} cannot be tried: the process that ran it {how}",
            remedy="export it with other operators; is memory short?",
        )
    answer = json.loads(done.stdout)
    if "errno" in answer:
        raise OSError(answer["errno"], answer["strerror"])
    if "what" in answer:
        raise ContractError(answer["what"], remedy=answer["remedy"])
    return Path(answer["path"]), ModelSpec.from_json(answer["spec"])


def main(model: str, contract: str, out: str, name: str | None = None) -> None:
    """In the process of its own: what came of it, as JSON on stdout."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        path, spec = wrap(Path(model), Path(contract), Path(out), name=name)
        answer = {"path": str(path), "spec": spec.to_json()}
    except EdgeError as error:
        answer = {"what": error.what, "remedy": error.remedy}
    except OSError as error:
        answer = {"errno": error.errno, "strerror": error.strerror}
    print(json.dumps(answer))


def read_contract(path: Path) -> Contract:
    """The contract in a TOML or JSON file. Raises ContractError, which names the field."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin with a byte-order mark
        data = json.loads(text) if path.suffix.lower() == ".json" else tomllib.loads(text)
        if not isinstance(data, dict):
            raise ContractError("it is not an object", remedy="")
        if isinstance(data.get("labels"), str):
            data["labels"] = read_labels(path.parent / data["labels"])
        frontend = data.get("frontend")
        if isinstance(frontend, dict) and frontend.get("kind") == "waveform":
            data["frontend"] = {key: WAVEFORM[key] for key in WAVEFORM.keys() - SOUND} | frontend
        return build(Contract, OPTIONAL | data)
    except (OSError, ValueError, RecursionError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ContractError(f"contract {path} cannot be read: {why}", remedy="give TOML, or JSON in a .json") from None
    except ContractError as error:
        what = error.what.replace(" in the model's contract", "")
        raise ContractError(f"contract {path}: {what}", remedy="docs/packages.md shows one") from None


def read_labels(path: Path) -> list[str]:
    """Labels in the order of the scores: the lines of a text file, or the column ``label`` of a CSV. Raises
    ContractError, ValueError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ContractError(f"labels {path} cannot be read: {error.strerror}", remedy="") from None
    if path.suffix.lower() != ".csv":
        return [line.strip() for line in text.splitlines() if line.strip()]
    rows = csv.DictReader(text.splitlines())
    if "label" not in (rows.fieldnames or ()):
        raise ContractError(f"{path} has no column label; it has: {', '.join(rows.fieldnames or ())}", remedy="")
    labels = {row.get("index") or str(i): row["label"] for i, row in enumerate(rows)}
    if list(labels) != [str(i) for i in range(len(labels))]:
        raise ContractError(f"{path} has an index that does not count from 0", remedy="")
    return list(labels.values())


def read_model(path: Path) -> onnx.ModelProto:
    """The graph with its weights, also those in files beside it. Raises ContractError."""
    try:
        model = onnx.load(path)
    except (OSError, DecodeError, ValueError, onnx.checker.ValidationError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise ContractError(
            f"{path} is not an ONNX model that can be loaded: {why:.200}",
            remedy="copy it again, with the files of its weights where it has such",
        ) from None
    if any(entry.key == METADATA_KEY for entry in model.metadata_props):
        raise ContractError(f"{path} is a model of edge-listen: there is nothing to wrap", remedy="use it as it is")
    if not model.graph.node:
        raise ContractError(f"{path} has no graph", remedy="give an ONNX model")
    if any(isinstance(text, bytes) for text in _texts(model)):
        raise ContractError(f"{path} is damaged: it has a name that is not UTF-8", remedy="copy or export it again")
    return model


def _inlined(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph of the operators that a device knows, and of no functions of its own. Raises ContractError."""
    try:
        return inliner.inline_local_functions(model)
    except (ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        why = " ".join(str(error).split())
        raise ContractError(f"its functions cannot be resolved: {why:.200}", remedy="export it without any") from None


def _texts(message: Message) -> Iterator[str | bytes]:
    """All text in a message; bytes where it is not UTF-8."""
    for field, value in message.ListFields():
        values = [value] if isinstance(value, str | bytes | Message) else value
        if field.type == field.TYPE_STRING:
            yield from values
        elif field.type == field.TYPE_MESSAGE:
            for inner in values:
                yield from _texts(inner)


def _wrapped(model: onnx.ModelProto, said: Contract, name: str) -> tuple[onnx.ModelProto, ModelSpec]:
    """The graph from ``frames`` to ``probs``, and its contract without golden vectors."""
    opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), None)
    if opset is None:
        model.opset_import.append(helper.make_operatorsetid("", OPSET))
    elif opset < LEAST_OPSET:
        raise ContractError(f"its opset is {opset}; allowed: {LEAST_OPSET} and higher", remedy="export it again")
    model = _inlined(model)
    del model.training_info[:]
    for node in model.graph.node:
        if any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute):
            raise ContractError(
                f"it has control flow, {node.op_type!r}; allowed: none", remedy="export it with fixed shapes"
            )
    source, target = _the_input(model.graph, said.input), _the_output(model.graph, said.output)
    window_frames = _window_frames(source, said)
    model = compose.add_prefix(model, PREFIX)
    _feed(model.graph, source, said, window_frames)
    spec = _spec(said, name, window_frames, _precision(model.graph))
    sounds, output = _sounds(spec), PREFIX + target.name
    scores = {
        what: np.asarray(*tensors(model, [output], {"frames": sound}), np.float32) for what, sound in sounds.items()
    }
    _check_scores(target.name, scores, said)
    _decide(model.graph, output, said)
    macs = count_macs(model, {"frames": sounds["silence"]})
    return model, replace(spec, provenance=replace(spec.provenance, macs=macs))


def _spec(said: Contract, name: str, window_frames: int, precision: str) -> ModelSpec:
    return ModelSpec(
        name=name,
        labels=said.labels,
        frontend=said.frontend,
        window_frames=window_frames,
        column_stride=0,
        receptive_field=0,
        n_columns=0,
        n_channels=0,
        kept_frames=0,
        caches=(),
        scores=SCORES[said.scores][0],
        temperature=said.temperature,
        thresholds=said.thresholds,
        unknown=None,
        provenance=Provenance(
            architecture=THIRD_PARTY,
            dataset=said.dataset,
            train_folds=(),
            test_fold=None,
            seed=0,
            epochs=0,
            git_revision="unknown",
            precision=precision,
            macs=0,
            accuracy=said.accuracy,
        ),
        licence=said.licence,
        graph_bytes=0,
        graph_sha256="",
    )


def _the_input(graph: onnx.GraphProto, name: str | None) -> onnx.ValueInfoProto:
    """The one input that is not a weight. Raises ContractError."""
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    names = ", ".join(value.name for value in inputs)
    if len(inputs) != 1:
        raise ContractError(
            f"it has {len(inputs)} inputs, {names}; allowed: one", remedy="export it with constants for the others"
        )
    if name not in (None, names):
        raise ContractError(f"it has no input {name}; it has: {names}", remedy="correct the contract's input")
    if inputs[0].type.tensor_type.elem_type not in FLOATS:
        number = inputs[0].type.tensor_type.elem_type
        kind = {code: kind for kind, code in TensorProto.DataType.items()}.get(number, number)
        raise ContractError(f"input {names} is of type {kind}; allowed: float", remedy="export it with float input")
    return inputs[0]


def _the_output(graph: onnx.GraphProto, name: str | None) -> onnx.ValueInfoProto:
    """The output with the scores. Raises ContractError."""
    floats = [value for value in graph.output if value.type.tensor_type.elem_type in FLOATS]
    names = ", ".join(value.name for value in floats)
    if name is None and len(floats) != 1:
        raise ContractError(
            f"it has {len(floats)} outputs that may be the scores: {names or 'none'}", remedy="name one as output"
        )
    if not (found := [value for value in floats if name in (None, value.name)]):
        raise ContractError(
            f"it has no output {name} of floats; it has: {names or 'none'}", remedy="correct the contract's output"
        )
    return found[0]


def _window_frames(source: onnx.ValueInfoProto, said: Contract) -> int:
    """Frames of a window, of the graph or of the contract, after a look at the other axes. Raises ContractError."""
    shape = source.type.tensor_type.shape
    dims = [dim.dim_value or None for dim in shape.dim] if source.type.tensor_type.HasField("shape") else None
    fixed = dict(zip(said.axes, dims or [None] * len(said.axes), strict=False))
    if dims is not None and len(dims) != len(said.layout):
        raise ContractError(
            f"input {source.name} has {len(dims)} axes, {dims}; layout {said.layout} has {len(said.layout)}",
            remedy="correct the contract's layout",
        )
    for axis, size in said.sizes.items():
        if fixed.get(axis) not in (None, size):
            raise ContractError(
                f"axis {axis} of input {source.name} is {fixed[axis]}; by the contract it is {size}",
                remedy="correct the contract's layout or front end",
            )
    if fixed["T"] is None and said.window_frames is None:
        raise ContractError(
            f"input {source.name} leaves the length of a window open", remedy="give window_frames in the contract"
        )
    if None not in (fixed["T"], said.window_frames) and fixed["T"] != said.window_frames:
        raise ContractError(
            f"window_frames is {said.window_frames}; input {source.name} has {fixed['T']}", remedy="leave it out"
        )
    return fixed["T"] or said.window_frames


def _feed(graph: onnx.GraphProto, source: onnx.ValueInfoProto, said: Contract, window_frames: int) -> None:
    """Put ``frames`` [1, channels, n_mels, window_frames] before the graph's own input, whose batch becomes 1."""
    sizes = said.sizes | {"T": window_frames}
    order = [axis for axis in AXES if axis not in said.axes] + list(
        said.axes
    )  # axes that the input does not have are of length 1
    name, kind = PREFIX + source.name, source.type.tensor_type.elem_type
    nodes = [
        helper.make_node("Transpose", ["frames"], ["ordered"], "order", perm=[AXES.index(axis) for axis in order]),
        *_reshape("ordered", "shaped", [sizes[axis] for axis in said.axes]),
        helper.make_node("Cast", ["shaped"], [name], "cast", to=kind),
    ]
    _replace(graph.node, [*nodes, *graph.node])
    others = [value for value in graph.input if value.name != name]  # weights, in files of old
    ours = helper.make_tensor_value_info("frames", TensorProto.FLOAT, [sizes[axis] for axis in AXES])
    _replace(graph.input, [ours, *others])
    del graph.value_info[:]  # the shapes of another batch


def _decide(graph: onnx.GraphProto, name: str, said: Contract) -> None:
    """Make ``probs`` [1, K] of the graph's output ``name``, and drop its others."""
    shape, (_, operator) = [1, len(said.labels)], SCORES[said.scores]
    last = "scores" if operator else "probs"
    graph.node.extend([*_reshape(name, "raw", shape), helper.make_node("Cast", ["raw"], [last], to=TensorProto.FLOAT)])
    if operator:
        if said.temperature != 1:
            graph.initializer.append(helper.make_tensor("temperature", TensorProto.FLOAT, [], [said.temperature]))
            graph.node.append(helper.make_node("Div", [last, "temperature"], ["calibrated"], "calibrate"))
            last = "calibrated"
        axis = {"axis": 1} if operator == "Softmax" else {}
        graph.node.append(helper.make_node(operator, [last], ["probs"], "scores", **axis))
    _replace(graph.output, [helper.make_tensor_value_info("probs", TensorProto.FLOAT, shape)])


def _reshape(source: str, target: str, shape: list[int]) -> list[onnx.NodeProto]:
    value = helper.make_tensor(f"{target}_shape", TensorProto.INT64, [len(shape)], shape)
    return [
        helper.make_node("Constant", [], [value.name], value.name, value=value),
        helper.make_node("Reshape", [source, value.name], [target], target),
    ]


def _replace(field: Any, values: Sequence[Any]) -> None:
    """The entries of a repeated field."""
    del field[:]
    field.extend(values)


def _sounds(spec: ModelSpec) -> dict[str, F32]:
    """Frames [1, channels, n_mels, window_frames] of what a model must have scores for."""
    length, f = spec.window_samples, spec.frontend
    noise = np.random.default_rng(0).integers(-32768, 32767, length, np.int16)
    sounds = {"a chirp": golden_signal(f.sample_rate), "silence": np.zeros(1, np.int16), "noise": noise}
    front_end = make_frontend(f)
    return {
        what: np.array(front_end(golden_samples(pcm, length, spec))[None], order="C") for what, pcm in sounds.items()
    }


def _check_scores(name: str, found: Mapping[str, F32], said: Contract) -> None:
    """One finite score for each label, and a probability where it is said to be one. Raises ContractError."""
    n_labels, shape = len(said.labels), next(iter(found.values())).shape
    long = [size for size in shape if size != 1]
    if len(long) > 1 or math.prod(shape) != n_labels:
        raise ContractError(
            f"output {name} is {list(shape)} for one window; the contract has {n_labels} labels",
            remedy="correct the labels, or name another output",
        )
    for what, scores in found.items():
        if not np.isfinite(scores).all():
            raise ContractError(f"output {name} is not finite for {what}", remedy="repair the model")
    everything = np.stack([scores.ravel() for scores in found.values()])
    low, high = float(everything.min()), float(everything.max())
    in_range = low >= -TOLERANCE and high <= 1 + TOLERANCE
    off = float(np.abs(everything.sum(axis=1) - 1).max()) if n_labels > 1 else 0.0
    wrong = {
        "probabilities": (not in_range or off > INT8_TOLERANCE, "which do not sum to 1"),
        "sigmoid probabilities": (not in_range, "which are no probabilities"),
        "logits": (n_labels > 1 and in_range and off <= TOLERANCE, "which are probabilities already: they sum to 1"),
    }
    holds, why = wrong.get(said.scores, (False, ""))
    if holds:
        raise ContractError(
            f"scores is {said.scores!r}; output {name} gives {low:.3g} to {high:.3g}, {why}",
            remedy=f"correct scores; allowed: {', '.join(SCORES)}",
        )


def _precision(graph: onnx.GraphProto) -> str:
    if any(node.op_type in QUANTIZED for node in graph.node):
        return "int8"
    return "fp16" if any(tensor.data_type == TensorProto.FLOAT16 for tensor in graph.initializer) else "fp32"


if __name__ == "__main__":
    main(*sys.argv[1:])
