"""A table of clips in CSV, JSON, JSON Lines or TXT; a saved manifest is one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from train.clip import Clip, ManifestError
from train.readers.listing import Listing
from train.readers.options import ReadOptions
from train.readers.rows import SUFFIXES, Row, columns_of, read_pairs, read_rows, select
from train.splits import fold_number, from_zero

# Names that are tried, in this order and in either case, where none is given.
USUAL = {
    "path": ("path", "file", "filename", "file_name", "filepath", "file_path", "fname", "audio", "wav"),
    "label": ("label", "labels", "class", "category", "classname", "class_name", "tag", "tags", "target"),
    "fold": ("fold", "split", "subset"),
    "start": ("start", "onset", "start_time"),
    "end": ("end", "offset", "end_time"),
    "group": ("group", "source", "src_file"),
}
ACCEPTS = frozenset({*(f"{column}_column" for column in USUAL), "separator", "audio", "where"})
HEADER = "manifest"  # key of a saved manifest's first line


def read(root: Path, options: ReadOptions) -> Listing:
    """The table ``root``, or the only one in the folder ``root``."""
    path = root if root.is_file() else only_table(root)
    given = {column: str(getattr(options, f"{column}_column")) for column in USUAL}
    if path.suffix.lower() == ".txt" and not any(given.values()) and not _has_header(path):
        rows, given = read_pairs(path), given | {"path": "1", "label": "2"}
    else:
        rows = read_rows(path, header=not any(name.isdecimal() for name in given.values()))
    if not rows:
        raise ManifestError(f"{path} names no clips")
    folders = audio_folders(path, options.audio)
    if HEADER in rows[0].values:
        return _saved(rows[0], select(rows[1:], options.where), folders)
    columns = find_columns(path, columns_of(rows), given)
    first = 1 if "fold" in columns and from_zero(row.text(columns["fold"], "") for row in rows) else 0
    rows = select(rows, options.where)
    multi_label = bool(options.separator) or any(isinstance(row.values.get(columns["label"]), list) for row in rows)
    clips = [
        replace(
            _clip(row, columns, folders),
            labels=_labels(row, columns["label"], options.separator, multi_label),
            fold=first + fold,
        )
        for row, fold in zip(rows, _folds(rows, columns), strict=True)
    ]
    clips, skipped = merged(clips, multi_label=multi_label)
    name = root.stem if root.is_file() else root.resolve().name
    return Listing(name, clips, multi_label=multi_label, has_folds="fold" in columns, skipped=skipped)


def tables(folder: Path, suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The tables in ``folder``."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in suffixes and p.is_file() and p.name[0] != ".")


def only_table(folder: Path) -> Path:
    """The table in ``folder``. Raises ManifestError where there is none, or several."""
    found = tables(folder)
    if len(found) != 1:
        names = f": {', '.join(p.name for p in found)}" if found else f" ({', '.join(SUFFIXES)})"
        raise ManifestError(f"{folder} has {len(found)} tables{names}; give the table instead of the folder")
    return found[0]


def find_columns(path: Path, there: Sequence[str], given: dict[str, str]) -> dict[str, str]:
    """The table's column for path and label, and for fold, start, end and group where it has them.

    Raises:
        ManifestError: for a given column that is not there, or without path or label.
    """
    lower = {column.lower(): column for column in reversed(there)}
    columns = {}
    for role, usual in USUAL.items():
        if given[role] and given[role] not in there:
            raise ManifestError(f"{path} has no column {given[role]!r}; it has: {', '.join(there)}")
        found = given[role] or next((lower[name] for name in usual if name in lower), "")
        if found:
            columns[role] = found
        elif role in {"path", "label"}:
            raise ManifestError(
                f"{path} has no column for the {role}; it has: {', '.join(there)}; give one with --{role}-column, "
                "by its name, or by its number from 1 where the table has no header"
            )
    return columns


def audio_folders(table: Path, audio: str) -> list[Path]:
    """Where a table's files are looked for: ``audio``, else its own folder, ``audio/`` in it and beside it."""
    folder = table.parent
    return [Path(audio)] if audio else [folder, folder / "audio", folder.parent / "audio"]


def merged(clips: Sequence[Clip], *, multi_label: bool) -> tuple[list[Clip], list[str]]:
    """One clip for each span of a file: its rows' labels together, where there may be several; and the rows skipped.

    Raises:
        ManifestError: for one span with two labels, where there may be but one.
    """
    spans: dict[tuple[Path, float, float | None], Clip] = {}
    skipped = []
    for clip in clips:
        key = (clip.path, clip.start, clip.end)
        first = spans.setdefault(key, clip)
        if first is clip:
            continue
        if multi_label:
            spans[key] = replace(first, labels=tuple(dict.fromkeys(first.labels + clip.labels)))
        elif first.labels != clip.labels:
            raise ManifestError(
                f"{clip.name} is {first.label!r} in one row and {clip.label!r} in another; correct one of them, or "
                "give --separator ';' where a clip may have several labels"
            )
        else:
            skipped.append(f"{clip.name}: is named in two rows")
    return list(spans.values()), skipped


def _saved(header: Row, rows: Sequence[Row], folders: Sequence[Path]) -> Listing:
    """What :meth:`train.manifest.Manifest.save` wrote."""
    labels, name, multi_label = (header.values.get(key) for key in ("labels", HEADER, "multi_label"))
    if not isinstance(labels, list) or not isinstance(multi_label, bool):
        raise ManifestError(f"{header.place}: a saved manifest's first line has manifest, labels and multi_label")
    labels = tuple(map(str, labels))
    if len(set(labels)) < len(labels):
        raise ManifestError(f"{header.place}: labels has one twice: {', '.join(labels)}; each must be there once")
    columns = {role: role for role in USUAL}
    clips = []
    for row in rows:
        own = row.values.get("labels")
        if not isinstance(own, list):
            raise ManifestError(f"{row.place}: labels is {own!r:.40}; allowed is a list")
        own = tuple(map(str, own))
        clips.append(replace(_clip(row, columns, folders), labels=own, fold=row.integer("fold")))
        if unknown := set(own) - set(labels):
            raise ManifestError(f"{row.place}: unknown label {', '.join(sorted(unknown))}; the first line has them all")
        if not multi_label and len(own) != 1:
            raise ManifestError(f"{row.place}: has {len(own)} labels; needs one")
    return Listing(str(name), clips, labels, multi_label, has_folds=True)


def _has_header(path: Path) -> bool:
    return any(
        str(cell).lower() in USUAL["path"] for row in read_rows(path, header=False)[:1] for cell in row.values.values()
    )


def _clip(row: Row, columns: dict[str, str], folders: Sequence[Path]) -> Clip:
    """The clip without its labels and fold."""
    given = Path(row.text(columns["path"]))
    path = next((p for p in (folder / given for folder in folders) if p.is_file()), folders[0] / given)
    start = row.seconds(columns["start"]) if "start" in columns else None
    end = row.seconds(columns["end"]) if "end" in columns else None
    if end is not None and end <= (start or 0):
        raise ManifestError(f"{row.place}: ends at {end:g} s, but starts at {start or 0:g} s")
    group = row.text(columns["group"], "") if "group" in columns else ""
    return Clip(path, (), 0, group, start or 0.0, end)


def _labels(row: Row, column: str, separator: str, multi_label: bool) -> tuple[str, ...]:
    """The labels of a row: a list in JSON, text with a separator, or one."""
    value = row.values.get(column)
    given = value if isinstance(value, list) else ["" if value is None else value]
    if any(label is None or isinstance(label, dict | list) for label in given):
        raise ManifestError(f"{row.place}: {column} is {value!r:.40}; allowed are text, a number, or a list of them")
    texts = [str(label) for label in given]
    if separator and not isinstance(value, list):
        texts = texts[0].split(separator)
    labels = tuple(dict.fromkeys(filter(None, map(str.strip, texts))))
    if not labels and not multi_label:
        raise ManifestError(f"{row.place}: {column} is missing")
    return labels


def _folds(rows: Sequence[Row], columns: dict[str, str]) -> list[int]:
    """The official folds; 0 for each row where the table has none."""
    if "fold" not in columns:
        return [0] * len(rows)
    return [fold_number(row.text(columns["fold"]), row.place) for row in rows]
