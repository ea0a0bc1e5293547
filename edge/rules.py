"""How scores become events: the rules, with all their defaults, and what a user changes of them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.config import ModelSpec
from edge.errors import SettingsError
from edge.settings import one_spelling, require, settings_of

log = logging.getLogger("edge.rules")

DEFAULT_THRESHOLD = 0.5  # where neither the user nor the model names one
UNKNOWN, SILENCE = "unknown", "silence"  # outcomes that are no class


@dataclass(frozen=True)
class Rule:
    """When one label begins to be an event, and when that ends. These are the defaults."""

    threshold: float | None = None  # score from which it counts; None: the model's for the class, else 0.5
    release: float = 0.5  # of the threshold, or of the event's highest score where that is less: below, it has ended
    smoothing: float = 0.0  # weight of the scores before in a moving average; 0: none
    beginning: float = 1.0  # weight of how clearly, and how lately, the sound began; 0: the score alone decides
    confirm: int = 1  # windows in a row that must count
    min_duration: float = 0.0  # seconds; a shorter sound is no event
    max_duration: float = 600.0  # seconds; what is longer becomes several events
    refractory: float = 0.0  # seconds after an event in which no other of this label begins
    min_level_dbfs: float | None = None  # what is quieter does not begin an event; None: any level

    def __post_init__(self) -> None:
        require(self.threshold is None or 0 <= self.threshold <= 1, "threshold", self.threshold, "0 to 1")
        require(0 < self.release <= 1, "release", self.release, "above 0, up to 1")  # of 0, nothing would ever end
        require(0 <= self.smoothing < 1, "smoothing", self.smoothing, "0, up to less than 1")
        require(0 <= self.beginning <= 1, "beginning", self.beginning, "0 to 1")
        require(1 <= self.confirm <= 1000, "confirm", self.confirm, "1 to 1000")
        for name in ("min_duration", "refractory"):
            require(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        require(self.max_duration > self.min_duration, "max_duration", self.max_duration, "more than min_duration")


@dataclass(frozen=True)
class EventConfig:
    """What is reported, as what, and by which rules."""

    rule: Rule = Rule()  # of every label
    labels: dict[str, Rule] = field(default_factory=dict)  # of these, instead
    only: tuple[str, ...] = ()  # classes that are reported; empty: all
    ignore: tuple[str, ...] = ()  # classes that are not
    aliases: dict[str, str] = field(default_factory=dict)  # class → what it is called
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)  # label → classes that count as one
    report: tuple[str, ...] = ()  # of "unknown" and "silence", which are events as well
    calibrated: dict[str, float] = field(default_factory=dict)  # label → threshold, where its rule has none
    muted: tuple[str, ...] = ()  # labels that are not reported: no threshold keeps them quiet here
    site: str = ""  # the file that these two are from

    def __post_init__(self) -> None:
        for name in self.report:
            require(name in (UNKNOWN, SILENCE), "report", name, f"{UNKNOWN}, {SILENCE}")
        for label, members in self.groups.items():
            require(bool(members), f"groups.{label}", list(members), "one class or more")
        left = not self.only or self.report or set(self.only).difference(self.ignore)
        require(bool(left), "only", list(self.only), "at least one class that is not in ignore as well")


@dataclass(frozen=True)
class Outcome:
    """One label that can become an event."""

    label: str
    classes: tuple[int, ...]  # places among the model's labels; empty for "unknown" and "silence"
    threshold: float
    rule: Rule


def events_of(table: Mapping[str, Any], where: str = "events") -> EventConfig:
    """The table ``[events]`` of a configuration file. Raises SettingsError.

    Its keys are those of a :class:`Rule`, for all labels, and those of an :class:`EventConfig`; a rule in
    ``[events.labels.NAME]`` changes what it names of them.
    """
    rules = [f.name for f in dataclasses.fields(Rule)]
    allowed = [*rules, "labels", "only", "ignore", "aliases", "groups", "report"]
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where} is {table!r}", remedy=f"make it a table with any of: {', '.join(allowed)}")
    table = spelled(table, where)
    if unknown := sorted(set(table).difference(allowed)):
        raise SettingsError(f"{where} has an unknown key {unknown[0]!r}", remedy=f"allowed: {', '.join(allowed)}")
    rule = settings_of(Rule, {key: value for key, value in table.items() if key in rules}, where)
    labels = table.get("labels", {})
    if not isinstance(labels, Mapping):
        raise SettingsError(f"{where}.labels is {labels!r}", remedy=f"write [{where}.labels.NAME] and its keys")
    own = {label: settings_of(Rule, values, f"{where}.labels.{label}", rule) for label, values in labels.items()}
    rest = {key: value for key, value in table.items() if key not in rules and key != "labels"}
    return dataclasses.replace(settings_of(EventConfig, rest, where), rule=rule, labels=own)


def spelled(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``table``, as for :func:`events_of`, with its keys and those of each label's rule in one spelling, the names of
    labels as they are: so that another one can be merged into it. Raises SettingsError for a key that is there twice.
    """
    found = one_spelling(table, where)
    if isinstance(labels := found.get("labels"), Mapping):
        found["labels"] = {
            label: one_spelling(rule, f"{where}.labels.{label}") if isinstance(rule, Mapping) else rule
            for label, rule in labels.items()
        }
    return found


def outcomes_of(spec: ModelSpec, config: EventConfig) -> list[Outcome]:
    """What ``config`` makes of the model's classes: groups and the classes in none, and what else is reported.

    Raises SettingsError for a class that the model does not have, one in two groups, or two outcomes of one name.
    """
    places = {label: place for place, label in enumerate(spec.labels)}
    for name in _named(config):
        require(name in places, "a class in events", name, f"the model's classes: {', '.join(spec.labels)}")
    _require_one_group(config)
    found = _found(spec, config)
    for name in config.report:
        require(name not in found, "events.report", name, "no name that a class has as well")
        found[name] = []
    for name in config.labels:
        require(name in found, "a label in events.labels", name, f"what is reported: {', '.join(found)}")
    return [
        _outcome(label, classes, spec, config, places)
        for label, classes in found.items()
        if (classes or label in config.report) and label not in config.muted
    ]


def fitted(config: EventConfig, spec: ModelSpec) -> EventConfig:
    """``config`` without what the model does not have, which is logged: the rules were made for another one.

    Raises SettingsError for a class in two groups, be it one that the model does not have: others may.
    """
    _require_one_group(config)
    only = tuple(name for name in config.only if name in spec.labels and name not in config.ignore)
    groups = {label: tuple(n for n in members if n in spec.labels) for label, members in config.groups.items()}
    kept = dataclasses.replace(
        config,
        only=only,
        # Where nothing is left of ``only``, nothing is reported; an empty one would mean everything.
        ignore=spec.labels if config.only and not only else tuple(n for n in config.ignore if n in spec.labels),
        aliases={name: alias for name, alias in config.aliases.items() if name in spec.labels},
        groups={label: members for label, members in groups.items() if members},
    )
    found = _found(spec, kept)
    report = tuple(name for name in config.report if name not in found)
    labels = {name: rule for name, rule in config.labels.items() if name in (*found, *report)}
    kept = dataclasses.replace(kept, report=report, labels=labels)
    before, after = ({*_named(c), *c.labels, *c.report} for c in (config, kept))
    if lost := sorted(before - after - {*spec.labels}):
        log.warning("not used in events, as the model %s has other classes: %s", spec.name, ", ".join(lost))
    return kept


def _named(config: EventConfig) -> list[str]:
    """The classes that it names."""
    return [*config.only, *config.ignore, *config.aliases, *_grouped(config)]


def _require_one_group(config: EventConfig) -> None:
    grouped = _grouped(config)
    require(len(grouped) == len(set(grouped)), "events.groups", config.groups, "each class in one group at most")


def _grouped(config: EventConfig) -> list[str]:
    return [name for members in config.groups.values() for name in members]


def _found(spec: ModelSpec, config: EventConfig) -> dict[str, list[str]]:
    """What is reported of classes: label → classes."""
    grouped = _grouped(config)
    heard = [label for label in dict.fromkeys(config.only or spec.labels) if label not in config.ignore]
    found = {name: [m for m in members if m in heard] for name, members in config.groups.items()}
    for label in heard:
        if label not in grouped:
            found.setdefault(config.aliases.get(label, label), []).append(label)
    return found


def _outcome(
    label: str, classes: list[str], spec: ModelSpec, config: EventConfig, places: Mapping[str, int]
) -> Outcome:
    """Of several classes the lowest threshold counts: each of them alone must be able to begin it."""
    rule = config.labels.get(label, config.rule)
    own = min([spec.thresholds.get(name, DEFAULT_THRESHOLD) for name in classes] or [DEFAULT_THRESHOLD])
    threshold = config.calibrated.get(label, own) if rule.threshold is None else rule.threshold
    return Outcome(label, tuple(places[name] for name in classes), threshold, rule)
