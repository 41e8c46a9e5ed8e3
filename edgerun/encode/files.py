"""A data file as a bundle's network takes it: every sample sensed as the device's sensor edge would."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.encode import sense
from edgerun.errors import DataError
from edgerun.samples import recordings, windows
from edgerun.spec import InputSpec, LogMel


def sensed(front: LogMel | None, spec: InputSpec, name: str, arrays: Tensors) -> I16:
    """q (n, size) of a file's samples: windows at the input's scale, or recordings through the front.

    Raises DataError naming the file and the first sample that is none.
    """
    rows = []
    for k, sample in enumerate(_samples(front, spec, name, arrays)):
        try:
            rows.append(sense(front, spec, sample))
        except DataError as err:
            raise DataError(f"{name}: sample {k}: {err}") from None
    return np.stack(rows)


def heard(front: LogMel, spec: InputSpec, name: str, arrays: Tensors) -> Tensors:
    """A file of recordings as a dense one of their features: x (n, *shape) int8; labels and class names as they were.

    Raises DataError naming what is no recording.
    """
    labels = arrays.get("y" if "x" in arrays else "label")
    found: Tensors = {"x": sensed(front, spec, name, arrays).astype(np.int8).reshape(-1, *spec.shape)}
    if labels is not None:
        found["y"] = labels
    return found | {key: arrays[key] for key in ("class_names",) if key in arrays}


def _samples(front: LogMel | None, spec: InputSpec, name: str, arrays: Tensors) -> Iterator[AnyArray]:
    x = arrays.get("x")
    if front is None or (x is not None and x.dtype == np.dtype(spec.dtype)):
        found = windows(name, arrays, spec)
        return iter(found.take(0, len(found)))
    rate = arrays.get("sample_rate")
    if rate is not None and (rate.size != 1 or int(rate.reshape(-1)[0]) != front.sample_rate):
        raise DataError(f"{name}: sample_rate is {rate}, the bundle takes {front.sample_rate}")
    return recordings(name, arrays)
