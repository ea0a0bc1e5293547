"""What is not whole, not ours or reaches out of the file is refused, in one line, before onnxruntime sees it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge import model_file
from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.errors import ContractError
from edge.model_file import _fields, _forbidden, _MalformedError, _varint, read_model
from edge.models import BUNDLED
from tests import mutants
from tests.conftest import FP32, ROOT

TINY = mutants.NAMES.index("edge-listen-tiny.onnx")


@pytest.fixture
def written(tmp_path):
    """A file of the given bytes."""

    def write(content: bytes) -> Path:
        path = tmp_path / "model.onnx"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def signed(written):
    """A file of the small fp32 model after a change, with the right length and digest."""

    def sign(change=lambda model: None, index=TINY) -> Path:
        model = mutants.parsed(index)
        change(model)
        return written(mutants.signed(mutants.serialised(model), mutants.contract(index)))

    return sign


@pytest.fixture
def no_onnxruntime(monkeypatch):
    """onnxruntime must not be asked."""

    def refuse(*arguments, **options):
        raise AssertionError("onnxruntime has seen the file")

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)


def assert_refused(path, match):
    with pytest.raises(ContractError, match=match) as error:
        Classifier(path)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert error.value.exit_code == 3


# The wire format.


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=3))
def test_varints_are_read_as_they_are_written(value, after):
    content = b"?" + mutants.varint(value) + after
    assert _varint(content, 1, len(content)) == (value, len(content) - len(after))


@pytest.mark.parametrize("content", [b"", b"\x80", b"\xff" * 9, b"\xff" * 10 + b"\x01"])
def test_varints_without_an_end(content):
    with pytest.raises(_MalformedError):
        _varint(content, 0, len(content))


@given(st.lists(st.tuples(st.integers(1, (1 << 29) - 1), st.binary(max_size=300)), max_size=5))
def test_fields_are_found_where_they_are(values):
    content = b"".join(mutants.field(number, value) for number, value in values)
    found = list(_fields(content, 0, len(content)))
    assert [(number, content[begin:end]) for number, _, begin, end in found] == values
    assert [start for _, start, _, _ in found[1:]] == [end for *_, end in found[:-1]]


def test_every_kind_of_value_is_passed_over():
    tensor = TensorProto(dims=[3, -1], data_type=1, float_data=[1.0], double_data=[2.0], int64_data=[5], name="w")
    content = helper.make_attribute("a", 1.5).SerializeToString() + tensor.SerializeToString()
    assert [number for number, *_ in _fields(content, 0, len(content))][-2:] == [8, 10]
    fixed = b"\x09" + bytes(8) + b"\x15" + bytes(4)
    assert [(number, end - begin) for number, _, begin, end in _fields(fixed, 0, len(fixed))] == [(1, 8), (2, 4)]


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00",  # field 0
        b"\x0b\x0c",  # a group
        b"\x0e",  # a kind of value that there is not
        b"\x0a\x05abcd",  # longer than the message
        b"\x09\x00",
        b"\x82\x80\x80\x80\x10\x00",  # a number of more than 29 bits, which other readers cut to one of fewer
    ],
)
def test_what_is_no_message(content):
    with pytest.raises(_MalformedError):
        list(_fields(content, 0, len(content)))


def test_the_numbers_of_the_fields_are_those_of_onnx():
    names = {
        "MODEL": (onnx.ModelProto, {"METADATA": "metadata_props", "TRAINING": "training_info"}),
        "GRAPH": (onnx.GraphProto, {}),
        "NODE": (onnx.NodeProto, {}),
        "ATTRIBUTE": (onnx.AttributeProto, {"TENSOR": "t", "GRAPH": "g"}),
        "SPARSE": (onnx.SparseTensorProto, {}),
        "TENSOR": (onnx.TensorProto, {}),
        "ENTRY": (onnx.StringStringEntryProto, {}),
    }
    constants = {k: v for k, v in vars(model_file).items() if k.split("_")[0] in names and isinstance(v, int)}
    assert len(constants) == 22
    for constant, number in constants.items():
        message, _, rest = constant.partition("_")
        cls, others = names[message]
        assert cls.DESCRIPTOR.fields_by_number[number].name == others.get(rest, rest.lower()), constant


def test_no_tensor_can_stand_where_it_is_not_looked_for():
    """Every way from the model down to a tensor, by the descriptors of onnx, ends in a refusal."""

    def ways(descriptor, way, seen):
        for field in descriptor.fields:
            inner = field.message_type
            if inner is None or inner.name in seen:
                continue
            if inner.name == "TensorProto":
                yield (*way, field)
            else:
                yield from ways(inner, (*way, field), {*seen, inner.name})

    external = TensorProto(data_location=TensorProto.EXTERNAL, name="w").SerializeToString()
    found = list(ways(onnx.ModelProto.DESCRIPTOR, (), {"ModelProto"}))
    assert len(found) > 8
    for way in found:
        content = external
        for field in reversed(way):
            content = mutants.field(field.number, content)
        assert next(_forbidden(content), None), [field.name for field in way]


# What is no file of a sensible size.


def test_an_oversized_file_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "huge.onnx"
    with path.open("wb") as file:
        file.truncate(model_file.MAX_BYTES + 1)  # a hole: it takes no disk
    monkeypatch.setattr(Path, "open", None)
    assert_refused(path, rf"has {model_file.MAX_BYTES + 1} bytes; allowed: {model_file.MAX_BYTES} \(")


def test_the_largest_file_is_still_read(written, monkeypatch):
    path = written(BUNDLED.read_bytes())
    monkeypatch.setattr(model_file, "MAX_BYTES", path.stat().st_size)
    assert read_model(path)[1].labels
    monkeypatch.setattr(model_file, "MAX_BYTES", path.stat().st_size - 1)
    assert_refused(path, "allowed")


def test_what_is_no_file_is_not_opened(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    monkeypatch.setattr(Path, "open", None)
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/zero")):
        assert_refused(path, "is a pipe or a device, no file")
    (tmp_path / "model.onnx").mkdir()
    assert_refused(tmp_path, "model.onnx is a folder, no file")


def test_paths_that_cannot_be(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in (tmp_path / "loop", Path("a\0b"), Path("x" * 300), BUNDLED / "inside"):
        assert_refused(path, "cannot be read")


# Where the contract stands, and what it speaks of.


def test_onnxruntime_sees_the_graph_alone(monkeypatch):
    seen = []
    session = onnxruntime.InferenceSession
    monkeypatch.setattr(
        onnxruntime, "InferenceSession", lambda content, *a, **k: seen.append(content) or session(content, *a, **k)
    )
    spec = Classifier(FP32).spec
    assert seen == [FP32.read_bytes()[: spec.graph_bytes]]
    assert not onnx.ModelProto.FromString(seen[0]).metadata_props


@pytest.mark.parametrize("cut", [0, 1, 7, 30, 1000, 100_000, -20_000, -10, -1])
def test_truncated_anywhere(written, no_onnxruntime, cut):
    assert_refused(written(BUNDLED.read_bytes()[:cut]), "not an ONNX model, or damaged|without a contract")


@pytest.mark.parametrize("graph", [b"", mutants.field(7, mutants.field(2, b"other"))])
@pytest.mark.parametrize("before", [True, False])
def test_fields_around_what_was_signed(written, no_onnxruntime, graph, before):
    """Protobuf would merge them into the model, and no digest has seen them."""
    content, more = FP32.read_bytes(), graph + b"\x08\x07"
    assert_refused(
        written(more + content if before else content + more), "graph_bytes|contract of edge-listen at its end"
    )


def test_two_contracts(written, no_onnxruntime):
    graph, contract = mutants.bundled(TINY)
    assert_refused(
        written(graph + contract + contract), r"damaged: \d+ bytes stand before its contract, whose graph_bytes is"
    )


def test_a_file_of_countless_small_fields(written, no_onnxruntime):
    assert_refused(written(b"\x08\x08" * 5_000_000 + FP32.read_bytes()), "without a contract")


@pytest.mark.parametrize(
    "entry", [b"", b"\xff", mutants.field(1, b"edge_listen"), mutants.field(1, b"x") + mutants.field(2, b"{}")]
)
def test_metadata_that_are_no_contract(written, no_onnxruntime, entry):
    assert_refused(written(mutants.bundled(TINY)[0] + mutants.field(14, entry)), "without a contract of edge-listen")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b" " * (model_file.MAX_CONTRACT_BYTES + 1), f"contract of {model_file.MAX_CONTRACT_BYTES + 1} bytes; allowed"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[" * 1_000_000, "not JSON: maximum recursion depth"),
        (b'{"schema_version": ' + b"9" * 4000 + b"}", "schema_version 9+…"),
        (b"7" * 10_000, "not JSON: Exceeds the limit"),
    ],
)
def test_texts_that_are_no_contract(written, no_onnxruntime, text, message):
    assert_refused(written(mutants.with_contract(mutants.bundled(TINY)[0], text)), message)


# What would reach out of the file, or not end, though it is signed.


def external(tensor, location="weights.bin"):
    """Of a tensor, its weights in another file."""
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
def test_external_weights(signed, no_onnxruntime, tmp_path, monkeypatch, location):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for folder in (tmp_path, tmp_path / "here"):
        (folder / "weights.bin").write_bytes(bytes(1 << 20))  # what onnxruntime might find
    path = signed(lambda model: external(model.graph.initializer[3], location))
    name = mutants.parsed(TINY).graph.initializer[3].name
    assert_refused(path, f"its graph keeps the weights '{name}' outside of the file; allowed: none")


@pytest.mark.parametrize("part", ["data_location", "external_data"])
def test_half_external_weights(signed, no_onnxruntime, part):
    def change(model):
        external(model.graph.initializer[0])
        model.graph.initializer[0].ClearField("external_data" if part == "data_location" else "data_location")

    assert_refused(signed(change), "outside of the file")


def constant(**options):
    return helper.make_node("Constant", [], ["unused"], **options)


@pytest.mark.parametrize(
    "attribute",
    ["value", "sparse_value", "a list of tensors", "a list of sparse tensors", "a sparse initializer", "a subgraph"],
)
def test_external_weights_deep_in_a_graph(signed, no_onnxruntime, attribute):
    tensor = TensorProto(name="far away", dims=[4], data_type=TensorProto.FLOAT)
    external(tensor)
    sparse = onnx.SparseTensorProto(values=tensor, dims=[8])

    def change(model):
        if attribute == "a sparse initializer":
            model.graph.sparse_initializer.append(sparse)
            return
        if attribute == "a subgraph":
            inner = helper.make_graph([constant(value=tensor)], "inner", [], [])
            model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner))
            return
        node = constant()
        match attribute:
            case "value":
                node.attribute.add(name="value", type=4).t.CopyFrom(tensor)
            case "sparse_value":
                node.attribute.add(name="value", type=11).sparse_tensor.CopyFrom(sparse)
            case "a list of tensors":
                node.attribute.add(name="value", type=9).tensors.append(tensor)
            case "a list of sparse tensors":
                node.attribute.add(name="value", type=12).sparse_tensors.append(sparse)
        model.graph.node.append(node)

    assert_refused(signed(change), "control flow, 'If'" if attribute == "a subgraph" else "weights 'far away' outside")


def test_weights_that_say_they_are_in_the_file(signed):
    def change(model):
        for tensor in model.graph.initializer:
            tensor.data_location = TensorProto.DEFAULT

    assert Classifier(signed(change)).labels


def test_functions_and_training(signed, no_onnxruntime):
    for change in (lambda model: model.functions.add(name="f"), lambda model: model.training_info.add()):
        assert_refused(signed(change), "functions or training steps")


def test_bytes_that_look_like_onnxruntime_s_own_format(written):
    """Its reader would see other things than were checked."""
    graph, spec = mutants.bundled(TINY)[0], mutants.contract(TINY)
    with_magic = mutants.field(6, b"aaORTM" + bytes(40)) + graph  # a documentation string, with the magic at its place
    assert with_magic[4:8] == b"ORTM"
    assert Classifier(written(mutants.signed(with_magic, spec))).labels


# What is signed and wrong all the same.


def weights(model, name):
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def gemm(model):
    """Weights and bias of the last layer."""
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    return [weights(model, name) for name in node.input[1:3]]


def with_values(tensor, change):
    values = numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def a_weight_of(value):
    def change(model):
        with_values(gemm(model)[0], lambda values: values.reshape(-1).__setitem__(5, value))

    return change


def one_output_of_nan(model):
    """Behind the softmax, so that the others are what they should be."""
    last = next(n for n in model.graph.node if "probs" in n.output)
    mask = np.zeros((1, 50), np.float32)
    mask[0, 7] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    rename(model, last, "probs", "clean")
    model.graph.node.append(helper.make_node("Add", ["clean", "mask"], ["probs"]))


def energy_of_nan(model):
    rename(model, next(n for n in model.graph.node if "energy" in n.output), "energy", "clean_energy")
    model.graph.initializer.append(numpy_helper.from_array(np.array([np.nan], np.float32), "nan"))
    model.graph.node.append(helper.make_node("Add", ["clean_energy", "nan"], ["energy"]))


def one_column_of_the_ring_of_nan(model):
    """The oldest one, which the next hop pushes out before the head sees it."""
    spec = mutants.contract(TINY)
    mask = np.zeros((1, spec.n_columns, spec.n_channels), np.float32)
    mask[0, 0, 3] = np.nan
    model.graph.initializer.append(numpy_helper.from_array(mask, "mask"))
    rename(model, next(n for n in model.graph.node if "ring_out" in n.output), "ring_out", "clean")
    model.graph.node.append(helper.make_node("Add", ["clean", "mask"], ["ring_out"]))


def rename(model, node, old, new):
    """The output of ``node``, and where it is read."""
    for one in model.graph.node:
        one.input[:] = [new if name == old else name for name in one.input]
    node.output[:] = [new if name == old else name for name in node.output]


def opset(version):
    def change(model):
        model.opset_import[0].version = version

    return change


def operator(name, domain=""):
    def change(model):
        model.graph.node[0].op_type, model.graph.node[0].domain = name, domain

    return change


def another_input(model):
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 65


def one_output_fewer(model):
    """A network that is sound in itself."""
    for tensor in gemm(model):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor)[:-1], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 49


def zeros_of(*shape):
    """A constant that would take gigabytes, added to the input."""

    def change(model):
        model.graph.initializer.append(numpy_helper.from_array(np.array(shape, np.int64), "shape"))
        model.graph.node.insert(0, helper.make_node("ConstantOfShape", ["shape"], ["zeros"]))
        model.graph.node.insert(1, helper.make_node("ReduceMax", ["zeros"], ["most"], keepdims=0))
        node = next(node for node in model.graph.node if "frames" in node.input)
        node.input[list(node.input).index("frames")] = "sum"
        model.graph.node.insert(2, helper.make_node("Add", ["frames", "most"], ["sum"]))

    return change


SIGNED = {
    "a later opset": (opset(999), "can be loaded: .*[Oo]pset"),
    "opset 0": (opset(0), "can be loaded"),
    "an unknown operator": (operator("NoSuchOperator"), "can be loaded: .*NoSuchOperator"),
    "an unknown domain": (operator("Conv", "no.such.domain"), "can be loaded: .*no.such.domain"),
    "another input shape": (another_input, "has inputs .*contract says|can be loaded"),
    "an output fewer": (one_output_fewer, r"has outputs .*\[1, 49\].*contract says"),
    "another weight shape": (lambda m: gemm(m)[0].dims.__setitem__(0, 49), "can be loaded"),
    "a weight of NaN": (a_weight_of(np.nan), "golden.probs is off by nan"),
    "a weight of infinity": (a_weight_of(np.inf), "golden.probs is off by"),
    "one output of NaN": (one_output_of_nan, "golden.probs is off by nan"),
    "an energy of NaN": (energy_of_nan, "its energy is nan"),
    "one value of the ring of NaN": (one_column_of_the_ring_of_nan, "keeps values that are not numbers"),
    "a constant of a petabyte": (zeros_of(1 << 24, 1 << 24), "can be loaded|fails its self-test"),
}


@pytest.mark.parametrize("kind", SIGNED)
def test_signed_and_wrong(signed, kind):
    change, message = SIGNED[kind]
    assert_refused(signed(change), message)


COMMANDS = {
    "listen": ("--duration", "0.1", "--input", ROOT / "examples" / "demo.ogg", "--model"),
    "classify": (ROOT / "examples" / "demo.ogg", "--model"),
    "inspect": (),
    "bench": ("--model",),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["an unknown operator", "one output of NaN", "external", "a pipe"])
def test_each_command_refuses_in_one_line(signed, tmp_path, command, kind):
    if kind == "a pipe":
        os.mkfifo(path := tmp_path / "pipe")
    else:
        path = signed(SIGNED[kind][0] if kind in SIGNED else lambda model: external(model.graph.initializer[0]))
    before = sorted(tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", f"edge.cli.{command}", *map(str, COMMANDS[command]), str(path)],
        capture_output=True, text=True, timeout=30, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 3, done.stderr
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_contract_that_is_read_is_the_one_that_was_written():
    message = onnx.load(BUNDLED)
    assert read_model(BUNDLED)[1] == ModelSpec.from_json(message.metadata_props[0].value)
