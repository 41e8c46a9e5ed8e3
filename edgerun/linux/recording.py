"""A sensor that plays a file: what a device runs on where no real sensor is wired to it."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import DataError
from edgerun.ports import Sample

FOREIGN: Final = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError, RuntimeError)
UNKNOWN: Final = -1


class Recording:
    """`ports.Sensor`: one sample of the file at each read, from its first again when it ends if `loop`.

    x  (N, ...)  numbers
    y  (N,)      may be absent: classes as text, or as indices into `class_names` of the file or else into `classes`;
                 -1 or "" = not known
    """

    def __init__(self, path: Path, classes: Sequence[str], *, loop: bool) -> None:
        """Raises DataError naming path and array, OSError if the file cannot be opened."""
        arrays = read_arrays(path)
        x = arrays.get("x")
        if x is None or x.ndim < 2 or len(x) == 0 or x.dtype.kind not in "fiub":
            raise DataError(f"{path} has no array x of samples")
        self.x = x
        self._labels = labels(path, arrays, len(x), classes)
        self._loop = loop
        self._next = 0

    def read(self) -> Sample:
        if self._next == len(self.x):
            if not self._loop:
                raise StopIteration
            self._next = 0
        at, self._next = self._next, self._next + 1
        return Sample(self.x[at], self._labels[at])


def read_arrays(path: Path) -> Tensors:
    """All arrays of an `.npz` without pickles. Raises DataError naming the path."""
    try:
        with path.open("rb") as file, zipfile.ZipFile(file):  # so that it is an archive, and is closed if it is not
            return dict(np.load(file, allow_pickle=False))
    except FOREIGN as err:
        reason = str(err).partition("\n")[0]
        raise DataError(f"{path} is no .npz file: {reason}") from None


def labels(path: Path, arrays: Tensors, count: int, classes: Sequence[str]) -> list[str | None]:
    """The class name of each sample, None where it is not known. Raises DataError for what is no class."""
    y = arrays.get("y")
    if y is None:
        return [None] * count
    if y.shape != (count,):
        raise DataError(f"{path}: y has shape {y.shape}, x has {count} samples")
    if y.dtype.kind == "U":
        return [str(name) or None for name in y]
    names = [str(name) for name in arrays["class_names"]] if "class_names" in arrays else list(classes)
    _check_indices(path, y, len(names))
    return [None if k == UNKNOWN else names[int(k)] for k in y]


def _check_indices(path: Path, y: AnyArray, count: int) -> None:
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: y has dtype {y.dtype}, it takes whole numbers or text")
    if int(y.min()) < UNKNOWN or int(y.max()) >= count:
        raise DataError(f"{path}: y reaches from {y.min()} to {y.max()}, there are {count} classes")
