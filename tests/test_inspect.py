"""``edge-inspect``, and the published schema of the contract."""

import dataclasses
import json
import subprocess
import sys

import jsonschema
import pytest

from edge.classifier import Classifier
from edge.cli.inspect import as_table
from edge.config import DIGEST, FrontendConfig, Golden, ModelSpec, Provenance, Unknown, digest_of
from edge.errors import ContractError
from edge.models import BUNDLED
from tests.conftest import FP32, ROOT
from tests.test_classifier import changed  # noqa: F401  # a fixture

SCHEMA = json.loads((ROOT / "docs" / "contract.schema.json").read_text())


def inspect(*arguments, code=0):
    command = [sys.executable, "-m", "edge.cli.inspect", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_bundled_model_for_people(classifier):
    lines = inspect().stdout.splitlines()
    shown = dict(line.split("  ", 1) for line in lines if not line.startswith(" "))
    assert shown["model"].strip() == "edge-listen, int8"
    assert shown["golden vectors"].strip() == "reproduced here"
    assert "16000 Hz mono, 64 mel bands" in shown["hears"]
    assert all(label in " ".join(lines) for label in classifier.labels)
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize(
    ("macs", "shown"), [(196_000, "0.196 million"), (88_400_000, "88.4 million"), (27_960_000_000, "28000 million")]
)
def test_the_cost_is_told_in_three_digits(classifier, macs, shown):
    spec = classifier.spec
    spec = dataclasses.replace(spec, provenance=dataclasses.replace(spec.provenance, macs=macs))
    assert f"{shown} multiply-accumulates a window" in as_table(classifier.path, spec, verified=True)


@pytest.mark.parametrize("path", [BUNDLED, FP32], ids=["int8", "fp32"])
def test_json_is_the_whole_contract(path):
    report = json.loads(inspect(path, "--json").stdout)
    assert (report["file"], report["bytes"], report["verified"]) == (str(path), path.stat().st_size, True)
    assert ModelSpec.from_json(json.dumps(report["contract"])) == Classifier(path).spec
    jsonschema.Draft202012Validator(SCHEMA).validate(report["contract"])


@pytest.mark.parametrize(
    ("cls", "properties"),
    [
        (ModelSpec, SCHEMA),
        (FrontendConfig, SCHEMA["$defs"]["frontend"]),
        (Provenance, SCHEMA["$defs"]["provenance"]),
        (Golden, SCHEMA["$defs"]["golden"]),
        (Unknown, SCHEMA["$defs"]["unknown"]),
    ],
)
def test_the_schema_has_every_field(cls, properties):
    names = {field.name for field in dataclasses.fields(cls)} | ({DIGEST} if cls is ModelSpec else set())
    assert set(properties["properties"]) == set(properties["required"]) == names
    assert properties["additionalProperties"] is False


# What depends on other fields: the schema says it in words.
WORDS = {
    "window_frames", "column_stride", "receptive_field", "n_columns", "n_channels", "kept_frames", "caches", "kind",
    "channels", "sample_rate", "win_length", "hop_length", "n_fft", "n_mels", "f_min", "f_max",
}  # fmt: skip
VALUES = [
    *(None, "", " ", "zzz", "x", True, [], [""], {}, 1e308, -1e308, -5, -1, 0, 1e-9, 1e-7, 0.5, 1, 1.5, 2, 5.5, 1e5),
    10_000_000,
    *({"dog": value} for value in (-5, -0.1, 0, 0.5, 1, 1.1, 1e308)),
    *({"threshold": value, "known_share": 0.9} for value in (-1e308, -5, 1e308)),
    *(["dog", label] for label in ("", " ", "cat")),
]  # fmt: skip


@pytest.mark.parametrize("path", [(), ("frontend",), ("provenance",), ("golden",), ("unknown",)])
def test_the_reader_and_the_schema_allow_the_same(classifier, path):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    written = dataclasses.replace(classifier.spec, thresholds={}).to_json()
    inner = json.loads(written)
    for part in path:
        inner = inner[part]
    for key in inner.keys() - {DIGEST, "schema_version", "graph_bytes", "graph_sha256"}:  # those are held to the file
        for value in VALUES:
            data = json.loads(written)
            table = data
            for part in path:
                table = table[part]
            table[key] = value
            del data[DIGEST]
            data[DIGEST] = digest_of(data)
            try:
                ModelSpec.from_json(json.dumps(data))
                read = True
            except ContractError:
                read = False
            allowed = validator.is_valid(data)
            whole = isinstance(value, float) and value.is_integer()  # an integer to the schema, with its point
            assert read == allowed or (allowed and (key in WORDS or whole)), (key, value)


def test_of_a_waveform_what_does_not_count_is_within_its_bounds_too():
    waveform = FrontendConfig(kind="waveform", win_length=1, hop_length=1, n_mels=1)
    for changes in ({"f_min": -1.0}, {"n_fft": 1 << 17}, {"window": "x"}, {"mel_norm": "x"}, {"log_std": 0.0}):
        with pytest.raises(ContractError, match=f"frontend.{next(iter(changes))} is"):
            dataclasses.replace(waveform, **changes)


def test_what_is_not_reproduced_is_shown_and_refused(changed):  # noqa: F811
    path = changed(spec=lambda s: dataclasses.replace(s, frontend=dataclasses.replace(s.frontend, f_min=50.0)))
    people, programs = inspect(path, code=3), inspect(path, "--json", code=3)
    assert "NOT reproduced here" in people.stdout
    assert "golden.frames is off by" in people.stderr
    assert json.loads(programs.stdout)["verified"] is False


def test_what_is_no_model_is_one_line(tmp_path):
    (tmp_path / "text.onnx").write_text("no model")
    for path, reason in ((tmp_path / "text.onnx", "not an ONNX model"), (tmp_path / "none.onnx", "does not exist")):
        done = inspect(path, code=3)
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout
