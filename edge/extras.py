"""Libraries of optional extras: whether they are there, without the time that importing them takes."""

from __future__ import annotations

from importlib.util import find_spec

from edge.errors import EdgeError


def need(module: str, extra: str) -> None:
    """Raises EdgeError where ``module``, of the extra ``extra``, is not installed."""
    try:
        found = find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is part of
        found = False
    if not found:
        raise EdgeError(f"{module} is not installed", remedy=f"pip install 'edge-listen[{extra}]'")
