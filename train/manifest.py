"""Any data set as one manifest: which clip, which labels, which fold."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.config import CONTROL
from edge.files import write_text
from edge.names import encodable
from train.clip import Clip, ManifestError
from train.readers import read_listing
from train.readers.options import ReadOptions
from train.splits import deal, from_one

__all__ = ["Clip", "Manifest", "ManifestError", "ReadOptions", "read_manifest", "with_more"]

LONGEST = 200  # characters of a path in an error
NAMED = 10  # skipped files named one by one in the log; all are in Manifest.skipped

DEFAULT = ReadOptions()

log = logging.getLogger("train.manifest")


@dataclass(frozen=True)
class Manifest:
    """A data set: its labels, in the order of the network's outputs, and its clips."""

    name: str
    labels: tuple[str, ...]
    clips: tuple[Clip, ...]
    multi_label: bool = False  # a clip may have none, one or several labels
    skipped: tuple[str, ...] = field(default=(), compare=False)  # what could not be used: name and reason
    official: bool = field(default=False, compare=False)  # the folds came with the data; else they were dealt here
    more: tuple[str, ...] = field(default=(), compare=False)  # names of what other clips came from; see with_more

    def digest(self) -> str:
        """Changes when a clip, a label or a fold does."""
        rows = [(clip.path.name, clip.labels, clip.fold, clip.start, clip.end) for clip in self.clips]
        return hashlib.sha256(repr((self.labels, self.multi_label, rows)).encode()).hexdigest()[:16]

    def in_folds(self, folds: Sequence[int]) -> list[Clip]:
        """The clips of ``folds``, in the manifest's order.

        Raises:
            ManifestError: for a fold without clips.
        """
        there = {clip.fold for clip in self.clips}
        for fold in folds:
            if fold not in there:
                raise ManifestError(f"fold {fold} has no clips; folds of {self.name}: {sorted(there)}")
        return [clip for clip in self.clips if clip.fold in folds]

    def save(self, path: Path) -> None:
        """Write JSON Lines that :func:`read_manifest` reads back; files below its folder by their path from there."""
        header = {"manifest": self.name, "labels": self.labels, "multi_label": self.multi_label}
        folder = path.absolute().parent
        lines = [json.dumps(row) for row in (header, *(_row(clip, folder) for clip in self.clips))]
        write_text(path, "\n".join(lines) + "\n")


def read_manifest(root: Path, options: ReadOptions = DEFAULT) -> Manifest:
    """The data set ``root``: a folder, or a table. Files that cannot be used are named in the log and skipped.

    Raises:
        ManifestError: for what is no data set, and with ``options.strict`` for a file that cannot be used.
    """
    try:
        return _read(root, options)
    except OSError as error:  # such as a name that is too long
        where = f"{error.filename or root}"
        where = where if len(where) <= LONGEST else f"{where[:LONGEST]}…"
        raise ManifestError(f"{where} cannot be read: {error.strerror}; check the path") from None


def with_more(manifest: Manifest, root: Path, fold: int, *, chosen: bool = False, strict: bool = False) -> Manifest:
    """``manifest`` with the clips of ``root``, a folder for each of its classes, in ``fold``; some classes will do.

    ``chosen``: the manifest has but some of its data set's classes, so that clips of others are counted and left out.

    Raises:
        ManifestError: for a class that the manifest does not have, unless ``chosen``, and what :func:`read_manifest`
            does.
    """
    more = read_manifest(root, ReadOptions(layout="folders", n_folds=1, strict=strict))
    kept = [clip for clip in more.clips if clip.label in manifest.labels]
    if unknown := sorted(set(more.labels) - set(manifest.labels)):
        names = ", ".join(unknown)
        if not chosen or not kept:
            raise ManifestError(f"{manifest.name} has no class {names}; it has: {', '.join(manifest.labels)}")
        of = f"{len(more.clips) - len(kept)} of {len(more.clips)} clips of {root}"
        log.warning("left out %s, of classes that --class does not name: %s", of, names)
    own = {clip.path.resolve() for clip in manifest.clips}
    if twice := [clip for clip in kept if clip.path.resolve() in own]:
        raise ManifestError(
            f"{len(twice)} clips of {root} are of {manifest.name} itself, the first: {twice[0].name}; "
            "what is held out there would be learnt here: give other clips"
        )
    clips = tuple(replace(clip, fold=fold) for clip in kept)
    return replace(
        manifest,
        clips=manifest.clips + clips,
        skipped=manifest.skipped + more.skipped,
        more=(*manifest.more, f"{more.name} ({len(clips)} clips)"),
    )


def _read(root: Path, options: ReadOptions) -> Manifest:
    listing = read_listing(root, options)
    named = from_one(listing.clips) if listing.has_folds else listing.clips
    clips = [clip for clip in named if clip.path.is_file()]
    missing = [clip for clip in named if not clip.path.is_file()]
    gone = [f"{clip.name}: {'is no file' if clip.path.exists() else 'does not exist'}" for clip in missing]
    skipped = [*listing.skipped, *gone]
    if not listing.clips:
        raise ManifestError(f"{root} names no clips")
    if not clips:
        raise ManifestError(
            f"none of the {len(missing)} files of {root} is there, the first: {gone[0]}; "
            "give the folder of a table's files with --audio"
        )
    if skipped and options.strict:
        raise ManifestError(f"{len(skipped)} files of {root} cannot be used, the first: {skipped[0]}")
    labels = listing.labels or tuple(sorted({label for clip in listing.clips for label in clip.labels}))
    _check_names(root, listing.name, labels)
    if options.classes:
        labels, clips = _only(options.classes, labels, clips)
    _check_labels(root, labels, clips, missing, options.n_folds > 1 and not listing.multi_label)
    if not listing.has_folds:
        clips = deal(clips, options.n_folds, options.seed)
    _log(skipped)
    return Manifest(listing.name, labels, tuple(clips), listing.multi_label, tuple(skipped), listing.has_folds)


def _row(clip: Clip, folder: Path) -> dict[str, Any]:
    path = clip.path.absolute()
    text = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)
    row = {"path": text, "labels": clip.labels, "fold": clip.fold, "group": clip.group}
    return row | {"start": clip.start, "end": clip.end}


def _only(classes: Sequence[str], labels: Sequence[str], clips: Sequence[Clip]) -> tuple[tuple[str, ...], list[Clip]]:
    """``labels`` and ``clips`` of ``classes``. Raises ManifestError for one that is not there."""
    if unknown := sorted(set(classes) - set(labels)):
        raise ManifestError(f"there is no class {', '.join(unknown)}; there are: {', '.join(labels)}")
    kept = [clip for clip in clips if not clip.labels or set(clip.labels) & set(classes)]
    kept = [replace(clip, labels=tuple(label for label in clip.labels if label in classes)) for clip in kept]
    return tuple(label for label in labels if label in classes), kept


def _check_names(root: Path, dataset: str, labels: Sequence[str]) -> None:
    """Raises ManifestError for a name that no contract of a model holds; see :mod:`edge.config`."""
    for what, name in (
        (f"data set {dataset!r}", dataset),
        *((f"class {label!r} in {root}", label) for label in labels),
    ):
        if encodable(name) != name:  # the name of a folder is bytes
            raise ManifestError(f"the name of {what} is not UTF-8; rename it")
        if CONTROL.search(name):
            raise ManifestError(f"the name of {what} has a line break or a control character; rename it")
    if not all(map(str.strip, labels)):
        raise ManifestError(f"a class in {root} has an empty name; rename it")


def _check_labels(
    root: Path, labels: Sequence[str], clips: Sequence[Clip], missing: Sequence[Clip], several: bool
) -> None:
    there = {label for clip in clips for label in clip.labels}
    gone = {label for clip in missing for label in clip.labels} & set(labels) - there
    if gone:
        raise ManifestError(f"class {min(gone)!r} of {root} has no clips left: none of its files is there")
    if several and len(labels) < 2:
        raise ManifestError(f"{root} has one class, {', '.join(labels)}; needs two to tell apart, or --n-folds 1")


def _log(skipped: Sequence[str]) -> None:
    for line in skipped[:NAMED]:
        log.warning("skipped %s", line)
    if len(skipped) > NAMED:
        log.warning("skipped %d files more; describe names them all", len(skipped) - NAMED)
