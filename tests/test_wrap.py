"""Classifiers of others: exported by torch in another layout, wrapped, and run as our own."""

import io
import json
import re
import warnings

import numpy as np
import onnx
import pytest
import tomli_w
import torch
from onnx import TensorProto, helper
from onnxruntime.quantization import quantize_dynamic
from torch import nn

from edge.classifier import Classifier
from edge.config import FrontendConfig
from edge.errors import ContractError
from edge.features import make_frontend
from export.macs import count_macs
from export.to_onnx import to_onnx
from export.wrap import read_contract, wrap
from models import build
from models.cost import count_macs as count_of_torch
from tests import wrap_mutants
from tests.conftest import ROOT, run_here, run_module
from tests.test_fuzz import KNOWN_ABORT, fuzz
from tests.wrap_mutants import CONTRACT

LABELS = CONTRACT["labels"]
MELS = CONTRACT["frontend"]
SOUND = {"kind": "waveform", "sample_rate": 16000, "channels": 1}


class Frames(nn.Module):
    """Frames [B, T, n_mels] → logits [B, 3]: a recurrent layer and a linear one."""

    def __init__(self, n_mels=40):
        super().__init__()
        self.recurrent, self.last = nn.GRU(n_mels, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, frames):
        return self.last(self.recurrent(frames)[0].mean(dim=1))


class Sound(nn.Module):
    """Samples [B, n] → logits [B, 3]: a learnt filterbank."""

    def __init__(self):
        super().__init__()
        self.filters, self.last = nn.Conv1d(1, 8, 64, stride=32), nn.Linear(8, 3)

    def forward(self, samples):
        return self.last(self.filters(samples[:, None]).abs().mean(dim=2))


class Then(nn.Sequential):
    """Layers one after the other."""


def save(path, network, example, dynamic=None, outputs=("y",), opset=17):
    """``network`` by torch's exporter, with an input of the name x."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), (example,), buffer, input_names=["x"], output_names=list(outputs), dynamo=False,
            dynamic_axes=dynamic, opset_version=opset,
        )  # fmt: skip
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture
def wrapped(tmp_path):
    """Wrap a file with CONTRACT after changes: (path, classifier)."""

    def make(model, **changes):
        contract = {k: v for k, v in (CONTRACT | changes).items() if v is not None}
        (tmp_path / "contract.toml").write_text(tomli_w.dumps(contract))
        path, spec = wrap(model, tmp_path / "contract.toml", tmp_path / "out")
        classifier = Classifier(path)  # proves its golden vectors
        assert classifier.spec == spec
        return classifier

    return make


def seeded(network):
    torch.manual_seed(0)
    return network().eval()


def sound_of(classifier, channels=1):
    shape = (classifier.spec.window_samples, channels)
    return np.random.default_rng(1).uniform(-0.3, 0.3, shape).astype(np.float32)


def test_frames_before_mel_bands_and_a_dynamic_batch(tmp_path, wrapped):
    network = seeded(Frames)
    example = torch.randn(2, 98, 40)
    path = save(tmp_path / "birds.onnx", network, example, {"x": {0: "batch"}, "y": {0: "batch"}})
    classifier = wrapped(path)
    spec = classifier.spec
    assert (spec.name, spec.labels, spec.scores, spec.licence) == ("birds", tuple(LABELS), "softmax", "MIT")
    assert (spec.window_frames, spec.provenance.dataset, spec.provenance.architecture) == (98, "birds", "third-party")
    sound = sound_of(classifier)[:, 0]
    frames = make_frontend(FrontendConfig(**MELS))(sound)  # [1, n_mels, T]
    with torch.no_grad():
        expected = network(torch.from_numpy(frames.transpose(0, 2, 1).copy())).softmax(dim=1)[0].numpy()
    assert np.allclose(classifier.classify(sound), expected, atol=1e-5)
    assert spec.provenance.macs == 98 * (3 * 8 * (40 + 8)) + 8 * 3


@pytest.mark.parametrize("opset", [9, 12, 18, 20])
def test_samples_and_opsets(tmp_path, wrapped, opset):
    network = seeded(Sound)
    path = save(tmp_path / "sound.onnx", network, torch.randn(1, 15_600), opset=opset)
    classifier = wrapped(path, frontend=SOUND, layout="BN", scores="sigmoid logits")
    assert classifier.spec.scores == "sigmoid"
    assert classifier.spec.window_samples == 15_600
    sound = sound_of(classifier)[:, 0]
    with torch.no_grad():
        expected = torch.sigmoid(network(torch.from_numpy(sound)[None]))[0].numpy()
    assert np.allclose(classifier.classify(sound), expected, atol=1e-5)


def test_a_length_that_the_graph_leaves_open_comes_from_the_contract(tmp_path, wrapped):
    path = save(tmp_path / "open.onnx", seeded(Sound), torch.randn(1, 8000), {"x": {0: "batch", 1: "samples"}})
    sound = {"frontend": SOUND, "layout": "BN"}
    with pytest.raises(ContractError, match=r"input x leaves the length of a window open \(give window_frames"):
        wrapped(path, **sound)
    assert wrapped(path, **sound, window_frames=12_000).spec.window_samples == 12_000


def test_two_channels_and_probabilities_without_a_batch(tmp_path, wrapped):
    class Stereo(nn.Module):
        def forward(self, x):  # [n_mels, T, channels] → [3]
            return torch.softmax(torch.stack([x[..., 0].mean(), x[..., 1].mean(), x.mean()]), dim=0)

    path = save(tmp_path / "stereo.onnx", Stereo(), torch.randn(40, 50, 2))
    classifier = wrapped(path, layout="MTC", scores="probabilities", frontend=MELS | {"channels": 2})
    left, right = (sound_of(classifier, 2) * side for side in (np.float32([1, 0.01]), np.float32([0.01, 1])))
    assert classifier.labels[classifier.classify(left).argmax()] == "dog"
    assert classifier.labels[classifier.classify(right).argmax()] == "rain"


def test_names_that_are_ours_and_other_outputs(tmp_path, wrapped):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Frames()

        def forward(self, x):
            logits = self.net(x)
            return logits, torch.sigmoid(logits)

    path = save(tmp_path / "two.onnx", seeded(Two), torch.randn(1, 98, 40), outputs=("probs", "frames"))
    with pytest.raises(ContractError, match=r"it has 2 outputs that may be the scores: probs, frames \(name one"):
        wrapped(path)
    classifier = wrapped(path, output="frames", scores="sigmoid probabilities")
    assert classifier.spec.scores == "sigmoid"
    assert [o.name for o in classifier.session.get_outputs()] == ["probs"]


def test_labels_of_a_file(tmp_path, wrapped):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    (tmp_path / "labels.txt").write_text("dog\n\nrain\nsiren\n")
    (tmp_path / "labels.csv").write_text("index,label,threshold\n0,dog,0.5\n1,rain,\n2,siren,\n")
    for name in ("labels.txt", "labels.csv"):
        assert wrapped(path, labels=name).labels == tuple(LABELS)
    with pytest.raises(ContractError, match=r"labels .*/none\.txt cannot be read: No such file"):
        wrapped(path, labels="none.txt")
    (tmp_path / "labels.csv").write_text("name\ndog\n")
    with pytest.raises(ContractError, match="no column label; it has: name"):
        wrapped(path, labels="labels.csv")
    (tmp_path / "labels.csv").write_text("index,label\n1,rain\n0,dog\n2,siren\n")
    with pytest.raises(ContractError, match="index that does not count from 0"):
        wrapped(path, labels="labels.csv")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": ["dog", "rain"]}, r"output y is \[1, 3\] for one window; the contract has 2 labels"),
        ({"labels": ["dog", "dog", "rain"]}, "labels is .*different labels"),
        ({"labels": "none.txt"}, "No such file"),
        ({"layout": "BMT"}, "axis M of input x is 98; by the contract it is 40"),
        ({"layout": "BCTM"}, r"input x has 3 axes, \[1, 98, 40\]; layout BCTM has 4"),
        ({"layout": "BTT"}, "layout is 'BTT'; allowed: one letter for each axis of the input, B, C, M and T"),
        ({"layout": "BNM"}, "layout is 'BNM'"),
        ({"layout": "BM"}, "layout is 'BM'"),
        ({"scores": "softmax"}, "scores is 'softmax'; allowed: probabilities, logits"),
        ({"scores": "probabilities"}, r"output y gives -.*, which do not sum to 1 .correct scores"),
        ({"scores": "sigmoid probabilities"}, "which are no probabilities"),
        ({"window_frames": 100}, "window_frames is 100; input x has 98"),
        ({"input": "audio"}, "it has no input audio; it has: x"),
        ({"output": "z"}, "it has no output z of floats; it has: y"),
        ({"licence": None, "dataset": None}, "missing key 'dataset', 'licence'"),
        ({"epochs": 3, "seed": 1}, "unknown key 'epochs', 'seed'"),
        ({"frontend": {k: v for k, v in MELS.items() if k not in ("n_fft", "f_max")}}, "f_max', 'frontend.n_fft"),
        ({"frontend": MELS | {"hop": 160}}, "unknown key 'frontend.hop'"),
        ({"frontend": MELS | {"window": "hamming"}}, "frontend.window is 'hamming'; allowed: 'hann'"),
        ({"frontend": MELS | {"n_mels": 64}}, "axis M of input x is 40; by the contract it is 64"),
        ({"frontend": MELS | {"n_mels": "forty"}}, "frontend.n_mels is 'forty'; allowed: a whole number"),
        ({"frontend": {"kind": "waveform", "channels": 1}, "layout": "BN"}, "missing key 'frontend.sample_rate'"),
        ({"frontend": SOUND, "layout": "BTM"}, "layout is 'BTM'; allowed: .* B, C and N"),
    ],
)  # fmt: skip
def test_contracts_that_do_not_fit_are_refused(tmp_path, wrapped, changes, reason):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    with pytest.raises(ContractError, match=reason) as caught:
        wrapped(path, **changes)
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").glob("*"))


def graph(path, nodes, inputs, outputs, initializers=(), opset=17, domain=""):
    """A file of hand-written nodes; inputs and outputs are (name, shape), or (name, shape, type)."""

    def make(values):
        return [
            helper.make_tensor_value_info(n, *(reversed(rest) if len(rest) == 2 else (TensorProto.FLOAT, *rest)))
            for n, *rest in values
        ]

    made = helper.make_graph(nodes, "g", make(inputs), make(outputs), list(initializers))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid(domain, opset)], ir_version=8)
    onnx.save(model, path)
    return path


def node(operator, **attributes):
    return [helper.make_node(operator, ["x"], ["y"], **attributes)]


MEAN = node("ReduceMean", axes=[1], keepdims=0)  # [1, 98, 40] → [1, 40]


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "reason"),
    [
        (MEAN, [("x", [8, 98, 40])], [("y", [8, 40])], "axis B of input x is 8; by the contract it is 1"),
        (MEAN, [("x", [1, 98, 40], TensorProto.INT16)], [("y", [1, 40])], "input x is of type INT16; allowed: float"),
        (MEAN, [("x", [1, 98, 40]), ("h", [1, 8])], [("y", [1, 40])], "it has 2 inputs, x, h; allowed: one"),
        (MEAN, [("x", [1, 98, 40])], [("y", [1, 40])], r"output y is \[1, 40\] for one window; the contract has 3"),
        (node("Shape"), [("x", [1, 98, 40])], [("y", [3], TensorProto.INT64)], "may be the scores: none"),
        (node("Nonsense"), [("x", [1, 98, 40])], [("y", [1, 3])], "onnxruntime does not run it: "),
    ],
)  # fmt: skip
def test_graphs_that_cannot_be_wrapped_are_refused(tmp_path, wrapped, nodes, inputs, outputs, reason):
    with pytest.raises(ContractError, match=reason):
        wrapped(graph(tmp_path / "x.onnx", nodes, inputs, outputs))


def test_scores_that_are_no_numbers_are_refused(tmp_path, wrapped):
    class Broken(Frames):
        def forward(self, frames):
            return super().forward(frames) / (frames.amax() - frames.amin())  # 0 of silence

    path = save(tmp_path / "broken.onnx", seeded(Broken), torch.randn(1, 98, 40))
    with pytest.raises(ContractError, match="output y is not finite for silence"):
        wrapped(path)


def test_probabilities_are_not_taken_for_logits(tmp_path, wrapped):
    path = save(tmp_path / "p.onnx", Then(seeded(Frames), nn.Softmax(dim=1)), torch.randn(1, 98, 40))
    with pytest.raises(ContractError, match="which are probabilities already: they sum to 1"):
        wrapped(path)
    assert wrapped(path, scores="probabilities").spec.scores == "softmax"


def test_half_precision_and_dynamic_int8(tmp_path, wrapped):
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(40, 3)

        def forward(self, frames):
            return self.last(frames.mean(dim=1))

    half = save(tmp_path / "half.onnx", seeded(Half).half(), torch.randn(1, 98, 40).half())
    whole = save(tmp_path / "whole.onnx", seeded(Half), torch.randn(1, 98, 40))
    quantize_dynamic(whole, tmp_path / "int8.onnx")
    classifiers = [wrapped(path) for path in (whole, half, tmp_path / "int8.onnx")]
    assert [c.spec.provenance.precision for c in classifiers] == ["fp32", "fp16", "int8"]
    assert {c.spec.provenance.macs for c in classifiers} == {3 * 40}
    expected, *others = [c.classify(sound_of(c)[:, 0]) for c in classifiers]
    assert all(np.allclose(probs, expected, atol=0.05) for probs in others)


def test_weights_in_files_beside_the_model_are_taken_in(tmp_path, wrapped):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    whole = wrapped(path)
    expected = whole.classify(sound_of(whole)[:, 0])
    (tmp_path / "outside").mkdir()
    outside = tmp_path / "outside" / "birds.onnx"
    onnx.save(onnx.load(path), outside, save_as_external_data=True, location="weights.bin", size_threshold=0)
    again = wrapped(outside)
    assert np.array_equal(again.classify(sound_of(again)[:, 0]), expected)
    (tmp_path / "outside" / "weights.bin").unlink()
    with pytest.raises(ContractError, match=r"not an ONNX model that can be loaded: .*with the files of its weights"):
        wrapped(outside)


def test_weights_that_are_inputs_as_in_files_of_old(tmp_path, wrapped):
    weights = helper.make_tensor("probs", TensorProto.FLOAT, [40, 3], np.random.default_rng(0).normal(size=120))
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["frames"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["frames", "probs"], ["y"]),
    ]
    path = graph(tmp_path / "old.onnx", nodes, [("x", [1, 98, 40]), ("probs", [40, 3])], [("y", [1, 3])], [weights])
    assert wrapped(path).spec.provenance.macs == 3 * 40


def test_functions_become_operators(tmp_path, wrapped):
    text = """
        <ir_version: 8, opset_import: ["" : 17, "theirs" : 1]>
        g (float[1, 98, 40] x) => (float[1, 40] y) { y = theirs.pool(x) }
        <domain: "theirs", opset_import: ["" : 17]>
        pool (a) => (b) { b = ReduceMean <axes = [1], keepdims = 0> (a) }
    """
    onnx.save(onnx.parser.parse_model(text), tmp_path / "f.onnx")
    assert len(wrapped(tmp_path / "f.onnx", labels=[f"label {i}" for i in range(40)]).labels) == 40


def test_control_flow_is_refused(tmp_path, wrapped):
    branch = helper.make_graph(MEAN, "branch", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 40])])
    nodes = [
        helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("v", TensorProto.BOOL, [], [True])),
        helper.make_node("If", ["yes"], ["z"], then_branch=branch, else_branch=branch),
    ]
    with pytest.raises(ContractError, match="it has control flow, 'If'; allowed: none"):
        wrapped(graph(tmp_path / "if.onnx", nodes, [("x", [1, 98, 40])], [("z", [1, 40])]))


def test_what_is_ours_already_and_what_is_no_model(tmp_path, wrapped):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    with pytest.raises(ContractError, match="is a model of edge-listen: there is nothing to wrap"):
        wrapped(wrapped(path).path)
    for content, reason in ((b"no model", "not an ONNX model"), (b"", "has no graph")):
        (tmp_path / "x.onnx").write_bytes(content)
        with pytest.raises(ContractError, match=reason):
            wrapped(tmp_path / "x.onnx")
    with pytest.raises(ContractError, match="would take the place of the model itself"):
        wrap(path, tmp_path / "contract.toml", tmp_path)


def test_the_same_files_give_the_same_bytes(tmp_path, wrapped):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    once = wrapped(path).path.read_bytes()
    assert wrapped(path).path.read_bytes() == once


@pytest.mark.parametrize("architecture", ["four-block", "crnn", "attention"])
def test_macs_are_those_that_torch_counts(architecture):
    network = build(architecture, n_labels=3)
    frames = torch.zeros(1, network.config.channels, network.config.n_mels, network.window_frames)
    counted = count_macs(to_onnx(network), {"frames": frames.numpy()})
    assert counted == pytest.approx(count_of_torch(network, frames), rel=0.01)


def test_the_contract_of_the_documentation(tmp_path, demo):
    """From the commands of docs/packages.md to the classes of a recording."""
    (toml,) = re.findall(r"```toml\n(.*?)```", (ROOT / "docs" / "packages.md").read_text(), re.DOTALL)
    (tmp_path / "birds.toml").write_text(toml)
    save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    arguments = ("wrap", tmp_path / "birds.onnx", "--contract", tmp_path / "birds.toml", "--out", tmp_path / "out")
    done = run_module("export", *arguments, "--name", "garden")
    assert "3 classes, windows of 0.99 s" in done.stdout
    model = tmp_path / "out" / "garden.onnx"
    lines = run_module("edge.cli.listen", "--input", demo, "--output", "jsonl", "--model", model).stdout.splitlines()
    records = [json.loads(line) for line in lines]
    assert records[0]["type"] == "start"
    assert len([r for r in records if r["type"] == "window"]) > 100
    shown = run_module("edge.cli.inspect", model).stdout
    assert "by others" in shown
    assert "reproduced here" in shown


@pytest.mark.parametrize(("name", "dumps"), [("c.toml", tomli_w.dumps), ("c.json", json.dumps)])
def test_a_contract_may_begin_with_a_byte_order_mark(tmp_path, name, dumps):
    (tmp_path / name).write_text(dumps(CONTRACT), encoding="utf-8")
    plain = read_contract(tmp_path / name)
    (tmp_path / name).write_text(dumps(CONTRACT), encoding="utf-8-sig")
    assert read_contract(tmp_path / name) == plain


def test_the_command_ends_in_one_line(tmp_path):
    save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    (tmp_path / "c.json").write_text(json.dumps(CONTRACT | {"layout": "BMT"}))
    done = run_here("export", "wrap", tmp_path / "birds.onnx", "--contract", tmp_path / "c.json", code=1)
    assert len(done.stderr.splitlines()) == 1
    assert "axis M of input x is 98" in done.stderr
    (tmp_path / "c.json").write_text("{")
    done = run_here("export", "wrap", tmp_path / "birds.onnx", "--contract", tmp_path / "c.json", code=1)
    assert "c.json cannot be read" in done.stderr


def test_a_folder_that_cannot_be_written(tmp_path):
    save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    (tmp_path / "c.json").write_text(json.dumps(CONTRACT))
    (tmp_path / "file").touch()
    arguments = ("wrap", tmp_path / "birds.onnx", "--contract", tmp_path / "c.json")
    done = run_here("export", *arguments, "--out", tmp_path / "file" / "out", code=1)
    assert re.search("file/out cannot be written: Not a directory; give another --out", done.output)


def assert_wrapped_or_refused(folder, count):
    """Try the first ``count`` mutants: each is wrapped, or refused in one line, and nothing is left of it then."""
    found, deaths = fuzz(folder, 0, count, "from tests import wrap_mutants; wrap_mutants.install()")
    for death in deaths:
        assert KNOWN_ABORT.search(death["stderr"]), death
        del found[death["seed"]]
    assert len(found) + len(deaths) == count
    wrong = [line for line in found.values() if not re.fullmatch(r"wrapped|refused: .{1,1000}", line["outcome"])]
    assert not wrong
    return [line["outcome"] for line in found.values()]


def test_some_dozens_of_damaged_classifiers(tmp_path):
    outcomes = assert_wrapped_or_refused(tmp_path, 60)
    assert sum("onnxruntime does not run it" in outcome for outcome in outcomes) >= 3
    assert outcomes.count("wrapped") >= 3


@pytest.mark.slow
def test_two_thousand_damaged_classifiers(tmp_path):
    """About a minute."""
    assert_wrapped_or_refused(tmp_path, 2000)


def test_names_that_are_no_text_and_types_that_are_none(tmp_path, wrapped):
    content = wrap_mutants.model()
    (tmp_path / "x.onnx").write_bytes(content.replace(b"mean", b"me\xffn"))
    with pytest.raises(ContractError, match="is damaged: it has a name that is not UTF-8"):
        wrapped(tmp_path / "x.onnx")
    damaged = onnx.load_from_string(content)
    damaged.graph.input[0].type.tensor_type.elem_type = 86
    onnx.save(damaged, tmp_path / "x.onnx")
    with pytest.raises(ContractError, match="input x is of type 86; allowed: float"):
        wrapped(tmp_path / "x.onnx")
    damaged = onnx.load_from_string(content)
    damaged.functions.extend([onnx.FunctionProto(), onnx.FunctionProto()])
    onnx.save(damaged, tmp_path / "x.onnx")
    with pytest.raises(ContractError, match=r"its functions cannot be resolved: .*same implementation"):
        wrapped(tmp_path / "x.onnx")


def test_a_graph_that_ends_the_process_is_one_line(tmp_path):
    """A slice of a convolution longer than its input, of which onnxruntime dies; and nothing else is printed."""
    axis = {name: np.array([value]) for name, value in (("first", 0), ("last", -1), ("axis", 2))}
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in axis.items()]
    tensors.append(onnx.numpy_helper.from_array(np.ones((3, 1, 2000), np.float32), "W"))
    nodes = [helper.make_node("Conv", ["x", "W"], ["c"]), helper.make_node("Slice", ["c", *axis], ["y"])]
    path = graph(tmp_path / "x.onnx", nodes, [("x", [1, 1, 1000])], [("y", None)], tensors)
    (tmp_path / "c.json").write_text(json.dumps(CONTRACT | {"frontend": SOUND, "layout": "BCN"}))
    arguments = ("wrap", path, "--contract", tmp_path / "c.json", "--out", tmp_path / "out")
    done = run_here("export", *arguments, code=1)
    assert not done.stdout
    assert re.fullmatch(r"Error: .*x\.onnx cannot be tried: the process .* ended in SIGABRT \(.*\)\n", done.stderr)
    assert not list((tmp_path / "out").glob("*"))


def test_what_onnxruntime_refuses_is_not_printed(tmp_path, wrapped, capfd):
    with pytest.raises(ContractError, match="onnxruntime does not run it"):
        wrapped(graph(tmp_path / "x.onnx", node("Nonsense"), [("x", [1, 98, 40])], [("y", [1, 3])]))
    assert capfd.readouterr() == ("", "")


def test_a_recurrent_layer_that_tells_its_last_state_alone(tmp_path, wrapped):
    """Its first output has no name then."""
    random = np.random.default_rng(0).normal(size=(1, 9, 43)).astype(np.float32)
    weights = [onnx.numpy_helper.from_array(w, n) for w, n in ((random[..., :40], "W"), (random[..., 40:], "R"))]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("GRU", ["t", "W", "R"], ["", "y"], hidden_size=3),
    ]
    path = graph(tmp_path / "gru.onnx", nodes, [("x", [1, 98, 40])], [("y", [1, 1, 3])], weights)
    assert wrapped(path).spec.provenance.macs == 98 * 9 * 43


def test_what_a_person_knows_of_the_scores(tmp_path, wrapped):
    path = save(tmp_path / "birds.onnx", seeded(Frames), torch.randn(1, 98, 40))
    plain = wrapped(path)
    sound = sound_of(plain)[:, 0]
    logits = np.log(plain.classify(sound))
    known = wrapped(path, temperature=0.5, thresholds={"dog": 0.8}, accuracy=0.75)
    assert (known.spec.temperature, known.spec.thresholds, known.spec.provenance.accuracy) == (0.5, {"dog": 0.8}, 0.75)
    sharper = np.exp(2 * logits)
    assert np.allclose(known.classify(sound), sharper / sharper.sum(), atol=1e-5)
    for changes, reason in (
        ({"thresholds": {"cat": 0.5}}, "thresholds is .'cat'.; allowed: only the model's labels"),
        ({"thresholds": {"dog": 5}}, r"thresholds\['dog'\] is 5.0; allowed: 0 to 1"),
        ({"accuracy": 75}, "accuracy is 75.0; allowed: 0 to 1"),
        ({"temperature": 0}, "temperature is 0.0; allowed: 1e-6 to 1e6"),
        ({"temperature": 2, "scores": "probabilities"}, "temperature is 2; allowed where scores is 'probabilities': 1"),
        ({"licence": " "}, "licence is empty"),
    ):
        with pytest.raises(ContractError, match=reason):
            wrapped(path, **changes)


def test_a_name_of_two_lines(tmp_path, wrapped):
    path = save(tmp_path / "we\nird.onnx", seeded(Frames), torch.randn(1, 98, 40))
    with pytest.raises(ContractError, match=r"'we\\nird' can be no name of a model .give --name") as caught:
        wrapped(path)
    assert "\n" not in str(caught.value)
