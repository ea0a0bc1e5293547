"""Where a benchmark's result goes."""

from __future__ import annotations

from pathlib import Path

import click

from edge.files import require_file


def require_writable(out: Path) -> None:
    """Raises click.UsageError where ``out`` could not be written: to be found out before minutes of measuring."""
    try:
        require_file(out)
    except OSError as error:
        raise click.UsageError(f"--json {out} cannot be written: {error.strerror}; name another file") from None
