"""What may be shown to others: configuration and logs without passwords, tokens, keys, and addresses that hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge.secret import is_url, without_password

REMOVED = "(removed)"
SECRET = re.compile(r"pass|secret|token|key|auth|credential|cookie|pin\b", re.IGNORECASE)
POINTER = re.compile(r"(_|-)(env|file|folder|path)$")  # a key that names where a secret is, not the secret
VARIABLE = re.compile(r"[A-Z][A-Z0-9_]*")
# The keys whose text says nothing but what they name. Of any other, and of one that is misspelt, text is removed.
SHOWN = frozenset({
    "address", "aliases", "argv", "ca_file", "cert_file", "channel", "classes", "db", "device", "device_name",
    "discovery_prefix", "folder", "group", "groups", "home_assistant", "home-assistant", "host", "hop",
    "ignore", "input", "key_file", "label", "labels", "log", "metrics", "model", "mqtt", "muted", "name",
    "node", "only", "output", "password_env", "password_file", "path", "phases", "prefix", "privacy",
    "provider", "report", "secret_env", "secret_file", "site", "source", "spool_file", "types", "url",
    "username", "webhook",
})  # fmt: skip
WHOLE = frozenset({"headers", "template", "exec"})  # may hold anything
TABLES_OF_NAMES = frozenset({"aliases", "groups", "cooldowns", "thresholds", "calibrated"})  # their keys are labels
# user:password@ of an address, and what a query may hold.
USER_INFO = re.compile(r"([a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
QUERY = re.compile(r"([a-z][a-z0-9+.-]*://[^\s?'\"]+)\?[^\s'\"]+", re.IGNORECASE)
LEAST = 4  # characters of a secret that is looked for in texts


def redacted(value: Any, key: str = "", *, names: bool = False) -> Any:
    """``value``, of a configuration under ``key``, without what may be secret. ``names``: its texts are labels."""
    name = key.replace("-", "_")
    if name in WHOLE:
        return REMOVED
    if isinstance(value, Mapping):
        below = names or name in TABLES_OF_NAMES
        return {k: redacted(v, name if below else k, names=below) for k, v in value.items()}
    if name == "argv" and isinstance(value, list | tuple):  # arguments may be tokens; the program is none
        return [*value[:1], *([REMOVED] if len(value) > 1 else [])]
    if isinstance(value, list | tuple):
        return [redacted(item, key, names=names) for item in value]
    if SECRET.search(name) and not POINTER.search(name):
        return REMOVED
    return _text(value, name, names) if isinstance(value, str) else value


def _text(value: str, name: str, names: bool) -> str:
    if is_url(value) or "@" in value:
        return without_password(value, path=False) if is_url(value) else REMOVED
    if name.endswith("_env"):  # somebody may have put the secret itself there
        return value if VARIABLE.fullmatch(value) else REMOVED
    return value if name in SHOWN or names else REMOVED


def secrets_in(value: Any, key: str = "") -> Iterator[str]:
    """The texts that :func:`redacted` removes, and the secrets that the configuration points to: to be looked for in
    other texts.
    """
    if isinstance(value, Mapping):
        for k, v in value.items():
            yield from secrets_in(v, key if key in WHOLE else k)
    elif isinstance(value, list | tuple):
        for item in value[1:] if key == "argv" else value:
            yield from secrets_in(item, "exec" if key == "argv" else key)
    elif isinstance(value, str):
        if redacted(value, key) != value:
            yield value
        yield from _pointed_to(value, key.replace("-", "_"))


def _pointed_to(value: str, name: str) -> Iterator[str]:
    if name.endswith("_env"):
        yield os.environ.get(value, "")
    elif name in ("password_file", "secret_file"):
        try:
            yield Path(value).read_text(encoding="utf-8").partition("\n")[0].strip()
        except (OSError, UnicodeDecodeError):
            return


def masked(text: str, secrets: Iterable[str] = ()) -> str:
    """``text`` without ``secrets``, and without user, password and query of its addresses."""
    for secret in sorted({s for s in secrets if len(s) >= LEAST}, key=len, reverse=True):
        text = text.replace(secret, REMOVED)
    return QUERY.sub(rf"\1?{REMOVED}", USER_INFO.sub(rf"\1{REMOVED}@", text))
