"""Errors for people: what happened, and what to do about it. Each kind has its documented exit code."""

from __future__ import annotations

from edge.names import encodable


class EdgeError(Exception):
    """Base of every error that a user can meet. ``str()`` is one line: what, then the remedy."""

    exit_code = 1

    def __init__(self, what: str, *, remedy: str) -> None:
        self.what, self.remedy = encodable(what), encodable(remedy)  # what they quote may be the name of a file
        super().__init__(f"{self.what} ({self.remedy})")


class ContractError(EdgeError):
    """A model file that cannot be used: not ONNX, without a contract, from the future, or corrupted."""

    exit_code = 3


class DeviceError(EdgeError):
    """No PortAudio, no microphone, a busy one, or one that went away.

    ``reason``: a key of edge.health.LOST; empty where waiting does not help.
    """

    exit_code = 4

    def __init__(self, what: str, *, remedy: str, reason: str = "stopped") -> None:
        super().__init__(what, remedy=remedy)
        self.reason = reason


class InputError(EdgeError):
    """A recording or a stream that cannot be read. ``reason``: as of DeviceError."""

    exit_code = 5

    def __init__(self, what: str, *, remedy: str, reason: str = "") -> None:
        super().__init__(what, remedy=remedy)
        self.reason = reason


class ProviderError(EdgeError):
    """An onnxruntime execution provider that is not there."""

    exit_code = 6


class SettingsError(EdgeError):
    """A setting of the user's that cannot be."""

    exit_code = 2


class SinkError(EdgeError):
    """A place for records that does not take one now. ``retry``: the same record may be taken later.

    ``after``: seconds until then, where the receiver has said so.
    """

    exit_code = 7

    def __init__(self, what: str, *, remedy: str, retry: bool = True, after: float = 0.0) -> None:
        super().__init__(what, remedy=remedy)
        self.retry = retry
        self.after = after


class StoreError(EdgeError):
    """A database of events that is not there, cannot be opened, or is none of ours."""

    exit_code = 8


class StoreBusyError(StoreError):
    """A database that another program has locked, and will let go."""
