"""Tables of a configuration file as the frozen dataclasses that hold their defaults."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from edge.config import coerce
from edge.errors import ContractError, SettingsError

T = TypeVar("T")


def settings_of(cls: type[T], table: Mapping[str, Any], where: str, base: T | None = None) -> T:
    """``table`` as a ``cls``; what it does not name is as in ``base``, else the dataclass's default.

    Raises SettingsError, which names, after ``where``, the first key that is unknown, of another type or out of bounds.
    """
    hints = typing.get_type_hints(cls)
    allowed = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if not isinstance(table, Mapping):
        raise SettingsError(f"{where} is {table!r}", remedy=f"make it a table with any of: {', '.join(allowed)}")
    values = one_spelling(table, where)
    if unknown := sorted(values.keys() - set(allowed)):
        raise SettingsError(f"{where} has an unknown key {unknown[0]!r}", remedy=f"allowed: {', '.join(allowed)}")
    try:
        named = {key: coerce(hints[key], value, f"{where}.{key}") for key, value in values.items()}
    except ContractError as error:
        raise SettingsError(error.what, remedy="correct the configuration") from None
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    missing = [f.name for f in fields if base is None and _required(f) and f.name not in named]
    if missing:
        raise SettingsError(f"{where} has no {missing[0]!r}", remedy="add it to the configuration")
    try:
        return cls(**named) if base is None else dataclasses.replace(base, **named)  # type: ignore[type-var]
    except SettingsError as error:
        raise SettingsError(f"{where}.{error.what}", remedy=error.remedy) from None


def one_spelling(table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """``table`` with its keys as Python has them: top_k of top-k. Raises SettingsError for one that is there twice."""
    keys: dict[str, str] = {}
    for key in table:
        if (other := keys.setdefault(key.replace("-", "_"), key)) != key:
            raise SettingsError(f"{where} has both {other} and {key}", remedy="leave one of them out")
    return {name: table[key] for name, key in keys.items()}


def require(holds: bool, name: str, value: object, allowed: str) -> None:
    """Raises SettingsError, which begins with ``name``, unless ``holds``."""
    if not holds:
        raise SettingsError(f"{name} is {value!r}; allowed: {allowed}", remedy="correct the configuration")


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
