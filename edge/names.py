"""Names as others can take them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable


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
    return _digested(plain, text)


def slugs(texts: Iterable[str]) -> dict[str, str]:
    """The :func:`slug` of each, where no two may be called the same: of several that would be, one keeps it, whatever
    their order, and a digest tells the others apart.
    """
    found: dict[str, str] = {}
    for text in sorted(set(texts), key=lambda text: (slug(text) != text, text)):
        plain = slug(text)
        found[text] = _digested(plain, text) if plain in found.values() else plain
    return found


def _digested(plain: str, text: str) -> str:
    return f"{plain}_{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("_")
