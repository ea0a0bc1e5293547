"""What a setting may be, written beside its field: ``mix: Share = 0.8``."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Annotated, Any, get_type_hints

MAX_SEED = 2**63 - 1  # what torch takes, and a contract holds


@dataclass(frozen=True)
class Bounds:
    """Finite numbers from ``low`` to ``high``; without those two themselves where ``above`` or ``below``."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def allow(self, value: float) -> bool:
        """Whether ``value`` is one of them; NaN never is."""
        inside = self.low <= value <= self.high and abs(value) <= sys.float_info.max
        return inside and not (self.above and value == self.low) and not (self.below and value == self.high)

    def __str__(self) -> str:
        low = f"{'above ' if self.above else ''}{self.low}"
        if math.isfinite(self.high):
            return f"{low} to {'below ' if self.below else ''}{self.high}"
        return "finite" if math.isinf(self.low) else low if self.above else f"{low} or more"


Share = Annotated[float, Bounds(0, 1)]  # of something, or a probability
BelowOne = Annotated[float, Bounds(0, 1, below=True)]
NotNegative = Annotated[float, Bounds(0)]
Positive = Annotated[float, Bounds(0, above=True)]
Lowering = Annotated[float, Bounds(0, 1, above=True, below=True)]  # a factor
Count = Annotated[int, Bounds(0)]
AtLeastOne = Annotated[int, Bounds(1)]
Seed = Annotated[int, Bounds(0, MAX_SEED)]
Octaves = Annotated[float, Bounds(0, 4)]  # either way
Level = Annotated[float, Bounds(0, 100)]  # dB, either way

Decibels = Annotated[tuple[float, float], Bounds(-100, 100)]  # ranges to draw from
Seconds = Annotated[tuple[float, float], Bounds(0, 60, above=True)]
Hertz = Annotated[tuple[float, float], Bounds(0, above=True)]
Shares = Annotated[tuple[float, float], Bounds(0, 1)]
Margins = Annotated[tuple[float, float], Bounds()]


def check_bounds(settings: Any, table: str = "") -> None:
    """Every bounded field of a dataclass; ``table`` is where a recipe has it, such as ``augment.``.

    Raises:
        ValueError: for one that is out of its bounds, or a range whose second number is the lower.
    """
    for name, hint in get_type_hints(type(settings), include_extras=True).items():
        (bounds,) = getattr(hint, "__metadata__", (None,))
        if bounds is None:
            continue
        value = getattr(settings, name)
        ranged = isinstance(value, tuple)
        numbers = list(value) if ranged else [value]
        if not all(map(bounds.allow, numbers)) or numbers != sorted(numbers):
            allowed = f"two numbers, {bounds}, the lower first" if ranged else bounds
            finite = ", finite" if math.inf in map(abs, numbers) and not ranged else ""
            raise ValueError(f"{table}{name} is {value}; allowed: {allowed}{finite}")
