"""Numbers on the command line."""

from __future__ import annotations

import math
from typing import Any

import click

AT_ONCE = click.IntRange(1, 256)  # processes or threads: more than any machine that this runs on has cores


class Finite(click.FloatRange):
    """A number within bounds that is finite: NaN, which is in no order, click takes to be within them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As a click.FloatRange."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number
