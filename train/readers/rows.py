"""Rows of a table in CSV, JSON, JSON Lines or TXT, each of which knows its place."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from train.clip import ManifestError

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """One row."""

    place: str  # file and line, for errors
    values: dict[str, Any]  # by column; without a header the columns are "1", "2" ...

    def text(self, column: str, default: str | None = None) -> str:
        """The value as text. Raises ManifestError where it is empty and there is no default."""
        value = self.values.get(column)
        text = "" if value is None else str(value)
        if text:
            return text
        if default is None:
            raise ManifestError(f"{self.place}: {column} is missing")
        return default

    def integer(self, column: str) -> int:
        """A whole number."""
        try:
            return int(self.text(column))
        except ValueError:
            raise ManifestError(f"{self.place}: {column} is {self.text(column)!r}; allowed is a whole number") from None

    def seconds(self, column: str) -> float | None:
        """A time from 0; None where it is empty."""
        text = self.text(column, "")
        try:
            seconds = float(text or 0)
        except ValueError:
            seconds = math.nan
        if not 0 <= seconds < math.inf:
            raise ManifestError(f"{self.place}: {column} is {text!r}; allowed are seconds from 0")
        return seconds if text else None


def read_rows(path: Path, *, header: bool = True) -> list[Row]:
    """The rows of ``path``; its suffix says the format. TXT is CSV, or columns between spaces.

    Raises:
        ManifestError: when it cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if "\0" in text:  # UTF-16 without a mark of it
            raise _no_text(path)
        if path.suffix.lower() == ".json":
            return list(_json_rows(path, json.loads(text)))
        if path.suffix.lower() in {".jsonl", ".ndjson"}:
            return list(_json_lines(path, text))
        return list(_csv_rows(path, text, header=header))
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _no_text(path) from None
    except (json.JSONDecodeError, RecursionError, csv.Error) as error:
        raise ManifestError(f"{path} is no {path.suffix[1:].upper()} table: {error}") from None


def _no_text(path: Path) -> ManifestError:
    """What to do about a file that is not in UTF-8: a table in another encoding, or something else altogether."""
    if path.suffix.lower() in SUFFIXES:
        return ManifestError(f"{path} is not in UTF-8; save it as UTF-8")
    return ManifestError(
        f"{path} is no table; DATA is a folder of recordings, or a table of them in {', '.join(SUFFIXES)} "
        "(a model is given with --model or --init)"
    )


def read_pairs(path: Path) -> list[Row]:
    """The rows of a TXT without a header: "1" is the path and "2" the label; between spaces, the rest of the line is.

    Raises:
        ManifestError: when it cannot be read, or for a row with more columns.
    """
    rows = read_rows(path, header=False)
    with path.open(encoding="utf-8-sig") as file:
        spaces = delimiter_of(path, file) == " "
    pairs = []
    for row in rows:
        first, *rest = row.values.values()
        rest = [text for text in rest if text]
        if len(rest) > 1 and not spaces:
            raise ManifestError(
                f"{row.place}: has {1 + len(rest)} columns, and no header says what they are; name them with "
                "--path-column 1 --label-column 2"
            )
        pairs.append(Row(row.place, {"1": first, "2": " ".join(rest)}))
    return pairs


def _csv_rows(path: Path, text: str, *, header: bool) -> Iterator[Row]:
    delimiter = delimiter_of(path, io.StringIO(text))
    lines = io.StringIO(text, newline="")  # str.splitlines would break lines in quotes, and at form feeds
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=delimiter == " ")
    names: list[str] | None = None
    for line in reader:
        cells = [cell.strip() for cell in line]
        if not any(cells):
            continue
        if header and names is None:
            names = cells
            if twice := [name for name, count in Counter(filter(None, names)).items() if count > 1]:
                raise ManifestError(
                    f"{path}, line {reader.line_num}: the header has column {twice[0]!r} twice; rename one, or give "
                    "--path-column and --label-column as numbers from 1 where this is no header"
                )
            continue
        place = f"{path}, line {reader.line_num}"
        columns = names or [str(number) for number in range(1, len(cells) + 1)]
        if any(cells[len(columns) :]):
            raise ManifestError(
                f"{place}: has {len(cells)} columns; the header has {len(columns)}: quote what holds a comma"
            )
        yield Row(place, dict(zip_longest(columns, cells[: len(columns)], fillvalue="")))


def delimiter_of(path: Path, lines: Iterable[str]) -> str:
    """What stands between the columns: the most frequent candidate of the first line that is not empty."""
    line = next(filter(str.strip, lines), "")
    best = max("\t,;|", key=line.count)
    if path.suffix.lower() == ".tsv" or line.count(best):
        return "\t" if path.suffix.lower() == ".tsv" else best
    return " "


def _json_rows(path: Path, value: Any) -> Iterator[Row]:
    """A list of objects, or one object that holds such a list."""
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else value
    if not isinstance(value, list):
        raise ManifestError(f"{path} holds no list; needs a list of objects, one for each clip")
    for number, entry in enumerate(value, start=1):
        yield _json_row(f"{path}, entry {number}", entry)


def _json_lines(path: Path, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield _json_row(f"{path}, line {number}", json.loads(line))
            except (json.JSONDecodeError, RecursionError) as error:
                raise ManifestError(f"{path}, line {number}: no JSON: {error}") from None


def _json_row(place: str, entry: Any) -> Row:
    if not isinstance(entry, dict):
        raise ManifestError(f"{place}: is {entry!r:.40}; needs an object with a path and a label")
    return Row(place, entry)


def select(rows: Sequence[Row], where: Sequence[str]) -> list[Row]:
    """The rows for which each column of ``where`` ("column=value") has one of the values given for it.

    Raises:
        ManifestError: for a column that is not there, or where no row is left.
    """
    wanted: dict[str, set[str]] = defaultdict(set)
    for condition in where:
        column, equals, value = condition.partition("=")
        if not equals:
            raise ManifestError(f"--where {condition!r} has no '='; give column=value")
        wanted[column.strip()].add(value.strip())
    kept = list(rows)
    for column, values in wanted.items():
        columns = columns_of(rows)
        if column not in columns:
            raise ManifestError(f"there is no column {column!r} for --where; there are: {', '.join(columns)}")
        there = sorted({row.text(column, "") for row in kept})
        kept = [row for row in kept if row.text(column, "") in values]
        if not kept:
            raise ManifestError(f"no row has {column} = {', '.join(sorted(values))}; there are: {_some(there)}")
    return kept


def columns_of(rows: Sequence[Row]) -> list[str]:
    """All columns, in their order."""
    return list(dict.fromkeys(column for row in rows for column in row.values))


def _some(values: Sequence[str]) -> str:
    return ", ".join(values[:10]) + (f" and {len(values) - 10} more" if len(values) > 10 else "")
