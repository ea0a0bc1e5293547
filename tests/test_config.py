"""The contract: round trips, and refusals that name the field."""

import dataclasses
import json

import pytest

from edge.config import DIGEST, SCHEMA_VERSION, FrontendConfig, ModelSpec, digest_of
from edge.errors import ContractError


@pytest.fixture
def spec(classifier):
    return classifier.spec


def test_round_trip_is_exact(spec):
    assert ModelSpec.from_json(spec.to_json()) == spec


def test_equal_specs_give_equal_bytes(spec):
    again = ModelSpec.from_json(spec.to_json())
    assert again.to_json() == spec.to_json()


@pytest.mark.parametrize("path", [[], ["frontend"], ["provenance"], ["golden"]])
def test_every_missing_key_is_named(spec, path):
    keys = json.loads(spec.to_json())
    for part in path:
        keys = keys[part]
    for key in keys:
        data = json.loads(spec.to_json())
        inner = data
        for part in path:
            inner = inner[part]
        del inner[key]
        with pytest.raises(ContractError, match=key):
            ModelSpec.from_json(json.dumps(data))


@pytest.mark.parametrize("path", [[], ["frontend"], ["provenance"], ["golden"]])
def test_unknown_key_is_named(spec, path):
    data = json.loads(spec.to_json())
    inner = data
    for part in path:
        inner = inner[part]
    inner["sample_rat"] = 16_000
    with pytest.raises(ContractError, match=r"unknown key '.*sample_rat'"):
        ModelSpec.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("name", 3),
        ("labels", "dog"),
        ("labels", ["dog", 7]),
        ("labels", ["dog", "dog"]),
        ("labels", []),
        ("window_frames", 4.5),
        ("window_frames", True),
        ("temperature", 0),
        ("temperature", "1"),
        ("scores", "logits"),
        ("thresholds", {"no such label": 0.5}),
        ("thresholds", []),
        ("golden", 1),
        ("temperature", 10**400),
        ("frontend", []),
        ("name", "two\nlines"),
        ("labels", ["dog", "\x1b[2J"]),
        ("licence", "\ud800"),
        ("column_stride", -2),
        ("window_frames", 1 << 63),
        ("window_frames", 1 << 40),
    ],
)
def test_wrong_values_are_named(spec, key, value):
    data = json.loads(spec.to_json()) | {key: value}
    with pytest.raises(ContractError, match=key):
        ModelSpec.from_json(json.dumps(data))


def test_labels_of_any_language_are_text(spec):
    labels = ["Türklopfen", "می‌خواهم", "犬　猫", "👩‍🚒"]
    changed = dataclasses.replace(spec, labels=tuple(labels), thresholds={})
    assert list(ModelSpec.from_json(changed.to_json()).labels) == labels


def test_a_message_shows_little_of_a_long_value_and_no_line_breaks(spec):
    for changes in ({"name": ["x" * 10_000]}, {"x" * 10_000: 1}, {"thresholds": {"x\n" * 10_000: None}}):
        with pytest.raises(ContractError) as error:
            ModelSpec.from_json(json.dumps(json.loads(spec.to_json()) | changes))
        assert len(str(error.value)) < 600
        assert "\n" not in str(error.value)


def grown(spec, **changes):
    """``spec`` with other numbers of columns and channels, its window as long as they need."""
    spec = {
        "n_columns": spec.n_columns,
        "n_channels": spec.n_channels,
        "receptive_field": 4,
        "column_stride": 4,
        "kept_frames": 0,
        "caches": (),
    } | changes
    return {**spec, "window_frames": spec["receptive_field"] + spec["column_stride"] * (spec["n_columns"] - 1)}


def test_what_would_take_gigabytes_is_refused(spec):
    """The largest that is allowed is, and one more is not."""
    many = tuple(f"label {i}" for i in range(10_001))
    assert dataclasses.replace(spec, labels=many[:-1], thresholds={}).labels
    with pytest.raises(ContractError, match=r"len\(labels\) is 10001; allowed: at most 10000"):
        dataclasses.replace(spec, labels=many, thresholds={})

    assert dataclasses.replace(spec, **grown(spec, n_columns=1024, n_channels=4096))
    with pytest.raises(ContractError, match="n_channels is 4097; allowed: at most 4096"):
        dataclasses.replace(spec, **grown(spec, n_columns=1024, n_channels=4097))

    wide = {"sample_rate": 48_000, "n_fft": 65_536, "f_max": 24_000.0}
    assert dataclasses.replace(spec.frontend, **wide, n_mels=64)
    with pytest.raises(ContractError, match=r"frontend.n_mels is 65; allowed: at most 64"):
        dataclasses.replace(spec.frontend, **wide, n_mels=65)

    frontend = dataclasses.replace(spec.frontend, **wide, n_mels=64)
    long = {"frontend": frontend, "column_stride": 0}
    assert dataclasses.replace(spec, **long, window_frames=256)
    with pytest.raises(ContractError, match=r"window_frames is 257; allowed: 1 to 256"):
        dataclasses.replace(spec, **long, window_frames=257)

    waveform = FrontendConfig(kind="waveform", sample_rate=768_000, win_length=1, hop_length=1, n_mels=1)
    with pytest.raises(ContractError, match=r"window_frames is 16777217; allowed: 1 to 16777216"):
        dataclasses.replace(spec, frontend=waveform, column_stride=0, window_frames=(1 << 24) + 1)


@pytest.mark.parametrize("field", ["frames_tolerance", "probs_tolerance"])
@pytest.mark.parametrize("value", [0.0, -1.0, 0.11, 1e300, float("inf"), float("nan")])
def test_tolerances_that_prove_nothing(spec, field, value):
    with pytest.raises(ContractError, match=rf"golden.{field} is .*; allowed: above 0, at most 0.1"):
        dataclasses.replace(spec.golden, **{field: value})


def test_window_that_is_no_whole_number_of_columns(spec):
    with pytest.raises(ContractError, match=rf"window_frames is {spec.window_frames + 1}; allowed: receptive_field"):
        dataclasses.replace(spec, window_frames=spec.window_frames + 1)


def test_receptive_field_shorter_than_stride(spec):
    with pytest.raises(ContractError, match="receptive_field"):
        dataclasses.replace(spec, receptive_field=spec.column_stride - 1)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "{" * 100_000, "null", '{"schema_version": NaN}'])
def test_not_a_contract(text):
    with pytest.raises(ContractError):
        ModelSpec.from_json(text)


def test_contract_from_the_future(spec):
    data = json.loads(spec.to_json()) | {"schema_version": SCHEMA_VERSION + 1, "something": "new"}
    with pytest.raises(ContractError, match=rf"schema_version {SCHEMA_VERSION + 1}.*upgrade"):
        ModelSpec.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sample_rate", 0),
        ("sample_rate", 10_000_000),
        ("win_length", 513),
        ("hop_length", 0),
        ("hop_length", 600),
        ("n_fft", 1 << 20),
        ("n_mels", 0),
        ("n_mels", 300),
        ("f_min", -1.0),
        ("f_max", 8001.0),
        ("f_max", 10.0),
        ("window", "hamming"),
        ("mel_scale", "bark"),
        ("mel_norm", "l2"),
        ("log_floor", 0.0),
        ("log_floor", 1e-40),
        ("log_mean", 1e300),
        ("log_mean", float("nan")),
        ("log_std", 0.0),
        ("log_std", float("inf")),
        ("kind", "mfcc"),
        ("channels", 0),
        ("channels", 3),
    ],
)
def test_front_ends_that_cannot_be(field, value):
    with pytest.raises(ContractError, match="frontend"):
        dataclasses.replace(FrontendConfig(), **{field: value})


@pytest.mark.parametrize("field", ["win_length", "hop_length", "n_mels"])
def test_a_waveform_has_frames_of_one_sample(field):
    waveform = FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1)
    assert [waveform.n_frames(n) for n in (0, 1, 1000)] == [0, 1, 1000]
    assert waveform.n_samples(1000) == 1000
    assert dataclasses.replace(waveform, sample_rate=8_000).n_samples(8_000) == 8_000  # whatever f_max would be
    with pytest.raises(ContractError, match=rf"frontend\.{field} is 2; allowed: 1 for a waveform"):
        dataclasses.replace(waveform, **{field: 2})


def test_frames_at_the_boundaries():
    config = FrontendConfig()
    assert config.n_frames(0) == 0
    assert config.n_frames(config.win_length - 1) == 0
    assert config.n_frames(config.win_length) == 1
    assert config.n_frames(config.win_length + config.hop_length - 1) == 1
    assert config.n_frames(config.win_length + config.hop_length) == 2
    for n in (1, 2, 400):
        assert config.n_frames(config.n_samples(n)) == n
        assert config.n_frames(config.n_samples(n) - 1) == n - 1


def test_hop_is_the_nearest_whole_number_of_columns(spec):
    assert spec.hop_frames(spec.step_seconds) == spec.column_stride
    assert spec.hop_frames(spec.step_seconds * 1.4) == spec.column_stride
    assert spec.hop_frames(spec.step_seconds * 1.6) == 2 * spec.column_stride
    assert spec.hop_frames(spec.step_seconds / 10) == spec.column_stride
    assert spec.hop_frames(spec.window_seconds) <= spec.window_frames
    assert spec.hop_frames() == spec.hop_frames(0.5)
    short = dataclasses.replace(spec, window_frames=20, column_stride=0)
    assert short.window_seconds < 0.5
    assert short.hop_frames() == 20  # the window where that is shorter
    for wrong in (0, -1, spec.window_seconds + 0.01, float("nan"), float("inf")):
        with pytest.raises(ContractError, match="hop"):
            spec.hop_frames(wrong)


def test_a_contract_of_a_version_before_is_read(spec):
    """It had no caches, and before that no unknown score. What streamed then keeps other things now."""
    whole = {"column_stride": 0, "receptive_field": 0, "n_columns": 0, "n_channels": 0, "kept_frames": 0, "caches": ()}
    origin = dataclasses.replace(spec.provenance, other_data=())
    former = dataclasses.replace(spec, **whole, unknown=None, provenance=origin)
    data = json.loads(former.to_json()) | {"schema_version": 4}
    del data["provenance"]["other_data"], data[DIGEST]
    assert ModelSpec.from_json(json.dumps(data | {DIGEST: digest_of(data)})) == former
    data["schema_version"] = 3
    del data["kept_frames"], data["caches"]
    assert ModelSpec.from_json(json.dumps(data | {DIGEST: digest_of(data)})) == former
    with pytest.raises(ContractError, match=f"{DIGEST} is None"):
        ModelSpec.from_json(json.dumps(data))
    streaming = data | {"column_stride": 8, "receptive_field": 82}
    with pytest.raises(ContractError, match=r"schema_version is 3, .*python -m export upgrade"):
        ModelSpec.from_json(json.dumps(streaming | {DIGEST: digest_of(streaming)}))
    del data["unknown"]
    assert ModelSpec.from_json(json.dumps(data | {"schema_version": 2})) == former
    with pytest.raises(ContractError, match="schema_version is 1; allowed: 2 to 5"):
        ModelSpec.from_json(json.dumps(data | {"schema_version": 1}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kept_frames", -1),
        ("kept_frames", 75),
        ("caches", ((2, 32),)),
        ("caches", ((0, 32, 24),)),
        ("caches", ((75, 1, 1),)),
        ("caches", ((2, 1 << 11, (1 << 10) + 1),)),
    ],
)
def test_what_no_network_keeps(spec, field, value):
    with pytest.raises(ContractError, match=f"{field} is .*; allowed: "):
        dataclasses.replace(spec, **{field: value})


def test_a_contract_that_was_changed_is_refused(spec):
    """Even where every field makes sense: a label, a threshold, the licence."""
    data = json.loads(spec.to_json())
    for change in ({"licence": "CC0-1.0"}, {"labels": data["labels"][::-1]}, {"thresholds": {}}, {DIGEST: "0" * 64}):
        with pytest.raises(ContractError, match=f"{DIGEST} is .*copy the file again"):
            ModelSpec.from_json(json.dumps(data | change))
    del data[DIGEST]
    with pytest.raises(ContractError, match=f"{DIGEST} is None"):
        ModelSpec.from_json(json.dumps(data))
