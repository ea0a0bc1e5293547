"""Plain lines for people: one when a class begins, one when something needs attention."""

from __future__ import annotations

from typing import TextIO

from edge.records import Record

BAR = 20  # characters of a full bar


class Text:
    """A line for each event that begins, each clip that is lost, and when something is wrong, or well again; with
    ``every`` also one for each event that ends, each window, and each clip that is withheld.
    """

    def __init__(self, stream: TextIO, *, every: bool = False) -> None:
        self._stream, self._every = stream, every
        self._sources: dict[str, str] = {}  # those that have started, and the last state of each

    def write(self, record: Record) -> None:
        """Print what a reader wants to see of ``record``; of several sources, with its name."""
        self._sources.setdefault(record["source"], "starting")
        line = getattr(self, "_" + record["type"], lambda _: None)(record)
        if line:
            before = f"{record['source']}: " if len(self._sources) > 1 else ""
            print("\n".join(before + part for part in line.splitlines()), file=self._stream, flush=True)

    def close(self) -> None:
        """The stream is not ours to close."""

    def _start(self, record: Record) -> str:
        begun = (
            f"listening to {record['source']} with {record['model']} {record['precision']}: {len(record['labels'])} "
            f"classes, {record['window_seconds']:.1f} s windows every {record['hop_seconds']:g} s"
        )
        return "\n".join([begun, *calibrated(record)])

    def _event(self, record: Record) -> str | None:
        if record["phase"] == "begin":
            return scored(record["onset"], record["label"], record["peak"])
        if not self._every:
            return None
        return f"{clock(record['offset'])}  {record['label']} ended after {record['duration']:.1f} s"

    def _window(self, record: Record) -> str | None:
        if not self._every:
            return None
        label, score = record["top"][0]
        return scored(record["offset"], label if record["label"] else f"({label})", score)

    def _clip(self, record: Record) -> str | None:
        return no_clip(record) if self._every or record["state"] == "dropped" else None

    def _health(self, record: Record) -> str | None:
        before, self._sources[record["source"]] = self._sources[record["source"]], record["state"]
        return news_of(record, before)

    def _error(self, record: Record) -> None:
        self._sources[record["source"]] = FAILED

    def _end(self, record: Record) -> str:
        return summary(record)


FAILED = "failed"  # the state of a source after an error: that is said on stderr, and is no news a second time


def news_of(health: Record, before: str) -> str | None:
    """A record of health in one line, with the remedy; None where there is nothing to say: all went as it should."""
    if before == FAILED:
        return None
    if health["message"]:
        return f"{health['state']}: {health['message']}"
    return "listening again" if health["state"] == "listening" and before != "starting" else None


def calibrated(start: Record) -> list[str]:
    """What edge-calibrate has changed here, as a line; none where it has changed nothing."""
    site = start.get("site")
    if not (site and (site["raised"] or site["muted"])):
        return []
    muted = f"; muted: {', '.join(site['muted'])}" if site["muted"] else ""
    return [f"by the thresholds of {site['file']}: {len(site['raised'])} raised{muted}"]


def no_clip(clip: Record) -> str | None:
    """Why an event has no clip, in one line; None of others. What was heard stays out of it: it may be in a log."""
    return f"clip {clip['state']}: {clip['reason']}" if clip["state"] in ("dropped", "withheld") else None


def clock(seconds: float) -> str:
    """Minutes and seconds of stream, as ``01:02.5``."""
    tenths = round(seconds * 10)
    return f"{tenths // 600:02d}:{tenths % 600 / 10:04.1f}"


def scored(seconds: float, label: str, score: float) -> str:
    """A time, a label and its score."""
    return f"{clock(seconds)}  {label:<20} {bar(score, BAR)} {score:4.0%}".rstrip()


def bar(share: float, width: int) -> str:
    """``share`` of 1 as blocks, ``width`` characters."""
    full = round(share * width)
    return "█" * full + "·" * (width - full)


def summary(record: Record) -> str:
    """The end record in one line."""
    latency = record["latency_ms"]
    parts = [f"{record['reason']}: {record['windows']} windows in {record['seconds']:.1f} s"]
    if latency:
        parts.append(f"latency {latency['p50']:.1f} ms (p95 {latency['p95']:.1f})")
    parts.append(f"{record['overflows']} overflows, {record['lost_samples']} samples lost")
    return ", ".join(parts)
