"""The service, where systemd runs it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator

from edge.doctor.check import Check, failure, ok, skipped, warning
from edge.doctor.subject import Subject

UNIT = "edge-listen.service"
PROPERTIES = ("LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "ExecMainStatus", "NRestarts")
RESTARTS = 10  # since the device was started, from which somebody should look


def service(subject: Subject) -> Iterator[Check]:
    """Whether it runs, how it ended last, how often it was restarted."""
    systemctl = shutil.which("systemctl")
    if systemctl is None or not (subject.root / "run/systemd/system").is_dir():
        yield skipped("service", "systemd does not run here")
        return
    done = subprocess.run(
        [systemctl, "show", UNIT, f"--property={','.join(PROPERTIES)}"],
        capture_output=True, text=True, timeout=5, check=False,
    )  # fmt: skip
    told = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    if done.returncode or not told:
        yield warning("service", f"systemctl does not tell: {done.stderr.strip()}", f"systemctl status {UNIT}")
    elif told.get("LoadState") != "loaded":
        yield skipped("service", f"there is no unit {UNIT}")
    else:
        yield _judged(told)


def _judged(told: dict[str, str]) -> Check:
    state, restarts = told.get("ActiveState", ""), int(told.get("NRestarts") or 0)
    last = f"{told.get('Result')}, exit code {told.get('ExecMainStatus')}"
    found = f"{UNIT} is {state} ({told.get('SubState')}), {restarts} restarts"
    logs = f"journalctl -u {UNIT} -n 50 says why"
    if state == "failed" or (state == "activating" and restarts):
        return failure("service", f"{found}; last end: {last}", logs, **told)
    if state == "inactive":
        remedy = f"sudo systemctl enable --now {UNIT}"
        return warning("service", f"{found}; last end: {last}", remedy, **told)
    if told.get("UnitFileState") == "disabled":
        return warning(
            "service", f"{found}, but is not started with the device", f"sudo systemctl enable {UNIT}", **told
        )
    return warning("service", found, logs, **told) if restarts > RESTARTS else ok("service", found, **told)
