"""Architectures by name. An architecture is one file: a module class and its frozen configuration, registered here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

Model = TypeVar("Model", bound=nn.Module)
_ARCHITECTURES: dict[str, tuple[type[nn.Module], Any]] = {}


def register(name: str, config: Any) -> Callable[[type[Model]], type[Model]]:
    """Class decorator: make ``Class(config)`` known as ``name``; ``config`` is the default configuration.

    The configuration is a frozen dataclass with the fields ``n_mels`` and ``n_labels`` among its own.
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
        ValueError: for an unknown name or field, naming what there is.
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
    return cls(type(default)(**values))
