"""The live view on a terminal: top classes with bars, level meter, latency, overflows."""

from __future__ import annotations

from collections import deque

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge.records import Record
from edge.sinks.text import bar as blocks
from edge.sinks.text import calibrated, clock, no_clip, summary

BAR = 30  # characters of a full bar
FLOOR_DBFS = -70.0  # the left end of the level meter
STYLES = {"starting": "dim", "listening": "green", "degraded": "bold yellow", "lost": "bold red"}
EVENTS = 5  # the last ones, shown below the classes


class LiveView:
    """Redrawn in place at each window."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._start: Record = {}
        self._events: deque[Record] = deque(maxlen=EVENTS)  # the newest record of each, by their beginning
        self._status: Record = {"overflows": 0, "lost_samples": 0, "load": 0.0}
        self._health: Record = {"state": "starting", "message": ""}
        self._no_clip: str | None = None  # why the last event has none

    def write(self, record: Record) -> None:
        """Take one record."""
        kind = record["type"]
        if kind == "start":
            self._start = record
            for line in calibrated(record):  # above the view, and once: it may be long
                self._console.print(line, highlight=False, markup=False)
            self._live.start()
            self._live.update(Text(f"listening to {record['source']} …"), refresh=True)
        elif kind == "health":
            self._health = record
            if record["state"] == "lost":  # there are no windows to be shown it with
                self._live.update(Group(*self._head(record["source"])), refresh=True)
        elif kind == "status":
            self._status = record
        elif kind == "event":
            self._take(record)
        elif kind == "clip" and record["state"] != "pruned":
            self._no_clip = no_clip(record)
        elif kind == "window":
            self._live.update(self.render(record), refresh=True)
        elif kind == "end":
            self._live.stop()
            self._console.print(summary(record), highlight=False)

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    def _take(self, event: Record) -> None:
        for place, known in enumerate(self._events):
            if known["id"] == event["id"]:
                self._events[place] = event
                return
        if event["phase"] == "begin":  # the end of one that was long ago is no news
            self._events.append(event)

    def render(self, window: Record) -> Group:
        """The view of one window."""
        table = Table.grid(padding=(0, 1))
        table.add_column(width=22)
        table.add_column(width=BAR)
        table.add_column(justify="right", width=5)
        for rank, (label, score) in enumerate(window["top"]):
            named = rank == 0 and window["label"] is not None
            style = "bold green" if named else "dim"
            table.add_row(Text(label, style), Text(blocks(score, BAR), style), Text(f"{score:.0%}", style))
        level = window["level_dbfs"]
        share = 0.0 if level is None else max(0.0, min(1.0, 1 - level / FLOOR_DBFS))
        colour = "red" if level is not None and level > -3 else "cyan"
        shown = "silence" if level is None else f"{level:.0f} dB"
        table.add_row(Text("level", "cyan"), Text(blocks(share, BAR), colour), Text(shown))
        status = self._status
        foot = (
            f"{clock(window['offset'])}  latency {window['latency_ms']:.1f} ms  load {status['load']:.1%}  "
            f"overflows {status['overflows']}  lost {status['lost_samples']}  Ctrl-C ends"
        )
        clip = [Text(self._no_clip, "yellow")] if self._no_clip else []
        return Group(*self._head(window["source"]), table, *map(told, self._events), *clip, Text(foot, "dim"))

    def _head(self, source: str) -> list[Text]:
        """What is listened to, with what, and how that goes."""
        state, message = self._health["state"], self._health["message"]
        model = f"{source} · {self._start.get('model', '')} {self._start.get('precision', '')}"
        lines = [Text.assemble((model, "bold"), " · ", (state, STYLES[state]))]
        return [*lines, Text(message, STYLES[state])] if message else lines


def told(event: Record) -> Text:
    """An event in one line."""
    goes_on = event["duration"] is None
    how_long = "…" if goes_on else f"{event['duration']:.1f} s"
    return Text(f"{clock(event['onset'])}  {event['label']}  {how_long}", "bold green" if goes_on else "")
