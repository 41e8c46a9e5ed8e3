"""Files that a command writes: refused before the work where they cannot be, then there whole or not at all."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from edgerun.errors import Refused


def check_output(option: str, path: Path, read: Iterable[Path] = (), suffixes: Sequence[str] = ()) -> None:
    """Raises Refused where a file to write is a folder, lies in none, would replace one to read, or is misnamed."""
    if path.is_dir():
        raise Refused(f"{option} {path} is a folder, must be a file")
    if not path.parent.is_dir():
        raise Refused(f"{option} {path}: there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise Refused(f"{option} {path}: the folder {path.parent} cannot be written to")
    if path.exists() and any(path.samefile(other) for other in read if other.exists()):
        raise Refused(f"{option} {path} is a file to read, and would be lost")
    if suffixes and path.suffix.lower() not in suffixes and not special(path):
        raise Refused(f"{option} {path}: must end in {' or '.join(suffixes)}")


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to fill: written beside, then renamed, so that nobody ever sees a part of it. Devices get it in one go.

    Raises OSError naming `path`.
    """
    target = path.resolve()
    beside = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        if special(path):
            whole = io.BytesIO()
            yield whole
            path.write_bytes(whole.getvalue())
            return
        with beside.open("wb") as file:
            yield file
        beside.replace(target)
    except OSError as err:
        raise OSError(err.errno, err.strerror, str(path)) from None
    finally:
        beside.unlink(missing_ok=True)


def special(path: Path) -> bool:
    """Whether it is there and no file that could be replaced, /dev/null for example."""
    return path.exists() and not path.is_file()
