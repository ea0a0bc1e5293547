"""How far the runs are: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

LINE_EVERY = 10  # epochs, where there is no terminal


class RunProgress:
    """One bar for each run, named by its folder."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            disable=not sys.stderr.isatty(),
        )
        self._tasks: dict[Path, TaskID] = {}
        self._accuracies: dict[Path, str] = {}

    def __enter__(self) -> RunProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, out: Path, epochs: int, record: dict[str, Any]) -> None:
        """The run in ``out`` has done ``record["epoch"]`` of ``epochs``."""
        if "accuracy" in record:
            self._accuracies[out] = f", validation accuracy {record['accuracy']:.1%}"
        text = f"{out} loss {record['loss']:.3f}{self._accuracies.get(out, '')}"
        if out not in self._tasks:
            self._tasks[out] = self._progress.add_task(text, total=epochs)
        self._progress.update(self._tasks[out], description=text, completed=record["epoch"])
        if self._progress.disable and (record["epoch"] % LINE_EVERY == 0 or record["epoch"] == epochs):
            self._console.print(f"{text}, epoch {record['epoch']} of {epochs}", soft_wrap=True, markup=False)


class Watch:
    """The runs below a folder, seen from another process through what they write."""

    def __init__(self, root: Path, progress: RunProgress) -> None:
        self.root, self.progress = root, progress
        self._seen: dict[Path, int] = {}

    def look(self) -> None:
        """Show what is new."""
        for history in sorted(self.root.rglob("history.jsonl")):
            try:
                config = json.loads((history.parent / "config.json").read_text(encoding="utf-8"))
                records = [json.loads(line) for line in history.read_text(encoding="utf-8").splitlines()]
            except (OSError, ValueError):
                continue  # being written: the next look sees it
            for record in records[self._seen.get(history, 0) :]:
                self.progress.show(history.parent, config["epochs"], record)
            self._seen[history] = len(records)
