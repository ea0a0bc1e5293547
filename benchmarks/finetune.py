"""A few dozen clips of new classes: our weights as a start, against none.

    python -m benchmarks.finetune FSDD

FSDD is the Free Spoken Digit Dataset: a folder with ``fsdd.csv`` (filename, digit) and ``audio/``. Five clips of each
of ten digits are trained on, thirty others of each are recognised; both networks are trained alike, by the recipe
``finetune``.
"""

from __future__ import annotations

import csv
import random
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge.errors import EdgeError
from train.config import read_recipe
from train.evaluate import evaluate
from train.initial import start_from
from train.loop import fit
from train.manifest import Clip, Manifest, ManifestError

TRAIN, TEST = 5, 30  # clips of each digit


def draw(root: Path) -> Manifest:
    """The drawn clips: fold 1 to train on, fold 2 to recognise."""
    by_digit: dict[str, list[str]] = defaultdict(list)
    with (root / "fsdd.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            by_digit[row["digit"]].append(row["filename"])
    rng, clips = random.Random(0), []
    for digit, names in sorted(by_digit.items()):
        for number, name in enumerate(rng.sample(names, TRAIN + TEST)):
            clips.append(Clip(root / "audio" / name, (digit,), 1 if number < TRAIN else 2))
    return Manifest("FSDD", tuple(sorted(by_digit)), tuple(clips))


def compare(root: Path) -> None:
    """Train both, and print what they recognise."""
    manifest = draw(root)
    config = replace(read_recipe("finetune"), train_folds=(1,), test_fold=2)
    print(f"| start | accuracy of {len(manifest.in_folds([2]))} clips |\n|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, start in (("our weights", start_from(config, "bundled")), ("none", config)):
            out = Path(folder) / title.replace(" ", "-")
            path = fit(start, manifest, out, Path(folder) / "cache", lambda _: None)
            print(f"| {title} | {evaluate(path, manifest.in_folds([2])).accuracy:.1%} |", flush=True)


def main(arguments: Sequence[str]) -> None:
    """What goes wrong is one line."""
    if len(arguments) != 1:
        sys.exit(__doc__)
    try:
        compare(Path(arguments[0]))
    except (EdgeError, ManifestError, OSError, ValueError) as error:
        sys.exit(f"Error: {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
