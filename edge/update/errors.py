"""The one error of updates, and the names of its refusals."""

from __future__ import annotations

from edge.errors import EdgeError

# What an update is refused for; the name begins the error's line.
REFUSALS = {
    "rollback": "older than what this device has seen",
    "expired": "signed for a time that is over: what is served may be frozen",
    "wrong key": "not signed by the keys that the root names",
    "mixed": "files of different releases",
    "tampered": "a length or a hash that is not the signed one",
    "damaged": "no metadata at all, or metadata that make no sense",
    "clock": "this device does not know the time",
    "unreachable": "the files cannot be had now",
    "disk": "the files cannot be kept",
    "model": "a model that does not work here",
    "unproven": "whether the model works cannot be told now",
    "busy": "another edge-update is at work",
    "usage": "something that cannot be asked for",
}


class UpdateError(EdgeError):
    """An update that was refused, or could not be had; ``refusal`` is a key of REFUSALS.

    The model that runs is not touched by it.
    """

    exit_code = 9

    def __init__(self, refusal: str, what: str, *, remedy: str) -> None:
        super().__init__(f"{refusal}: {what}", remedy=remedy)
        self.refusal = refusal
