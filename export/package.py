"""A model package: one folder with the model files, a card that model hubs read, labels, and a report of each class."""

from __future__ import annotations

import csv
import dataclasses
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from edge.classifier import Classifier
from edge.config import ModelSpec
from edge.errors import EdgeError
from export.artefacts import Exported, export
from export.contract import named
from export.graphs import SUFFIXES
from models.checkpoint import Checkpoint
from train.evaluate import Report

MODELS = {precision: f"model{suffix}" for precision, suffix in SUFFIXES.items()}  # by precision
CARD, LABELS, REPORT = "README.md", "labels.csv", "report.csv"
FILES = {*MODELS.values(), CARD, LABELS, REPORT}
LIBRARY = "edge-listen"
MARK = f"library_name: {LIBRARY}"  # a line of the card by which a package is known
# The hub's identifiers of licences, of those that a licence of weights may be.
LICENCES = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0 bigscience-openrail-m bsd
    bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0
    cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
    cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
    cdla-sharing-1.0 creativeml-openrail-m ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 gfdl gpl gpl-2.0 gpl-3.0
    isc lgpl lgpl-2.1 lgpl-3.0 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0
    pddl postgresql unlicense wtfpl zlib
    """.split()  # noqa: SIM905
)
ALIASES = {
    "odbl-1.0": "odbl",
    "odc-by-1.0": "odc-by",
    "pddl-1.0": "pddl",
}  # SPDX's names of what the hub has by another


def package(checkpoint: Checkpoint, data: Path, out: Path, **options: Any) -> Exported:
    """:func:`export.artefacts.export`, which see, as the folder ``out``: all of it, or as it was.

    Raises EdgeError for a folder that is there and is no package.
    """
    out = out.resolve()
    check_replaceable(out)
    with replacing_folder(out) as folder:
        with tempfile.TemporaryDirectory(dir=folder) as files, named(Path(files), out):
            exported = export(checkpoint, data, Path(files), **options)
            for precision, path in exported.files.items():
                path.rename(folder / MODELS[precision])
            text = exported.card.read_text(encoding="utf-8")
        spec, report = Classifier(folder / MODELS["int8"]).spec, exported.reports.get("int8")
        (folder / CARD).write_text(
            front_matter(spec, report) + text + contents(spec, report, exported.files), encoding="utf-8"
        )
        thresholds = ([i, label, spec.thresholds.get(label, "")] for i, label in enumerate(spec.labels))
        write_csv(folder / LABELS, ["index", "label", "threshold"], thresholds)
        if report is not None:
            names = ["label", "precision", "recall", "f1", "average_precision", "clips"]
            rows = ([round(v, 4) if isinstance(v, float) else v for v in vars(c).values()] for c in report.classes)
            write_csv(folder / REPORT, names, rows)
    files = {precision: out / MODELS[precision] for precision in exported.files}
    return dataclasses.replace(exported, files=files, card=out / CARD)


def check_replaceable(folder: Path) -> None:
    """Raises EdgeError for a folder with anything in it that a package does not have: it would be lost."""
    found = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if others := sorted(found - FILES):
        what = f"{folder} holds {', '.join(others[:3])}{' …' * (len(others) > 3)}, which is no part of a package"
    elif found and (CARD not in found or MARK not in (folder / CARD).read_text(encoding="utf-8", errors="replace")):
        what = f"{folder} is not empty, and no package of {LIBRARY}"
    else:
        return
    raise EdgeError(what, remedy="give another --out")


@contextmanager
def replacing_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder beside ``folder``; in the end it takes its place, or is deleted, and ``folder`` stays."""
    part, former = (folder.with_name(f".{folder.name}.{os.getpid()}.{end}") for end in ("part", "former"))
    part.mkdir(parents=True)
    try:
        yield part
        for path in part.iterdir():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        if folder.exists():
            folder.rename(former)  # a folder with files in it cannot be renamed over
        try:
            part.rename(folder)
        except OSError:
            if former.exists():
                former.rename(folder)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def front_matter(spec: ModelSpec, report: Report | None) -> str:
    """The card's YAML between its two lines, as the Hugging Face hub reads it."""
    fields: dict[str, Any] = {
        **hub_licence(spec.licence),
        "library_name": LIBRARY,
        "pipeline_tag": "audio-classification",
        "tags": [LIBRARY, "audio", "sound-classification", "onnx", "onnxruntime"],
        "datasets": [slug(spec.provenance.dataset)],
    }
    if report is not None:
        fields["metrics"] = ["accuracy", "f1"]
        fields["model-index"] = [{"name": spec.name, "results": [_result(spec, report)]}]
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---\n\n"


def _result(spec: ModelSpec, report: Report) -> Mapping[str, Any]:
    """The entry of a model index."""
    accuracy = "Accuracy" if spec.scores == "softmax" else "Jaccard index"
    found = {
        ("accuracy", f"{accuracy} of clips, int8"): report.accuracy,
        ("accuracy", f"{accuracy} of single windows, int8"): report.window_accuracy,
        ("f1", "F1 of clips, mean of the classes, int8"): report.macro_f1,
    }
    origin = spec.provenance
    return {
        "task": {"type": "audio-classification"},
        "dataset": {"name": origin.dataset, "type": slug(origin.dataset), "split": f"fold {origin.test_fold}"},
        "metrics": [{"type": k, "name": name, "value": round(value, 4)} for (k, name), value in found.items()],
    }


def hub_licence(licence: str) -> dict[str, str]:
    """The hub's fields of a licence: its identifier of an SPDX name, or ``other`` and a name."""
    key = re.sub(r"-(only|or-later)$", "", licence.strip().lower().replace(" ", "-"))
    key = ALIASES.get(key, key)
    return {"license": key} if key in LICENCES else {"license": "other", "license_name": slug(licence)}


def slug(text: str) -> str:
    """``text`` as the hub's identifiers are written."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower()).strip("-.") or "unnamed"


def contents(spec: ModelSpec, report: Report | None, precisions: Collection[str]) -> str:
    """The card's section on the files beside it, the models in ``precisions``."""
    usual, *others = (f"`{MODELS[p]}`" for p in sorted(precisions, key=lambda p: p != "int8"))
    classes = (
        "There is no report of the classes: nothing was held out of training."
        if report is None
        else f"`{REPORT}`: precision, recall, F1 and average precision of each class, int8 on fold "
        f"{spec.provenance.test_fold}."
    )
    return f"""
## In this folder

- {", ".join([usual, *others[:-1]])} and {others[-1]}: the model; `edge-listen --model FOLDER` takes the first.
- `{LABELS}`: the classes in the order of the scores, each with its threshold where it has one.
- {classes}

Each of these model files holds all that a device needs, front end and labels too: `edge-inspect FOLDER` prints it.
"""


def write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    """A table."""
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
