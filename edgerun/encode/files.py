"""A data file as a bundle's network takes it: every sample sensed as the device's sensor edge would."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.encode import sense
from edgerun.encode.sound import heard_at
from edgerun.errors import DataError
from edgerun.samples import label_key, recordings, windows
from edgerun.spec import InputSpec, LogMel

MOST_HZ: Final = 192_000


def sensed(front: LogMel | None, spec: InputSpec, name: str, arrays: Tensors) -> I16:
    """q (n, size) of a file's samples: windows at the input's scale, or recordings through the front.

    Recordings may have channels, another width, unit or rate than a device's microphone gives: see `sound.heard_at`.
    Raises DataError naming the file and the first sample that is none.
    """
    x = arrays.get("x")
    if front is None or (x is not None and x.dtype == np.dtype(spec.dtype)):
        found = windows(name, arrays, spec)
        return _each(name, found.take(0, len(found)), lambda sample: sense(front, spec, sample))
    rate = _rate(name, arrays, front)
    return _each(name, recordings(name, arrays), lambda wave: sense(front, spec, heard_at(front, wave, rate)))


def _each(name: str, samples: Iterable[AnyArray], make: Callable[[AnyArray], I16]) -> I16:
    rows = []
    for k, sample in enumerate(samples):
        try:
            rows.append(make(sample))
        except DataError as err:
            raise DataError(f"{name}: sample {k}: {err}") from None
    return np.stack(rows)


def heard(front: LogMel, spec: InputSpec, name: str, arrays: Tensors) -> Tensors:
    """A file of recordings as a dense one of their features: x (n, *shape) int8; labels and class names as they were.

    Raises DataError naming what is no recording.
    """
    key = label_key(arrays)
    found: Tensors = {"x": sensed(front, spec, name, arrays).astype(np.int8).reshape(-1, *spec.shape)}
    if key is not None:
        found["y"] = arrays[key]
    return found | {name: arrays[name] for name in ("class_names",) if name in arrays}


def _rate(name: str, arrays: Tensors, front: LogMel) -> int:
    """Samples a second of a file's recordings: its own `sample_rate`, or what the front takes."""
    said = arrays.get("sample_rate")
    if said is None:
        return front.sample_rate
    rates = np.unique(said)
    if rates.dtype.kind not in "fiu" or len(rates) != 1 or not front.sample_rate <= rates[0] <= MOST_HZ:
        shown = repr(rates.tolist()[0]) if len(rates) == 1 else rates.tolist()[:3]
        raise DataError(f"{name}: sample_rate is {shown}, the bundle takes {front.sample_rate} to {MOST_HZ}")
    return round(float(rates[0]))
