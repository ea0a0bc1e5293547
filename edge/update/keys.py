"""The publisher's keys: Ed25519, one for each role, and the root that says which they are.

A folder of keys holds ``ROLE-KEYID.pem`` (PKCS #8, for the owner alone) and each root that was ever signed,
``N.root.json``, of which ``root.json`` is the newest: that one goes with a device. A private key may be
kept elsewhere: its role cannot be signed for without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from edge.update import disk
from edge.update.errors import UpdateError
from edge.update.versions import disk_error

ROLES = ("root", "targets", "snapshot", "timestamp")
ROOT_DAYS = 3650.0  # a fleet whose root has expired takes no update until keys rotate


@dataclass(frozen=True)
class Keys:
    """A folder of keys. Raises UpdateError for what is not there, or cannot be read."""

    folder: Path
    password: str | None = None  # of the private keys; None: they are not encrypted

    def roots(self) -> list[Path]:
        """The files of all roots, the oldest first."""
        found = [path for path in self.folder.glob("*.root.json") if path.name.split(".")[0].isdecimal()]
        return sorted(found, key=lambda path: int(path.name.split(".")[0]))

    def root(self) -> Metadata[Root]:
        """The newest root."""
        if not (roots := self.roots()):
            raise UpdateError("usage", f"{self.folder} has no root", remedy=f"edge-update keys new {self.folder}")
        try:
            root: Metadata[Root] = Metadata[Root].from_bytes(roots[-1].read_bytes())
        except (RepositoryError, OSError) as error:
            raise UpdateError("damaged", f"{roots[-1]}: {error}", remedy="take it from the repository") from None
        return root

    def signers(self, role: str) -> list[CryptoSigner]:
        """What signs for ``role`` by the newest root, and is in this folder."""
        root = self.root().signed
        return [self._signer(role, key) for key in root.roles[role].keyids if self._file(role, key).exists()]

    def sign(self, metadata: Metadata[Any], role: str) -> None:
        """Sign ``metadata``, in the place of all signatures that it has."""
        if not (signers := self.signers(role)):
            raise UpdateError(
                "usage", f"{self.folder} has no key of {role}", remedy="do it where that key is, or rotate it"
            )
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)

    def make(self, role: str) -> CryptoSigner:
        """A new key, on the disk."""
        signer = CryptoSigner.generate_ed25519()
        secret = BestAvailableEncryption(self.password.encode()) if self.password else NoEncryption()
        private = load_pem_private_key(signer.private_bytes, None)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
        disk.write(self._file(role, signer.public_key.keyid), pem, mode=0o600)
        return signer

    def keep(self, root: Metadata[Root]) -> Path:
        """Write a root beside those before it; the path of ``root.json``."""
        content, path = root.to_bytes(), self.folder / "root.json"
        disk.write(self.folder / f"{root.signed.version}.root.json", content)
        disk.write(path, content)
        return path

    def _signer(self, role: str, keyid: str) -> CryptoSigner:
        path = self._file(role, keyid)
        try:
            private = load_pem_private_key(path.read_bytes(), self.password.encode() if self.password else None)
        except TypeError:  # a password where there is none, or the other way round
            what = "is not encrypted, and a password was given" if self.password else "is encrypted"
            raise UpdateError("usage", f"{path} {what}", remedy="see --password-env and --password-file") from None
        except (ValueError, OSError) as error:
            raise UpdateError("usage", f"{path} cannot be read: {error}", remedy="check the password") from None
        return CryptoSigner(private)

    def _file(self, role: str, keyid: str) -> Path:
        return self.folder / f"{role}-{keyid[:16]}.pem"


def expiry(days: float) -> datetime:
    """The time in ``days`` from now, in whole seconds."""
    return (datetime.now(timezone.utc) + timedelta(days=days)).replace(microsecond=0)


def new(keys: Keys, days: float = ROOT_DAYS) -> Path:
    """Keys for every role and the first root, in a new folder; the path of ``root.json``. Raises UpdateError."""
    if keys.roots():
        raise UpdateError("usage", f"{keys.folder} has keys already", remedy="name another folder, or rotate them")
    try:
        keys.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        root = Root(version=1, expires=expiry(days), consistent_snapshot=True)
        signers = {role: keys.make(role) for role in ROLES}
        for role, signer in signers.items():
            root.add_key(signer.public_key, role)
        metadata = Metadata(root)
        metadata.sign(signers["root"])
        return keys.keep(metadata)
    except OSError as error:
        raise disk_error(keys.folder, error) from None


def rotate(keys: Keys, roles: tuple[str, ...], days: float = ROOT_DAYS) -> Path:
    """The next root, with new keys for ``roles``, signed by the old root key and the new one. The old keys are deleted.

    Devices follow it when the repository has been refreshed. Raises UpdateError.
    """
    metadata = keys.root()
    root, signers = metadata.signed, keys.signers("root")
    if not signers:
        raise UpdateError("usage", f"{keys.folder} has no key of root", remedy="do it where that key is")
    old = [keys._file(role, keyid) for role in roles for keyid in root.roles[role].keyids]
    try:
        for role in roles:
            made = keys.make(role)
            for keyid in list(root.roles[role].keyids):
                root.revoke_key(keyid, role)
            root.add_key(made.public_key, role)
            signers += [made] if role == "root" else []
        root.version += 1
        root.expires = expiry(days)
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        path = keys.keep(metadata)
    except OSError as error:
        raise disk_error(keys.folder, error) from None
    for file in old:
        disk.remove(file)
    return path
