"""Networks of nobody, as small as can be: one layer, ONNX or TFLite, to be measured against."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper


def write_onnx(path, shape, *, inputs=1, dtype=TensorProto.FLOAT):
    """A sigmoid of the input, or a sum of ``inputs`` of them; a name in ``shape`` is a free axis."""
    names = [f"in{i}" for i in range(inputs)]
    nodes = [helper.make_node("Sum", names, ["sum"]), helper.make_node("Sigmoid", ["sum"], ["out"])]
    if dtype != TensorProto.FLOAT:
        nodes = [helper.make_node("Identity", names, ["out"])]
    values = [helper.make_tensor_value_info(name, dtype, shape) for name in names]
    graph = helper.make_graph(nodes, "peer", values, [helper.make_tensor_value_info("out", dtype, shape)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def write_failing_onnx(path):
    """It can be loaded, and fails at every call: its samples are to become 7 × 7."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Reshape", ["in", "shape"], ["out"])], "peer",
        [value("in", TensorProto.FLOAT, [1, "n"])], [value("out", TensorProto.FLOAT, ["a", "b"])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [7, 7])],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def write_ours(folder, n_frames=98):
    """A model of others with our contract: 98 frames of 10 ms, so a window of 0.995 s; a decision at any frame."""
    from export.wrap import wrap

    value = helper.make_tensor_value_info
    weights = np.random.default_rng(0).normal(0, 0.1, (40, 3)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "birds",
        [value("x", TensorProto.FLOAT, [1, n_frames, 40])], [value("y", TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(weights, "weights")],
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "birds.onnx"
    )
    (folder / "birds.toml").write_text(
        'labels = ["dog", "rain", "siren"]\nlayout = "BTM"\nscores = "logits"\nlicence = "MIT"\ndataset = "birds"\n'
        '[frontend]\nkind = "log_mel"\nsample_rate = 16000\nchannels = 1\nwin_length = 400\nhop_length = 160\n'
        'n_fft = 512\nn_mels = 40\nf_min = 50.0\nf_max = 7600.0\nwindow = "hann"\nmel_scale = "slaney"\n'
        'mel_norm = "slaney"\nlog_floor = 1e-5\nlog_mean = 0.0\nlog_std = 1.0\n'
    )
    return wrap(folder / "birds.onnx", folder / "birds.toml", folder / "wrapped")[0]


def write_tflite(path, shape, *, kind="FLOAT32", scale=None, zero_point=0, free=(), failing=False, inputs=(0,)):
    """A sigmoid of the input; quantised with a ``scale``; axes in ``free`` have no size. A ``failing`` one can be
    loaded, and gathers what is not there at every call.
    """
    flatbuffers = pytest.importorskip("flatbuffers", reason="ai-edge-litert is not installed")
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    from ai_edge_litert import schema_py_generated as schema

    def tensor(name, scale, zero_point):
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, list(shape), 0
        made.shapeSignature = [-1 if axis in free else size for axis, size in enumerate(shape)]
        made.type = getattr(schema.TensorType, kind)
        if scale:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = [scale], [zero_point]
        return made

    low = 0 if kind != "INT8" else -128
    code, node = schema.OperatorCodeT(), schema.OperatorT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.LOGISTIC
    code.version, node.inputs, node.outputs, node.opcodeIndex = 1, [0], [1], 0
    graph = schema.SubGraphT()
    graph.tensors = [tensor("sound", scale, zero_point), tensor("scores", scale and 1 / 256, low)]
    graph.inputs, graph.outputs, graph.operators = list(inputs), [1], [node]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    if failing:
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.GATHER
        node.builtinOptionsType, node.builtinOptions = schema.BuiltinOptions.GatherOptions, schema.GatherOptionsT()
        index, values = tensor("index", None, 0), schema.BufferT()
        index.shape, index.type, index.buffer = [1], schema.TensorType.INT32, 1
        index.shapeSignature = None
        values.data = list((1 << 20).to_bytes(4, "little"))
        graph.tensors.append(index)
        model.buffers.append(values)
        node.inputs = [0, 2]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def sigmoid(values):
    """What both compute."""
    return 1 / (1 + np.exp(-np.asarray(values, np.float64)))
