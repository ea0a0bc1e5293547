"""What a reader found, before folds are dealt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from train.clip import Clip


@dataclass(frozen=True)
class Listing:
    """The clips that a data set names; their files need not be there."""

    name: str
    clips: Sequence[Clip]
    labels: tuple[str, ...] = ()  # in the data set's own order; empty where it has none
    multi_label: bool = False
    has_folds: bool = False  # official ones; else the clips' are 0
    skipped: Sequence[str] = ()  # what was left out: name and reason


def by_number(numbers: dict[str, int]) -> tuple[str, ...]:
    """Labels in the order of the numbers that the data set gives them."""
    return tuple(sorted(numbers, key=lambda label: numbers[label]))
