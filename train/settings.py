"""Nested settings by dotted names: ``augment.mix``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting as (dotted name, value)."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def replaced(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of ``settings`` in which the dotted names of ``changes`` have other values, or are added."""
    copy = {key: replaced(value, {}) if isinstance(value, Mapping) else value for key, value in settings.items()}
    for name, value in changes.items():
        *groups, key = name.split(".")
        place = copy
        for group in groups:
            place = place.setdefault(group, {})
            if not isinstance(place, dict):
                raise ValueError(f"{group} has no field {key}: it is {place!r}")
        place[key] = value
    return copy
