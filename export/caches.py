"""A streaming network as it is traced, over whole windows → the graph that a device runs, hop by hop.

In it, hardly anything is computed twice: a convolution that is longer than its stride reads the last rows of the hop
before from a cache, in front of its new ones. Without rows in the caches, the same graph computes a whole window.

Time becomes the outermost axis, so that the rows of a hop lie in one piece: a cache is the end of what the hop before
has written, and is read where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper
from onnxruntime.transformers.onnx_model import OnnxModel

from edge.classifier import cache_name

CONVERTING = ("QuantizeLinear", "DequantizeLinear", "Cast")  # the same values, as another type
ROWS_FIRST, CHANNELS_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]  # [1, C, T, M] → [1, T, M, C], and back


@dataclass(frozen=True)
class Caches:
    """What a hop needs of the hop before; see the fields of :class:`edge.config.ModelSpec`."""

    kept_frames: int
    caches: tuple[tuple[int, int, int], ...]


def with_caches(model: ModelProto) -> tuple[ModelProto, Caches]:
    """``model`` (``frames`` [1, channels, n_mels, T] → ``columns`` [1, C, N] and what its head makes of them), in any
    precision, with caches: ``frames`` [1, channels, T, n_mels], ``cache_0``…, ``ring`` [1, n, C] → the same,
    ``cache_0_out``… and ``ring_out`` [1, n + N, C]. Of each, the next call is given the end.
    """
    graph = _Graph(model)
    for node in list(graph.nodes):
        graph.turn(node)
    frames = graph.proto.input[0].type.tensor_type.shape.dim
    frames[2].CopyFrom(frames[3])
    frames[3].Clear()
    frames[3].dim_value = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    kept, caches = 0, []
    for tensor, rows in graph.seen_again():
        if tensor == "frames":
            kept = rows
        else:
            caches.append((rows, *graph.cache(tensor, cache_name(len(caches)))))
    graph.ring()
    return graph.finished(), Caches(kept, tuple(caches))


class _Graph:
    """A graph that is changed."""

    def __init__(self, model: ModelProto) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.proto = self.model.graph
        self.nodes: list[NodeProto] = [node for node in self.proto.node if node.op_type != "Constant"]
        self.constants = {tensor.name: tensor for tensor in self.proto.initializer}
        for node in self.proto.node:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = node.attribute[0].t
                self.constants[node.output[0]].name = node.output[0]
        self.types = {value.name: value.type.tensor_type for value in self._values(model)}

    @staticmethod
    def _values(model: ModelProto) -> Iterator[onnx.ValueInfoProto]:
        inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
        yield from (*inferred.input, *inferred.value_info, *inferred.output)

    def producer(self, tensor: str) -> NodeProto | None:
        """The node whose output ``tensor`` is."""
        return next((node for node in self.nodes if tensor in node.output), None)

    def readers(self, tensor: str) -> list[NodeProto]:
        """The nodes whose input ``tensor`` is."""
        return [node for node in self.nodes if tensor in node.input]

    def activation(self, tensor: str) -> str:
        """What ``tensor`` was before its type was changed; of weights, what is kept of them."""
        node = self.producer(tensor)
        return self.activation(node.input[0]) if node is not None and node.op_type in CONVERTING else tensor

    def values(self, tensor: str) -> np.ndarray:
        """Of a constant."""
        return numpy_helper.to_array(self.constants[tensor])

    def constant(self, name: str, values: np.ndarray) -> str:
        """A new constant, or that of the name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def turn(self, node: NodeProto) -> None:
        """Time before mel, where the node knows the axes by their places."""
        if node.op_type == "Conv":
            weights = self.activation(node.input[1])
            turned = self.values(weights).swapaxes(2, 3)
            self.constants[weights] = numpy_helper.from_array(np.ascontiguousarray(turned), weights)
            for attribute in node.attribute:
                if attribute.name in ("kernel_shape", "strides", "dilations"):
                    attribute.ints[:] = attribute.ints[::-1]
                elif attribute.name == "pads":
                    mel, time, mel_end, time_end = attribute.ints
                    attribute.ints[:] = [time, mel, time_end, mel_end]
        elif node.op_type == "Slice":
            node.input[3] = self.constant("time_axis", np.array([2]))
        elif node.op_type == "Squeeze":
            node.input[1] = self.constant("mel_axis", np.array([3]))

    def seen_again(self) -> Iterator[tuple[str, int]]:
        """(activation, rows): those of which a hop reads the last rows of the hop before."""
        pairs = dict(self._pairs())
        inner = {id(node) for tensor, (_, add) in pairs.items() for node in self._between(tensor, add)}
        for node in list(self.nodes):
            if node.op_type != "Conv":
                continue
            tensor = self.activation(node.input[0])
            if tensor in pairs:
                yield tensor, pairs[tensor][0]
            elif id(node) not in inner:
                sizes = {attribute.name: attribute.ints for attribute in node.attribute}
                if (rows := sizes["kernel_shape"][0] - sizes["strides"][0]) > 0:
                    yield tensor, rows

    def _pairs(self) -> Iterator[tuple[str, tuple[int, NodeProto]]]:
        """The input of each residual pair: the rows that its identity is cut by, and its sum."""
        for node in self.nodes:
            if node.op_type == "Slice":
                start, end = (int(self.values(name)[0]) for name in node.input[1:3])
                (add,) = (n for n in self._after(node.output[0]) if n.op_type == "Add")
                yield self.activation(node.input[0]), (start - end, add)

    def _after(self, tensor: str) -> Iterator[NodeProto]:
        """The nodes that read ``tensor``, also as another type."""
        for node in self.readers(tensor):
            if node.op_type in CONVERTING:
                yield from self._after(node.output[0])
            else:
                yield node

    def _between(self, tensor: str, last: NodeProto) -> Iterator[NodeProto]:
        """The nodes by which ``last`` depends on ``tensor``."""
        for name in last.input:
            node = self.producer(name)
            if node is not None and name != tensor:
                yield node
                yield from self._between(tensor, node)

    def cache(self, tensor: str, name: str) -> tuple[int, int]:
        """Rows of the hop before in front of those of ``tensor``: quantised, where all that read it read it so.

        But not in the form for TensorRT, which fuses pairs of Q and DQ with nothing between. Returns the mel bands and
        channels of a row.
        """
        readers = self.readers(tensor)
        if [node.op_type for node in readers] == ["QuantizeLinear"]:
            (quantised,) = readers[0].output
            if self.types[quantised].elem_type == onnx.TensorProto.UINT8:
                tensor, readers = quantised, self.readers(quantised)
        kind = self.types[tensor].elem_type
        channels, n_mels = (self.types[tensor].shape.dim[axis].dim_value for axis in (1, 2))
        rows = self._joined(tensor, name, [n_mels, channels], kind, ROWS_FIRST)
        again = f"{tensor}_and_before"
        self.nodes.append(helper.make_node("Transpose", [rows], [again], again, perm=CHANNELS_FIRST))
        self._redirect(readers, tensor, again)
        return n_mels, channels

    def ring(self) -> None:
        """The columns of the hops before in front of the new ones, for the head, which takes mean and maximum."""
        channels = self.types["columns"].shape.dim[1].dim_value
        rows = self._joined("columns", "ring", [channels], self.types["columns"].elem_type, [0, 2, 1])
        # onnxruntime reduces two axes along the first several times faster than three along the second.
        first = self.constant("first_axis", np.array([0]))
        self.nodes.append(helper.make_node("Squeeze", [rows, first], ["window"], "window"))
        for node in self.readers("columns"):
            if node.op_type in ("ReduceMean", "ReduceMax"):
                del node.attribute[:]
                node.attribute.extend([helper.make_attribute("axes", [0]), helper.make_attribute("keepdims", 1)])
                self._redirect([node], "columns", "window")
        kept = [output for output in self.proto.output if output.name != "columns"]
        del self.proto.output[:]
        self.proto.output.extend(kept)

    def _joined(self, tensor: str, name: str, shape: list[int], kind: int, order: list[int]) -> str:
        """``name`` and then ``tensor``, transposed by ``order``; both are told outside."""
        new, joined = f"{name}_new", f"{name}_out"
        self.nodes.append(helper.make_node("Transpose", [tensor], [new], new, perm=order))
        self.nodes.append(helper.make_node("Concat", [name, new], [joined], joined, axis=1))
        self.proto.input.append(helper.make_tensor_value_info(name, kind, [1, name, *shape]))
        self.proto.output.append(helper.make_tensor_value_info(joined, kind, [1, joined, *shape]))
        return joined

    @staticmethod
    def _redirect(readers: list[NodeProto], former: str, tensor: str) -> None:
        for node in readers:
            node.input[:] = [tensor if name == former else name for name in node.input]

    def finished(self) -> ModelProto:
        """The model, its nodes in an order in which they can run."""
        del self.proto.node[:], self.proto.initializer[:], self.proto.value_info[:]
        self.proto.node.extend(self.nodes)
        used = {name for node in self.nodes for name in node.input}
        self.proto.initializer.extend(tensor for name, tensor in self.constants.items() if name in used)
        OnnxModel(self.model).topological_sort(is_deterministic=True)
        onnx.checker.check_model(self.model, full_check=True)
        return self.model
