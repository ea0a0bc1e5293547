"""What support needs, in one file: no sound, no events, no secrets."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import tarfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.doctor.check import Check
from edge.doctor.redact import masked, redacted, secrets_in
from edge.doctor.report import document
from edge.doctor.service import UNIT
from edge.doctor.software import versions
from edge.errors import EdgeError
from edge.files import replacing

LINES = 500  # of each log, the newest
KERNEL = re.compile(
    r"usb|snd|alsa|audio|sound|voltage|thrott|therm|oom|out of memory|mmc|ext4|i/o error|read-only", re.IGNORECASE
)
# What was heard is said by lines of text and by records: it stays here.
HEARD = re.compile(r"\d\d:\d\d\.\d  |\]: (?:[^:]+: )?\{|^\{")


def write(path: Path, checks: Sequence[Check], config: Path | None) -> None:
    """Make the bundle at ``path``, readable by its owner alone; whole, or not at all. Raises EdgeError."""
    text, secrets = configuration(config)
    files = {
        "doctor.json": json.dumps(document(checks), indent=2, ensure_ascii=False),
        "doctor.txt": "\n".join(map(str, checks)),
        "configuration.json": text,
        "versions.json": json.dumps(versions(), indent=2),
        "journal.txt": journal(),
        "kernel.txt": kernel(),
    }
    try:
        with replacing(path) as part:
            part.touch(0o600)
            with tarfile.open(part, "w:gz") as archive:
                for name, content in files.items():
                    _add(archive, f"edge-doctor/{name}", masked(content, secrets) + "\n")
    except OSError as error:
        raise EdgeError(f"{path} cannot be written: {error.strerror}", remedy="name another file") from None


def configuration(path: Path | None) -> tuple[str, list[str]]:
    """The file without secrets, as JSON; and the secrets, to be looked for elsewhere."""
    if path is None:
        return json.dumps(None), []
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return json.dumps({"error": f"{path}: {error}"}), []
    return json.dumps(redacted(values), indent=2, ensure_ascii=False, default=str), list(secrets_in(values))


def journal() -> str:
    """The newest lines of the unit, as far as this user may read them, without what was heard."""
    lines = _lines("journalctl", "--unit", UNIT, "--lines", str(LINES), "--no-pager", "--output", "short-iso")
    return "\n".join(line for line in lines if not HEARD.search(line))


def kernel() -> str:
    """What the kernel says of sound, power, heat, memory and disks, as far as this user may read it."""
    return "\n".join([line for line in _lines("dmesg") if KERNEL.search(line)][-LINES:])


def _lines(command: str, *arguments: str) -> list[str]:
    found = shutil.which(command)
    if found is None:
        return [f"{command} is not there"]
    try:
        done = subprocess.run([found, *arguments], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"{command}: {error}"]
    text = (done.stdout or done.stderr).decode(errors="replace")
    return text.splitlines()


def _add(archive: tarfile.TarFile, name: str, text: str) -> None:
    content = text.encode(errors="backslashreplace")
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(content), 0o600, int(time.time())
    archive.addfile(entry, io.BytesIO(content))
