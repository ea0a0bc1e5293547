"""What the TensorRT provider is asked for. No GPU is here: onnxruntime is a stand-in that says that it has one."""

from __future__ import annotations

import logging

import onnxruntime
import pytest

from edge.classifier import Classifier
from edge.engine_cache import tensorrt_options

TENSORRT = "TensorrtExecutionProvider"


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """The providers that sessions were asked for; they run on the processor."""
    seen, real = [], onnxruntime.InferenceSession

    class Session(real):
        def __init__(self, graph, options, providers, **others):
            seen.extend(providers)
            super().__init__(graph, options, providers=["CPUExecutionProvider"])
            self.told = [name for name, _ in providers]

        def get_providers(self):
            return self.told

    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [TENSORRT, "CPUExecutionProvider"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return seen


def test_tensorrt_keeps_its_engines_in_a_folder_of_the_model(asked, tmp_path):
    for model in (None, "tiny"):
        assert Classifier(model, provider="tensorrt").provider == TENSORRT
    folders = [options["trt_engine_cache_path"] for name, options in asked if name == TENSORRT]
    assert len(set(folders)) == 2
    assert {path.name for path in (tmp_path / "edge-listen" / "tensorrt").iterdir()} == {f[-16:] for f in folders}
    for _, options in asked:
        assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"
        assert options["trt_timing_cache_path"] == options["trt_engine_cache_path"]
        assert options["trt_fp16_enable"] == options["trt_int8_enable"] == "False"  # U8S8: for processors


def test_the_processor_is_asked_for_nothing(asked, tmp_path):
    Classifier(provider="cpu")
    assert asked == [("CPUExecutionProvider", {})]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"),
    [("fp32", "False", "False"), ("fp16", "True", "False"), ("int8-s8s8", "False", "True")],
)
def test_tensorrt_may_compute_in_the_precision_of_the_file(precision, fp16, int8, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = tensorrt_options(b"a model", precision)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)


def test_without_a_folder_engines_are_built_at_each_start(monkeypatch, tmp_path, caplog):
    (tmp_path / "edge-listen").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level(logging.WARNING):
        options = tensorrt_options(b"a model", "fp16")
    assert set(options) == {"trt_fp16_enable", "trt_int8_enable"}
    assert "at each start" in caplog.text
