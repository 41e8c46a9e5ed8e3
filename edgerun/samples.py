"""Data files: `.npz` without pickles, dense or ragged, every fault named.

dense    x (N, ...) numbers, y (N,) labels (may be absent), class_names (C,) text (may be absent)
ragged   samples (S, ...), offsets (N + 1,), label (N,) (may be absent), class_names (may be absent)
         recording i is samples[offsets[i]:offsets[i + 1]]; recordings of one length need no offsets: samples (N, S)

A recording that is shorter or longer than the model's window is filled up with silence at its end, or cut there.
"""

from __future__ import annotations

import itertools
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from edgerun.arrays import I64, AnyArray, Tensors
from edgerun.errors import DataError
from edgerun.spec import InputSpec

Fit: TypeAlias = Literal["fit", "refuse"]

MAX_BYTES: Final = 4 << 30  # of one unpacked file
FAR: Final = 4  # times as large as anything that the input holds: another unit
ASKED: Final = 1 << 20  # values that are enough to see their unit
CUT: Final = 0.01  # share of values beyond the input that nobody need hear of
FEW: Final = 8  # steps of the input: finer values that vary less are all but lost
SHOWN: Final = 8  # keys of a file that an error names
UNKNOWN: Final = -1  # an index that names no class
FOREIGN: Final = (
    ValueError,
    EOFError,
    OSError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    NotImplementedError,
    SyntaxError,
    RuntimeError,
)


def read_arrays(path: Path) -> Tensors:
    """All arrays of an `.npz`. A header that promises more than the archive holds is refused before memory is taken.

    Raises DataError naming the file, OSError where it cannot be opened.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise DataError(f"{path.name}: is no regular file")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise DataError(f"{path.name}: unpacks to more than {MAX_BYTES >> 30} GiB")
            return {entry.filename.removesuffix(".npy"): _read_array(archive, entry) for entry in archive.infolist()}
    except (DataError, FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except FOREIGN as err:
        raise DataError(f"{path.name}: is no .npz file, or no whole one ({first_line(err)})") from None


def _read_array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> AnyArray:
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


# ------------------------------------------------------------------ samples of one size


@dataclass(frozen=True, slots=True)
class Windows:
    """The samples of a file as a model takes them, in the file's own dtype.

    values    what the file holds: (N, ...) where `starts` is None, else all recordings end to end, (S, ...)
    starts    (N + 1,) where each recording begins and the last one ends, or None
    shape     of one sample as the model takes it
    blank     the file's own number for zero: a recording that is too short ends with it
    """

    values: AnyArray
    starts: I64 | None
    shape: tuple[int, ...]
    blank: int = 0

    def __len__(self) -> int:
        return len(self.values) if self.starts is None else len(self.starts) - 1

    @property
    def length(self) -> int:
        """Moments of one window of a ragged file."""
        return math.prod(self.shape) // math.prod(self.values.shape[1:])

    def take(self, first: int, last: int) -> AnyArray:
        """Samples `first` up to, without, `last`: (n, *shape)."""
        if self.starts is None:
            return self.values[first:last].reshape(-1, *self.shape)
        block = np.full((last - first, self.length, *self.values.shape[1:]), self.blank, self.values.dtype)
        for row, k in zip(block, range(first, last), strict=True):
            recording = self.values[self.starts[k] : self.starts[k + 1]][: self.length]
            row[: len(recording)] = recording
        return block.reshape(-1, *self.shape)

    def notes(self) -> tuple[str, ...]:
        """What had to be done to recordings so that they fit."""
        if self.starts is None:
            return ()
        lengths = np.diff(self.starts)
        short, long = int((lengths < self.length).sum()), int((lengths > self.length).sum())
        if not short + long:
            return ()
        return (
            f"recordings are {lengths.min()} to {lengths.max()} long, the window is {self.length}: "
            f"{short} of {len(self)} are filled up with silence at the end, {long} cut there",
        )


def windows(name: str, arrays: Tensors, spec: InputSpec, fit: Fit = "fit") -> Windows:
    """A file's samples as a model with this input takes them.

    fit  what happens to recordings of another length: "fit" fills up or cuts, "refuse" raises

    Raises DataError naming the key that is missing, misshapen or of a wrong dtype.
    """
    shape = spec.shape
    if "x" in arrays:
        found = Windows(_numbers(name, "x", arrays["x"], 2), None, shape)
        size, wanted = math.prod(found.values.shape[1:]), math.prod(shape)
        if size != wanted:
            raise DataError(
                f"{name}: a sample has {size} values (shape {found.values.shape[1:]}), the model takes {wanted}"
            )
        return found
    if "samples" not in arrays:
        raise DataError(_nothing_in(name, arrays))
    values = _numbers(name, "samples", arrays["samples"], 1)
    quantised = values.dtype == np.dtype(spec.dtype)
    found = Windows(values, _starts(name, arrays), shape, spec.zero_point if quantised else 0)
    moment, wanted = math.prod(values.shape[1:]), math.prod(shape)
    if wanted % moment:
        raise DataError(f"{name}: a moment has {moment} values, a window of the model {wanted}, no multiple of it")
    if fit == "refuse" and (notes := found.notes()):
        raise DataError(f"{name}: {notes[0].partition(':')[0]}; --window fit fills up and cuts")
    return found


def recordings(name: str, arrays: Tensors) -> Iterator[AnyArray]:
    """A file's samples one by one, each as long as it is: rows of `x`, or pieces of `samples`.

    Raises DataError naming the key that is missing, misshapen or of a wrong dtype.
    """
    if "x" in arrays:
        return iter(_numbers(name, "x", arrays["x"], 2))
    if "samples" not in arrays:
        raise DataError(_nothing_in(name, arrays))
    values = _numbers(name, "samples", arrays["samples"], 1)
    if "offsets" not in arrays and values.ndim > 1:
        return iter(values)
    return (values[first:last] for first, last in itertools.pairwise(_starts(name, arrays)))


def _nothing_in(name: str, arrays: Tensors) -> str:
    keys = sorted(arrays)
    shown = ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
    return f"{name}: has neither 'x' nor 'samples', {f'only {shown}' if keys else 'it is empty'}"


def _numbers(name: str, key: str, array: AnyArray, least: int) -> AnyArray:
    if array.dtype.kind not in "fiub" or array.ndim < least:
        shape = "(N, ...)" if least == 2 else "(S, ...)"
        raise DataError(f"{name}: '{key}' is {array.dtype} {array.shape}, must be numbers of shape {shape}")
    if array.size == 0:
        raise DataError(f"{name}: '{key}' has shape {array.shape}, there is no sample in it")
    return array


def _starts(name: str, arrays: Tensors) -> I64:
    offsets, total = arrays.get("offsets"), len(arrays["samples"])
    if offsets is None or offsets.ndim != 1 or len(offsets) < 2 or offsets.dtype.kind not in "iu":
        raise DataError(f"{name}: 'samples' needs 'offsets' (N + 1,) of whole numbers")
    starts = offsets.astype(np.int64)
    if starts[0] != 0 or starts[-1] != total or (np.diff(starts) <= 0).any():
        raise DataError(f"{name}: 'offsets' must rise from 0 to {total}")
    return starts


# ------------------------------------------------------------------ the unit of the values


def unit_notes(name: str, values: AnyArray, spec: InputSpec) -> tuple[str, ...]:
    """What shows that values (N, ...) are in another unit than the input holds; integers of its dtype never are.

    At most `ASKED` of them are looked at, in rows spread over all. Raises DataError where most of those that are not 0
    lie beyond the input, by a factor of `FAR` and more.
    """
    rows = min(len(values), max(1, ASKED // max(1, values[0].size)))
    some = values[np.linspace(0, len(values) - 1, rows).astype(np.int64)]
    finite = some[np.isfinite(some)].astype(np.float64)
    if values.dtype == np.dtype(spec.dtype) or not finite.size:
        return ()
    first = 0 if spec.dtype == "uint8" else -128
    low, high = ((end - spec.zero_point) * spec.scale for end in (first, first + 255))
    slack = spec.scale / 2  # what still rounds to an end
    beyond = finite[(finite < low - slack) | (finite > high + slack)]
    reach = f"the values reach from {finite.min():g} to {finite.max():g}, the model's input from {low:g} to {high:g}"
    if 2 * len(beyond) > np.count_nonzero(finite) and np.median(np.abs(beyond)) > FAR * max(-low, high):
        raise DataError(f"{name}: {reach}: give the samples in the unit that the model was made for")
    if len(beyond) > CUT * finite.size:
        return (f"{reach}: {len(beyond) / finite.size:.1%} of them are cut off",)
    steps = np.ptp(finite) / spec.scale
    if steps < FEW and (finite / spec.scale % 1).any():
        return (f"{reach}: they fill {steps:.2g} of its 256 steps",)
    return ()


# ------------------------------------------------------------------ labels


def labels(name: str, arrays: Tensors, count: int, classes: Sequence[str]) -> list[str | None]:
    """The class name of each sample, None where it is not known.

    Labels are text, or indices into the file's `class_names` or else into `classes`; -1 or "" = not known.
    Raises DataError for what is no class.
    """
    key = label_key(arrays)
    if key is None:
        return [None] * count
    y = arrays[key]
    if y.shape != (count,):
        raise DataError(f"{name}: {key} has shape {y.shape}, there are {count} samples")
    if y.dtype.kind == "U":
        return [str(text) or None for text in y]
    names = class_names(name, arrays) or tuple(classes)
    _check_indices(name, key, y, len(names))
    return [None if k == UNKNOWN else names[int(k)] for k in y]


def label_key(arrays: Tensors) -> str | None:
    """The array that holds the labels: `y` beside `x`, `label` beside `samples`; where there is none, the other one."""
    keys = ("y", "label", "labels") if "x" in arrays else ("label", "y", "labels")
    return next((key for key in keys if key in arrays), None)


def class_names(name: str, arrays: Tensors) -> tuple[str, ...] | None:
    """The file's own class names, or None. Raises DataError where they are no text."""
    names = arrays.get("class_names")
    if names is None:
        return None
    if names.dtype.kind != "U" or names.ndim != 1 or not len(names):
        raise DataError(f"{name}: 'class_names' is {names.dtype} {names.shape}, must be text of shape (C,)")
    return tuple(str(text) for text in names)


def _check_indices(name: str, key: str, y: AnyArray, count: int) -> None:
    if y.dtype.kind not in "iu":
        raise DataError(f"{name}: {key} has dtype {y.dtype}, it takes whole numbers or text")
    if int(y.min()) < UNKNOWN or int(y.max()) >= count:
        raise DataError(
            f"{name}: {key} reaches from {y.min()} to {y.max()}, there are {count} classes; "
            "`class_names` in the file may name others"
        )


def first_line(foreign: object) -> str:
    """The first line of a foreign message or value, short enough to stand in one of ours."""
    return (str(foreign).strip().splitlines() or [type(foreign).__name__])[0][:160]
