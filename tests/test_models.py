"""The registry: every architecture learns, is exported, and says on the device what it says in torch."""

import dataclasses
import json
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torchaudio import pipelines

from edge.classifier import Classifier
from edge.config import FrontendConfig
from edge.features import make_frontend
from export.contract import build_spec, write_with_golden
from export.graphs import graphs
from export.to_onnx import probabilities
from export.verify import TOLERANCES
from models import architectures, build, mean, pretrained
from models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from models.cost import count_macs
from train.config import RECIPES, read_recipe

RATE = 16_000
LABELS = ("low", "middle", "high")
MEL = FrontendConfig(n_mels=32)
STEREO = FrontendConfig(n_mels=32, channels=2)
WAVEFORM = FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1)
STREAMING = {"widths": (16, 16), "last_width": 16, "column_width": 16, "n_columns": 11, "n_mels": 32}
ENCODER = {
    "convolutions": ((32, 10, 5), (32, 8, 4), (32, 4, 4)),
    "width": 32, "layers": 2, "heads": 2, "feed_forward": 32, "position_kernel": 8, "position_groups": 2,
}  # fmt: skip
SMALL = {  # front end and sizes, of about a second
    "attention": (MEL, {"widths": (8, 16, 16), "hidden": 8, "window_frames": 100, "n_mels": 32}),
    "bilstm": (MEL, {"hidden": 16, "window_frames": 100, "n_mels": 32}),
    "crnn": (MEL, {"widths": (8, 16), "time_strides": (2, 2), "hidden": 8, "window_frames": 100, "n_mels": 32}),
    "four-block": (STEREO, {"widths": (8, 16, 16, 16), "window_frames": 100, "n_mels": 32}),
    "streaming": (MEL, STREAMING),
    "streaming-tiny": (MEL, STREAMING | {"widths": (8, 16)}),
    "streaming-wide": (STEREO, STREAMING | {"channels": 2}),
    "three-block": (MEL, {"widths": (8, 16, 16), "window_frames": 100, "n_mels": 32}),
    "wav2vec": (WAVEFORM, ENCODER | {"window_frames": RATE // 4}),
}
ALL = sorted(SMALL)


def tones(frontend, n_samples, count, seed):
    """``count`` noisy tones of each label: samples [n, n_samples] or [n, n_samples, channels], and targets [n]."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples) / frontend.sample_rate
    targets = np.arange(3 * count) % 3
    pitch = np.array([300, 1200, 5000])[targets] * rng.uniform(0.9, 1.1, len(targets))
    waves = rng.uniform(0.1, 0.4, (len(targets), 1)) * np.sin(2 * np.pi * pitch[:, None] * time)
    waves = (waves + 0.01 * rng.standard_normal(waves.shape)).astype(np.float32)
    return (waves if frontend.channels == 1 else np.stack([waves, waves / 2], axis=2)), targets


def frames_of(frontend, samples):
    make = make_frontend(frontend)
    return torch.from_numpy(np.stack([make(wave).copy() for wave in samples]))


def learn(model, frames, targets, steps=40):
    torch.manual_seed(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(frames), torch.from_numpy(targets))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


def checkpoint_of(name, model, frontend, **provenance):
    provenance = {
        "dataset": "tones", "train_folds": [1], "test_fold": None, "seed": 0, "epochs": 1, "git_revision": "x",
    } | provenance  # fmt: skip
    return Checkpoint(name, dataclasses.asdict(model.config), frontend, LABELS, provenance, model.state_dict())


def small(name):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    frontend, sizes = SMALL[name]
    return frontend, build(name, **sizes, n_labels=3)


def test_every_architecture_is_tested():
    assert architectures() == ALL


@pytest.mark.parametrize("name", ALL)
def test_it_learns_is_exported_and_runs(name, tmp_path):
    """Three tones apart, then: checkpoint, both files, whole windows and a stream, against torch."""
    frontend, model = small(name)
    n_samples = frontend.n_samples(model.window_frames)
    samples, targets = tones(frontend, n_samples, 8, seed=0)
    learn(model, frames_of(frontend, samples), targets)
    heard, truth = tones(frontend, n_samples, 12, seed=1)
    frames = frames_of(frontend, heard)
    save_checkpoint(tmp_path / "c.pt", checkpoint_of(name, model, frontend))
    checkpoint = load_checkpoint(tmp_path / "c.pt")
    with torch.inference_mode():
        expected = probabilities(checkpoint.model()(frames), 1.0, "softmax").numpy()
    assert (expected.argmax(1) == truth).mean() >= 0.7  # chance: a third
    spec = build_spec(checkpoint, name=name, temperature=1.0, licence="-", precision="fp32")
    windows = [w.numpy() for w in frames_of(frontend, samples)]
    tolerances = {"fp32": 1e-4, "int8": 0.2, "int8-s8s8": 0.2, "fp16": 0.02}
    for precision, graph in graphs(checkpoint, windows, tolerances).items():
        provenance = dataclasses.replace(spec.provenance, precision=precision)
        path = tmp_path / f"{precision}.onnx"
        write_with_golden(graph, dataclasses.replace(spec, provenance=provenance), path)
        classifier = Classifier(path)
        found = np.stack([classifier.windows(wave, hop=0.2)[0] for wave in heard])
        assert np.abs(found - expected).max() < tolerances[precision]
        assert (found.argmax(1) == truth).mean() >= 0.7
        streamed = classifier.stream(0.1).push(np.concatenate(heard[:3]))
        assert np.allclose(streamed[0].probs, found[0], atol=1e-6 + TOLERANCES[precision].streamed)
        assert len(streamed) > 5


def test_scores_of_several_labels_are_independent(tmp_path):
    frontend, model = small("three-block")
    checkpoint = checkpoint_of("three-block", model.eval(), frontend, multi_label=True)
    spec = build_spec(checkpoint, name="x", temperature=2.0, licence="-", precision="fp32")
    assert spec.scores == "sigmoid"
    samples, _ = tones(frontend, spec.window_samples, 2, seed=0)
    frames = frames_of(frontend, samples)
    write_with_golden(graphs(checkpoint, [f.numpy() for f in frames])["fp32"], spec, tmp_path / "x.onnx")
    found = Classifier(tmp_path / "x.onnx").windows(samples[0])[0]
    assert np.allclose(found, torch.sigmoid(checkpoint.model()(frames[:1]) / 2).detach().numpy()[0], atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_its_recipe_fits_it(name):
    config = read_recipe("default" if name == "streaming" else name)
    frontend = config.frontend
    sizes = ENCODER | {"bundle": ""} if name == "wav2vec" else {}
    model = build(config.architecture, **config.model | sizes, n_mels=frontend.n_mels, channels=frontend.channels)
    assert config.architecture == name
    assert 2 < frontend.n_samples(model.window_frames) / frontend.sample_rate < 5
    assert (RECIPES / "default.toml").is_file()


def test_unknown_architectures_and_fields_are_named():
    with pytest.raises(ValueError, match=r"unknown architecture 'transformer'; there are: .*streaming"):
        build("transformer")
    with pytest.raises(ValueError, match="no field depth; it has: n_mels"):
        build("streaming", depth=3)
    with pytest.raises(ValueError, match="window_frames is 101; allowed: a multiple of stack 4"):
        build("bilstm", window_frames=101)
    with pytest.raises(ValueError, match="n_mels is 64; allowed: 1"):
        build("wav2vec", **ENCODER, n_mels=64)
    with pytest.raises(ValueError, match="crnn has 2 widths and 4 time_strides; give one of each"):
        build("crnn", widths=(8, 16))
    with pytest.raises(ValueError, match="n_mels is 4; allowed for 3 widths: at least 8"):
        build("three-block", n_mels=4)
    with pytest.raises(ValueError, match="window_frames is 7; allowed for 3 widths: at least 8"):
        build("three-block", window_frames=7)


# The streaming network


@pytest.mark.parametrize(("n_mels", "channels"), [(32, 1), (64, 2), (80, 1)])
def test_columns_depend_on_their_receptive_field_alone(n_mels, channels):
    torch.manual_seed(0)
    model = build("streaming", **STREAMING | {"n_mels": n_mels}, channels=channels).eval()
    frames = torch.randn(1, channels, n_mels, model.window_frames)
    columns = model.columns(frames)
    assert columns.shape == (1, 16, model.n_columns)
    assert model(frames).shape == (1, 50)
    field, stride = model.receptive_field, model.column_stride
    for index in (0, 5, model.n_columns - 1):
        changed = torch.randn_like(frames)
        changed[..., index * stride : index * stride + field] = frames[..., index * stride : index * stride + field]
        assert torch.allclose(model.columns(changed)[..., index], columns[..., index], atol=1e-5)


# Attention


@pytest.mark.parametrize(("name", "shape"), [("attention", (2, 4, 13)), ("bilstm", (2, 25))])
def test_an_attention_map_is_a_distribution_and_decides(name, shape):
    _, model = small(name)
    model.eval()
    frames = torch.randn(2, 1, 32, 100)
    attention = model.attention(frames)
    assert attention.shape == shape
    assert torch.allclose(attention.flatten(1).sum(1), torch.ones(2), atol=1e-5)
    places = model.trunk(frames).flatten(2).transpose(1, 2) if name == "attention" else model.steps(frames)
    weighted = (attention.flatten(1)[..., None] * places).sum(1)
    assert torch.allclose(model.classifier(weighted), model(frames), atol=1e-5)


@pytest.mark.parametrize(("name", "rows", "columns"), [("attention", 4, 13), ("bilstm", 1, 25)])
def test_an_attention_map_is_drawn(name, rows, columns, tone_wav, tmp_path):
    from attention_map import attention_map, draw

    frontend, model = small(name)
    frames, weights, label = attention_map(checkpoint_of(name, model, frontend), tone_wav)
    assert (frames.shape, weights.shape) == ((32, 100), (rows, columns))
    assert label in LABELS
    draw(frames, weights, label, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_what_cannot_be_drawn_is_one_line(tone_wav, tmp_path):
    from attention_map import main

    frontend, model = small("bilstm")
    save_checkpoint(tmp_path / "c.pt", checkpoint_of("bilstm", model, frontend))
    for arguments, message in (
        (("none.pt", tone_wav, "map.png"), "Error: .*none.pt"),
        (("c.pt", tmp_path / "none.wav", "map.png"), "Error: .*none.wav"),
        (("c.pt", tone_wav, "map.nothing"), "Error: .*nothing"),
    ):
        with pytest.raises(SystemExit, match=message):
            main([str(tmp_path / argument) for argument in arguments])


def test_a_network_without_attention_has_no_map(tone_wav):
    from attention_map import attention_map

    frontend, model = small("streaming")
    with pytest.raises(ValueError, match="streaming has no attention"):
        attention_map(checkpoint_of("streaming", model, frontend), tone_wav)


# wav2vec 2.0


def test_only_the_head_of_wav2vec_is_trained():
    frontend, model = small("wav2vec")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    samples, targets = tones(frontend, model.window_frames, 2, seed=0)
    learn(model, frames_of(frontend, samples), targets, steps=2)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"mix", "classifier.weight", "classifier.bias"}
    model.train()
    assert model.training
    assert not any(module.training for module in model.encoder.modules())


def test_a_bundle_gives_its_weights_once(monkeypatch, tmp_path):
    """The checkpoint holds them: no network is needed to load it."""
    torch.manual_seed(7)
    pretrained = build("wav2vec", **ENCODER).encoder
    monkeypatch.setattr(pipelines.Wav2Vec2Bundle, "get_model", lambda self: pretrained)
    model = build("wav2vec", **ENCODER, bundle="WAV2VEC2_BASE", n_labels=3, window_frames=RATE)
    theirs = pretrained.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in model.encoder.state_dict().items())
    save_checkpoint(tmp_path / "c.pt", checkpoint_of("wav2vec", model, WAVEFORM))
    monkeypatch.setattr(pipelines.Wav2Vec2Bundle, "get_model", lambda self: pytest.fail("downloads again"))
    frames = torch.randn(1, 1, 1, RATE)
    assert torch.equal(load_checkpoint(tmp_path / "c.pt").model()(frames), model.eval()(frames))


def test_a_bundle_that_cannot_be_had(monkeypatch):
    def offline(self):
        raise URLError("no route to host")

    with pytest.raises(ValueError, match=r"unknown bundle 'BASE'; there are: .*WAV2VEC2_BASE"):
        build("wav2vec", **ENCODER, bundle="BASE")
    monkeypatch.setattr(pipelines.Wav2Vec2Bundle, "get_model", offline)
    with pytest.raises(
        ValueError, match=r"WAV2VEC2_BASE cannot be downloaded: .*no route.*; connect .* or copy them into"
    ):
        build("wav2vec", **ENCODER, bundle="WAV2VEC2_BASE")
    other = build("wav2vec", **ENCODER | {"width": 16}).encoder
    monkeypatch.setattr(pipelines.Wav2Vec2Bundle, "get_model", lambda self: other)
    with pytest.raises(ValueError, match="encoder of WAV2VEC2_BASE has other sizes"):
        build("wav2vec", **ENCODER, bundle="WAV2VEC2_BASE")


# Cost


class First(nn.Module):
    """The output of a recurrent layer without its state."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(3, 8, (5, 3), stride=2), (1, 3, 21, 11), 8 * 9 * 5 * 3 * 15),
        (nn.Conv1d(16, 8, 3, groups=2), (1, 16, 10), 8 * 8 * 8 * 3),
        (nn.Linear(7, 5), (1, 4, 7), 4 * 7 * 5),
        (First(nn.LSTM(16, 8, batch_first=True, bidirectional=True)), (1, 10, 16), 2 * 10 * 4 * 8 * (16 + 8)),
        (First(nn.GRU(16, 8, batch_first=True)), (1, 10, 16), 10 * 3 * 8 * (16 + 8)),
    ],
)
def test_macs_are_those_of_the_formula(layer, shape, macs):
    assert count_macs(layer.train(), torch.zeros(shape)) == macs
    assert layer.training


def test_the_sizes_of_the_streaming_network():
    macs = {}
    for name in ("streaming-tiny", "streaming", "streaming-wide"):
        model = build(name)
        macs[name] = count_macs(model, torch.zeros(1, 1, 64, model.window_frames)) / 1e6
    assert macs["streaming-tiny"] <= 25
    assert macs["streaming-tiny"] * 3 < macs["streaming"] < macs["streaming-wide"] / 2


# Checkpoints


def test_checkpoints_survive_and_damage_is_named(tmp_path):
    _, model = small("streaming")
    save_checkpoint(tmp_path / "c.pt", checkpoint_of("streaming", model, MEL))
    loaded = load_checkpoint(tmp_path / "c.pt")
    frames = torch.randn(1, 1, 32, model.window_frames)
    assert torch.equal(loaded.model()(frames), model.eval()(frames))
    assert (loaded.labels, loaded.frontend, loaded.provenance["dataset"]) == (LABELS, MEL, "tones")
    assert [p.name for p in tmp_path.iterdir()] == ["c.pt"]
    (tmp_path / "cut.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"cut\.pt is not a checkpoint"):
        load_checkpoint(tmp_path / "cut.pt")
    content = bytearray((tmp_path / "c.pt").read_bytes())
    weights = next(iter(loaded.state.values())).numpy().tobytes()
    content[content.index(weights) + 3] ^= 0x40  # of an exponent: only the checksum tells
    (tmp_path / "flipped.pt").write_bytes(content)
    with pytest.raises(ValueError, match=r"flipped\.pt is not a checkpoint of edge-listen, or is damaged"):
        load_checkpoint(tmp_path / "flipped.pt")
    nowhere = checkpoint_of("streaming", model, MEL)
    del nowhere.provenance["dataset"]
    save_checkpoint(tmp_path / "nowhere.pt", nowhere)
    with pytest.raises(ValueError, match="its provenance lacks dataset"):
        load_checkpoint(tmp_path / "nowhere.pt")
    loaded.state.popitem()
    with pytest.raises(ValueError, match=r"the weights do not fit the architecture streaming: .*Missing key"):
        loaded.model()


HEADERS = {
    "architecture": [["streaming"]],
    "config": [[1], {"dropout": "much"}, {"column_width": 10**12}, {"n_mels": 40}],
    "frontend": [[1], {"n_mels": "64"}, {"n_mels": 40}],
    "labels": [[1, 2, 3], ["low", "high"], "low"],
    "provenance": [[1], *({"train_folds": f} for f in (None, [], ["1"], [1, 5])), {"test_fold": "5"}, {"epochs": "1"}],
}


@pytest.mark.parametrize("part", ["state", *HEADERS])
def test_a_header_of_other_types_is_a_value_error(part, tmp_path):
    """And no other, so that every command has one line for it."""
    _, model = small("streaming")
    whole = checkpoint_of("streaming", model, MEL, test_fold=5)
    save_checkpoint(tmp_path / "c.pt", whole)
    load_checkpoint(tmp_path / "c.pt").model()
    data = torch.load(tmp_path / "c.pt", weights_only=True)
    header = json.loads(data["header"])
    for wrong in HEADERS.get(part, ["text", [1], {"trunk": "text"}]):
        value = header[part] | wrong if isinstance(wrong, dict) and part in header else wrong
        changed = {"state": value} if part == "state" else {"header": json.dumps(header | {part: value})}
        torch.save(data | changed, tmp_path / "wrong.pt")
        with pytest.raises(ValueError) as caught:
            load_checkpoint(tmp_path / "wrong.pt").model()
        assert "\n" not in str(caught.value), wrong


def test_checkpoints_from_before_there_were_channels_are_read(tmp_path):
    _, model = small("streaming")
    save_checkpoint(tmp_path / "new.pt", checkpoint_of("streaming", model, MEL))
    data = torch.load(tmp_path / "new.pt", weights_only=True)
    header = json.loads(data["header"])
    del header["config"]["channels"], header["frontend"]["channels"], header["frontend"]["kind"]
    torch.save(data | {"header": json.dumps(header)}, tmp_path / "old.pt")
    old = load_checkpoint(tmp_path / "old.pt")
    assert old.frontend == MEL
    frames = torch.randn(1, 1, 32, model.window_frames)
    assert torch.equal(old.model()(frames), model.eval()(frames))


def test_the_mean_of_weights(tmp_path):
    models = [small("streaming")[1] for _ in range(2)]
    for parameter in models[1].parameters():
        parameter.data += 1
    paths = [tmp_path / f"{n}.pt" for n in range(2)]
    for path, model in zip(paths, models, strict=True):
        save_checkpoint(path, checkpoint_of("streaming", model, MEL))
    mean.main([str(tmp_path / "mean.pt"), *map(str, paths)])
    state = load_checkpoint(tmp_path / "mean.pt").model().state_dict()
    for name, both in state.items():
        first, second = (model.state_dict()[name] for model in models)
        assert torch.allclose(both.float(), (first.float() + second.float()) / 2, atol=1e-6)
    save_checkpoint(paths[1], checkpoint_of("three-block", small("three-block")[1], MEL))
    for arguments, message in (
        (["out.pt", str(paths[0])], "usage: python -m models.mean"),
        (["out.pt", *map(str, paths)], "do not mix"),
        (["out.pt", str(paths[0]), str(tmp_path / "none.pt")], "none.pt"),
    ):
        with pytest.raises(SystemExit, match=message):
            mean.main(arguments)
    with pytest.raises(SystemExit, match=r"Error: .*none\.pt"):
        pretrained.main([str(tmp_path / "none.pt")])


def test_a_mean_holds_out_what_no_weight_has_learnt():
    frontend, model = small("streaming")
    held_out = {"train_folds": [1, 2], "test_fold": 3, "digest": "a"}
    last = checkpoint_of("streaming", model, frontend, **held_out)
    for changes, message in (
        ({"test_fold": None}, "weights of test_fold None and of 3 do not mix"),
        ({"train_folds": [2, 3], "test_fold": 1}, r"weights of train_folds \[2, 3\] and of \[1, 2\] do not mix"),
        ({"dataset": "noises"}, "weights of dataset noises and of tones do not mix"),
        ({"digest": "b"}, "weights of other clips or folds of tones do not mix"),
    ):
        with pytest.raises(ValueError, match=message):
            mean.mean([checkpoint_of("streaming", model, frontend, **held_out | changes), last])
    louder = dataclasses.replace(frontend, log_mean=0.0)
    with pytest.raises(ValueError, match=r"log_mean=0\.0.* do not mix"):
        mean.mean([checkpoint_of("streaming", model, louder, **held_out), last])
    more = {"digest": "b", "other_data": ["more (9 clips) of its classes", "hiss (none of its classes)"]}
    both = mean.mean([checkpoint_of("streaming", model, frontend, **held_out | more), last])
    assert both.provenance["other_data"] == more["other_data"]
