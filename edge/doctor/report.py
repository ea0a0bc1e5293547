"""What the doctor found, for programs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import edge
from edge.doctor.check import Check

SCHEMA_VERSION = 1


def document(checks: Sequence[Check]) -> dict[str, Any]:
    """See docs/doctor.md."""
    return {
        "schema_version": SCHEMA_VERSION,
        "version": edge.__version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "ok": healthy(checks),
        "checks": [dataclasses.asdict(check) for check in checks],
    }


def healthy(checks: Sequence[Check]) -> bool:
    """Whether nothing failed; warnings do not count."""
    return all(check.status != "failure" for check in checks)


def summary(checks: Sequence[Check]) -> str:
    """The last line."""
    counts = {status: sum(check.status == status for check in checks) for status in ("failure", "warning", "ok")}
    words = {"failure": "failures", "warning": "warnings", "ok": "ok"}
    return ", ".join(f"{n} {status if n == 1 else words[status]}" for status, n in counts.items())
