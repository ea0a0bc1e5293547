"""What other microphones, lines and rooms cost a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from train.effects import DEGRADATIONS, TITLES
from train.evaluate import Report, evaluate
from train.manifest import Clip


@dataclass(frozen=True)
class Robustness:
    """Reports of the same clips, as they are and degraded."""

    clean: Report
    degraded: dict[str, Report]  # by the name of the degradation

    @property
    def losses(self) -> dict[str, float]:
        """What each degradation costs, in points of accuracy."""
        return {name: 100 * (self.clean.accuracy - report.accuracy) for name, report in self.degraded.items()}

    @property
    def mean_loss(self) -> float:
        """Points of accuracy."""
        return sum(self.losses.values()) / len(self.losses)

    @property
    def worst(self) -> str:
        """The degradation that costs most."""
        return max(self.losses, key=self.losses.__getitem__)

    def table(self) -> list[str]:
        """Lines of Markdown."""
        rows = [("as recorded", self.clean, "")]
        rows += [(TITLES[name], report, f"{self.losses[name]:.1f}") for name, report in self.degraded.items()]
        lines = ["| recordings | clips | windows | loss, points |", "|---|---|---|---|"]
        for title, report, loss in rows:
            lines.append(f"| {title} | {report.accuracy:.2%} | {report.window_accuracy:.2%} | {loss} |")
        return [*lines, f"| mean | | | {self.mean_loss:.1f} |"]

    def summary(self) -> str:
        """One line."""
        worst = self.worst
        return f"mean loss {self.mean_loss:.1f} points; the worst is {TITLES[worst]}, {self.losses[worst]:.1f}"


def degraded_reports(
    model: Path | None, clips: Sequence[Clip], *, hop: float | None = None, workers: int | None = None
) -> Iterator[tuple[str, Report]]:
    """Each of :data:`train.effects.DEGRADATIONS` and its report, one after the other. Raises as ``evaluate``."""
    for name in DEGRADATIONS:
        yield name, evaluate(model, clips, hop=hop, workers=workers, effect=name)
