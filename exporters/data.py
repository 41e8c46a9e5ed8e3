"""Data files: `.npz` without pickles, dense or ragged, every fault named.

dense    x (N, ...) numbers, y (N,) whole numbers (may be absent), class_names (C,) text (may be absent)
ragged   samples, offsets (N + 1,), label (N,) (may be absent), sample_rate (may be absent), class_names
         recording i is samples[offsets[i]:offsets[i + 1]]; read here only where all recordings are equally long
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from edgerun.arrays import F64, I64, AnyArray
from edgerun.errors import DataError

MAX_BYTES: Final = 4 << 30  # of one unpacked file
FOREIGN: Final = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    SyntaxError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Samples:
    """x (N, ...) real numbers, all finite; y (N,) labels, -1 where there is none; names of the classes, or None."""

    x: F64
    y: I64
    names: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: I64) -> Samples:
        return replace(self, x=self.x[index], y=self.y[index])


def load(path: Path) -> Samples:
    """Read a data file. Raises DataError naming the file and the key that is missing, misshapen or out of range."""
    arrays = read_arrays(path)
    if "x" in arrays:
        x, labels = arrays["x"], arrays.get("y")
    elif "samples" in arrays:
        x, labels = equal_recordings(path, arrays), arrays.get("label")
    else:
        raise DataError(f"{path.name}: has neither 'x' nor 'samples', only {', '.join(sorted(arrays)) or 'nothing'}")
    return checked(path.name, x, labels, arrays.get("class_names"))


def read_arrays(path: Path) -> dict[str, AnyArray]:
    """All arrays of an `.npz`. A header that promises more than the archive holds is refused before memory is taken."""
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise DataError(f"{path.name}: unpacks to more than {MAX_BYTES >> 30} GiB")
            return {entry.filename.removesuffix(".npy"): read_array(archive, entry) for entry in archive.infolist()}
    except (DataError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except FOREIGN as err:
        raise DataError(f"{path.name}: is no whole .npz file ({first_line(err)})") from None


def read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> AnyArray:
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{entry.filename}: npy version {version}")
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = header(file)
        if math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename}: shape {shape} is larger than its {entry.file_size} bytes")
    with archive.open(entry) as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def equal_recordings(path: Path, arrays: dict[str, AnyArray]) -> AnyArray:
    """Ragged recordings as one (N, length, ...) array. Raises DataError where they are not equally long."""
    samples, offsets = arrays["samples"], arrays.get("offsets")
    if offsets is None or offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype.kind not in "iu":
        raise DataError(f"{path.name}: 'samples' needs 'offsets' (N + 1,) of whole numbers")
    starts = offsets.astype(np.int64)
    lengths = np.diff(starts)
    if starts[0] != 0 or starts[-1] != len(samples) or (lengths <= 0).any():
        raise DataError(f"{path.name}: 'offsets' must rise from 0 to {len(samples)}")
    if len(set(lengths.tolist())) != 1:
        raise DataError(
            f"{path.name}: recordings are {lengths.min()} to {lengths.max()} long; this export takes equal lengths only"
        )
    return samples.reshape(len(lengths), int(lengths[0]), *samples.shape[1:])


def checked(name: str, x: AnyArray, labels: AnyArray | None, names: AnyArray | None) -> Samples:
    """The same arrays as Samples. Raises DataError on a wrong dtype or shape, on NaN and on labels out of range."""
    if x.dtype.kind not in "fiub" or x.ndim < 2:
        raise DataError(f"{name}: 'x' is {x.dtype} {x.shape}, must be numbers of shape (N, ...)")
    if x.size == 0:
        raise DataError(f"{name}: 'x' has shape {x.shape}, there is no sample in it")
    real = np.asarray(x, dtype=np.float64)
    broken = ~np.isfinite(real.reshape(len(x), -1)).all(axis=1)
    if broken.any():
        raise DataError(f"{name}: 'x' is not finite in {int(broken.sum())} samples, the first is {broken.argmax()}")
    classes = None if names is None else class_names(name, names)
    y = np.full(len(x), -1, dtype=np.int64) if labels is None else labels_of(name, labels, len(x))
    if classes is not None and y.max() >= len(classes):
        raise DataError(f"{name}: label {y.max()} is outside the {len(classes)} class_names")
    return Samples(real, y, classes)


def labels_of(name: str, labels: AnyArray, samples: int) -> I64:
    if labels.shape != (samples,):
        raise DataError(f"{name}: labels have shape {labels.shape}, must be ({samples},)")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels are {labels.dtype}, must be whole numbers")
    y = labels.astype(np.int64)
    if y.min() < 0 or y.max() >= 4096:
        raise DataError(f"{name}: labels reach from {y.min()} to {y.max()}, must lie in [0, 4095]")
    return y


def class_names(name: str, names: AnyArray) -> tuple[str, ...]:
    if names.dtype.kind != "U" or names.ndim != 1:
        raise DataError(f"{name}: 'class_names' is {names.dtype} {names.shape}, must be text of shape (C,)")
    return tuple(str(text) for text in names)


def relabel(name: str, samples: Samples, classes: Sequence[str]) -> Samples:
    """Labels as indices of `classes`: by name where the file has class_names, by number otherwise."""
    if samples.names is None:
        if samples.y.max() >= len(classes):
            raise DataError(f"{name}: label {samples.y.max()} is outside the {len(classes)} classes")
        return samples
    unknown = [text for k, text in enumerate(samples.names) if text not in classes and (samples.y == k).any()]
    if unknown:
        raise DataError(f"{name}: class {unknown[0]!r} is not one of the model's {', '.join(classes)}")
    index = np.array([classes.index(text) if text in classes else -1 for text in samples.names], dtype=np.int64)
    return replace(samples, y=np.where(samples.y >= 0, index[samples.y], -1), names=tuple(classes))


def as_inputs(name: str, samples: Samples, shape: tuple[int, ...]) -> Samples:
    """Every sample reshaped to what the model takes. Raises DataError where the number of features differs."""
    found, wanted = samples.x.shape[1:], math.prod(shape)
    if math.prod(found) != wanted:
        raise DataError(f"{name}: a sample has {math.prod(found)} values (shape {found}), the model takes {wanted}")
    return replace(samples, x=samples.x.reshape(len(samples), *shape))


def hold_out(y: I64, *, least: int, most: int) -> tuple[I64, I64]:
    """Indices (kept, held out): the last few of each class in file order are held out, equally many of each.

    Between `least` and `most` in all, a fifth of the data in between. Where a class would lose more than half of its
    samples nothing is kept apart: both are the same, balanced as far as the data go.
    """
    classes = np.unique(y[y >= 0])
    if not len(classes):
        return np.arange(len(y)), np.empty(0, dtype=np.int64)
    each = math.ceil(min(max(len(y) // 5, least), most) / len(classes))
    held = np.sort(np.concatenate([np.flatnonzero(y == k)[-each:] for k in classes]))
    if min(int((y == k).sum()) for k in classes) < 2 * each:
        return np.arange(len(y)), held
    return np.setdiff1d(np.arange(len(y)), held), held


def first_line(foreign: object) -> str:
    """The first line of a foreign message or value, short enough to stand in one of ours."""
    return (str(foreign).strip().splitlines() or [type(foreign).__name__])[0][:160]
