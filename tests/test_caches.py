"""Networks that keep what they made of the hop before: what a hop costs, and files of versions that kept less."""

import dataclasses
import hashlib
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper

from edge.classifier import Classifier
from edge.config import DIGEST, digest_of
from edge.errors import ContractError
from edge.models import BUNDLED
from export.__main__ import main
from export.caches import with_caches
from export.contract import build_spec, write_with_golden
from export.macs import count_macs
from export.to_onnx import decided, to_onnx
from export.upgrade import upgrade
from models.registry import build
from tests import mutants
from tests.conftest import FP32, run_here
from tests.test_export import SMALL, checkpoint  # noqa: F401  # a fixture


def test_a_hop_costs_its_new_frames():
    """The parts that the bundled network computes again are less than a fifth."""
    classifier = Classifier(FP32)
    spec, graph = classifier.spec, onnx.load(FP32)
    hop = spec.hop_frames()
    feed = {
        f"cache_{index}": np.zeros((1, *cache), np.float32) for index, cache in enumerate(spec.caches)
    } | {
        "ring": np.zeros((1, spec.n_columns - hop // spec.column_stride, spec.n_channels), np.float32),
        "frames": np.zeros((1, 1, spec.kept_frames + hop, spec.frontend.n_mels), np.float32),
    }  # fmt: skip
    a_column = spec.provenance.macs / spec.n_columns  # in a whole window, most of it
    assert count_macs(graph, feed) < 1.2 * a_column * hop / spec.column_stride


def test_a_stack_of_one_stem_has_fewer_caches():
    model = build("streaming", **SMALL, stem2=(0, 0, 0, 0), stem_kernel=(8, 4), stem_stride=(8, 4))
    _, caches = with_caches(to_onnx(model))
    assert (caches.kept_frames, [rows for rows, *_ in caches.caches]) == (0, [4, 1, 4, 2])


def former_file(network, path):
    """A model file as version 3 wrote it: the ring is all that is kept, and comes in and goes out whole."""
    model = decided(to_onnx(network.model()), 1.0, "softmax")
    graph = model.graph
    nodes, of_graph = list(graph.node), {value.name: value for value in graph.output}
    for node in nodes:
        node.input[:] = ["ring_out" if name == "columns" else name for name in node.input]
    starts = {"first": [-21], "last": [np.iinfo(np.int64).max], "time": [2]}
    graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), name) for name, v in starts.items())
    at = next(i for i, node in enumerate(nodes) if "columns" in node.output) + 1
    nodes[at:at] = [
        helper.make_node("Concat", ["ring", "columns"], ["joined"], axis=2),
        helper.make_node("Slice", ["joined", "first", "last", "time"], ["ring_out"]),
    ]
    ring = [1, 16, 21]
    graph.input.append(helper.make_tensor_value_info("ring", onnx.TensorProto.FLOAT, ring))
    outputs = [of_graph["probs"], of_graph["energy"]]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend([*outputs, helper.make_tensor_value_info("ring_out", onnx.TensorProto.FLOAT, ring)])
    onnx.checker.check_model(model, full_check=True)

    spec = build_spec(network, name="x", temperature=1.0, licence="-", precision="fp32")
    now = path.with_name("now.onnx")
    spec = dataclasses.replace(write_with_golden(to_onnx(network.model()), spec, now), thresholds={"b": 0.25})
    content = model.SerializeToString(deterministic=True)
    digest = hashlib.sha256(content).hexdigest()
    data = json.loads(spec.to_json()) | {"schema_version": 3, "graph_bytes": len(content), "graph_sha256": digest}
    del data["kept_frames"], data["caches"], data["provenance"]["other_data"], data[DIGEST]
    path.write_bytes(mutants.with_contract(content, json.dumps(data | {DIGEST: digest_of(data)})))
    return now


def test_a_former_file_is_upgraded(checkpoint, tmp_path):  # noqa: F811
    """It is refused with the remedy; the remedy gives the file that an export gives now, with its own thresholds."""
    path = tmp_path / "former.onnx"
    now = former_file(checkpoint, path)
    with pytest.raises(ContractError, match="python -m export upgrade FILE"):
        Classifier(path)
    done = CliRunner().invoke(main, ["upgrade", str(path), str(now)])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines() == [f"{path}: upgraded", f"{now}: needs nothing"]
    upgraded, exported = Classifier(path), Classifier(now)
    assert upgraded.spec.thresholds == {"b": 0.25}
    assert (upgraded.spec.caches, upgraded.spec.golden) == (exported.spec.caches, exported.spec.golden)
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 100_000).astype(np.float32)
    np.testing.assert_array_equal(upgraded.windows(samples), exported.windows(samples))


def test_a_former_file_that_is_damaged_stays_as_it_is(checkpoint, tmp_path):  # noqa: F811
    path = tmp_path / "former.onnx"
    former_file(checkpoint, path)
    content = path.read_bytes()
    for damaged, message in (
        (content.replace(b'"licence": "-"', b'"licence": "+"'), "is damaged"),
        (content.replace(b"/trunk/trunk.0", b"/trunk/trunk.9"), "is damaged"),
        (content.replace(b'"schema_version": 3', b'"schema_version": 1'), "schema_version is 1; allowed: 2 to 5"),
        (content[:1000], "is no model file of edge-listen"),
        (b"", "is no model file of edge-listen"),
    ):
        path.write_bytes(damaged)
        done = CliRunner().invoke(main, ["upgrade", str(path)])
        assert (done.exit_code, len(done.output.splitlines())) == (1, 1), done.output
        assert message in done.output
        assert path.read_bytes() == damaged
        assert {p.name for p in tmp_path.iterdir()} == {"former.onnx", "now.onnx"}


def test_what_needs_nothing_is_not_touched(tmp_path):
    before = BUNDLED.stat().st_mtime_ns
    assert not upgrade(BUNDLED)
    assert BUNDLED.stat().st_mtime_ns == before


def test_what_needs_nothing_is_proven(tmp_path):
    """What edge-inspect refuses, and keeps as it is."""
    content, path = BUNDLED.read_bytes(), tmp_path / "model.onnx"
    damaged = bytearray(content)
    damaged[50_000] ^= 1
    data = json.loads(Classifier(BUNDLED).spec.to_json()) | {"schema_version": 99}
    future = mutants.with_contract(content[: data["graph_bytes"]], json.dumps(data))
    for changed, reason in ((bytes(damaged), "is damaged"), (future, "has schema_version 99; this edge-listen reads")):
        path.write_bytes(changed)
        done = run_here("export", "upgrade", path, code=1)
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert path.read_bytes() == changed
