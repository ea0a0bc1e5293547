"""Architectures by name. An architecture is one file: a module class and its frozen configuration, registered here.

A network takes frames [B, channels, n_mels, T] and gives logits [B, n_labels]. It has the attributes ``config``,
``window_frames`` (T of one decision), ``int8`` (whether its convolutions are quantised on export) and
``column_stride``: 0, or frames between columns for one that streams, which also has what
:class:`models.streaming.StreamingCnn` has.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar, get_type_hints

from torch import nn

Model = TypeVar("Model", bound=nn.Module)
_ARCHITECTURES: dict[str, tuple[type[nn.Module], Any]] = {}


def register(name: str, config: Any) -> Callable[[type[Model]], type[Model]]:
    """Class decorator: make ``Class(config)`` known as ``name``; ``config`` is the default configuration.

    The configuration is a frozen dataclass with the fields ``n_mels``, ``n_labels`` and ``channels`` among its own. A
    class may have several names, each with a configuration. Its whole numbers, and those of tuples of any length, are 1
    or more, or what a field's metadata says as "least".
    """

    def add(cls: type[Model]) -> type[Model]:
        if name in _ARCHITECTURES:
            raise ValueError(f"architecture {name!r} is registered twice")
        _ARCHITECTURES[name] = (cls, config)
        return cls

    return add


def architectures() -> list[str]:
    """The registered names, sorted."""
    return sorted(_ARCHITECTURES)


def build(name: str, **overrides: Any) -> nn.Module:
    """The network ``name``, freshly initialised; ``overrides`` replace fields of its default configuration.

    Raises:
        ValueError: for an unknown name or field, naming what there is, and for a size that cannot be.
    """
    if name not in _ARCHITECTURES:
        raise ValueError(f"unknown architecture {name!r}; there are: {', '.join(architectures())}")
    cls, default = _ARCHITECTURES[name]
    fields = {f.name: getattr(default, f.name) for f in dataclasses.fields(default)}
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise ValueError(f"{name} has no field {', '.join(unknown)}; it has: {', '.join(fields)}")
    # Checkpoints keep configurations as JSON, which has no tuples.
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in (fields | overrides).items()}
    _check_sizes(default, values)
    return cls(type(default)(**values))


def _check_sizes(default: Any, values: dict[str, Any]) -> None:
    """Raises ValueError for what a configuration like ``default`` cannot have, where torch would warn, or stumble."""
    hints = get_type_hints(type(default))
    for field in dataclasses.fields(default):
        value, least = values[field.name], field.metadata.get("least", 1)
        many = hints[field.name] == tuple[int, ...]
        if hints[field.name] is not int and not many:
            continue
        sizes = value if many else (value,)
        if not (isinstance(sizes, tuple) and sizes and all(type(size) is int and size >= least for size in sizes)):
            what = f"one or more whole numbers, each {least} or more" if many else f"a whole number, {least} or more"
            raise ValueError(f"{field.name} is {value!r}; allowed: {what}")
