"""Who this device is, for a staged roll-out. The id never leaves the device."""

from __future__ import annotations

import uuid
from pathlib import Path

from edge.update import disk
from edge.update.versions import disk_error

MACHINE_ID = Path("/etc/machine-id")
FILE = "device-id"


def device_id(folder: Path) -> str:
    """The id of the system, or one that is made once and kept in ``folder``. Raises UpdateError."""
    for path in (folder / FILE, MACHINE_ID):
        if found := _read(path):
            return found
    made = uuid.uuid4().hex
    try:
        folder.mkdir(parents=True, exist_ok=True)
        disk.write(folder / FILE, made.encode())
    except OSError as error:
        raise disk_error(folder, error) from None
    return made


def _read(path: Path) -> str:
    """Its one line; nothing of a file that is not there, or of a system that has not been set up."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return "" if text == "uninitialized" else text
