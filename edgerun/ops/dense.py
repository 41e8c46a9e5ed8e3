"""Dense layers at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np

from edgerun.arrays import F32, F64, AnyArray
from edgerun.kernels.sparse import rows_of, sum_rows
from edgerun.layers import Dense
from edgerun.ops.base import LayerRun
from edgerun.ops.requant import by_filter, load_rows

SKIP_SIZE: Final = 1 << 17
SKIP_SHARE: Final = 1 / 32
"""From so many weights on, and up to such a share of them that are not zero, one sample runs on those alone.

Measured, one thread: 784 x 300 takes 8.9 us whole; at 1, 3, 5 and 10 % it takes 4.8, 7.8, 11 and 18 us by rows.
1024 x 1024 takes 43 us, at 3 % 27 us. 300 x 100 takes 1.4 us whole and 2.3 us by rows at 1 %: never worth it.
"""


class DenseRun(LayerRun):
    """A dense layer on the carrier that its certificate allows."""

    def __init__(self, spec: Dense, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec, self._tensors, self._batch = spec, tensors, batch
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._learned = False
        self._build()

    def _build(self) -> None:
        """Weights and scratch for the fastest carrier: exact for the weights as they stand, or for any if learned."""
        name = f"{self.spec.name}.weight"
        reach = (self.spec.input_bound,)
        any_weights = self.spec.certify(self._tensors, reach, frozenset([name])).carrier if self._learned else None
        self._weights: F32 | F64
        self._end, self._weights = by_filter(self.spec, self._tensors, self.out, carrier=any_weights)
        if self._learned:
            self._weights = self._weights.copy(order="F")  # a filter that is written lies in one piece
        skip = self._batch == () and not self._learned
        self._sum = _product(self._weights, self._end.sums, may_skip=skip)
        wide = self._weights.dtype == np.float64
        self._input = np.zeros((*self._batch, self.spec.inputs), np.float64) if wide else None

    def step(self, *sources: F32) -> None:
        x: AnyArray = sources[0]
        if self._input is not None:
            np.copyto(self._input, x)
            x = self._input
        self._sum(x)
        self._end.finish()

    def load_weights(self, part: str, rows: slice) -> None:
        """Learned weights run on the carrier that the certificate of a plastic layer promises for any."""
        if part != "weight":
            super().load_weights(part, rows)
        if not self._learned:
            self._learned = True
            self._build()
        else:
            load_rows(self._weights.T[rows], self.spec, self._tensors, self._end, rows)


def _product(weights: F32 | F64, sums: F32 | F64, *, may_skip: bool) -> Callable[[AnyArray], object]:
    """What fills `sums` from an input; one sample may skip weights that are zero."""
    if may_skip and weights.size >= SKIP_SIZE and np.count_nonzero(weights) <= SKIP_SHARE * weights.size:
        rows = rows_of(weights)
        products = np.zeros_like(rows.weights)
        return lambda x: sum_rows(sums, x, rows, products)
    return lambda x: np.dot(x, weights, out=sums)
