"""Damaged model files, each made of a seed alone, and a worker that loads them under watch: see test_fuzz.py.

``python -W error -m tests.mutants FIRST LAST`` loads the mutants FIRST to LAST - 1 in the folder where it runs, and
prints a JSON line before and after each, so that one that kills the process is known.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import random
import resource
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from edge.classifier import Classifier
from edge.config import DIGEST, METADATA_KEY, ModelSpec, digest_of
from edge.errors import ContractError
from edge.models import BUNDLED

NAMES = ("edge-listen-tiny.int8.onnx", "edge-listen-tiny.onnx", "edge-listen.int8.onnx", "edge-listen.onnx")
MUTANT = "mutant.onnx"
SECONDS = 60.0  # for one mutant; one that pads a convolution to gigabytes takes six of a quiet processor
MEMORY = 4 << 30  # bytes of address space
INTERESTING = (
    0,
    1,
    -1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    65535,
    1 << 20,
    (1 << 31) - 1,
    -(1 << 31),
    1 << 40,
    (1 << 63) - 1,
)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3e38, float("nan"), float("inf"), float("-inf"))

OPERATORS = sorted({schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain})

Random = random.Random


@functools.cache
def bundled(index: int) -> tuple[bytes, bytes]:
    """A bundled file: its graph, and its contract with the metadata around it."""
    content = BUNDLED.with_name(NAMES[index]).read_bytes()
    size = spec_of(content).graph_bytes
    return content[:size], content[size:]


def contract(index: int) -> ModelSpec:
    """Its contract."""
    return spec_of(bundled(index)[1])


def spec_of(content: bytes) -> ModelSpec:
    """Read by onnx and not by what is tested."""
    return ModelSpec.from_json(onnx.ModelProto.FromString(content).metadata_props[0].value)


def with_contract(graph: bytes, text: str | bytes) -> bytes:
    """A file of any graph with any text as its contract."""
    text = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    entry = field(1, METADATA_KEY.encode()) + field(2, text)
    return graph + field(14, entry)


def signed(graph: bytes, spec: ModelSpec) -> bytes:
    """A file whose contract has the right length and digest, whatever the graph is."""
    digest = hashlib.sha256(graph).hexdigest()
    return with_contract(graph, dataclasses.replace(spec, graph_bytes=len(graph), graph_sha256=digest).to_json())


def field(number: int, value: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return varint(number << 3 | 2) + varint(len(value)) + value


def varint(value: int) -> bytes:
    """A protobuf varint."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def mutant(seed: int) -> tuple[str, bytes]:
    """The kind and the content of the mutant of ``seed``: three of four as they come, the fourth signed again."""
    rng = Random(seed)
    kinds = SIGNED if seed % 4 == 3 else RAW
    kind = rng.choice(kinds)
    return kind.__name__, kind(rng)


def any_file(rng: Random) -> bytes:
    """Of the small models more often: they load faster."""
    return b"".join(bundled(pick(rng)))


def pick(rng: Random) -> int:
    """The index of a bundled model."""
    return rng.choices(range(len(NAMES)), weights=(6, 3, 1, 1))[0]


# As they come.


def bits(rng: Random) -> bytes:
    """One to thirty bits flipped."""
    return flip(rng, any_file(rng))


def flip(rng: Random, content: bytes) -> bytes:
    """The same, of any content; half of the time all of them near to each other."""
    data = bytearray(content)
    centre = rng.randrange(len(data))
    near = rng.random() < 0.5
    for _ in range(rng.choice((1, 1, 2, 5, 30))):
        at = (centre + rng.randrange(200)) % len(data) if near else rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def run_of_bytes(rng: Random) -> bytes:
    """A run overwritten with zeros, ones or noise."""
    data = bytearray(any_file(rng))
    at, size = rng.randrange(len(data)), rng.choice((1, 4, 16, 512, 20_000))
    data[at : at + size] = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return bytes(data)


def truncation(rng: Random) -> bytes:
    """Cut short, often within or just before the contract, or cut at the front."""
    data = any_file(rng)
    at = rng.choice((rng.randrange(len(data)), len(data) - rng.randrange(30_000), rng.randrange(20)))
    return data[at:] if rng.random() < 0.2 else data[:at]


def insertion(rng: Random) -> bytes:
    """Bytes too many, or a piece taken out."""
    data = any_file(rng)
    at, size = rng.choice((0, rng.randrange(len(data)), len(data))), rng.choice((1, 2, 8, 1000))
    return data[:at] + rng.randbytes(size) + data[at:] if rng.random() < 0.7 else data[:at] + data[at + size :]


def splice(rng: Random) -> bytes:
    """The head of one file and the tail of another, or the graph of one with the contract of the other."""
    one, other = pick(rng), pick(rng)
    if rng.random() < 0.3:
        return bundled(one)[0] + bundled(other)[1]
    head, tail = b"".join(bundled(one)), b"".join(bundled(other))
    return head[: rng.randrange(len(head))] + tail[rng.randrange(len(tail)) :]


def appended(rng: Random) -> bytes:
    """Something behind the contract, which protobuf would merge into the model."""
    more = rng.choice(
        (bundled(pick(rng))[0], field(7, field(2, b"other")), field(14, field(1, b"x")), varint(8) + b"\x08")
    )
    return any_file(rng) + more


def changed_fields(rng: Random) -> bytes:
    """Fields of the graph changed, the contract as it was."""
    index = pick(rng)
    return mutate_graph(rng, index) + bundled(index)[1]


def changed_contract(rng: Random) -> bytes:
    """Values of the contract changed, removed, doubled or of another type."""
    index = pick(rng)
    data = json.loads(contract(index).to_json())
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        mutate_json(rng, data)
    if isinstance(data, dict) and rng.random() < 0.5:  # with the digest of what it has become
        data.pop(DIGEST, None)
        data[DIGEST] = digest_of(data)
    return with_contract(bundled(index)[0], json.dumps(data))


def broken_json(rng: Random) -> bytes:
    """A contract that is no JSON, or is a strange one."""
    index = pick(rng)
    text = contract(index).to_json().encode()
    strange = (
        b"[" * 100_000,
        b"{}",
        b"null",
        b"1" * 5000,
        b"\xff\xfe",
        b"",
        b'"\\ud800"',
        b" " * 5_000_000,
        flip(rng, text),
    )
    return with_contract(bundled(index)[0], rng.choice((*strange, *(flip(rng, text) for _ in strange))))


# Signed again: the graph is what its contract says, and onnxruntime sees it.


def signed_fields(rng: Random) -> bytes:
    """Fields of the graph changed: shapes, types, attributes, names, nodes."""
    index = pick(rng)
    return signed(mutate_graph(rng, index), contract(index))


def signed_bits(rng: Random) -> bytes:
    """Bits of the graph flipped."""
    index = pick(rng)
    return signed(flip(rng, bundled(index)[0]), contract(index))


def signed_structure(rng: Random) -> bytes:
    """Bits flipped among names, shapes and attributes, not in the weights."""
    index = pick(rng)
    model = parsed(index)
    weights = [tensor.raw_data for tensor in model.graph.initializer]
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(flip(rng, serialised(parsed(index, bare=True))))
    except Exception:  # no message any more: signed_bits has enough of those
        return signed(flip(rng, bundled(index)[0]), contract(index))
    for tensor, raw in zip(model.graph.initializer, weights, strict=False):
        tensor.raw_data = raw
    return signed(serialised(model), contract(index))


def signed_weights(rng: Random) -> bytes:
    """Weights that are not numbers, or other weights."""
    index = pick(rng)
    model = parsed(index)
    tensor = rng.choice([t for t in model.graph.initializer if t.raw_data])
    data = bytearray(tensor.raw_data)
    size = 4 if tensor.data_type == onnx.TensorProto.FLOAT else 1
    value = struct.pack("<f", rng.choice(FLOATS))[-size:]
    for _ in range(rng.choice((1, 1, 10, 1000))):
        at = rng.randrange(max(1, len(data) // size)) * size
        data[at : at + size] = value
    tensor.raw_data = bytes(data)
    return signed(serialised(model), contract(index))


def signed_operators(rng: Random) -> bytes:
    """Some operators exchanged for any others of ONNX, with the attributes and inputs of what they were."""
    index = pick(rng)
    model = parsed(index)
    for node in rng.sample(model.graph.node, rng.choice((1, 1, 2))):
        node.op_type = rng.choice(OPERATORS)
        while rng.random() < 0.3:
            node.input.append(rng.choice(model.graph.initializer).name)
    return signed(serialised(model), contract(index))


def signed_parameters(rng: Random) -> bytes:
    """Attributes and small integer tensors (axes, strides, groups, places of slices) with other values."""
    index = pick(rng)
    model = parsed(index)
    for _ in range(rng.choice((1, 2, 5))):
        attributes = [
            a for node in model.graph.node for a in node.attribute if a.ints or a.HasField("i") or a.HasField("t")
        ]
        tensors = [t for t in model.graph.initializer if len(t.raw_data) <= 16]
        chosen = rng.choice([*attributes, *tensors, *(t for a in attributes if a.HasField("t") for t in [a.t])])
        if isinstance(chosen, onnx.AttributeProto):
            if chosen.ints:
                chosen.ints[rng.randrange(len(chosen.ints))] = rng.choice(INTERESTING)
            else:
                chosen.i = rng.choice(INTERESTING)
        elif chosen.data_type == onnx.TensorProto.INT64 and chosen.raw_data:
            chosen.raw_data = struct.pack("<q", rng.choice(INTERESTING)) + chosen.raw_data[8:]
        else:
            mutate_message(rng, chosen)
    return signed(serialised(model), contract(index))


RAW: tuple[Callable[[Random], bytes], ...] = (
    bits, run_of_bytes, truncation, insertion, splice, appended, changed_fields, changed_contract, changed_contract,
    broken_json,
)  # fmt: skip
SIGNED: tuple[Callable[[Random], bytes], ...] = (
    signed_fields, signed_bits, signed_structure, signed_weights, signed_operators, signed_operators, signed_parameters,
    signed_parameters,
)  # fmt: skip


def parsed(index: int, *, bare: bool = False) -> onnx.ModelProto:
    """The model as a message of its own; ``bare`` of its weights."""
    model = onnx.ModelProto.FromString(bundled(index)[0])
    for tensor in model.graph.initializer if bare else ():
        tensor.ClearField("raw_data")
    return model


def serialised(model: onnx.ModelProto) -> bytes:
    """As export writes it."""
    return model.SerializeToString(deterministic=True)


def mutate_graph(rng: Random, index: int) -> bytes:
    """One to five fields of the graph changed."""
    model = parsed(index)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        mutate_message(rng, model)
    return serialised(model)


def mutate_message(rng: Random, message) -> None:
    """Change one field, found by going down from ``message`` at random."""
    while fields := [d for d in message.DESCRIPTOR.fields if rng.random() < 0.05 or present(message, d)]:
        chosen = rng.choice(fields)
        value = getattr(message, chosen.name)
        if is_repeated(chosen):
            if not value or rng.random() < 0.1:
                return mutate_repeated(rng, value, chosen)
            if chosen.message_type is None:
                at = rng.randrange(len(value))
                value[at] = other(rng, chosen, value[at])
                return None
            message = rng.choice(value)
        elif chosen.message_type is not None:
            if rng.random() < 0.05:
                return message.ClearField(chosen.name)
            message = value
        elif rng.random() < 0.1:
            return message.ClearField(chosen.name)
        else:
            return setattr(message, chosen.name, other(rng, chosen, value))
    return None


def present(message, descriptor) -> bool:
    """Whether a field is set."""
    return bool(getattr(message, descriptor.name)) if is_repeated(descriptor) else message.HasField(descriptor.name)


def is_repeated(descriptor) -> bool:
    """Whether a field is a list."""
    return (
        descriptor.is_repeated if hasattr(descriptor, "is_repeated") else descriptor.label == descriptor.LABEL_REPEATED
    )


def mutate_repeated(rng: Random, values, descriptor) -> None:
    """Remove, double, swap or add an element."""
    if not values:
        if descriptor.message_type is not None:
            values.add()
        else:
            values.append(other(rng, descriptor, None))
        return
    one, two = rng.randrange(len(values)), rng.randrange(len(values))
    match rng.choice(("remove", "double", "swap")):
        case "remove":
            del values[one]
        case "double":
            if descriptor.message_type is not None:
                values.add().CopyFrom(values[one])
            else:
                values.append(values[one])
        case "swap" if descriptor.message_type is None:
            values[one], values[two] = values[two], values[one]
        case "swap":
            kept = type(values[one]).FromString(values[one].SerializeToString())
            values[one].CopyFrom(values[two])
            values[two].CopyFrom(kept)


def other(rng: Random, descriptor, value):
    """Another value of the field's type."""
    kind = descriptor.cpp_type
    if kind in (descriptor.CPPTYPE_FLOAT, descriptor.CPPTYPE_DOUBLE):
        return rng.choice(FLOATS)
    if kind == descriptor.CPPTYPE_ENUM:
        return rng.choice([v.number for v in descriptor.enum_type.values])
    if kind == descriptor.CPPTYPE_STRING:
        if isinstance(value, bytes) and value:
            return rng.choice((b"", flip(rng, value), value[: rng.randrange(len(value))], value * 2))
        if descriptor.type == descriptor.TYPE_BYTES:
            return rng.randbytes(4)
        operators = (
            "Conv",
            "Slice",
            "Loop",
            "Gemm",
            "Resize",
            "ConstantOfShape",
            "Expand",
            "NoSuchOperator",
            "LSTM",
            "Reshape",
        )
        return rng.choice(
            ("", "x", "frames", "ring", "probs", "../x", "\n", "é" * 1000, (value or "") + "x", *operators)
        )
    bits = 32 if kind in (descriptor.CPPTYPE_INT32, descriptor.CPPTYPE_UINT32) else 64
    unsigned = kind in (descriptor.CPPTYPE_UINT32, descriptor.CPPTYPE_UINT64)
    low, high = (0, (1 << bits) - 1) if unsigned else (-(1 << bits - 1), (1 << bits - 1) - 1)
    near = [(value or 0) + step for step in (-1, 1)]
    return max(low, min(high, rng.choice((*near, *near, rng.choice(INTERESTING)))))


def mutate_json(rng: Random, data) -> None:
    """Change one value, found by going down from ``data`` at random."""
    while True:
        keys = list(data) if isinstance(data, dict) else list(range(len(data)))
        if not keys:
            return
        key = rng.choice(keys)
        if isinstance(data[key], dict | list) and data[key] and rng.random() < 0.9:
            data = data[key]
            continue
        value = data[key]
        match rng.choice(("remove", "number", "number", "number", "text", "type")):
            case "remove":
                del data[key]
            case "number" if isinstance(value, int | float):
                near = (value + 1, value - 1, value * 2, -value, value / 2)
                data[key] = rng.choice((*near, *near, *INTERESTING, *FLOATS, 1e308, 10**400))
            case "text" if isinstance(value, str) and value:
                at = rng.randrange(len(value))
                data[key] = rng.choice(
                    (value[:at] + rng.choice("Az\n\x1b\ud800é\0") + value[at + 1 :], value * 3, value[:at])
                )
            case _:
                data[key] = rng.choice((None, True, "", "x" * 10_000, [], {}, [[[]]], 0, 1.5, float("nan")))
        return


# The worker.


def load(path: Path) -> str:
    """What comes of a mutant: "proven", "refused: …", or "raised …", which must never be."""
    try:
        Classifier(path)
    except ContractError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"raised {type(error).__name__}: {error}"
    return "proven"


def outcomes(first: int, last: int) -> Iterator[dict[str, object]]:
    """Before each mutant its seed; after it also its kind, its digest and what came of it."""
    for seed in range(first, last):
        kind, content = mutant(seed)
        Path(MUTANT).write_bytes(content)
        yield {"seed": seed, "kind": kind}
        signal.setitimer(signal.ITIMER_REAL, SECONDS)  # a hang ends the process, within onnxruntime as well
        outcome = load(Path(MUTANT))
        signal.setitimer(signal.ITIMER_REAL, 0)
        if Path(MUTANT).read_bytes() != content:
            outcome = "raised: the file was changed"
        yield {"seed": seed, "kind": kind, "outcome": outcome}


FORBIDDEN = {
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "subprocess.Popen",
    "socket.connect",
}


def forbid_writing() -> None:
    """From now on, whoever opens anything but the mutant to write, or changes a folder, gets a SystemExit.

    What onnxruntime writes is not seen here: the listing of the folder is for that.
    """

    def hook(event: str, arguments: tuple) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & 0o1103 and path != MUTANT:  # O_WRONLY, O_RDWR, O_CREAT, O_TRUNC
                raise SystemExit(f"opened {path!r} to write")
        elif event in FORBIDDEN:
            raise SystemExit(f"{event} {arguments!r}")

    sys.addaudithook(hook)


def main(first: int, last: int) -> None:
    """The worker."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for index in range(len(NAMES)):
        bundled(index)
    forbid_writing()
    for line in outcomes(first, last):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
