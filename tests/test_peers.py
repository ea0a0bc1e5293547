"""Networks of others: what they are taken for, what they are fed, and what cannot be compared with."""

from itertools import pairwise

import numpy as np
import pytest
from onnx import TensorProto

from edge.bench import peers
from edge.bench.peers import Network, Patch, Peer, _open_onnx, _open_tflite, open_peer, patches_of
from edge.bench.sound import synthetic_sound
from edge.bench.subjects import OurModel
from edge.classifier import Call
from edge.errors import ContractError
from edge.models import BUNDLED
from tests.conftest import SHARED
from tests.peer_files import sigmoid, write_failing_onnx, write_onnx, write_ours, write_tflite

pytestmark = pytest.mark.timed

YAMNET = SHARED / "peers" / "yamnet.tflite"


def peer(path, **options):
    return Peer(path, synthetic_sound, **({"hop_seconds": 0.48, "window_seconds": 3.962} | options))


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        ((15600,), Patch((15600,), 15600, 0, True)),
        ((1, 1, 30225, 1), Patch((1, 1, 30225, 1), 30225, 0, True)),
        ((0,), Patch((15600,), 15600, 0, True)),  # free: as long as YAMNet's
        ((-1, -1), Patch((1, 15600), 15600, 0, True)),
        ((1, 96, 64), Patch((1, 96, 64), 96, 64, True)),
        ((0, 64, 96, 1), Patch((1, 64, 96, 1), 96, 64, False)),
        ((1, 1, 128, 0), Patch((1, 1, 128, 97), 97, 128, False)),
        ((1, 0, 40), Patch((1, 97, 40), 97, 40, True)),
    ],
)
def test_what_a_shape_takes(shape, patch):
    assert Patch.of(shape, 16_000) == patch


@pytest.mark.parametrize("shape", [(), (1,), (1, 20), (0, 0, 0), (8, 96, 64), (1, 3, 224, 224)])
def test_what_takes_no_sound(shape):
    with pytest.raises(ValueError):
        Patch.of(shape, 16_000)


@pytest.mark.parametrize(("window", "patch", "count"), [(3.962, 0.975, 7), (4, 4, 1), (1, 4, 1), (1.5, 1.0, 2)])
def test_patches_half_over_each_other(window, patch, count):
    assert patches_of(window, patch) == count
    assert patch + (count - 1) * patch / 2 <= max(window, patch) + 1e-9
    assert patch + count * patch / 2 > window


def test_a_waveform_peer_hears_its_hops_in_turn(tmp_path):
    heard = []
    subject = peer(write_onnx(tmp_path / "net.onnx", [1, 15600]))
    network = Network(Patch.of((1, 15600), 16_000), np.dtype(np.float32), heard.append)
    stages = peers._of_samples(network, synthetic_sound(16_000), 7680, 7, 16_000)
    stages["hop"]()
    stages["hop"]()
    assert [x.shape for x in heard] == [(1, 15600)] * 2
    assert np.array_equal(heard[0][0, 7680:], heard[1][0, : 15600 - 7680])
    assert heard[0].std() > 0.05  # never silence
    heard.clear()
    stages["window"]()
    assert len(heard) == 7
    assert np.array_equal(heard[0][0, 7800:], heard[1][0, :7800])
    assert (subject.facts.kind, subject.facts.patches, subject.name) == ("onnx", 7, "net")


def test_a_mel_peer_gets_the_frames_of_its_whole_patch():
    """Streamed with a hop, they are those of the recording."""
    heard = []
    network = Network(Patch.of((1, 96, 64), 16_000), np.dtype(np.float32), lambda x: heard.append(x.copy()))
    sound = synthetic_sound(16_000)
    stages = peers._of_frames(network, sound, 8000, 7, 16_000)
    stages["window"]()
    assert [x.shape for x in heard] == [(1, 96, 64)] * 7
    assert np.array_equal(heard[0][0, 48:], heard[1][0, :48])
    of_window = heard[0]
    heard.clear()
    for _ in range(4):
        stages["hop"]()
    # The fourth hop ends at 2 s: 198 frames have been heard, and the last 96 are the patch.
    frames = peers.make_frontend(peers.FrontendConfig(
        win_length=400, f_min=125, f_max=7500, log_floor=1e-3, log_mean=0, log_std=1)
    )(sound[:32_000])[0].T  # fmt: skip
    assert np.array_equal(heard[-1][0], frames[-96:])
    assert np.array_equal(of_window[0], frames[:96])


@pytest.mark.parametrize(("kind", "zero_point"), [("INT8", 3), ("UINT8", 128)])
def test_a_quantised_input_is_quantised(tmp_path, kind, zero_point):
    path = write_tflite(tmp_path / "net.tflite", (1, 1200), kind=kind, scale=0.02, zero_point=zero_point)
    network = _open_tflite(path, 16_000, 1)
    values = np.linspace(-9, 9, 1200, dtype=np.float32)  # beyond what 8 bits can say
    low = -128 if kind == "INT8" else 0
    scores = (network(values).astype(int) - low) / 256
    limits = np.iinfo(kind.lower())
    heard = np.clip(values, (limits.min - zero_point) * 0.02, (limits.max - zero_point) * 0.02)
    assert np.abs(scores[0] - sigmoid(heard)).max() < 0.01


def test_free_axes_are_given_a_size(tmp_path):
    tflite = write_tflite(tmp_path / "net.tflite", (1, 1), free=(0, 1))
    onnx = write_onnx(tmp_path / "net.onnx", ["batch", "samples"])
    values = np.linspace(-1, 1, 15600, dtype=np.float32)
    assert np.allclose(_open_tflite(tflite, 16_000, 1)(values), sigmoid(values), atol=1e-5)
    assert np.allclose(_open_onnx(onnx, 16_000, 1)(values)[0], sigmoid(values), atol=1e-5)


def test_a_file_of_ours_is_measured_as_ours():
    opened = open_peer(
        BUNDLED, synthetic_sound, hop_seconds=0.48, window_seconds=4, sample_rate=16_000, threads=1,
        provider="auto",
    )  # fmt: skip
    assert isinstance(opened, OurModel)


def test_a_shorter_window_of_ours_is_decided_on_as_often_as_theirs(tmp_path, monkeypatch):
    """Else 0.995 s of it would stand against four."""
    heard = []
    monkeypatch.setattr(Call, "__call__", lambda self, run=Call.__call__: heard.append(self.frames.copy()) or run(self))
    subject = open_peer(
        write_ours(tmp_path), synthetic_sound, hop_seconds=0.48, window_seconds=3.962, sample_rate=16_000, threads=1,
        provider="auto",
    )  # fmt: skip
    assert (subject.facts.window_seconds, subject.facts.patches) == (3.962, patches_of(3.962, 0.995))
    heard.clear()
    subject.stages["network_window"]()
    assert len(heard) == 6
    heard.clear()
    subject.stages["window"]()
    assert [frames.shape for frames in heard] == [(1, 98, 40)] * 6
    for before, after in pairwise(heard):
        assert np.allclose(before[0, 49:], after[0, :49], atol=1e-5)  # half over the one before
        assert not np.allclose(before, after, atol=0.1)
    heard.clear()
    subject.stages["hop"]()
    assert len(heard) == 1


def test_mistakes(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "net.pt").write_text("")
    cases = {
        tmp_path / "none.onnx": "does not exist",
        tmp_path / "net.pt": "neither .onnx nor .tflite",
        tmp_path / "text.onnx": "cannot be loaded",
        write_onnx(tmp_path / "two.onnx", [1, 15600], inputs=2): r"inputs \[1, 15600\], \[1, 15600\], which are not",
        write_onnx(tmp_path / "picture.onnx", ["n", 3, 224, 224]): r"inputs \[\?, 3, 224, 224\]",
        write_onnx(tmp_path / "tokens.onnx", [1, 15600], dtype=TensorProto.INT64): "which are not one of samples",
    }
    for path, words in cases.items():
        with pytest.raises(ContractError, match=words):
            peer(path)


def test_a_network_that_fails_when_run_is_one_line(tmp_path):
    """And not a traceback in the middle of the rounds."""
    options = {"hop_seconds": 0.48, "window_seconds": 4.0, "sample_rate": 16_000, "threads": 1, "provider": "auto"}
    for path in (write_failing_onnx(tmp_path / "net.onnx"),
                 write_tflite(tmp_path / "net.tflite", (1, 1200), failing=True)):  # fmt: skip
        with pytest.raises(ContractError, match=rf"{path.name} cannot be run: .*leave it out"):
            open_peer(path, synthetic_sound, **options)


def test_a_tflite_file_without_inputs(tmp_path):
    path = write_tflite(tmp_path / "net.tflite", (1, 1200), inputs=())
    with pytest.raises(ContractError, match="has inputs of no kind, which are not one of samples"):
        peer(path)


def test_a_damaged_tflite_file(tmp_path):
    path = write_tflite(tmp_path / "net.tflite", (1, 1200))
    path.write_bytes(path.read_bytes()[:80])
    with pytest.raises(ContractError, match="cannot be loaded"):
        peer(path)


@pytest.mark.skipif(not YAMNET.is_file(), reason=f"YAMNet is not there: {YAMNET}")
def test_yamnet_takes_seven_patches_for_a_window():
    pytest.importorskip("ai_edge_litert", reason="ai-edge-litert is not installed")
    subject = peer(YAMNET)
    assert (subject.name, subject.facts.patches) == ("yamnet", 7)
    assert subject.stages["hop"]().shape == (1, 521)
