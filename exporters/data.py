"""Data files for an export: samples and labels, as `edgerun/samples.py` reads them, in as little memory as is exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np

from edgerun.arrays import F64, I64, AnyArray, Tensors
from edgerun.encode.files import heard
from edgerun.encode.sound import step_of
from edgerun.errors import DataError
from edgerun.samples import UNKNOWN, Fit, class_names, read_arrays, windows
from edgerun.samples import first_line as first_line
from edgerun.spec import InputSpec, LogMel

LIKE_LABELS: Final = ("y", "label", "labels", "target", "targets", "Y")


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples, labels, names of the classes or None, and what had to be done to the file's recordings.

    x  (N, ...)  numbers, all finite: int8 and uint8 as the file has them, all others float32 where that is exact, else
                 float64. Integers of the bundle's own dtype are quantised already, as on the device.
    y  (N,)      labels, -1 where there is none
    target  (N, steps, k)  the values that they should give, where that was asked for
    """

    x: AnyArray
    y: I64
    names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    target: F64 | None = None

    def __len__(self) -> int:
        return len(self.x)

    def take(self, index: I64) -> Samples:
        target = None if self.target is None else self.target[index]
        return replace(self, x=self.x[index], y=self.y[index], target=target)

    @property
    def labelled(self) -> bool:
        return bool((self.y >= 0).any())


def load(
    path: Path,
    spec: InputSpec,
    fit: Fit = "fit",
    *,
    labels: bool = True,
    front: LogMel | None = None,
    targets: bool = False,
) -> Samples:
    """Read a data file for a model with this input: only shape, dtype and zero point of `spec` count.

    labels  whether to read them: a model without classes has no use for any, so they may be anything
    targets whether the samples' values are wanted
    front   what the device makes of recordings before the model sees them; x is then its features, in octaves

    Raises DataError naming the file and the key that is missing, misshapen or out of range.
    """
    arrays = read_arrays(path)
    if front is not None:
        arrays = heard(front, spec, path.name, arrays)
        arrays["x"] = arrays["x"].astype(np.float32) * np.float32(step_of(front))
    check_layout(path.name, arrays, spec.shape)
    found = windows(path.name, arrays, spec, fit)
    x = compact(found.take(0, len(found)))
    broken = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
    if broken.any():
        raise DataError(
            f"{path.name}: {broken.sum()} of {len(x)} samples are not finite, the first is {broken.argmax()}"
        )
    if not labels:
        wanted = targets_of(path.name, arrays, len(x)) if targets else None
        return Samples(x, np.full(len(x), -1, np.int64), notes=found.notes(), target=wanted)
    names = class_names(path.name, arrays)
    if names is not None and (bad := [name for k, name in enumerate(names) if not name or name in names[:k]]):
        raise DataError(f"{path.name}: class_names holds {bad[0]!r} {'twice' if bad[0] else 'as a name'}")
    y = labels_of(path.name, arrays, len(x))
    if names is not None and y.max() >= len(names):
        raise DataError(f"{path.name}: label {y.max()} is outside the {len(names)} class_names")
    return Samples(x, y, names, found.notes())


def check_variety(name: str, samples: Samples) -> None:
    """Raises DataError where one sample is as good as all: nothing can be calibrated on them."""
    if len(samples) > 1 and (samples.x[1:] == samples.x[0]).all():
        raise DataError(f"{name}: all {len(samples)} samples are alike, nothing can be calibrated on them")


def check_layout(name: str, arrays: Tensors, shape: Sequence[int]) -> None:
    """Raises DataError where samples have the model's dimensions in another order: read so, they are scrambled."""
    x = arrays.get("x")
    given, taken = ([n for n in dims if n > 1] for dims in (() if x is None else x.shape[1:], shape))
    if x is not None and given != taken and sorted(given) == sorted(taken):
        raise DataError(
            f"{name}: a sample has shape {x.shape[1:]}, the model takes {tuple(shape)}: transpose the samples, "
            "or flatten them where their values lie in the model's order"
        )


def compact(x: AnyArray) -> AnyArray:
    """The same numbers in the smallest of int8, uint8, float32 and float64 that holds them and says what they are."""
    if x.dtype in (np.dtype(np.int8), np.dtype(np.uint8)):
        return x
    with np.errstate(over="ignore"):
        single = x.astype(np.float32)
    exact = x.dtype.itemsize <= 2 or x.dtype == np.float32 or np.array_equal(single, x)
    return single if exact else x.astype(np.float64)


def labels_of(name: str, arrays: Tensors, samples: int) -> I64:
    """Labels (N,) as whole numbers, -1 everywhere where the file has none."""
    key = "y" if "x" in arrays else "label"
    labels = arrays.get(key)
    if labels is None and (other := [word for word in LIKE_LABELS if word in arrays]):
        raise DataError(f"{name}: has {other[0]!r} but no {key!r}: labels are {key!r} (--head values needs none)")
    if labels is None:
        return np.full(samples, -1, dtype=np.int64)
    if labels.shape != (samples,):
        raise DataError(f"{name}: labels have shape {labels.shape}, must be ({samples},)")
    if labels.dtype.kind not in "iu":
        raise DataError(f"{name}: labels are {labels.dtype}, must be whole numbers (--head values needs none)")
    y = labels.astype(np.int64)
    if y.min() < UNKNOWN or y.max() >= 4096:
        reach = f"labels reach from {y.min()} to {y.max()}"
        raise DataError(f"{name}: {reach}, must lie in [0, 4095], or be {UNKNOWN} where not known")
    return y


def targets_of(name: str, arrays: Tensors, samples: int) -> F64:
    """Target values (N, steps, k) in real units; those of a file with (N, k) are one step's.

    Raises DataError where they are missing, misshapen or not finite.
    """
    found = arrays.get("targets")
    if found is None:
        raise DataError(f"{name}: has no 'targets', the values that samples should give")
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3) or len(found) != samples or not found.size:
        shape = f"({samples}, outputs) or ({samples}, steps, outputs)"
        raise DataError(f"{name}: targets are {found.dtype} {found.shape}, must be numbers of shape {shape}")
    if found.dtype == np.int16:
        raise DataError(f"{name}: targets are int16, which on a device are steps of its own: give real numbers")
    values: F64 = found.astype(np.float64).reshape(samples, -1, found.shape[-1])
    broken = ~np.isfinite(values).all(axis=(1, 2))
    if broken.any():
        raise DataError(f"{name}: {broken.sum()} targets are not finite, the first is that of sample {broken.argmax()}")
    return values


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
