"""fp32 ONNX → fp16, for TensorRT and CUDA; inputs, outputs and what decides stay in float32."""

from __future__ import annotations

import onnx
from onnxruntime.transformers.onnx_model import OnnxModel


def half(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, which ends in ``logits``, in half precision, but for what :func:`float_nodes` names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converter = OnnxModel(copy)
    converter.convert_float_to_float16(
        use_symbolic_shape_infer=False, keep_io_types=True, node_block_list=float_nodes(model)
    )
    _cast_once(converter)
    converter.topological_sort(is_deterministic=True)
    onnx.checker.check_model(converter.model, full_check=True)
    return converter.model


def _cast_once(converter: OnnxModel) -> None:
    """What is told outside and read inside is cast for either: let what is inside read what is told."""
    graph = converter.model.graph
    for output in graph.output:
        (told,) = (node for node in graph.node if output.name in node.output)
        for node in [
            n for n in graph.node if n.op_type == told.op_type == "Cast" and n.input == told.input and n != told
        ]:
            converter.replace_input_of_all_nodes(node.output[0], output.name)
            converter.remove_node(node)


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in float32: all that reads columns, or the last layer where there are none.

    They are a thousandth of the work, and logits of eleven bits would move the probabilities by up to a hundredth.
    """
    of_columns, names = {"columns"}, []
    for node in model.graph.node:
        if of_columns & set(node.input):
            of_columns |= set(node.output)
            names.append(node.name)
        elif "logits" in node.output:
            names.append(node.name)
    return names
