"""A model file of a former version → the same network, labels and thresholds as this version writes them."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import onnx
from onnx import ModelProto

from edge.classifier import Classifier
from edge.config import (
    DIGEST,
    DIGEST_SINCE,
    METADATA_KEY,
    STREAMING_SINCE,
    ModelSpec,
    build,
    digest_of,
    migrated,
)
from edge.errors import ContractError
from edge.files import replacing
from export.contract import named, write


def upgrade(path: Path) -> bool:
    """Write the model file at ``path`` anew, whole or not at all; False where it is proven as it is.

    What is written gives the golden probabilities of the former file. Raises ContractError where the file is damaged,
    not one of ours, of a version that cannot be read or not proven here; OSError where it cannot be read or written.
    """
    content = path.read_bytes()
    try:
        model = onnx.load_from_string(content)
        data = json.loads(next(entry.value for entry in model.metadata_props if entry.key == METADATA_KEY))
        version, graph_bytes = int(data["schema_version"]), int(data["graph_bytes"])
    except Exception:  # protobuf raises a class of its own
        raise ContractError(
            f"{path} is no model file of edge-listen", remedy="export it with python -m export"
        ) from None
    if version >= STREAMING_SINCE or not data.get("column_stride"):
        Classifier(path)
        return False
    digest = data.pop(DIGEST, None)
    whole = version < DIGEST_SINCE or digest == digest_of(data)
    if not whole or hashlib.sha256(content[:graph_bytes]).hexdigest() != data.get("graph_sha256"):
        raise ContractError(f"{path} is damaged", remedy="copy the file again, or export it again")
    try:
        spec = build(ModelSpec, migrated(data))
    except ContractError as error:
        raise ContractError(f"{path}: {error.what}", remedy=error.remedy) from None
    with tempfile.TemporaryDirectory() as folder, named(Path(folder), path.parent), replacing(path) as part:
        proven = Path(folder) / path.name
        write(without_ring(model), spec, proven)
        Classifier(proven)
        part.write_bytes(proven.read_bytes())
    return True


def without_ring(model: ModelProto) -> ModelProto:
    """A graph of a former version, which kept its columns itself, as a graph of whole windows with ``columns``."""
    whole = ModelProto()
    whole.CopyFrom(model)
    graph = whole.graph
    join = next(node for node in graph.node if "ring" in node.input)  # the ring and the new columns
    cut = next(node for node in graph.node if "ring_out" in node.output)  # to the last n_columns of them
    (new,) = (name for name in join.input if name != "ring")
    (n_channels,) = (value.type.tensor_type.shape.dim[1].dim_value for value in graph.input if value.name == "ring")
    nodes = [node for node in graph.node if node not in (join, cut)]
    for node in nodes:
        node.input[:] = ["columns" if name in (new, "ring_out") else name for name in node.input]
        node.output[:] = ["columns" if name == new else name for name in node.output]
    inputs = [value for value in graph.input if value.name != "ring"]
    outputs = [value for value in graph.output if value.name != "ring_out"]
    columns = onnx.helper.make_tensor_value_info("columns", onnx.TensorProto.FLOAT, [1, n_channels, "N"])
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(nodes)
    graph.input.extend(inputs)
    graph.output.extend([*outputs, columns])
    return whole
