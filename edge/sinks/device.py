"""The computer's own condition as metrics, looked at when somebody scrapes: temperature, throttling, disks."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edge.bench.machine import ROOT, conditions, throttled
from edge.names import encodable


class Device:
    """A collector of prometheus-client; what the system does not tell is left out."""

    def __init__(self, folders: Sequence[Path] = (), root: Path = ROOT) -> None:
        """``folders`` are those that are written to."""
        self._folders, self._root = tuple(dict.fromkeys(folders)), root
        self._before = conditions(root)

    def collect(self) -> Iterable[Any]:
        """See prometheus-client."""
        from prometheus_client.core import GaugeMetricFamily

        before, now = self._before, conditions(self._root)
        self._before = now
        if now["temperatures"]:
            hottest = max(now["temperatures"].values())
            yield GaugeMetricFamily("edge_device_temperature_celsius", "The hottest of its sensors.", hottest)
        if now["firmware"] is not None or now["throttle_count"] is not None:
            # The firmware tells of now and of before: only what is, or has come since the last scrape, counts.
            slowed = throttled(before, now) is not None
            yield GaugeMetricFamily("edge_device_throttled", "1 while heat or a weak supply slows it down.", slowed)
        yield from self._disks()

    def _disks(self) -> Iterable[Any]:
        from prometheus_client.core import GaugeMetricFamily

        free = GaugeMetricFamily("edge_device_disk_free_bytes", "Free on the disk of a folder.", labels=["folder"])
        size = GaugeMetricFamily("edge_device_disk_size_bytes", "Size of the disk of a folder.", labels=["folder"])
        for folder in self._folders:
            if (usage := _usage(folder)) is not None:
                name = encodable(str(folder))
                free.add_metric([name], usage.free)
                size.add_metric([name], usage.total)
        return free, size


def _usage(folder: Path) -> Any | None:
    """Of the disk that it is on, or will be; None where that cannot be told."""
    for place in (folder, *folder.absolute().parents):
        try:
            return shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None
