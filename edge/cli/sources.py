"""The sources that the options, or the tables [[sources]] of a configuration file, name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from edge.calibration import OtherModelError, calibrated
from edge.classifier import Classifier
from edge.clips import folder_of
from edge.config import ModelSpec, merged
from edge.errors import SettingsError
from edge.rules import EventConfig, events_of, fitted, spelled
from edge.secret import is_url
from edge.session import Plan, Session
from edge.settings import require, settings_of
from edge.several import require_names
from edge.sources.block import Source


@dataclass(frozen=True)
class SourceConfig:
    """One of several sources."""

    name: str  # what its records call it
    input: str = ""  # file or URL; empty: a microphone
    device: str = ""  # index, id or a part of the name of a microphone; empty: the system's
    channel: int | None = None  # from 0; none mixes
    realtime: bool = True  # whether a file is played at its own speed
    site: str = ""  # thresholds of edge-calibrate for this place
    events: dict[str, Any] = field(default_factory=dict)  # as the table [events], for this source

    def __post_init__(self) -> None:
        require(bool(self.name), "name", self.name, "a name")
        require(self.input != "-", "input", self.input, "a file or a URL; standard input is for --input alone")
        require(not (self.input and self.device), "input", self.input, "nothing beside device")
        require(self.channel is None or self.channel >= 0, "channel", self.channel, "0 or more; none mixes")


def source_configs(tables: Any) -> list[SourceConfig]:
    """The tables ``[[sources]]``. Raises SettingsError."""
    if not isinstance(tables, list) or not tables:
        raise SettingsError(f"sources is {tables!r}", remedy="write a table [[sources]] for each source")
    found = []
    for place, table in enumerate(tables):
        events = table.get("events", {}) if isinstance(table, dict) else {}
        plain = {k: v for k, v in table.items() if k != "events"} if isinstance(table, dict) else table
        where = f"sources[{place}]"
        if not isinstance(events, dict):
            raise SettingsError(f"{where}.events is {events!r}", remedy="write its keys as events.KEY")
        found.append(replace(settings_of(SourceConfig, plain, where), events=events))
    require_names(config.name for config in found)
    return found


def rules_of(
    table: dict[str, Any], threshold: float | None, more: dict[str, Any] | None = None, where: str = "events"
) -> EventConfig:
    """The rules of ``[events]``, to which ``more`` is added in ``where``; ``threshold`` is --threshold, which comes
    before those of all labels. Raises SettingsError.
    """
    events = events_of(table)
    plain = spelled(table, "events")
    own = merged(plain, spelled(more or {}, where)) | ({} if threshold is None else {"threshold": threshold})
    return events_of(own, where) if own != plain else events


def rules_of_each(
    configs: Sequence[SourceConfig], table: dict[str, Any], threshold: float | None, site: Path | None
) -> list[tuple[EventConfig, Path | None]]:
    """The rules of each source, and its site. ``table`` is ``[events]``, which each one's own adds to, ``threshold`` is
    --threshold, and ``site`` counts for those that name none. Raises SettingsError.
    """
    return [
        (
            rules_of(table, threshold, config.events, f"sources[{number}].events"),
            Path(config.site) if config.site else site,
        )
        for number, config in enumerate(configs)
    ]


def sessions_of(
    configs: Sequence[SourceConfig],
    table: dict[str, Any],
    threshold: float | None,
    site: Path | None,
    classifier: Classifier,
    plan: Plan,
    *,
    wait: bool = False,
) -> list[Session]:
    """A session for each; for ``table``, ``threshold`` and ``site`` see :func:`rules_of_each`, and ``wait`` is --wait.
    Raises EdgeError.
    """
    found = []
    if plan.clips.folder:
        plan = replace(plan, folder=folder_of(plan.clips))
    for config, (events, place) in zip(configs, rules_of_each(configs, table, threshold, site), strict=True):
        mine = with_rules(plan, events, place, classifier.spec)
        where, device = config.input or None, config.device or None
        source = make_source(where, device, config.channel, realtime=config.realtime, wait=wait)
        found.append(Session(source, classifier, mine, config.name))
    return found


def with_rules(plan: Plan, events: EventConfig, site: Path | None, spec: ModelSpec) -> Plan:
    """``plan`` with ``events`` at ``site``, for the model of ``spec`` and those that take over from it.

    Where some may, what ``events`` and ``site`` say of another one is logged, and not used. Raises SettingsError.
    """
    if plan.succession is None:
        return replace(plan, events=calibrated(events, spec, site, plan.hop))

    def rules(spec: ModelSpec, ignored: type[SettingsError]) -> EventConfig:
        return calibrated(fitted(events, spec), spec, site, plan.hop, ignored=ignored)

    return replace(plan, events=rules(spec, OtherModelError), events_of=partial(rules, ignored=SettingsError))


def make_source(
    where: str | None, device: str | None, channel: int | None, *, realtime: bool, wait: bool = False
) -> Source:
    """A file, a URL, or else a microphone; not yet open. What is live is waited for when it goes away, with ``wait`` at
    the beginning as well. Raises EdgeError.
    """
    from edge.sources.supervised import Supervised

    if where is None:
        from edge.sources.microphone import Microphone

        return Supervised(Microphone(device, channel=channel, yields=True), wait=wait)
    if is_url(where):
        from edge.sources.url import UrlStream

        return Supervised(UrlStream(where, channel=channel), wait=wait)
    from edge.sources.file import SoundFile

    return SoundFile(where, channel=channel, realtime=realtime)
