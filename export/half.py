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
    converter.topological_sort(is_deterministic=True)
    onnx.checker.check_model(converter.model, full_check=True)
    return converter.model


def float_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that stay in float32: all that comes after the ring, or the last layer where there is none.

    They are a thousandth of the work, and logits of eleven bits would move the probabilities by up to a hundredth.
    """
    after_ring, names = {"ring"}, []
    for node in model.graph.node:
        if after_ring & set(node.input):
            after_ring |= set(node.output)
        if after_ring & set(node.output) or "logits" in node.output:
            names.append(node.name)
    return names
