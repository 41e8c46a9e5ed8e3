"""What the network asks of a layer at work."""

from __future__ import annotations

from typing import Any

import numpy as np

from edgerun.arrays import F32, I64, Tensors
from edgerun.errors import DataError


class LayerRun:
    """One layer at work: `step(*sources)` reads the sources' outputs, flat (..., width), and fills `out`.

    out  (..., outputs)  integers in float32, an exact carrier by the layer's certificate; always the same memory

    A kind is made as `Kind(spec, tensors, batch)` and allocates here and nowhere else. The defaults below are those of
    a layer without state.
    """

    out: F32
    spec: Any

    def step(self, *sources: F32) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        """Back to silence."""
        self.out[...] = 0

    def state(self) -> Tensors:
        """The arrays that go from step to step, by the names of `spec.state()`; not copies."""
        return {}

    def resume(self) -> None:
        """Take over a state that was written from outside."""

    def load_weights(self, part: str, rows: slice) -> None:
        """Take over rows of a tensor that learning has written."""
        raise DataError(f"layer {self.spec.name}: tensor {part} is not plastic")

    def reading(self) -> I64:
        """(..., outputs)  what a head reads of the layer at the end of a window."""
        return self.out.astype(np.int64)
