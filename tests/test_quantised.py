"""Quantisation-aware fine-tuning: it rounds as export does, and wins back what rounding lost."""

import dataclasses
from itertools import pairwise

import numpy as np
import onnx
import pytest
import torch

from edge.config import FrontendConfig
from export.artefacts import export
from export.contract import build_spec
from export.graphs import graphs
from export.to_onnx import to_onnx
from export.verify import TOLERANCES, ParityError, Tolerance
from models import build
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.quantised import RoundedConv2d, hold_norms, quantised, round_activations, round_weights, settle
from tests.test_train import SMALL, Interrupted, interrupt_after_one, quick, write_tone
from train.augment import AugmentConfig
from train.loop import fit
from train.manifest import read_manifest


def test_weights_are_rounded_to_seven_bits_of_each_output():
    weights = torch.randn(4, 3, 3, 3) * torch.tensor([1e-3, 1.0, 1e3, 0.0])[:, None, None, None]
    rounded = round_weights(weights)
    for before, after in zip(weights, rounded, strict=True):
        step = before.abs().max() / 64
        assert (after - before).abs().max() <= step / 2 * 1.001
        assert len(after.unique()) > 10 or step == 0
        assert torch.allclose(after, torch.round(after / step.clamp(min=1e-30)) * step)
    assert torch.equal(round_weights(rounded), rounded)
    assert not rounded[3].any()


def test_activations_are_rounded_to_eight_bits_and_zero_is_exact():
    for values in (torch.randn(2, 3, 4, 5), torch.rand(10) + 5, -torch.rand(10), torch.zeros(3)):
        rounded = round_activations(values)
        step = (values.max().clamp(min=0) - values.min().clamp(max=0)) / 255
        assert (rounded - values).abs().max() <= step
        assert not round_activations(torch.cat([values.flatten(), torch.zeros(1)]))[-1]


def test_the_gradient_passes_as_if_nothing_were_rounded():
    for rounding in (round_weights, round_activations):
        values = torch.randn(4, 3, 2, 2, requires_grad=True)
        (rounding(values) * torch.arange(48.0).view(4, 3, 2, 2)).sum().backward()
        assert torch.equal(values.grad.flatten(), torch.arange(48.0))


@pytest.mark.parametrize("name", ["streaming", "three-block", "attention", "crnn"])
def test_every_convolution_but_the_first_is_rounded_and_the_state_is_as_before(name):
    plain, model = build(name, n_labels=3), quantised(build(name, n_labels=3))
    assert list(model.state_dict()) == list(plain.state_dict())
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [isinstance(m, RoundedConv2d) for m in convolutions] == [False] + [True] * (len(convolutions) - 1)
    model.load_state_dict(plain.state_dict())
    frames = torch.randn(2, 1, 64, model.window_frames)
    with torch.inference_mode():
        off = (model.eval()(frames) - plain.eval()(frames)).abs().max()
    assert 0 < off < 0.1


def checkpoint_of(model):
    provenance = {
        "dataset": "tones",
        "train_folds": [1],
        "test_fold": None,
        "seed": 0,
        "epochs": 0,
        "git_revision": "x",
    }
    sizes, state = SMALL | {"n_labels": 3}, model.state_dict()
    return Checkpoint("streaming", sizes, FrontendConfig(), ("high", "low", "middle"), provenance, state)


def trained_norms(model):
    for _ in range(10):
        model.train()(torch.randn(4, 1, 64, model.window_frames))
    return model.eval()


def test_what_it_settles_on_are_the_weights_of_the_int8_file():
    torch.manual_seed(0)
    model = quantised(trained_norms(build("streaming", n_labels=3, **SMALL)))
    settle(model)
    checkpoint = checkpoint_of(model)
    spec = build_spec(checkpoint, name="x", temperature=1.0, licence="-", precision="int8")
    windows = np.random.default_rng(0).standard_normal((3, 1, 64, spec.window_frames)).astype(np.float32)
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in graphs(checkpoint, windows)["int8"].graph.initializer}
    floats = {t.name: onnx.numpy_helper.to_array(t) for t in to_onnx(checkpoint.model()).graph.initializer}
    found = [name.removesuffix("_quantized") for name in tensors if name.endswith("weight_quantized")]
    assert len(found) == 8
    for name in found:
        scale = tensors[f"{name}_scale"][:, None, None, None]
        assert np.abs(tensors[f"{name}_quantized"]).max() == 64
        assert np.allclose(tensors[f"{name}_quantized"] * scale, floats[name], atol=1e-3 * scale.min(), rtol=1e-5)


def test_batch_norms_keep_their_statistics():
    model = quantised(build("streaming", n_labels=3, **SMALL)).train()
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    hold_norms(model)
    model(torch.randn(4, 1, 64, model.window_frames))
    assert all(torch.equal(model.state_dict()[k], v) for k, v in before.items())


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """Three classes of tones, and the checkpoint of a network that tells them apart with seven of eight channels."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("tones")
    for label, frequency in (("low", 200), ("middle", 1000), ("high", 4000)):
        for i in range(30):
            write_tone(root / "data" / label / f"{i}.wav", frequency, seed=i)
    torch.manual_seed(0)
    save_checkpoint(root / "new.pt", spoiled(checkpoint_of(build("streaming", n_labels=3, **SMALL)), largest=0))
    config = quick(epochs=10, augment=AugmentConfig(mix=0.0), init=str(root / "new.pt"))
    fit(config, read_manifest(root / "data"), root / "run", root / "cache", lambda _: None, device="cpu")
    return root


def spoiled(checkpoint, largest=75):
    """The same, with a channel that is always zero before each convolution, and huge weights that read it.

    They change nothing but the step to which all others are rounded.
    """
    state = {name: tensor.clone() for name, tensor in checkpoint.state.items()}
    kernels = [name for name, tensor in state.items() if tensor.ndim == 4]
    for before, kernel in pairwise(kernels):
        norm = before.replace(".0.weight", ".1")
        state[f"{norm}.weight"][0], state[f"{norm}.bias"][0] = 0, -1
        state[kernel][:, 0] = largest * state[kernel].abs().max()
    return dataclasses.replace(checkpoint, state=state)


def fine_tuned(root, out, **changes):
    report = changes.pop("report", lambda _: None)
    config = quick(quantised=True, init=str(root / "run" / "checkpoint.pt"), augment=AugmentConfig(mix=0.0))
    config = dataclasses.replace(config, **changes)
    return load_checkpoint(fit(config, read_manifest(root / "data"), out, root / "cache", report, device="cpu"))


def exported(checkpoint, root, out):
    return export(checkpoint, root / "data", out, name="x", licence="-", temperature=1.0, command="test", workers=1)


def test_what_rounding_lost_is_won_back(tones, tmp_path, monkeypatch):
    bad = spoiled(load_checkpoint(tones / "run" / "checkpoint.pt"))
    save_checkpoint(tmp_path / "bad.pt", bad)
    with pytest.raises(ParityError, match="int8 against fp32"):
        exported(bad, tones, tmp_path / "bad")
    monkeypatch.setitem(TOLERANCES, "int8", Tolerance(top1_agreement=0, mean_difference=1, max_difference=1))
    with pytest.raises(ParityError, match=r"int8 loses .* --recipe qat"):
        exported(bad, tones, tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())
    monkeypatch.undo()
    changes = {"init": str(tmp_path / "bad.pt"), "epochs": 6, "learning_rate": 3e-3}
    good = fine_tuned(tones, tmp_path / "qat", **changes)
    assert list(good.state) == list(bad.state)
    files = exported(good, tones, tmp_path / "good")
    assert files.reports["int8"].accuracy >= 0.9
    assert files.losses[0].points <= 0.3
    with pytest.raises(ParityError):  # it is not the training alone
        exported(fine_tuned(tones, tmp_path / "plain", quantised=False, **changes), tones, tmp_path / "plain")


def test_it_goes_on_where_it_was_interrupted(tones, tmp_path):
    whole = fine_tuned(tones, tmp_path / "whole", epochs=3)
    for _ in range(2):
        with pytest.raises(Interrupted):
            fine_tuned(tones, tmp_path / "cut", epochs=3, report=interrupt_after_one())
    resumed = fine_tuned(tones, tmp_path / "cut", epochs=3)
    assert all(torch.equal(whole.state[name], resumed.state[name]) for name in whole.state)
    before = load_checkpoint(tones / "run" / "checkpoint.pt").state
    assert all(torch.equal(before[name], whole.state[name]) for name in before if "running" in name)
    assert not torch.equal(before["trunk.1.0.weight"], whole.state["trunk.1.0.weight"])


def test_what_cannot_be_fine_tuned_so_is_named(tones, tmp_path):
    with pytest.raises(ValueError, match="precision is 'bfloat16'; allowed where quantised: float32"):
        quick(quantised=True, precision="bfloat16")
    with pytest.raises(
        ValueError, match="quantised fine-tunes weights that are trained already; name them with --init"
    ):
        fine_tuned(tones, tmp_path / "a", init="")
    with pytest.raises(ValueError, match=r"export leaves a BiLstm.* in float32: leave it out"):
        quantised(build("bilstm"))
