"""Ed25519 key files in PEM, as `edgerun keys new` and openssl write them, read without any library.

A public key is known by its key id: the first 8 bytes of the SHA-256 of its 32 raw bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edgerun.errors import Refused

PUBLIC: Final = ("PUBLIC KEY", bytes.fromhex("302a300506032b6570032100"))  # RFC 8410, section 4
PRIVATE: Final = ("PRIVATE KEY", bytes.fromhex("302e020100300506032b657004220420"))  # RFC 8410, section 7
RAW_BYTES: Final = 32
MAX_FILE_BYTES: Final = 4096


def key_id(public_key: bytes) -> bytes:
    """The name of a raw 32-byte public key, 8 bytes."""
    return hashlib.sha256(public_key).digest()[:8]


def read_public_key(path: str | Path) -> bytes:
    """The 32 raw bytes of a public key file. Raises Refused naming the path, OSError if it cannot be opened."""
    return _read(Path(path), *PUBLIC)


def read_private_key(path: str | Path) -> bytes:
    """The 32 raw bytes of an unencrypted private key file. Raises like `read_public_key`."""
    return _read(Path(path), *PRIVATE)


def trusted_keys(paths: Iterable[str | Path]) -> dict[bytes, bytes]:
    """Raw public keys by key id, as `read_bundle(trust=...)` takes them."""
    return {key_id(key): key for key in map(read_public_key, paths)}


def _read(path: Path, title: str, prefix: bytes) -> bytes:
    with path.open("rb") as file:
        text = file.read(MAX_FILE_BYTES)
    match = re.search(rf"-----BEGIN {title}-----\s([A-Za-z0-9+/=\s]+)-----END {title}-----".encode(), text)
    try:
        der = base64.b64decode(match[1]) if match else b""
    except binascii.Error:
        der = b""
    if not der.startswith(prefix) or len(der) != len(prefix) + RAW_BYTES:
        raise Refused(f"{path} holds no Ed25519 {title.lower()} in PEM")
    return der[len(prefix) :]
