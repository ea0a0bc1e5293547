"""A model file → probabilities: streamed equals whole, and every file that must be refused is."""

import base64
import dataclasses
import shutil

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.classifier import SAME_SUMS, Classifier, available_providers
from edge.config import METADATA_KEY, ModelSpec
from edge.errors import ContractError, InputError, ProviderError
from edge.models import BUNDLED
from tests.conftest import FP32


@pytest.fixture(scope="session", params=[BUNDLED, FP32], ids=["int8", "fp32"])
def either(request):
    return Classifier(request.param)


def whole(classifier, samples):
    """The decision on exactly one window, computed afresh."""
    return classifier.run(classifier._frontend(samples))


def assert_same(classifier, decision, other):
    """Bit for bit; but onnxruntime's float32 convolutions for ARM sum in another order where the length is another, and
    of int8 the first one is such: what it gives may be rounded to the next step.
    """
    energy, probs = 0.0, 0.0
    if not SAME_SUMS:
        energy, probs = (0.1, 0.02) if classifier.spec.provenance.precision == "int8" else (1e-5, 1e-6)
    assert decision.energy == pytest.approx(other.energy, abs=energy, rel=0)
    np.testing.assert_allclose(decision.probs, other.probs, rtol=0, atol=probs)


@given(data=st.data(), columns=st.integers(1, 41), seed=st.integers(0, 100))
@settings(max_examples=12, deadline=None)
def test_streamed_equals_whole_over_a_minute(either, minute, data, columns, seed):
    """Random hop, random chunks; every decision is compared bit for bit with its window computed afresh."""
    spec = either.spec
    hop = columns * spec.column_stride
    rng = np.random.default_rng(seed)
    stream = either.stream(hop * spec.frontend.hop_length / spec.frontend.sample_rate)
    assert stream.hop_frames == hop
    decisions, start = [], 0
    while start < len(minute):
        n = int(rng.integers(1, 40_000))
        decisions += stream.push(minute[start : start + n])
        start += n
    assert len(decisions) == 1 + (spec.frontend.n_frames(len(minute)) - spec.window_frames) // hop
    for index in {0, 1, len(decisions) - 1, *rng.integers(0, len(decisions), 12).tolist()}:
        at = index * stream.hop_samples
        assert_same(either, decisions[index], whole(either, minute[at : at + spec.window_samples]))


def test_hops_of_changing_length_equal_whole(either, minute):
    """The graph itself: a new hop length each time, what was kept carried along."""
    spec, rng = either.spec, np.random.default_rng(0)
    frames = either._frontend(minute)
    end = spec.window_frames
    call = either.bind(end)
    call.frames[:] = frames[:, :, :end].transpose(0, 2, 1)
    call()
    while True:
        hop = int(rng.integers(1, spec.n_columns + 1)) * spec.column_stride
        if end + hop > frames.shape[2]:
            break
        end += hop
        following = either.bind(spec.kept_frames + hop)
        following.follow(call)
        following.frames[:] = frames[:, :, end - hop - spec.kept_frames : end].transpose(0, 2, 1)
        assert_same(either, following(), either.run(frames[:, :, end - spec.window_frames : end]))
        call = following


@pytest.mark.parametrize(("more", "windows"), [(-1, 1), (0, 1), (1, 1)])
def test_one_window_one_sample_less_one_more(classifier, minute, more, windows):
    samples = minute[: classifier.spec.window_samples + more]
    assert classifier.windows(samples).shape == (windows, len(classifier.labels))


def test_windows_at_the_boundary_of_a_hop(classifier, minute):
    spec = classifier.spec
    hop = classifier.stream().hop_samples
    for more, windows in ((hop - 1, 1), (hop, 2), (hop + 1, 2)):
        assert len(classifier.windows(minute[: spec.window_samples + more])) == windows


def test_classify_is_the_mean_of_the_windows(classifier, minute):
    assert np.allclose(classifier.classify(minute), classifier.windows(minute).mean(axis=0))
    assert classifier.classify(minute).sum() == pytest.approx(1, abs=1e-5)


def test_other_rates_and_channels_are_taken(classifier, minute):
    import make_demo

    sound = make_demo.sound("siren", 5.0)
    at_model = classifier.classify(sound[::2].astype(np.float32))
    stereo = classifier.classify(np.column_stack([sound, sound]), make_demo.RATE)
    assert classifier.labels[np.argmax(stereo)] == classifier.labels[np.argmax(at_model)] == "siren"


def test_integers_are_scaled_and_other_types_refused(classifier, minute):
    pcm = (minute[:80_000] * 32768).astype(np.int16)
    assert np.allclose(classifier.classify(pcm), classifier.classify(pcm / 32768), atol=1e-6)
    for wrong in (pcm.astype(np.uint8), pcm.astype(complex), pcm.reshape(10, 10, -1)):
        with pytest.raises(InputError):
            classifier.classify(wrong)


@pytest.mark.parametrize("n", [0, 1, 511])
def test_too_short_a_recording(classifier, n):
    with pytest.raises(InputError, match=f"{n} samples are too few"):
        classifier.classify(np.zeros(n))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_a_value_that_is_no_sample(classifier, minute, bad):
    samples = minute[:70_000].copy()
    samples[100] = bad
    with pytest.raises(InputError, match=r"sample 100 is .*, which is no sample"):
        classifier.classify(samples)


def test_a_hop_that_is_no_whole_number_of_columns(classifier):
    from edge.classifier import Stream

    with pytest.raises(ContractError, match="multiple of"):
        Stream(classifier, classifier.spec.column_stride + 1)


# What must be refused, in one line with exit code 3.


def assert_refused(path, match, **options):
    with pytest.raises(ContractError, match=match) as error:
        Classifier(path, **options)
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3


@pytest.fixture
def changed(tmp_path):
    """A copy of the bundled model after a change to its proto or its contract."""

    def change(proto=lambda model: None, spec=lambda s: s):
        model = onnx.load(BUNDLED)
        changed = spec(ModelSpec.from_json(next(p.value for p in model.metadata_props if p.key == METADATA_KEY)))
        path = tmp_path / "changed.onnx"
        if isinstance(changed, ModelSpec):
            changed = changed.to_json()
        del model.metadata_props[:]
        metadata = onnx.ModelProto()
        if changed is not None:
            onnx.helper.set_model_props(metadata, {METADATA_KEY: changed})
        proto(model)
        path.write_bytes(model.SerializeToString(deterministic=True) + metadata.SerializeToString())
        return path

    return change


def test_an_unchanged_copy_is_accepted(changed):
    assert Classifier(changed()).spec == Classifier().spec


def test_missing_model(tmp_path):
    assert_refused(tmp_path / "no.onnx", "does not exist")


@pytest.mark.parametrize("content", [b"", b"not a model", bytes(1000)])
def test_not_onnx(tmp_path, content):
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    assert_refused(path, "not an ONNX model|without a contract")


def test_truncated_model(tmp_path):
    path = tmp_path / "cut.onnx"
    path.write_bytes(BUNDLED.read_bytes()[:100_000])
    assert_refused(path, "not an ONNX model")


def test_onnx_without_a_contract(changed):
    assert_refused(changed(spec=lambda s: None), "without a contract of edge-listen")


def test_contract_from_the_future(changed):
    assert_refused(changed(spec=lambda s: dataclasses.replace(s, schema_version=99)), "schema_version 99.*upgrade")


def test_a_missing_field_is_named(changed):
    assert_refused(
        changed(spec=lambda s: s.to_json().replace('"sample_rate"', '"rate"')), "sample_rate|'frontend.rate'"
    )


def test_a_corrupted_weight(changed):
    def corrupt(model):
        tensor = max(model.graph.initializer, key=lambda t: len(t.raw_data))
        data = bytearray(tensor.raw_data)
        data[: len(data) // 4] = bytes(b ^ 0x40 for b in data[: len(data) // 4])
        tensor.raw_data = bytes(data)

    assert_refused(changed(corrupt), "is damaged: its graph or weights")


@pytest.mark.parametrize("seed", range(5))
def test_one_flipped_bit_anywhere_before_the_contract(tmp_path, seed):
    data = bytearray(BUNDLED.read_bytes())
    at = int(np.random.default_rng(seed).integers(0, Classifier().spec.graph_bytes))
    data[at] ^= 1 << seed
    (tmp_path / "flipped.onnx").write_bytes(data)
    assert_refused(tmp_path / "flipped.onnx", "damaged|not an ONNX model|contract")


def test_weights_that_do_not_give_the_golden_probabilities(changed):
    def shifted(spec):
        probs = np.frombuffer(base64.b64decode(spec.golden.probs), "<f4")[::-1].tobytes()
        return dataclasses.replace(
            spec, golden=dataclasses.replace(spec.golden, probs=base64.b64encode(probs).decode())
        )

    assert_refused(changed(spec=shifted), "fails its self-test: golden.probs is off by .*network")


@pytest.mark.skipif(not SAME_SUMS, reason="what is rounded hides so little")
def test_a_geometry_that_is_not_the_graph_s(changed):
    """One column fewer seen by each, one frame more between them: the same window, another stream."""

    def other(spec):
        field = spec.receptive_field + (spec.n_columns - 1)
        return dataclasses.replace(spec, column_stride=spec.column_stride - 1, receptive_field=field)

    assert_refused(changed(spec=other), "fails its self-test|its contract says")


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize("index", range(5))
def test_caches_that_are_not_the_graph_s(changed, index, more):
    def other(spec):
        caches = [list(cache) for cache in spec.caches]
        caches[index][0] += more
        return dataclasses.replace(spec, caches=tuple(tuple(cache) for cache in caches if cache[0]))

    assert_refused(changed(spec=other), "fails its self-test|its contract says")


def test_frames_kept_that_are_not_the_graph_s(changed):
    def other(spec):
        return dataclasses.replace(spec, kept_frames=spec.kept_frames + 2)

    assert_refused(changed(spec=other), "fails its self-test|its contract says")


def test_another_front_end(changed):
    def other(spec):
        return dataclasses.replace(spec, frontend=dataclasses.replace(spec.frontend, f_min=60.0))

    assert_refused(changed(spec=other), "golden.frames is off by .*front end")


def test_labels_that_do_not_fit_the_graph(changed):
    def fewer(spec):
        return dataclasses.replace(spec, labels=spec.labels[:-1], thresholds={})

    assert_refused(changed(spec=fewer), "outputs .*contract says")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("pcm", "%%%", "damaged golden.pcm"),
        ("pcm", "", "golden.pcm of 0 values"),
        ("frames", "", "golden.frames of 0 values"),
        ("frames", "AAAA" * 400_000, "longer than a window"),
        ("probs", "AAAAAA==", "golden.probs of 1 values"),
    ],
)
def test_damaged_golden_vectors(changed, field, value, message):
    def damage(spec):
        return dataclasses.replace(spec, golden=dataclasses.replace(spec.golden, **{field: value}))

    assert_refused(changed(spec=damage), message)


def test_a_model_without_golden_vectors(changed):
    assert_refused(changed(spec=lambda s: dataclasses.replace(s, golden=None)), "no golden vectors")


def test_a_provider_that_is_not_there():
    assert "cpu" in available_providers()
    for provider in sorted({"cuda", "tensorrt"} - set(available_providers())):
        with pytest.raises(ProviderError, match=rf"no {provider} provider.*it has .*cpu") as error:
            Classifier(provider=provider)
        assert error.value.exit_code == 6
    with pytest.raises(ProviderError, match="unknown provider 'npu'"):
        Classifier(provider="npu")


def test_the_same_file_under_another_name(tmp_path):
    shutil.copy(BUNDLED, tmp_path / "renamed.onnx")
    assert Classifier(tmp_path / "renamed.onnx").labels == Classifier().labels
