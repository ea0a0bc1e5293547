"""Passwords and keys: from the environment or a file, never from a command line, where every user could read them."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from edge.errors import SinkError


def is_url(text: str) -> bool:
    """Whether ``text`` begins as a URL does, of whatever scheme."""
    return re.match(r"[a-z][a-z0-9+.-]*://", text, re.IGNORECASE) is not None


def without_password(url: str, *, path: bool = True) -> str:
    """``url`` as it may be shown: records and logs go to other people. Without a password, and what follows the path;
    without ``path``, which may be a secret too, of its server alone.
    """
    try:
        parts = urlsplit(url)
    except ValueError:  # it is none
        return url.partition("://")[0] + "://…"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path if path else "", "", ""))


def read_secret(variable: str | None, file: str | None, what: str) -> str | None:
    """The secret ``what`` from an environment variable or a file's first line; None where neither is named.

    Raises:
        SinkError: when both are named, or what is named is not there or empty.
    """
    if variable and file:
        raise SinkError(
            f"{what}: both {variable} and {file} are named", remedy="name a variable or a file", retry=False
        )
    if variable:
        value, place = os.environ.get(variable, ""), f"the environment variable {variable}"
    elif file:
        value, place = _first_line(file, what), file
    else:
        return None
    if not value:
        raise SinkError(f"{what}: {place} is empty or not set", remedy="put the secret there", retry=False)
    return value


def _first_line(file: str, what: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise SinkError(
            f"{what}: {file} cannot be read: {error}", remedy="name a text file that can be read", retry=False
        ) from None
