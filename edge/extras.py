"""Libraries of optional extras: whether they are there, without the time that importing them takes."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from edge.errors import EdgeError


def need(module: str, extra: str, error: Callable[..., EdgeError] = EdgeError) -> None:
    """Raises ``error`` where ``module``, of the extra ``extra``, is not installed."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is part of
        found = False
    if not found:
        raise error(f"{module} is not installed", remedy=f"pip install 'edge-listen[{extra}]'")
