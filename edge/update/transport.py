"""Bytes from wherever a repository is: a web server, a folder, or any place that fsspec knows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass, url2pathname

import edge
from edge.secret import is_url, without_password
from edge.update.errors import UpdateError

CHUNK = 1 << 16  # bytes
TIMEOUT = 30.0  # seconds without a byte
RETRIES = 5  # of one request, with a pause that doubles


class MissingError(Exception):
    """There is no such file."""


class BrokenOffError(Exception):
    """What was being read has ended early, or failed: the rest may be had later."""


class Transport(ABC):
    """A place with files."""

    patient = True  # what fails there may succeed a little later

    @abstractmethod
    def read(self, url: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """Pieces of the file with their positions, from ``start``, or from 0 where the place cannot begin elsewhere.

        Raises MissingError and BrokenOffError.
        """


class Folder(Transport):
    """Files of this machine."""

    patient = False

    def read(self, url: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """See :meth:`Transport.read`."""
        path = url2pathname(urlsplit(url).path) if url.startswith("file:") else url
        try:
            with Path(path).open("rb") as file:
                yield from _pieces(file, start)
        except FileNotFoundError:
            raise MissingError(url) from None
        except OSError as error:
            raise BrokenOffError(error.strerror or str(error)) from None


class FsSpec(Transport):
    """What fsspec has a driver for: s3, gs, sftp, smb …"""

    def __init__(self) -> None:
        try:
            import fsspec
        except ImportError:
            raise UpdateError(
                "usage", "fsspec is not installed", remedy="pip install fsspec and its driver, such as s3fs"
            ) from None
        self._fsspec: Any = fsspec

    def read(self, url: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """See :meth:`Transport.read`."""
        try:
            with self._fsspec.open(url, "rb") as file:
                yield from _pieces(file, start)
        except FileNotFoundError:
            raise MissingError(url) from None
        except (GeneratorExit, UpdateError):
            raise
        except Exception as error:  # each driver has classes of its own
            raise BrokenOffError(f"{type(error).__name__}: {_in_one_line(error, url)}") from None


class Web(Transport):
    """HTTP and HTTPS, by urllib3."""

    def __init__(self, *, timeout: float = TIMEOUT, retries: int = RETRIES) -> None:
        import urllib3

        self._urllib3: Any = urllib3
        self._timeout = urllib3.Timeout(connect=10.0, read=timeout)
        self._retries = urllib3.Retry(
            retries, backoff_factor=0.5, backoff_max=60, status_forcelist=(429, 500, 502, 503, 504), redirect=5
        )
        self._pools: dict[str | None, Any] = {}

    def read(self, url: str, start: int = 0) -> Iterator[tuple[int, bytes]]:
        """See :meth:`Transport.read`."""
        errors = self._urllib3.exceptions
        try:
            response = self._get(url, start)
        except errors.HTTPError as error:
            raise BrokenOffError(_in_one_line(error, url)) from None
        try:
            at = self._begins_at(response, url)
            # What has come is passed on at once: it would be lost with the connection.
            while piece := response.read1(CHUNK, decode_content=False):
                yield at, piece
                at += len(piece)
        except errors.HTTPError as error:
            raise BrokenOffError(_in_one_line(error, url)) from None
        finally:
            response.close()

    def _get(self, url: str, start: int) -> Any:
        headers = {"User-Agent": f"edge-update/{edge.__version__}", "Accept-Encoding": "identity"}
        parts = urlsplit(url)
        if parts.username:
            headers |= self._urllib3.make_headers(basic_auth=f"{parts.username}:{parts.password or ''}")
        if start:
            headers["Range"] = f"bytes={start}-"
        return self._pool(parts.scheme, parts.hostname or "").request(
            "GET", url, headers=headers, timeout=self._timeout, retries=self._retries, preload_content=False
        )

    def _begins_at(self, response: Any, url: str) -> int:
        """The position of the first byte of the body."""
        if response.status == 200:
            return 0
        if response.status in (403, 404):
            raise MissingError(url)
        unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
        first = rest.partition("-")[0]
        if response.status == 206 and unit == "bytes" and first.isdecimal():
            return int(first)
        raise BrokenOffError(f"the server answers {response.status}")

    def _pool(self, scheme: str, host: str) -> Any:
        proxy = None if proxy_bypass(host) else getproxies().get(scheme)
        if proxy not in self._pools:
            self._pools[proxy] = self._urllib3.ProxyManager(proxy) if proxy else self._urllib3.PoolManager()
        return self._pools[proxy]


def transport_of(url: str, **options: Any) -> Transport:
    """What reads ``url``. Raises UpdateError where it takes something that is not installed."""
    if url.lower().startswith(("http://", "https://")):
        return Web(**options)
    return FsSpec() if is_url(url) and not url.startswith("file:") else Folder()


@contextmanager
def reachable(url: str) -> Iterator[None]:
    """Within, what cannot be read is an UpdateError of one line."""
    try:
        yield
    except MissingError as error:
        raise UpdateError("unreachable", f"{without_password(str(error))} is not there", remedy="check --url") from None
    except BrokenOffError as error:
        raise UpdateError(
            "unreachable", f"{without_password(url)}: {error}", remedy="check the network; what was had is kept"
        ) from None


def _pieces(file: IO[bytes], start: int) -> Iterator[tuple[int, bytes]]:
    file.seek(start)
    while piece := file.read(CHUNK):
        yield start, piece
        start += len(piece)


def _in_one_line(error: Exception, url: str) -> str:
    """urllib3 wraps its errors; the innermost says what happened. Some of them quote ``url``, with its password."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).split()).replace(url, without_password(url))[:200]
