"""A directory of the real file system as the `Disk` port."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgerun.errors import StoreError


def check_path(path: str) -> str:
    """The same path, if it is relative, clean and stays inside; raises StoreError otherwise."""
    if not path or "\0" in path or "\\" in path or any(part in ("", ".", "..") for part in path.split("/")):
        raise StoreError(f"path {path!r} is not a clean relative path with forward slashes")
    return path


def check_rename(old: str, new: str) -> None:
    """A rename is atomic and has one folder to sync, so both names must live in the same one."""
    if check_path(old).rpartition("/")[0] != check_path(new).rpartition("/")[0]:
        raise StoreError(f"rename {old!r} to {new!r} crosses folders")


@contextmanager
def _translated(act: str, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as err:
        raise StoreError(f"{act} {path!r}: {err.strerror or err}") from None


class RealDisk:
    """Files under `root`, with real fsync. Folders come durable with their first file and go with their last."""

    def __init__(self, root: Path) -> None:
        self._root = Path(root)
        self._bytes_written = 0
        with _translated("open", str(root)):
            self._root.mkdir(parents=True, exist_ok=True)

    @property
    def bytes_written(self) -> int:
        return self._bytes_written

    def read(self, path: str) -> bytes | None:
        with _translated("read", path):
            try:
                return self._at(path).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, path: str, data: bytes) -> None:
        self._put(path, data, "wb")

    def append(self, path: str, data: bytes) -> None:
        self._put(path, data, "ab")

    def truncate(self, path: str, length: int) -> None:
        with _translated("truncate", path):
            os.truncate(self._at(path), length)

    def sync(self, path: str) -> None:
        with _translated("sync", path):
            _fsync(self._at(path))

    def sync_dir(self, path: str) -> None:
        """Make the names in a folder durable; where the folder went with its last file, those of the folder above."""
        folder = self._at(path)
        with _translated("sync", path):
            while not folder.is_dir():
                folder = folder.parent
            _fsync(folder)

    def rename(self, old: str, new: str) -> None:
        check_rename(old, new)
        with _translated("rename", old):
            os.replace(self._at(old), self._at(new))

    def remove(self, path: str) -> None:
        target = self._at(path)
        with _translated("remove", path):
            target.unlink(missing_ok=True)
        with suppress(OSError):  # the first folder that still holds something ends it
            for folder in target.relative_to(self._root).parents[:-1]:
                (self._root / folder).rmdir()

    def list(self, path: str) -> list[str]:
        with _translated("list", path):
            try:
                return sorted(os.listdir(self._at(path)))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def size(self, path: str) -> int | None:
        with _translated("size", path):
            target = self._at(path)
            return target.stat().st_size if target.is_file() else None

    def _at(self, path: str) -> Path:
        return self._root / check_path(path)

    def _put(self, path: str, data: bytes, mode: str) -> None:
        target = self._at(path)
        with _translated("write", path):
            self._make_folder(target.parent)
            with open(target, mode) as file:
                file.write(data)
        self._bytes_written += len(data)

    def _make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._make_folder(folder.parent)
            folder.mkdir(exist_ok=True)
            _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
