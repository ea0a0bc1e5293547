"""A model file, proven whole before onnxruntime sees any of it.

The file is one ONNX message, ``ModelProto``, whose last field is the contract: JSON under ``METADATA_KEY`` in
``metadata_props``. All that stands before it is the graph, and the contract has its length and its digest.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from edge.config import METADATA_KEY, ModelSpec
from edge.errors import ContractError

MAX_BYTES = 1 << 30  # of a file: more than twice the largest network that we train, wav2vec 2.0 base in float32
MAX_CONTRACT_BYTES = 4 << 20  # golden vectors of a stereo waveform at the highest rate take 2.6 MB
MAX_FIELDS = 1000  # of the model itself, which has about fifteen: what has millions is something else

# Numbers of fields, from onnx.proto.
MODEL_GRAPH, MODEL_METADATA, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 14, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE_INITIALIZER = 1, 5, 15
NODE_OP_TYPE, NODE_ATTRIBUTE = 4, 5
ATTRIBUTE_TENSOR, ATTRIBUTE_GRAPH, ATTRIBUTE_TENSORS, ATTRIBUTE_GRAPHS = 5, 6, 10, 11
ATTRIBUTE_SPARSE_TENSOR, ATTRIBUTE_SPARSE_TENSORS = 22, 23
SPARSE_VALUES, SPARSE_INDICES = 1, 2
TENSOR_NAME, TENSOR_EXTERNAL_DATA, TENSOR_DATA_LOCATION = 8, 13, 14
ENTRY_KEY, ENTRY_VALUE = 1, 2


def read_model(path: Path) -> tuple[bytes, ModelSpec]:
    """The graph, an ONNX model, and the contract of the file at ``path``.

    Raises ContractError when it is not whole, not ours, or reaches out of itself.
    """
    content = _read(path)
    try:
        fields = list(islice(_fields(content, 0, len(content)), MAX_FIELDS))
    except _MalformedError as error:
        raise ContractError(
            f"{path} is not an ONNX model, or damaged: its {len(content)} bytes make no sense from byte {error.at}",
            remedy="copy or export it again",
        ) from None
    spec = _read_spec(path, content, fields)
    graph = content[: spec.graph_bytes]
    if hashlib.sha256(graph).hexdigest() != spec.graph_sha256:
        raise ContractError(
            f"{path} is damaged: its graph or weights are not those of its contract (graph_sha256)",
            remedy="copy the file again, or export it again",
        )
    _check_graph(path, graph)
    return graph, spec


def _read(path: Path) -> bytes:
    """The file's content. What is no file is refused unopened: a pipe would block, and a device might do anything."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or a device"
            raise ContractError(f"model {path} is {kind}, no file", remedy="check --model")
        if status.st_size > MAX_BYTES:
            raise ContractError(
                f"model {path} has {status.st_size} bytes; allowed: {MAX_BYTES}",
                remedy="check --model, or export it again",
            )
        with path.open("rb") as file:
            return file.read(status.st_size)
    except FileNotFoundError:
        raise ContractError(f"model {path} does not exist", remedy="check --model") from None
    except (OSError, ValueError, MemoryError) as error:
        why = getattr(error, "strerror", None) or str(error) or "not enough memory"
        raise ContractError(f"model {path} cannot be read: {why}", remedy="check --model") from None


def _read_spec(path: Path, content: bytes, fields: list[_Field]) -> ModelSpec:
    """The contract, which must be the file's last field and speak of all that is before it."""
    number, start, begin, end = fields[-1] if fields else (0, 0, 0, 0)
    if number != MODEL_METADATA or (text := _contract(content, begin, end)) is None:
        raise ContractError(
            f"{path} is an ONNX model without a contract of edge-listen at its end",
            remedy="export it with python -m export",
        )
    if len(text) > MAX_CONTRACT_BYTES:
        raise ContractError(
            f"{path} has a contract of {len(text)} bytes; allowed: {MAX_CONTRACT_BYTES}", remedy="export it again"
        )
    try:
        spec = ModelSpec.from_json(text.decode())
    except UnicodeDecodeError:
        raise ContractError(f"{path} has a contract that is not UTF-8", remedy="export it again") from None
    except ContractError as error:
        raise ContractError(f"{path}: {error.what}", remedy=error.remedy) from None
    if spec.graph_bytes != start:
        raise ContractError(
            f"{path} is damaged: {start} bytes stand before its contract, whose graph_bytes is {spec.graph_bytes}",
            remedy="copy the file again, or export it again",
        )
    return spec


def _contract(content: bytes, begin: int, end: int) -> bytes | None:
    """The value of the metadata entry content[begin:end], if its key is ours."""
    try:
        parts = {number: content[at:to] for number, _, at, to in _fields(content, begin, end)}
    except _MalformedError:
        return None
    return parts.get(ENTRY_VALUE) if parts.get(ENTRY_KEY) == METADATA_KEY.encode() else None


# Protobuf on the wire. The package protobuf comes with onnxruntime, but its import alone takes 10 to 24 ms and 2.7 MB
# (a core of a server, five runs) where a Classifier() takes 22 to 28 ms; the descriptors of ONNX would come on top.
# What follows takes half a millisecond for the bundled model.

_Field = tuple[int, int, int, int]  # its number, where its tag begins, where its value begins and ends


class _MalformedError(Exception):
    """Bytes that are no protobuf message."""

    def __init__(self, at: int) -> None:
        super().__init__(at)
        self.at = at


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A number of up to 64 bits, seven in a byte, the lowest first; and where it ends."""
    if at < end and (value := content[at]) < 0x80:
        return value, at + 1
    value = 0
    for i, byte in enumerate(content[at : min(at + 10, end)]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise _MalformedError(at)


def _fields(content: bytes, begin: int, end: int) -> Iterator[_Field]:
    """The fields of the message content[begin:end]. Raises _MalformedError."""
    at = begin
    while at < end:
        start = at
        tag, at = _varint(content, at, end)
        wire = tag & 7
        if wire == 2:  # length-delimited: text, bytes, a message
            length, at = _varint(content, at, end)
        elif wire == 0:
            length = _varint(content, at, end)[1] - at
        elif wire in (1, 5):  # 64 and 32 bits
            length = 8 if wire == 1 else 4
        else:  # groups, which ONNX does not have
            raise _MalformedError(start)
        if not 1 << 3 <= tag < 1 << 32 or length > end - at:
            raise _MalformedError(start)
        yield tag >> 3, start, at, at + length
        at += length


def _check_graph(path: Path, graph: bytes) -> None:
    """Refuse what no export of ours has and what would reach out of the file or run without end."""
    try:
        what = next(_forbidden(graph), None)
    except _MalformedError as error:
        what = f"makes no sense at byte {error.at}"
    if what:
        raise ContractError(f"{path}: its graph {what}", remedy="export it with python -m export")


def _forbidden(graph: bytes) -> Iterator[str]:
    for number, _, begin, end in _fields(graph, 0, len(graph)):
        if number == MODEL_GRAPH:
            yield from _forbidden_in_graph(graph, begin, end)
        elif number in (MODEL_FUNCTIONS, MODEL_TRAINING):
            yield "has functions or training steps; allowed: operators of ONNX alone"


def _forbidden_in_graph(graph: bytes, begin: int, end: int) -> Iterator[str]:
    for number, _, at, to in _fields(graph, begin, end):
        if number == GRAPH_INITIALIZER:
            yield from _forbidden_in_tensor(graph, at, to)
        elif number == GRAPH_SPARSE_INITIALIZER:
            yield from _forbidden_in_sparse(graph, at, to)
        elif number == GRAPH_NODE:
            yield from _forbidden_in_node(graph, at, to)


def _forbidden_in_node(graph: bytes, begin: int, end: int) -> Iterator[str]:
    attributes = [(at, to) for number, _, at, to in _fields(graph, begin, end) if number == NODE_ATTRIBUTE]
    for attribute in attributes:
        for number, _, at, to in _fields(graph, *attribute):
            if number in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                yield from _forbidden_in_tensor(graph, at, to)
            elif number in (ATTRIBUTE_SPARSE_TENSOR, ATTRIBUTE_SPARSE_TENSORS):
                yield from _forbidden_in_sparse(graph, at, to)
            elif number in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS):  # a Loop of a damaged condition never ends
                yield f"has control flow, {_text(graph, begin, end, NODE_OP_TYPE)!r}; allowed: none"


def _forbidden_in_sparse(graph: bytes, begin: int, end: int) -> Iterator[str]:
    for number, _, at, to in _fields(graph, begin, end):
        if number in (SPARSE_VALUES, SPARSE_INDICES):
            yield from _forbidden_in_tensor(graph, at, to)


def _forbidden_in_tensor(graph: bytes, begin: int, end: int) -> Iterator[str]:
    """External data: onnxruntime would open the path that the tensor names, relative to wherever it runs."""
    for number, _, at, to in _fields(graph, begin, end):
        elsewhere = number == TENSOR_DATA_LOCATION and any(byte & 0x7F for byte in graph[at:to])
        if elsewhere or number == TENSOR_EXTERNAL_DATA:
            yield f"keeps the weights {_text(graph, begin, end, TENSOR_NAME)!r} outside of the file; allowed: none"


def _text(graph: bytes, begin: int, end: int, wanted: int) -> str:
    """A text field of a message, for people."""
    found = [graph[at:to] for number, _, at, to in _fields(graph, begin, end) if number == wanted]
    return found[-1][:100].decode(errors="replace") if found else ""
