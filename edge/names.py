"""Names as others can take them."""

from __future__ import annotations

import hashlib
import re


def encodable(text: str) -> str:
    r"""``text`` as UTF-8 can hold it. What is no text in a file's name is a surrogate in Python, which no receiver
    takes: it becomes ``\udce9``, as on the terminal.
    """
    return text.encode(errors="backslashreplace").decode()


def slug(text: str) -> str:
    """``text`` as it may stand in a topic and an id: small letters, digits and underscores.

    What is not ASCII would be lost, so that a digest tells such texts apart.
    """
    plain = re.sub("[^a-z0-9]+", "_", text.lower()).strip("_")
    if text.isascii() and plain:
        return plain
    return f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("_")
