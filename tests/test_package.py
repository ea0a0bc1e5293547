"""A package: a folder that hubs and devices read, whole or not at all."""

import csv
import dataclasses

import pytest
import yaml

from edge.classifier import Classifier
from edge.errors import EdgeError
from export.package import REPORT, check_replaceable, hub_licence, package, replacing_folder
from export.verify import TOLERANCES, ParityError, Tolerance
from models.checkpoint import save_checkpoint
from tests.conftest import run_module
from tests.test_export import LICENCE, PROVENANCE, checkpoint, data  # noqa: F401  # fixtures
from train.manifest import read_manifest


@pytest.fixture(scope="module")
def made(checkpoint, data, tmp_path_factory):  # noqa: F811
    return make(checkpoint, data, tmp_path_factory.mktemp("made") / "noise")


USUAL = {"model.int8.onnx", "model.onnx", "README.md", "labels.csv"}


def make(checkpoint, data, out, **changes):  # noqa: F811
    options = dict(name="noise", licence=LICENCE, temperature=None, command="test", workers=1) | changes
    return package(checkpoint, data, out, **options)


def front_matter(card):
    _, yaml_text, body = card.read_text().split("---\n", 2)
    return yaml.safe_load(yaml_text), body


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_has_exactly_its_files(made):
    folder = made.int8.parent
    assert {p.name for p in folder.iterdir()} == {*USUAL, REPORT}
    assert [p.name for p in folder.parent.iterdir()] == ["noise"]
    assert folder.stat().st_mode & 0o055 == 0o055  # others may read it
    assert Classifier(folder).path == made.int8
    assert Classifier(made.fp32).spec.provenance.precision == "fp32"


def test_the_front_matter_is_what_was_measured(made):
    fields, body = front_matter(made.card)
    assert fields["license"] == "cc0-1.0"
    assert (fields["library_name"], fields["pipeline_tag"]) == ("edge-listen", "audio-classification")
    assert fields["datasets"] == ["noise"]
    (result,) = fields["model-index"][0]["results"]
    assert result["dataset"] == {"name": "noise", "type": "noise", "split": "fold 5"}
    report = made.reports["int8"]
    measured = {m["name"].split(",")[0]: m["value"] for m in result["metrics"]}
    assert measured["Accuracy of clips"] == pytest.approx(report.accuracy, abs=1e-4)
    assert measured["F1 of clips"] == pytest.approx(report.macro_f1, abs=1e-4)
    assert body.lstrip().startswith("# noise\n")
    assert REPORT in body


def test_the_hub_reads_the_card(made):
    hub = pytest.importorskip("huggingface_hub", reason="the extra edge-listen[hub] is not installed")
    card = hub.ModelCard(made.card.read_text())
    assert card.data.license == "cc0-1.0"
    assert {r.metric_type for r in card.data.eval_results} == {"accuracy", "f1"}


def test_labels_and_report_are_the_models(made):
    spec, report = Classifier(made.int8).spec, made.reports["int8"]
    rows = table(made.int8.parent / "labels.csv")
    assert [(int(r["index"]), r["label"]) for r in rows] == list(enumerate(spec.labels))
    assert {r["label"]: float(r["threshold"]) for r in rows if r["threshold"]} == spec.thresholds
    rows = table(made.int8.parent / REPORT)
    assert [(r["label"], int(r["clips"])) for r in rows] == [(c.label, c.clips) for c in report.classes]
    for row, c in zip(rows, report.classes, strict=True):
        measured = [float(row[name]) for name in ("precision", "recall", "f1", "average_precision")]
        assert measured == pytest.approx([c.precision, c.recall, c.f1, c.average_precision], abs=1e-4)


def test_nothing_held_out_nothing_reported(checkpoint, data, tmp_path):  # noqa: F811
    checkpoint = dataclasses.replace(checkpoint, provenance=PROVENANCE | {"test_fold": None})
    made = make(checkpoint, data, tmp_path / "new" / "noise", licence="for friends")
    fields, body = front_matter(made.card)
    assert {p.name for p in made.int8.parent.iterdir()} == USUAL
    assert "no report of the classes: nothing was held out" in body
    assert "model-index" not in fields
    assert "metrics" not in fields
    assert (fields["license"], fields["license_name"]) == ("other", "for-friends")
    assert all(r["threshold"] == "" for r in table(made.int8.parent / "labels.csv"))


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        ("CC-BY-NC-3.0", "cc-by-nc-3.0"),
        ("CC BY-NC 3.0", "cc-by-nc-3.0"),
        ("Apache-2.0", "apache-2.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("ODbL-1.0", "odbl"),
        ("CC-BY-9.0", None),
        ("none", None),
    ],
)
def test_licences_by_the_hubs_names(licence, expected):
    fields = hub_licence(licence)
    assert fields == ({"license": expected} if expected else {"license": "other", "license_name": licence.lower()})


def test_what_is_no_package_is_not_replaced(tmp_path):
    check_replaceable(tmp_path / "new")
    check_replaceable(tmp_path)  # empty
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(EdgeError, match="is not empty, and no package"):
        check_replaceable(tmp_path)
    (tmp_path / "README.md").write_text("---\nlibrary_name: edge-listen\n---\n")
    check_replaceable(tmp_path)
    (tmp_path / ".git").mkdir()
    with pytest.raises(EdgeError, match=r"holds \.git, which is no part of a package \(give another --out\)"):
        check_replaceable(tmp_path)


def test_a_package_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "p"

    def write(text, fails=False):
        with replacing_folder(folder) as part:
            (part / text).write_text(text)
            if fails:
                raise ParityError("no")

    write("one")
    with pytest.raises(ParityError):
        write("two", fails=True)
    assert [p.name for p in folder.iterdir()] == ["one"]
    write("three")
    assert [p.name for p in folder.iterdir()] == ["three"]
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_the_gate_leaves_no_package(checkpoint, data, tmp_path, monkeypatch):  # noqa: F811
    strict = Tolerance(top1_agreement=1.0, mean_difference=0.0, max_difference=0.0)
    monkeypatch.setitem(TOLERANCES, "int8", strict)
    with pytest.raises(ParityError):
        make(checkpoint, data, tmp_path / "noise")
    assert not list(tmp_path.iterdir())


def test_from_a_checkpoint_to_what_is_heard(checkpoint, data, tmp_path, tone_wav):  # noqa: F811
    save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
    read_manifest(data).save(tmp_path / "manifest.jsonl")
    arguments = ("--licence", LICENCE, "--name", "x", tmp_path / "checkpoint.pt", "--package", "--out")
    run_module("export", *arguments, tmp_path / "x")
    assert "--licence CC0-1.0 --package" in (tmp_path / "x" / "README.md").read_text()
    heard = run_module("edge.cli.listen", "--input", tone_wav, "--output", "text", "--model", tmp_path / "x")
    assert "with x int8: 3 classes" in heard.stdout
    (tmp_path / "x" / "notes.txt").touch()
    assert "holds notes.txt" in run_module("export", *arguments, tmp_path / "x", code=1).stderr


def test_a_package_holds_the_files_for_a_gpu_too(checkpoint, data, tmp_path):  # noqa: F811
    make(checkpoint, data, tmp_path / "noise")
    made = make(checkpoint, data, tmp_path / "noise", precisions=["fp16"])  # in the place of the one before
    assert {p.name for p in (tmp_path / "noise").iterdir()} == {*USUAL, REPORT, "model.fp16.onnx"}
    assert Classifier(made.files["fp16"]).spec.provenance.precision == "fp16"
    card = made.card.read_text()
    assert (
        "`model.int8.onnx`, `model.onnx` and `model.fp16.onnx`: the model; `edge-listen --model FOLDER` takes" in card
    )
    assert "Either" not in card
