"""Data sets: five layouts, folds, tables that come back, descriptions, and everything that may be wrong with them."""

import json
import os
import re
from collections import Counter, defaultdict
from functools import partial
from itertools import combinations
from pathlib import Path

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from edge.errors import EdgeError
from tests.conftest import ESC50, needs_esc50, run_module
from train.cli.data import data_options
from train.cli.describe import run as run_describe
from train.clip import Clip
from train.facts import Facts, clipped, measure, measure_all, silence
from train.manifest import ManifestError, ReadOptions, read_manifest
from train.splits import deal

RATE = 8000
train = partial(run_module, "train")


def wav(path, frequency=500, seconds=0.6, gain=0.3, seed=None):
    """A tone with a little noise; another seed is another recording."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE)) / RATE
    seed = seed if seed is not None else abs(hash(path)) % 2**31
    noise = np.random.default_rng(seed).standard_normal(len(time))
    soundfile.write(path, gain * np.sin(2 * np.pi * frequency * time) + 0.01 * noise, RATE)
    return path


def table(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def encoded(path, encoding):
    """A table as other programs save it."""
    table(path).write_bytes("path,label\nä.wav,x\n".encode(encoding))


def esc50_layout(root, rows, head="filename,fold,target,category,esc10,src_file,take"):
    """Rows of name, fold, target, category, esc10, src_file."""
    for name, *_ in rows:
        wav(root / "audio" / name)
    table(root / "meta" / "esc50.csv", head, *(",".join(map(str, (*row, "A"))) for row in rows))
    return root


ESC_ROWS = [
    ("1-100032-A-0.wav", 1, 0, "dog", True, 100032),
    ("1-34119-A-1.wav", 1, 1, "rooster", True, 34119),
    ("2-114280-A-0.wav", 2, 0, "dog", True, 114280),
    ("2-100786-A-1.wav", 2, 1, "rooster", True, 100786),
    ("2-102567-A-36.wav", 2, 36, "vacuum_cleaner", False, 102567),
]


@pytest.fixture
def folders(tmp_path):
    """A folder for each class: ten clips in each of three."""
    root = tmp_path / "data"
    for label in ("low", "middle", "high"):
        for i in range(10):
            wav(root / label / f"{i}.wav")
    return root


def check_refused(root, message, **options):
    with pytest.raises(ManifestError, match=message):
        read_manifest(root, ReadOptions(**options))


def facts_of(manifest):
    return [(c.path.name, c.labels, c.fold, c.group, c.start, c.end) for c in manifest.clips]


# The five kinds


def test_esc50(tmp_path):
    manifest = read_manifest(esc50_layout(tmp_path / "esc", ESC_ROWS))
    assert manifest.name == "ESC-50"
    assert manifest.labels == ("dog", "rooster", "vacuum_cleaner")  # in the order of the targets
    assert facts_of(manifest)[0] == ("1-100032-A-0.wav", ("dog",), 1, "100032", 0.0, None)
    assert [c.fold for c in manifest.clips] == [1, 1, 2, 2, 2]
    assert [c.label for c in manifest.in_folds([1])] == ["dog", "rooster"]
    with pytest.raises(ManifestError, match=r"fold 5 has no clips; folds of ESC-50: \[1, 2\]"):
        manifest.in_folds([5])


def test_rows_of_a_table_can_be_chosen(tmp_path):
    root = esc50_layout(tmp_path / "esc", ESC_ROWS)
    manifest = read_manifest(root, ReadOptions(where=("esc10=True",)))
    assert (manifest.labels, len(manifest.clips)) == (("dog", "rooster"), 4)
    either = read_manifest(root, ReadOptions(where=("category=dog", "category=rooster", "fold=2")))
    assert [c.path.name for c in either.clips] == ["2-114280-A-0.wav", "2-100786-A-1.wav"]
    check_refused(root, "no row has esc10 = yes; there are: False, True", where=("esc10=yes",))
    check_refused(root, "there is no column 'esc11' for --where; there are: filename, fold", where=("esc11=True",))
    check_refused(root, "has no '='; give column=value", where=("esc10",))


def test_urbansound8k(tmp_path):
    root = tmp_path / "UrbanSound8K"
    rows = [
        ("100032-3-0-0.wav", 100032, 0.0, 0.317551, 1, 5, 3, "dog_bark"),
        ("100263-2-0-117.wav", 100263, 58.5, 62.5, 1, 5, 2, "children_playing"),
        ("100263-2-0-121.wav", 100263, 60.5, 64.5, 1, 5, 2, "children_playing"),
        ("180937-7-3-27.wav", 180937, 1.0, 5.0, 2, 10, 7, "jackhammer"),
    ]
    for name, *_, fold, _, _ in rows:
        wav(root / "audio" / f"fold{fold}" / name)
    head = "slice_file_name,fsID,start,end,salience,fold,classID,class"
    table(root / "metadata" / "UrbanSound8K.csv", head, *(",".join(map(str, row)) for row in rows))
    manifest = read_manifest(root)
    assert manifest.name == "UrbanSound8K"
    assert manifest.labels == ("children_playing", "dog_bark", "jackhammer")  # in the order of classID
    # The files are slices already: their start in the recording cuts nothing.
    assert facts_of(manifest)[1] == ("100263-2-0-117.wav", ("children_playing",), 5, "100263", 0.0, None)
    assert [c.fold for c in manifest.clips] == [5, 5, 5, 10]
    front = read_manifest(root, ReadOptions(where=("salience=1",)))
    assert front.labels == ("children_playing", "dog_bark")


def test_folder_for_each_class(folders):
    manifest = read_manifest(folders)
    assert (manifest.name, manifest.labels) == ("data", ("high", "low", "middle"))
    assert len(manifest.clips) == 30
    for label in manifest.labels:  # stratified: two of ten in each of five folds
        assert sorted(c.fold for c in manifest.clips if c.label == label) == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert read_manifest(folders) == manifest
    assert read_manifest(folders, ReadOptions(seed=1)) != manifest


def test_folders_of_folds(tmp_path):
    for fold in ("train", "val", "test"):
        for label in "ab":
            wav(tmp_path / "d" / fold / label / "0.wav")
    manifest = read_manifest(tmp_path / "d")
    assert manifest.labels == ("a", "b")
    assert {(c.path.parts[-3], c.fold) for c in manifest.clips} == {("train", 1), ("val", 2), ("test", 3)}


def test_folders_linked_from_elsewhere(tmp_path, folders):
    root = tmp_path / "links"
    root.mkdir()
    for label in ("low", "high"):
        (root / label).symlink_to(folders / label)
    assert len(read_manifest(root).clips) == 20
    (folders / "low" / "again").symlink_to(root)  # a circle
    assert len(read_manifest(root).clips) == 20


TABLES = {
    "a.csv": ["path,label,fold", "x/1.wav,dog,1", "x/2.wav,cat,1", "x/3.wav,dog,2"],
    "b.csv": ["file;split;class", "x/1.wav;fold1;dog", "x/2.wav;fold1;cat", "x/3.wav;fold2;dog"],
    "c.tsv": ["filename\tcategory\tfold", "x/1.wav\tdog\t1", "x/2.wav\tcat\t1", "x/3.wav\tdog\t2"],
    "d.csv": ["\ufeffFile_Name, Label, Split", "x/1.wav, dog, train", "x/2.wav, cat, train", "x/3.wav, dog, val"],
    "e.json": ['[{"path": "x/1.wav", "label": "dog", "fold": 1},', '{"path": "x/2.wav", "label": "cat", "fold": 1},',
               '{"path": "x/3.wav", "label": "dog", "fold": 2}]'],
    "f.json": ['{"version": 1, "data": [{"wav": "x/1.wav", "label": "dog", "fold": "0"},',
               '{"wav": "x/2.wav", "label": "cat", "fold": "0"}, {"wav": "x/3.wav", "label": "dog", "fold": "1"}]}'],
    "g.jsonl": ['{"path": "x/1.wav", "label": "dog", "fold": 1}', "", '{"path": "x/2.wav", "label": "cat", "fold": 1}',
                '{"path": "x/3.wav", "label": "dog", "fold": 2}'],
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_tables(tmp_path, name):
    for i in (1, 2, 3):
        wav(tmp_path / "x" / f"{i}.wav")
    manifest = read_manifest(table(tmp_path / name, *TABLES[name]))
    assert (manifest.name, manifest.labels, manifest.multi_label) == (name[0], ("cat", "dog"), False)
    assert [(c.path, c.label, c.fold) for c in manifest.clips] == [
        (tmp_path / "x" / "1.wav", "dog", 1), (tmp_path / "x" / "2.wav", "cat", 1), (tmp_path / "x" / "3.wav", "dog", 2)
    ]  # fmt: skip


@pytest.mark.parametrize("separator", ["\t", " ", "   ", ","])
def test_text_without_a_header(tmp_path, separator):
    for i in (1, 2):
        wav(tmp_path / "audio" / f"{i}.wav")
    path = table(tmp_path / "pairs.txt", f"1.wav{separator}dog", f'"2.wav"{separator}car horn')
    assert [c.label for c in read_manifest(path, ReadOptions(n_folds=1)).clips] == ["dog", "car horn"]
    lines = [separator.join(cells) for cells in (("1.wav", "dog", "3"), ("2.wav", "cat", "4"))]
    path = table(tmp_path / "list.txt", *lines)
    if separator.strip(" "):
        check_refused(path, "line 1: has 3 columns, and no header", n_folds=1)
    else:
        assert read_manifest(path, ReadOptions(n_folds=1)).labels == ("cat 4", "dog 3")
    numbered = ReadOptions(path_column="1", label_column="3", fold_column="3")
    assert [(c.label, c.fold) for c in read_manifest(path, numbered).clips] == [("3", 3), ("4", 4)]


@pytest.mark.parametrize("before", [("",), ("", "  ")])
def test_tables_may_begin_with_empty_lines(tmp_path, before):
    for i in (1, 2):
        wav(tmp_path / f"{i}.wav")
    for name, lines in (
        ("t.csv", ("path;label", "1.wav;car, red", "2.wav;dog")),
        ("t.txt", ("1.wav,car horn", "2.wav,dog")),
        ("s.txt", ("1.wav car horn", "2.wav dog")),
    ):
        path = table(tmp_path / name, *before, *lines)
        assert len(read_manifest(path, ReadOptions(n_folds=1)).labels) == 2, name
        table(path, *before, *lines, lines[-1].replace("dog", ""))
        check_refused(path, f"line {len(before) + len(lines) + 1}: .* is missing", n_folds=1)


def test_folds_are_counted_on_all_rows(tmp_path):
    """What is chosen has the number that it has among all."""
    lines = [f"{i}.wav,{'ab'[i % 2]},{i // 2},{'yes' if i > 3 else 'no'}" for i in range(8)]
    for i in range(8):
        wav(tmp_path / f"{i}.wav")
    path = table(tmp_path / "t.csv", "path,label,fold,far", *lines)
    assert [c.fold for c in read_manifest(path).clips] == [1, 1, 2, 2, 3, 3, 4, 4]
    chosen = read_manifest(path, ReadOptions(where=("far=yes",))).clips
    assert [c.fold for c in chosen] == [3, 3, 4, 4]
    for name in ("0.wav", "1.wav"):
        (tmp_path / name).unlink()
    assert [c.fold for c in read_manifest(path).clips] == [2, 2, 3, 3, 4, 4]


ODD = ("a\x0bb", "a\x0cb", "a\x85b", "a\u2028b", "a\nb")  # what some take for the end of a line


@pytest.mark.parametrize("group", ODD)
def test_lines_end_at_line_feeds_alone(tmp_path, group):
    wav(tmp_path / "1.wav")
    quoted = table(tmp_path / "t.csv", "path,label,group", f'1.wav,x,"{group}"')
    assert [c.group for c in read_manifest(quoted, ReadOptions(n_folds=1)).clips] == [group]
    row = {"path": "1.wav", "label": "x", "group": group}
    lines = table(tmp_path / "t.jsonl", json.dumps(row, ensure_ascii=False))
    assert [c.group for c in read_manifest(lines, ReadOptions(n_folds=1)).clips] == [group]


@pytest.mark.parametrize("name", [*ODD, "a\x1b[0m"])
def test_a_name_that_no_contract_holds_is_refused(tmp_path, name):
    """Before hours go into what could not be exported."""
    wav(tmp_path / "d" / "1.wav")
    row = table(tmp_path / "d" / "t.jsonl", json.dumps({"path": "1.wav", "label": name}))
    refused = re.escape(f"{name!r} in {row} has a line break or a control character; rename it")
    check_refused(row, f"the name of class {refused}", n_folds=1)
    table(row, json.dumps({"path": "1.wav", "label": "x"}))
    assert read_manifest(row, ReadOptions(n_folds=1)).labels == ("x",)
    named = (tmp_path / "d").rename(tmp_path / name)
    refused = re.escape(f"{name!r} has a line break or a control character; rename it")
    check_refused(named, f"the name of data set {refused}", n_folds=1)


def test_official_folds_are_told_from_dealt_ones(tmp_path, folders):
    assert not read_manifest(folders).official
    read_manifest(folders).save(tmp_path / "m.jsonl")
    assert read_manifest(tmp_path / "m.jsonl").official
    assert read_manifest(esc50_layout(tmp_path / "esc", ESC_ROWS)).official


def test_folders_that_cannot_be_read_are_named(folders, monkeypatch):
    closed, scandir = folders / "low" / "closed", os.scandir
    wav(closed / "1.wav")

    def refuse(path):
        if str(path) == str(closed):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert read_manifest(folders).skipped == (f"{closed}: cannot be read: Permission denied",)
    check_refused(folders, "closed: cannot be read", strict=True)


def test_named_columns_and_spans(tmp_path):
    wav(tmp_path / "sound" / "long.wav", seconds=3)
    wav(tmp_path / "sound" / "other.wav", seconds=3)
    path = table(
        tmp_path / "events.csv",
        "recording,what,from,to,place,path",
        "long.wav,dog,0.5,1.25,garden,no",
        "long.wav,cat,1.25,,garden,no",
        "other.wav,dog,0,2,street,no",
        "other.wav,cat,2,2.5,street,no",
    )
    options = ReadOptions(
        path_column="recording", label_column="what", start_column="from", end_column="to", group_column="place",
        audio=str(tmp_path / "sound"), n_folds=2,
    )  # fmt: skip
    manifest = read_manifest(path, options)
    spans = [(c.label, c.start, c.end, c.group) for c in manifest.clips]
    assert spans[:2] == [("dog", 0.5, 1.25, "garden"), ("cat", 1.25, None, "garden")]
    assert len(manifest.clips[0].source().read(RATE)) == 0.75 * RATE
    assert len({c.fold for c in manifest.clips if c.group == "garden"}) == 1
    without_group = read_manifest(path, ReadOptions(**{**vars(options), "group_column": ""}))
    assert len({c.fold for c in without_group.clips if c.path.name == "long.wav"}) == 1  # a file is one source


def test_several_labels(tmp_path):
    for i in range(4):
        wav(tmp_path / f"{i}.wav")
    path = table(
        tmp_path / "t.csv", "path,labels,fold", "0.wav,rain; wind,1", "1.wav,rain,1", "2.wav,,2", "1.wav,car,1"
    )
    manifest = read_manifest(path, ReadOptions(separator=";"))
    assert manifest.multi_label
    assert manifest.labels == ("car", "rain", "wind")
    assert [c.labels for c in manifest.clips] == [("rain", "wind"), ("rain", "car"), ()]
    with pytest.raises(ValueError, match=r"0\.wav has 2 labels; one was asked for"):
        print(manifest.clips[0].label)
    only = read_manifest(path, ReadOptions(separator=";", classes=("wind",)))
    assert [c.labels for c in only.clips] == [("wind",), ()]  # what has no label at all stays
    lists = table(tmp_path / "t.jsonl", '{"path": "0.wav", "labels": ["a", "b"], "fold": 1}',
                  '{"path": "1.wav", "labels": [], "fold": 2}')  # fmt: skip
    assert [c.labels for c in read_manifest(lists).clips] == [("a", "b"), ()]
    check_refused(path, "is 'rain' in one row and 'car' in another", where=("fold=1", "labels=rain", "labels=car"))


def test_spaces_around_a_label_are_not_of_it(tmp_path):
    """In JSON as in CSV."""
    labels = ["lo", "lo ", 3, "3"]
    rows = [{"path": f"{wav(tmp_path / f'{i}.wav')}", "label": label} for i, label in enumerate(labels)]
    manifest = read_manifest(table(tmp_path / "t.json", json.dumps(rows)), ReadOptions(n_folds=2))
    assert [clip.label for clip in manifest.clips] == ["lo", "lo", "3", "3"]
    both = table(tmp_path / "t.json", json.dumps([{"path": "0.wav", "label": "lo; hi"}]))
    assert read_manifest(both, ReadOptions(separator=";", n_folds=1)).clips[0].labels == ("lo", "hi")


def test_labels_out_of_file_names(tmp_path):
    for person in range(3):
        for name in ("Panther", "Lion"):
            for take in range(2):
                wav(tmp_path / f"S{person}_whistle_{take}_{name}.wav")
    manifest = read_manifest(tmp_path, ReadOptions(pattern=r"_([^_]+)$"))
    assert (manifest.labels, len(manifest.clips)) == (("Lion", "Panther"), 12)
    by_person = read_manifest(tmp_path, ReadOptions(pattern=r"^(?P<group>S\d)_.*_(?P<label>[^_]+)$", n_folds=3))
    folds = {(c.group, c.fold) for c in by_person.clips}
    assert len(folds) == 3
    assert {c.path.name[:2] for c in by_person.clips if c.fold == 3} == {
        c.group for c in by_person.clips if c.fold == 3
    }
    official = read_manifest(tmp_path, ReadOptions(pattern=r"S(?P<fold>\d)_\w+_\d_(?P<label>\w+)"))
    assert {(c.path.name[:2], c.fold) for c in official.clips} == {("S0", 1), ("S1", 2), ("S2", 3)}  # counted from 0


def test_a_pattern_may_read_the_path_and_give_groups_to_folders(tmp_path):
    for label in "ab":
        for source in "xyz":
            for i in range(2):
                wav(tmp_path / label / source / f"{i}.wav")
    by_path = read_manifest(tmp_path, ReadOptions(pattern=r"^(?P<label>\w)/(?P<group>\w)/"))
    in_folders = read_manifest(tmp_path, ReadOptions(pattern=r"/(?P<group>\w)/"))
    assert facts_of(by_path) == facts_of(in_folders)
    assert {c.group for c in by_path.clips} == {"x", "y", "z"}


@needs_esc50
def test_the_real_esc50():
    manifest = read_manifest(ESC50)
    assert Counter((c.fold, c.label) for c in manifest.clips) == {
        (fold, label): 8 for fold in range(1, 6) for label in manifest.labels
    }
    assert manifest.labels[:3] == ("dog", "rooster", "pig")
    ten = read_manifest(ESC50, ReadOptions(where=("esc10=True",)))
    assert (len(ten.labels), len(ten.clips)) == (10, 400)


# What may be wrong


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda root: None, "is not a folder"),
        (lambda root: root.mkdir(), "has 0 folders with sound files"),
        (lambda root: wav(root / "a_dog.wav"), r"has 0 folders with sound files.*labels in the names\? give --pattern"),
        (lambda root: wav(root / "only" / "a.wav"), "has 1 folders with sound files"),
        (lambda root: [wav(root / label / "a.wav") for label in "ab"], "class 'a' has one clip, .*needs two"),
        (lambda root: esc50_layout(root, []), "names no clips"),
        (lambda root: table(root / "t.csv", "path,label"), "names no clips"),
        (lambda root: [table(root / name, "x") for name in ("a.csv", "b.csv")], r"has 2 tables: a\.csv, b\.csv; give"),
        (lambda root: table(root / "t.csv", "a,b", "1,2"), "no column for the path; it has: a, b; give.*--path-column"),
        (lambda root: table(root / "t.csv", "path,b", "1,2"), "no column for the label"),
        (lambda root: table(root / "t.csv", "path,label", "a.wav,dog"), "none of the 1 files .* is there"),
        (lambda root: table(root / "t.csv", "path,label", "a.wav,"), "line 2: label is missing"),
        (lambda root: table(root / "t.csv", "path,label", "a.wav"), "line 2: label is missing"),
        (lambda root: [wav(root / label / "a.wav") for label in ("a", " ")], "a class in .* has an empty name; rename"),
        (lambda root: table(root / "t.csv", "path,label", "a.wav,x,y"), "line 2: has 3 columns; the header has 2"),
        (
            lambda root: table(root / "t.csv", "path,label,fold,label", "a.wav,x,1,y"),
            "line 1: the header has column 'label' twice; rename one, or give",
        ),
        (lambda root: table(root / "t.csv", "path,label,fold", "a.wav,x,three"), "line 2: fold 'three'; allowed are"),
        (lambda root: table(root / "t.csv", "path,label,fold", "a.wav,x,"), "line 2: fold is missing"),
        (lambda root: table(root / "t.csv", "path,label,fold", "a.wav,x,-1"), "line 2: fold '-1'; allowed are whole"),
        (
            lambda root: table(root / "t.csv", "path,label", f"{'a' * 300}.wav,x"),
            "… cannot be read: File name too long",
        ),
        (lambda root: table(root / "t.json", "[" * 100_000), "is no JSON table"),
        (lambda root: table(root / "t.jsonl", "[" * 100_000), "line 1: no JSON"),
        (lambda root: table(root / "t.csv", "path,label,start", "a.wav,x,-1"), "start is '-1'; allowed are seconds"),
        (lambda root: table(root / "t.csv", "path,label,end", "a.wav,x,nan"), "end is 'nan'; allowed are seconds"),
        (lambda root: table(root / "t.csv", "path,label,start,end", "a.wav,x,2,2"), "ends at 2 s, but starts at 2 s"),
        (lambda root: table(root / "t.json", "{"), "is no JSON table"),
        (lambda root: table(root / "t.json", '{"a": 1}'), "holds no list"),
        (lambda root: table(root / "t.jsonl", "{}", "{oops"), "line 2: no JSON"),
        (lambda root: table(root / "t.jsonl", "[1]"), r"line 1: is \[1\]; needs an object"),
        (
            lambda root: table(root / "t.jsonl", '{"path": "a.wav", "label": {"a": 1}}'),
            r"line 1: label is \{'a': 1\}; allowed are text, a number, or a list of them$",
        ),
        (
            lambda root: table(root / "t.json", '[{"path": "a.wav", "label": ["x", null]}]'),
            r"label is \['x', None\]; all",
        ),
        (lambda root: table(root / "t.json", '[{"path": "a.wav", "label": " "}]'), "label is missing"),
        (lambda root: encoded(root / "t.csv", "latin-1"), r"t\.csv is not in UTF-8; save it as UTF-8$"),
        (lambda root: encoded(root / "t.csv", "utf-16"), r"t\.csv is not in UTF-8; save it as UTF-8$"),
        (lambda root: encoded(root / "t.csv", "utf-16-le"), r"t\.csv is not in UTF-8; save it as UTF-8$"),
        (
            lambda root: [wav(root / x / "a.wav") for x in "ab"] + [table(root / "t.csv", "path")],
            "--layout folders, or",
        ),
    ],
)
def test_data_that_is_none(tmp_path, prepare, message):
    prepare(tmp_path / "x")
    check_refused(tmp_path / "x", message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "esc50"}, r"has no meta.esc50\.csv"),
        ({"layout": "wav"}, "unknown layout 'wav'; there are: auto, esc50"),
        ({"where": ("a=b",)}, "--where is not for the layout folders"),
        ({"separator": ";"}, "--separator is not for the layout folders"),
        ({"layout": "names"}, "need --pattern"),
        ({"pattern": "(?P<label>"}, "is no regular expression"),
        ({"pattern": "abc"}, "has no group; allowed"),
        ({"pattern": "(?P<klass>.)"}, "has a group klass; allowed"),
        ({"pattern": "(zebra)"}, "no name matches --pattern"),
        ({"layout": "folders", "pattern": "(?P<label>.)"}, "may have the group"),
        ({"classes": ("low", "lower")}, "there is no class lower; there are: high, low, middle"),
        ({"classes": ("low",)}, "has one class, low; needs two"),
    ],
)
def test_options_that_do_not_fit(folders, options, message):
    check_refused(folders, message, **options)


def test_a_model_in_the_place_of_the_data(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04\xff\xfe")
    check_refused(tmp_path / "checkpoint.pt", r"checkpoint\.pt is no table; .* \(a model is given with --model")


def test_a_column_that_is_not_there(tmp_path):
    path = table(tmp_path / "t.csv", "path,label", "a.wav,dog")
    check_refused(path, "no column 'klass'; it has: path, label", label_column="klass")
    check_refused(path, "no column '4'; it has: 1, 2", path_column="1", label_column="4")
    check_refused(path, "is a file; the layout folders is a folder", layout="folders")


def test_missing_files_are_named_and_skipped_or_the_end(tmp_path, caplog):
    rows = [(f"{i}-{i}-A-{i % 2}.wav", 1 + i % 2, i // 2 % 2, "ab"[i // 2 % 2], True, i) for i in range(8)]
    root = esc50_layout(tmp_path / "esc", rows)
    (root / "audio" / rows[3][0]).unlink()
    manifest = read_manifest(root)
    assert len(manifest.clips) == 7
    assert manifest.skipped == (f"{root / 'audio' / rows[3][0]}: does not exist",)
    assert manifest.skipped[0] in caplog.text
    check_refused(root, r"1 files of .* cannot be used, the first: .*3-3-A-1\.wav: does not exist", strict=True)
    for name, *_, label, _, _ in rows:
        if label == "b":
            (root / "audio" / name).unlink(missing_ok=True)
    check_refused(root, "class 'b' of .* has no clips left")
    path = table(tmp_path / "t.csv", "path,label", "esc,dog", f"{root / 'audio' / rows[0][0]},dog")
    assert read_manifest(path, ReadOptions(n_folds=1)).skipped == (f"{root}: is no file",)
    table(path, "path,label", "esc,dog")
    check_refused(path, f"none of the 1 files of {path} is there, the first: {root}: is no file; give", n_folds=1)
    table(root / "meta" / "esc50.csv", "filename,fold,target,category", "a.wav,one,0,dog")
    check_refused(root, "line 2: fold is 'one'; allowed is a whole number")


def test_nothing_is_skipped_silently(folders):
    (folders / "low" / "11.m4a").touch()
    (folders / "low" / "notes.txt").touch()
    (folders / "low" / ".hidden.wav").touch()
    (folders / "empty").mkdir()
    wav(folders / "stray.wav")
    assert [line.partition(": ")[2] for line in read_manifest(folders).skipped] == [
        ".m4a is not read; convert it to WAV or FLAC", "is not in a class's folder", "has no recordings"
    ]  # fmt: skip
    check_refused(folders, "3 files of .* cannot be used", strict=True)
    options = ReadOptions(pattern=r"^(?P<group>[0-4])$", layout="folders", n_folds=1)
    assert sum("does not match --pattern" in line for line in read_manifest(folders, options).skipped) == 15


def test_rows_given_twice(tmp_path):
    for i in range(4):
        wav(tmp_path / f"{i}.wav")
    rows = ["0.wav,a", "1.wav,a", "2.wav,b", "3.wav,b", "0.wav,a"]
    path = table(tmp_path / "t.csv", "path,label", *rows)
    manifest = read_manifest(path)
    assert len(manifest.clips) == 4
    assert manifest.skipped == (f"{tmp_path / '0.wav'}: is named in two rows",)


# Folds


def test_small_classes_are_held_out_as_well(tmp_path):
    for label in "ab":
        for i in range(2):
            wav(tmp_path / "d" / label / f"{i}.wav")
    assert sorted((c.label, c.fold) for c in read_manifest(tmp_path / "d").clips) == [
        ("a", 1), ("a", 2), ("b", 1), ("b", 2)
    ]  # fmt: skip


def clips_of(groups):
    """Clips from (label or labels, group, count)."""
    return [
        Clip(Path(f"{group}-{label}-{i}"), (label,) if isinstance(label, str) else label, 0, group)
        for label, group, count in groups
        for i in range(count)
    ]


def test_a_class_of_one_source_is_named_unless_nothing_is_split():
    clips = clips_of([("a", "x", 9), ("b", "y", 2), ("b", "z", 2)])
    with pytest.raises(ManifestError, match="class 'a' has 9 clips of one source, x; needs two"):
        deal(clips, 5, 0)
    assert {c.fold for c in deal(clips, 1, 0)} == {1}


def test_the_small_source_is_held_out_rather_than_the_large_one():
    dealt = deal(clips_of([("a", "big", 90), ("a", "small", 10), ("b", "x", 40), ("b", "y", 60)]), 5, 0)
    assert {c.group for c in dealt if c.fold == 2} == {"small", "x"}


def test_fewer_sources_than_folds_make_fewer_folds(caplog):
    clips = clips_of([(label, f"S{singer}", 1) for singer in range(4) for label in "ab"])
    assert {c.fold for c in deal(clips, 5, 0)} == {1, 2, 3, 4}
    assert caplog.messages == [
        "only 4 folds are possible, not 5: no class has so many sources; add recordings of others, or give --n-folds"
    ]
    caplog.clear()
    assert {c.fold for c in deal(clips, 4, 0)} == {1, 2, 3, 4}
    assert {c.fold for c in deal(clips, 1, 0)} == {1}
    assert not caplog.messages


def test_another_class_moves_no_clip():
    clips = clips_of([(label, f"{label}{i}", 1) for label in "abc" for i in range(13)])
    assert deal(clips, 5, 0)[:26] == deal(clips[:26], 5, 0)


sources = st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, 9)), min_size=2, max_size=60)


@settings(deadline=None, max_examples=200)
@given(sources, st.integers(2, 7), st.integers(0, 3))
def test_sources_stay_together_and_every_class_is_held_out(found, n_folds, seed):
    groups = [(label, f"source {i}", count) for i, (label, count) in enumerate(found)]
    per_label = Counter(label for label, _, _ in groups)
    groups = [g for g in groups if per_label[g[0]] > 1]
    clips = clips_of(groups)
    dealt = deal(clips, n_folds, seed)
    assert [(c.path, c.labels) for c in dealt] == [(c.path, c.labels) for c in clips]
    folds_of = defaultdict(set)
    for clip in dealt:
        folds_of[clip.group].add(clip.fold)
    assert all(len(folds) == 1 for folds in folds_of.values())
    last = max((clip.fold for clip in dealt), default=0)
    assert {clip.fold for clip in dealt} == set(range(1, last + 1))  # without holes
    assert last <= n_folds
    for label in {label for label, _, _ in groups}:
        held_out = [c.fold == last for c in dealt if c.label == label]
        assert any(held_out)
        assert not all(held_out)


several_labels = st.lists(st.lists(st.sets(st.sampled_from("abcd")), min_size=1, max_size=4), min_size=2, max_size=9)


@settings(deadline=None, max_examples=400)
@given(several_labels, st.integers(2, 5), st.integers(0, 3))
def test_every_class_is_trained_and_held_out_where_sources_have_several(found, n_folds, seed):
    """A source of several classes is not held out where one of them has no other: refused only where nothing helps."""
    sources = [set().union(*labels) for labels in found]
    count = Counter(label for labels in sources for label in labels)
    assume(count and min(count.values()) > 1)
    clips = clips_of([(tuple(sorted(labels)), f"{i}", 1) for i, clips in enumerate(found) for labels in clips])
    numbers = range(len(sources))
    ways = (set(held_out) for size in numbers for held_out in combinations(numbers, size))
    if not any(classes(sources, way) == classes(sources, {*numbers} - way) for way in ways):
        with pytest.raises(ManifestError, match="--split-seed"):
            deal(clips, n_folds, seed)
        return
    dealt = deal(clips, n_folds, seed)
    last = max(c.fold for c in dealt)
    for held_out in (True, False):
        assert {label for c in dealt if (c.fold == last) == held_out for label in c.labels} == set(count)


def classes(sources, chosen):
    return set().union(*(sources[i] for i in chosen))


def test_a_file_under_two_paths_is_one_source(folders, tmp_path, monkeypatch):
    """By links, or however a table spells it. Where no file has two, it is dealt by its path as given."""
    monkeypatch.chdir(tmp_path)
    alone = read_manifest(folders).clips
    (tmp_path / "kept").mkdir()
    for number, clip in enumerate(alone):  # to names in another order
        kept = clip.path.rename(tmp_path / "kept" / f"{-number % 31:02}.wav")
        clip.path.symlink_to(kept)
    assert read_manifest(folders).clips == alone
    for clip in alone:
        clip.path.with_name(f"{clip.path.stem}-link.wav").symlink_to(clip.path)
    relative = [clip.path.relative_to(tmp_path) for clip in alone]
    rows = [f"{path},{c.label}" for c, r in zip(alone, relative, strict=True) for path in (c.path, r, f"data/../{r}")]
    spelt = table(Path("t.csv"), "path,label", *rows)
    for data, times in ((folders, 2), (spelt, 3)):
        folds = defaultdict(list)
        for clip in read_manifest(data).clips:
            folds[clip.path.resolve()].append(clip.fold)
        assert len(folds) == 30
        assert all(len(own) == times and len(set(own)) == 1 for own in folds.values())


def test_sources_that_cannot_be_split_are_named():
    clips = clips_of([(labels, "".join(labels), 1) for labels in (("a", "b"), ("b", "c"), ("a", "c"))])
    with pytest.raises(ManifestError, match=r"hold out a source of class '.' and leave .*; try another --split-seed"):
        deal(clips, 5, 0)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sets(st.sampled_from("abcd")), min_size=40, max_size=200), st.integers(0, 3))
def test_several_labels_are_stratified(label_sets, seed):
    """Files of one clip each: every label's count in a fold is near its share (Sechidis 2011, section 3.2)."""
    counts = Counter(label for labels in label_sets for label in labels)
    label_sets = [tuple(label for label in sorted(labels) if counts[label] > 20) for labels in label_sets]
    dealt = deal(clips_of([(labels, f"{i}", 1) for i, labels in enumerate(label_sets)]), 4, seed)
    for label in {label for labels in label_sets for label in labels}:
        by_fold = Counter(c.fold for c in dealt if label in c.labels)
        assert all(0.5 * counts[label] / 4 <= by_fold[fold] <= 1.75 * counts[label] / 4 for fold in (1, 2, 3, 4))


# Tables that come back


def test_a_saved_manifest_comes_back(tmp_path, folders):
    wav(tmp_path / "elsewhere" / "ä.wav", seconds=2)
    path = table(
        tmp_path / "in" / "t.jsonl",
        json.dumps({"path": str(tmp_path / "elsewhere" / "ä.wav"), "labels": ["b", "ü"], "fold": 2, "end": 1.0 / 3}),
        json.dumps(
            {"path": str(tmp_path / "elsewhere" / "ä.wav"), "labels": [], "fold": 2, "start": 0.7, "group": "g"}
        ),
        json.dumps({"path": str(folders / "low" / "0.wav"), "labels": ["a"], "fold": 1}),
    )
    for source in (path, folders, esc50_layout(tmp_path / "esc", ESC_ROWS)):
        manifest = read_manifest(source)
        for place in (tmp_path / "manifest.jsonl", tmp_path / "elsewhere" / "deep.jsonl"):
            manifest.save(place)
            again = read_manifest(place)
            assert again == manifest
            assert again.digest() == manifest.digest()
    assert not list(tmp_path.rglob("*.part"))


def test_a_saved_manifest_moves_with_its_files(tmp_path, folders):
    read_manifest(folders).save(folders / "manifest.jsonl")
    assert str(tmp_path) not in (folders / "manifest.jsonl").read_text()
    moved = folders.rename(tmp_path / "moved")
    manifest = read_manifest(moved / "manifest.jsonl")
    assert manifest.clips[0].path.is_relative_to(moved)
    assert len(manifest.clips) == 30


def test_a_digest_changes_with_labels_folds_and_spans(folders):
    manifest = read_manifest(folders)
    digests = {manifest.digest()}
    for old, new in (('"fold": 5', '"fold": 4'), ('"end": null', '"end": 0.5'), ('["low"]', '["high"]')):
        manifest.save(folders / "m.jsonl")
        text = (folders / "m.jsonl").read_text().splitlines()
        row = next(i for i, line in enumerate(text) if old in line and i)
        text[row] = text[row].replace(old, new)
        digests.add(read_manifest(table(folders / "m.jsonl", *text)).digest())
    assert len(digests) == 4


def test_a_damaged_saved_manifest(folders):
    path = folders / "m.jsonl"
    read_manifest(folders).save(path)
    good = path.read_text()
    for old, new, message in (
        ('["low"], "fold"', '["lower"], "fold"', "unknown label lower"),
        ('["low"], "fold"', '[], "fold"', "has 0 labels; needs one"),
        ('"fold": 5', '"fold": "x"', "fold is 'x'"),
        ('["low"], "fold"', '5, "fold"', "labels is 5; allowed is a list"),
        ('["high", "low", "middle"]', '["high", "low", "low"]', "labels has one twice: high, low, low"),
        ('"multi_label": false', '"multi_label": 1', "first line has manifest, labels and multi_label"),
    ):
        path.write_text(good.replace(old, new, 1))
        check_refused(path, message)


# Descriptions


def test_silence_and_clipping_are_measured():
    power = np.concatenate([np.zeros(RATE), np.full(RATE, 1e-2)])
    assert silence(power, RATE) == pytest.approx(0.5)
    assert silence(np.full(5, 1e-2), RATE) == 0  # shorter than a frame
    wave = np.zeros(1000, np.float32)
    wave[100:102] = 1.0
    assert clipped(wave) == 0  # a peak touches full scale once or twice
    wave[200:210], wave[-3:] = 1.0, -1.0
    assert clipped(wave) == pytest.approx(0.013)


def test_facts_of_a_clip(tmp_path):
    path = tmp_path / "x.flac"
    time = np.arange(2 * RATE) / RATE
    left = 0.5 * np.sin(2 * np.pi * 100 * time) + 0.1
    samples = np.stack([left * 32767, np.zeros(len(time))], 1).astype(np.int16)
    soundfile.write(path, samples, RATE)
    facts = measure(Clip(path, ("a",), 1))
    assert (facts.error, facts.seconds, facts.sample_rate, facts.channels) == ("", 2.0, RATE, 2)
    assert facts.format == "FLAC PCM_16"
    assert facts.peak == pytest.approx(0.6, abs=1e-3)
    assert facts.offset == pytest.approx(0.1, abs=1e-3)
    assert facts.level_db == pytest.approx(10 * np.log10((0.125 + 0.01) / 2), abs=0.01)
    soundfile.write(tmp_path / "x.wav", samples, RATE)
    assert measure(Clip(tmp_path / "x.wav", ("a",), 1)).digest == facts.digest
    soundfile.write(tmp_path / "fast.wav", samples, 2 * RATE)
    soundfile.write(tmp_path / "more.wav", np.pad(samples, [(0, 0), (0, 1)]), RATE)
    assert len({measure(Clip(tmp_path / n, ("a",), 1)).digest for n in ("x.wav", "fast.wav", "more.wav")}) == 3
    assert measure(Clip(path, ("a",), 1, start=0.5, end=1.0)).seconds == 0.5
    assert "before its segment" in measure(Clip(path, ("a",), 1, start=5.0)).error
    assert "does not exist" in measure(Clip(tmp_path / "no.wav", ("a",), 1)).error


@pytest.fixture
def messy(folders):
    """Three classes with one fault of each kind."""
    (folders / "low" / "0.wav").write_text("no sound")
    (folders / "low" / "1.wav").write_bytes(b"")
    whole = (folders / "low" / "2.wav").read_bytes()
    (folders / "low" / "2.wav").write_bytes(whole[:1000])
    (folders / "low" / "x.wma").touch()
    wav(folders / "high" / "0.wav", gain=4.0)
    wav(folders / "high" / "1.wav", seconds=0.2)
    soundfile.write(folders / "high" / "2.wav", np.zeros(RATE), RATE)
    (folders / "high" / "3.wav").write_bytes((folders / "middle" / "3.wav").read_bytes())
    manifest = read_manifest(folders)
    folds = {clip.path: clip.fold for clip in manifest.clips if clip.label == "middle"}
    first = folders / "middle" / "4.wav"
    other = next(path for path, fold in folds.items() if fold != folds[first] and path.stem not in "34")
    other.write_bytes(first.read_bytes())
    return folders


def test_a_description_finds_what_is_wrong(messy):
    description, _ = run_describe(messy, ReadOptions(), workers=1)
    assert len(description.unreadable) == 3
    assert [line.partition("wav ")[2].partition(" (")[0] for line in description.unreadable[1:]] == [
        "is empty", "is truncated: 956 of 9600 bytes"
    ]  # fmt: skip
    assert [name.rpartition("/")[2] for name in description.clipped] == ["0.wav"]
    assert [name.rpartition("/")[2] for name in description.short] == ["1.wav"]
    assert [name.rpartition("/")[2] for name in description.silent] == ["2.wav"]
    contradiction, leak = description.duplicates
    assert contradiction.labels == ("high", "middle")
    assert leak.labels == ("middle",)
    assert len(leak.folds) == 2
    assert description.bad_files == 4
    assert [(s.label, s.clips) for s in description.classes] == [("high", 10), ("low", 7), ("middle", 10)]
    assert sum(description.total.folds.values()) == description.total.clips == 27
    assert description.total.shortest == pytest.approx(0.2)
    assert (description.sample_rates, description.formats) == ({RATE: 27}, {"WAV PCM_16": 27})


def test_processes_find_the_same(messy):
    clips = read_manifest(messy).clips
    assert list(measure_all(clips, 2)) == [measure(clip) for clip in clips]


def test_sources_in_several_folds_are_told(tmp_path):
    rows = [*ESC_ROWS, ("3-34119-B-1.wav", 2, 1, "rooster", True, 34119)]
    description, _ = run_describe(esc50_layout(tmp_path / "esc", rows), ReadOptions(), workers=1)
    assert description.sources_in_folds == {"34119": (1, 2)}


def test_what_cannot_be_split_is_described_all_the_same(tmp_path):
    for label in ("a", "b"):
        wav(tmp_path / "d" / label / "0.wav")
    description, _ = run_describe(tmp_path / "d", ReadOptions(strict=True), workers=1)
    assert "class 'a' has one clip" in description.not_trainable
    assert description.total.clips == 2


def test_the_command_describes(messy, tmp_path):
    """Table, JSON, pictures and exit codes."""
    done = train("describe", messy, "--workers", 1, "--picture", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    for line in ("data: 27 readable clips, 3 classes", "3 files are not readable:", "1 files are skipped:",
                 "x.wma: .wma is not read",
                 "1 sounds have several labels", "1 sounds stand in several folds", "low.0.wav"):  # fmt: skip
        assert any(part in done.stdout for part in (line, line.replace(".0", "/0"))), line
    done = train("describe", messy, "--workers", 1, "--json", "--strict", code=1)
    assert len(json.loads(done.stdout)["unreadable"]) == 3
    assert done.stderr.endswith("Error: 4 files cannot be used: 1 skipped, 3 not readable\n")


def test_the_command_fails_in_one_line(folders, tmp_path):
    assert "is not a folder" in train("describe", tmp_path / "no", code=1).stderr
    done = train("describe", folders, "--workers", 1, "--picture", tmp_path / "p.doc", code=1)
    assert "p.doc is no picture that can be written (give a .png, .svg or .pdf file)" in done.stderr
    assert not done.stdout  # said before the files are read
    assert "File name too long" in train("describe", "x" * 300, code=1).stderr
    assert not list(tmp_path.glob("p.doc*"))


def test_a_picture_that_cannot_be_written_is_named(tmp_path):
    from matplotlib.figure import Figure

    from train.overview import save

    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name, why in (("file/x.png", "Not a directory"), ("pipe.png", "File or stream is not seekable")):
        with pytest.raises(EdgeError, match=rf"{name} cannot be written: {why}.* \(give another --picture\)"):
            save(Figure(), tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "pipe.png"]


def test_the_options_of_reading_reach_the_command(tmp_path):
    @click.command()
    @data_options
    @click.option("--seed", type=int)
    def command(data, options, seed):
        click.echo(repr((str(data), options, seed)))

    given = ["x", "--layout", "table", "--label-column", "digit", "--where", "a=1", "--where", "b=2", "--class", "7",
             "--n-folds", "3", "--split-seed", "4", "--seed", "5", "--strict"]  # fmt: skip
    done = CliRunner().invoke(command, given)
    expected = ReadOptions(
        layout="table", label_column="digit", where=("a=1", "b=2"), classes=("7",), n_folds=3, seed=4, strict=True
    )
    assert done.output.strip() == repr(("x", expected, 5))
    assert CliRunner().invoke(command, ["x"]).output.strip() == repr(("x", ReadOptions(), None))


def test_pictures_of_many_classes_and_of_none(tmp_path):
    from train.describe import describe
    from train.manifest import Manifest
    from train.overview import overview, save

    labels = ("$x^$", *(f"class {i}" for i in range(1, 300)))
    clips = tuple(Clip(Path(f"{i}.wav"), (label,), 1 + i % 5) for i, label in enumerate(labels))
    facts = [Facts(seconds=0.01 * (i + 1), sample_rate=RATE, channels=1, digest=str(i)) for i in range(300)]
    description = describe(Manifest("many $y_$", labels, clips), facts)
    figure = overview(description, list(zip(clips, facts, strict=True)))
    save(figure, tmp_path / "p.SVG")  # names are text, not formulas
    assert "$x^$" in (tmp_path / "p.SVG").read_text()
    assert len(figure.axes[0].get_yticklabels()) == 200
    assert figure.axes[1].get_xscale() == "log"
    broken = [Facts(error="broken")] * 300
    figure = overview(describe(Manifest("none", labels, clips), broken), list(zip(clips, broken, strict=True)))
    assert len(figure.axes[2].collections[0].get_offsets()) == 0
