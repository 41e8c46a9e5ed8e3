"""Ed25519 keys that sign bundles and commands: made, shown and used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from edgerun.bundle import Signer
from edgerun.errors import Refused
from edgerun.keys import key_id, read_private_key, read_public_key

PRIVATE_SUFFIX: Final = ".key"
PUBLIC_SUFFIX: Final = ".pub"
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644


def new_key(name: Path) -> tuple[Path, Path]:
    """Write `name`.key, mode 0600, and `name`.pub; never over an existing file. Raises Refused."""
    if name.name in ("", ".."):
        raise Refused(f"NAME '{name}' is no name of a file")
    key_file, public_file = Path(f"{name}{PRIVATE_SUFFIX}"), Path(f"{name}{PUBLIC_SUFFIX}")
    for file in (key_file, public_file):
        if file.exists():
            raise Refused(f"{file} exists already; keys are never overwritten")
    key = Ed25519PrivateKey.generate()
    _write(key_file, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), PRIVATE_MODE)
    _write(public_file, key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), PUBLIC_MODE)
    return key_file, public_file


def show_key(file: Path) -> str:
    """One line: the key id and the file, of either half of a pair."""
    return f"{key_id(_public_half(file)).hex()}  {file}"


def file_signer(path: str | Path) -> Signer:
    """What `pack(sign=...)` takes, from a private key file. Raises Refused if it holds none."""
    key = Ed25519PrivateKey.from_private_bytes(read_private_key(path))
    kid = key_id(key.public_key().public_bytes_raw())
    return lambda message: (kid, key.sign(message))


def _public_half(file: Path) -> bytes:
    if file.suffix == PRIVATE_SUFFIX:
        return Ed25519PrivateKey.from_private_bytes(read_private_key(file)).public_key().public_bytes_raw()
    return read_public_key(file)


def _write(path: Path, data: bytes, mode: int) -> None:
    """Create a file that nobody had, with exactly this mode from its first byte on."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
