"""Where records go, by the options and the tables [sinks.…] of a configuration file."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import TYPE_CHECKING, Any

from edge.board import Board
from edge.errors import SettingsError
from edge.files import state_folder
from edge.records import Record
from edge.settings import one_spelling, settings_of
from edge.sinks import Sink

if TYPE_CHECKING:
    from edge.delivery import Delivery

log = logging.getLogger("edge.listen")

RENEWED_SECONDS = 5.0  # that a watchdog grants whoever waits for a delivery
SILENT_SECONDS = 3.0  # of waiting at the end, after which it is said
CLOSING_SECONDS = 2.5  # that deliveries have at the end, all at the same time


@dataclass(frozen=True)
class Kind:
    """A kind of sink: where it is made, and what its option sets."""

    module: str
    sink: str  # class; its configuration is the same with Config behind it, unless named
    config: str
    remote: bool = False  # it may be away: what it misses waits on disk


KINDS = {
    "file": Kind("edge.sinks.jsonl", "JsonLinesFile", "JsonLinesFileConfig"),
    "store": Kind("edge.sinks.sqlite", "SqliteStore", "StoreConfig"),
    "mqtt": Kind("edge.sinks.mqtt", "Mqtt", "MqttConfig", remote=True),
    "home_assistant": Kind("edge.sinks.homeassistant", "HomeAssistant", "HomeAssistantConfig", remote=True),
    "webhook": Kind("edge.sinks.webhook", "Webhook", "WebhookConfig", remote=True),
    "command": Kind("edge.sinks.command", "Command", "CommandConfig"),
}
METRICS = "metrics"  # served, and not delivered: it has no queue


@dataclass(frozen=True)
class DeliveryConfig:
    """How a sink is delivered to: keys of its table, beside its own."""

    capacity: int = 1000  # records that wait in memory
    spool: bool = True  # where the receiver may be away: whether what it misses waits on disk
    spool_file: str = ""  # the file; empty: one in the state folder


def tables_of_options(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What ``--mqtt HOST`` and the like say, as the tables would. Raises SettingsError."""
    found: dict[str, dict[str, Any]] = {}
    if options.get("log"):
        found["file"] = {"path": options["log"]}
    if options.get("db"):
        found["store"] = {"path": options["db"]}
    for name in ("mqtt", "home_assistant"):
        if options.get(name):
            host, port = host_and_port(options[name], f"--{name.replace('_', '-')}")
            found[name] = {"host": host} | ({} if port is None else {"port": port})
    if options.get("webhook"):
        found["webhook"] = {"url": options["webhook"]}
    if options.get("exec"):
        found["command"] = {"argv": words(options["exec"])}
    if options.get("metrics"):
        address, port = host_and_port(options["metrics"], "--metrics", alone="port")
        found[METRICS] = ({"address": address} if address else {}) | ({} if port is None else {"port": port})
    return found


def words(command: str) -> list[str]:
    """A command line as a shell splits it. Raises SettingsError."""
    try:
        return shlex.split(command)
    except ValueError as error:
        raise SettingsError(f"--exec {command!r}: {error}", remedy="close the quotation mark") from None


def host_and_port(text: str, option: str, alone: str = "host") -> tuple[str, int | None]:
    """``HOST:PORT``, or one ``alone``. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    bare = text.endswith("]") or (text.count(":") > 1 and not text.startswith("["))  # of IPv6
    if bare or (not colon and (alone == "host" or not text.isdecimal())):
        host, port = text, ""
    if port and not (port.isdecimal() and int(port) < 65_536):
        raise SettingsError(f"{option} {text!r} has no port that can be", remedy="write HOST:PORT")
    return host.strip("[]"), int(port) if port else None


@dataclass(frozen=True)
class Asked:
    """A sink that is asked for, and not made yet."""

    name: str  # its kind; of the second of that kind and later ones, with a number
    kind: str  # key of KINDS, or METRICS
    config: Any  # what its class takes
    how: DeliveryConfig = DeliveryConfig()
    spool: Path | None = None  # where records wait while it is away

    def folders(self) -> list[Path]:
        """Those that are written to."""
        return [path.parent for path in (_file_of(self.config), self.spool) if path is not None]


def asked_sinks(tables: Any, options: Mapping[str, Any]) -> list[Asked]:
    """All sinks but those of the terminal. An option adds to the table of its kind, or replaces keys of it; beside
    several tables it is one more.

    Raises SettingsError for keys that are unknown or there twice, values that cannot be, and two sinks in one file.
    """
    if not isinstance(tables, Mapping):
        raise SettingsError(f"sinks is {tables!r}", remedy="write a table [sinks.NAME] for each")
    asked = one_spelling(tables, "sinks")
    for name, table in tables_of_options(options).items():
        there = asked.get(name, {})
        tables = there if isinstance(there, list) else [there]
        alone = len(tables) == 1 and isinstance(tables[0], Mapping)
        asked[name] = [{**tables[0], **table}] if alone else [*tables, table]
    if "mqtt" in asked and "home_assistant" in asked:  # one client id: each would throw the other off the broker
        raise SettingsError(
            "mqtt and home_assistant are both asked for", remedy="leave mqtt out: the other does the same"
        )
    known = (*KINDS, METRICS)
    if unknown := sorted(set(asked) - set(known)):
        raise SettingsError(f"there is no sink {unknown[0]!r}", remedy=f"allowed: {', '.join(known)}")
    found = []
    for kind, value in asked.items():
        listed = value if isinstance(value, list) else [value]
        if kind == METRICS and len(listed) != 1:
            raise SettingsError(f"there are {len(listed)} tables sinks.{METRICS}", remedy="write one")
        for number, table in enumerate(listed):
            name = kind if number == 0 else f"{kind}-{number + 1}"
            found.append(_asked_metrics(table) if kind == METRICS else _asked(name, kind, table))
    _require_own_files(found)
    return found


def _require_own_files(sinks: Sequence[Asked]) -> None:
    """Raises SettingsError where two would write to one file, or one rotates into another's."""
    files = [
        (sink, os.path.realpath(path))
        for sink in sinks
        for path in (_file_of(sink.config), sink.spool)
        if path is not None
    ]
    for (one, path), (other, its) in itertools.permutations(files, 2):
        number = its.removeprefix(f"{path}.") if one.kind == "file" else ""
        rotated = number.isdecimal() and int(number) <= one.config.keep
        if path == its or rotated:
            raise SettingsError(f"{its} is a file of the sinks {one.name} and {other.name}", remedy="give each its own")


def warn_of_labels(sinks: Sequence[Asked], labels: Collection[str]) -> None:
    """Of those that sinks name and that are not among ``labels``, which a source may report."""
    for sink in sinks:
        named = [*getattr(sink.config, "labels", ()), *getattr(sink.config, "cooldowns", ())]
        for label in named:
            if label not in labels:
                log.warning("sinks.%s names %r, which nothing is called here", sink.name, label)


def _asked_metrics(table: Any) -> Asked:
    from edge.sinks.metrics import MetricsConfig

    return Asked(METRICS, METRICS, settings_of(MetricsConfig, table, f"sinks.{METRICS}"))


def _asked(name: str, kind: str, table: Any) -> Asked:
    own = {f.name for f in dataclasses.fields(DeliveryConfig)}
    mine = {k: v for k, v in table.items() if k.replace("-", "_") in own} if isinstance(table, Mapping) else {}
    rest = {k: v for k, v in table.items() if k not in mine} if isinstance(table, Mapping) else table
    how = settings_of(DeliveryConfig, mine, f"sinks.{name}")
    config = settings_of(getattr(import_module(KINDS[kind].module), KINDS[kind].config), rest, f"sinks.{name}")
    spool = Path(how.spool_file) if how.spool_file else None
    if spool is None and KINDS[kind].remote and how.spool:
        spool = _spool_file(name)
    return Asked(name, kind, config, how, spool)


def make_sinks(
    tables: Any,
    options: Mapping[str, Any],
    *,
    board: Board | None = None,
    several: bool = False,
    folders: Sequence[Path] = (),
) -> list[Sink]:
    """What :func:`asked_sinks` says, made.

    ``board`` is told which of them are in trouble, and served; ``several``: there are several sources; ``folders``
    are others that are written to.

    Raises SettingsError and the sinks' own EdgeErrors: for keys that are unknown, values that cannot be, a database or
    a port that cannot be had, a library that is not installed.
    """
    asked, board = asked_sinks(tables, options), board or Board()
    deliveries: dict[str, Delivery] = {}
    found: list[Sink] = []
    with ExitStack() as unless_all:
        for one in asked:
            if one.kind != METRICS:
                deliveries[one.name] = _delivery(one, several=several)
                unless_all.callback(deliveries[one.name].close)
        if deliveries:
            found.append(Deliveries(deliveries, board))
        folders = [*folders, *(folder for one in asked for folder in one.folders())]
        found += [_metrics(one.config, deliveries, board, folders) for one in asked if one.kind == METRICS]
        unless_all.pop_all()
    board.troubles = lambda: [name for name, delivery in deliveries.items() if delivery.trouble()]
    return found


def try_sinks(tables: Any, options: Mapping[str, Any]) -> None:
    """Make each that :func:`asked_sinks` says, and close it, beside others that are open: but for what has a port or a
    file, which may be theirs.

    Raises SettingsError and the sinks' own EdgeErrors.
    """
    for one in asked_sinks(tables, options):
        if one.kind != METRICS and _file_of(one.config) is None:
            _made(one, several=False).close()


def _delivery(asked: Asked, *, several: bool) -> Delivery:
    """The sink behind its queue."""
    from edge.delivery import Delivery

    make = partial(_made, asked, several=several)
    return Delivery(make(), asked.name, factory=make, capacity=asked.how.capacity, spool=asked.spool)


def _made(asked: Asked, *, several: bool) -> Sink:
    """The sink itself."""
    kind, config = KINDS[asked.kind], asked.config
    if several and hasattr(config, "by_source"):
        config = replace(config, by_source=True)
    sink: Sink = getattr(import_module(kind.module), kind.sink)(config)
    return sink


def _file_of(config: Any) -> Path | None:
    """The file that a sink writes to; None of one that writes none."""
    path = getattr(config, "file", None) or getattr(config, "path", None)
    return Path(path) if path else None


def _spool_file(name: str) -> Path | None:
    folder = state_folder()
    return None if folder is None else folder / "spool" / f"{name}.sqlite"


def _metrics(config: Any, deliveries: Mapping[str, Delivery], board: Board, folders: Sequence[Path]) -> Sink:
    from edge.sinks.metrics import Metrics

    def counts() -> dict[str, dict[str, int]]:
        stats = {name: dataclasses.asdict(delivery.stats()) for name, delivery in deliveries.items()}
        return {name: s | {"queued": s["queued"] + s["spooled"]} for name, s in stats.items()}

    return Metrics(config, counts, board=board, folders=folders)


class Deliveries:
    """Several deliveries as one sink: they end at the same time; what they lost, or have left, is said."""

    def __init__(self, deliveries: Mapping[str, Delivery], board: Board) -> None:
        """``board`` is told where the sources wait for a delivery."""
        self._deliveries, self._board = deliveries, board

    def write(self, record: Record) -> None:
        """To all of them; it never waits."""
        for delivery in self._deliveries.values():
            delivery.write(record)

    def wait(self, *, to_end: bool = False) -> None:
        """See :meth:`edge.delivery.Delivery.wait`."""
        began, said = monotonic(), False

        def turn() -> None:
            nonlocal said
            self._board.renew(RENEWED_SECONDS)
            if to_end and not said and monotonic() - began > SILENT_SECONDS:
                said = True
                queued = {name: delivery.stats().queued for name, delivery in self._deliveries.items()}
                waits = ", ".join(f"{name} ({count})" for name, count in queued.items() if count)
                log.warning("records are still to be delivered: %s", waits)

        for delivery in self._deliveries.values():
            delivery.wait(turn, to_end=to_end)

    def close(self) -> None:
        """End them side by side; it takes CLOSING_SECONDS at most."""
        threads = [Thread(target=d.close, args=(CLOSING_SECONDS,)) for d in self._deliveries.values()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for name, delivery in self._deliveries.items():
            stats = delivery.stats()
            lost = f"{stats.dropped} records were dropped, {stats.failed} refused"
            if stats.dropped or stats.failed:
                log.warning("%s: %s: %s", name, lost, stats.last_error or "it was too slow")
            if stats.spooled:
                log.warning("%d records wait on disk for %s, until it is run again", stats.spooled, name)
            log.info("%s: %d records delivered", name, stats.delivered)


def terminal_sinks(output: str, verbose: bool) -> Sequence[Sink]:
    """The sinks of ``--output``; the first one speaks when they are closed."""
    from edge.sinks.log import DroppedClips

    return [DroppedClips(), *_shown(output, verbose)]


def _shown(output: str, verbose: bool) -> Sequence[Sink]:
    if output == "none":
        from edge.sinks.log import Log

        return [Log()]
    if output == "jsonl":
        from edge.sinks.jsonl import JsonLines
        from edge.sinks.log import Log

        return [JsonLines(sys.stdout), Log()]
    if output == "text":
        from edge.sinks.text import Text

        return [Text(sys.stdout, every=verbose)]
    from edge.sinks.live import LiveView

    return [LiveView()]
