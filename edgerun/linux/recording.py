"""A sensor that plays a file: what a device runs on where no real sensor is wired to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgerun.errors import DataError
from edgerun.ports import Sample
from edgerun.samples import labels, read_arrays, recordings


class Recording:
    """`ports.Sensor`: one sample of the file at each read, from its first again when it ends if `loop`.

    x  (N, ...)  numbers; or samples and offsets, recordings of any length
    y  (N,)      (label beside samples) may be absent: classes as text, or as indices into `class_names` of the file or
                 else into `classes`; -1 or "" = not known
    targets (N, ...)  may be absent: the values that samples should give; looked at where there are no `classes`
    """

    def __init__(self, path: Path, classes: Sequence[str], *, loop: bool) -> None:
        """Raises DataError naming file and array, OSError if the file cannot be opened."""
        arrays = read_arrays(path)
        self.x = list(recordings(path.name, arrays))
        self._labels = labels(path.name, arrays, len(self.x), classes) if classes else [None] * len(self.x)
        self._targets = None if classes else arrays.get("targets")
        if self._targets is not None and (self._targets.ndim < 2 or len(self._targets) != len(self.x)):
            raise DataError(f"{path.name}: targets have shape {self._targets.shape}, there are {len(self.x)} samples")
        self._loop = loop
        self._next = 0

    def read(self) -> Sample:
        if self._next == len(self.x):
            if not self._loop:
                raise StopIteration
            self._next = 0
        at, self._next = self._next, self._next + 1
        return Sample(self.x[at], self._labels[at], None if self._targets is None else self._targets[at])
