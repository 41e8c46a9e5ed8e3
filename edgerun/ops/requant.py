"""From sums to outputs on the carrier that a certificate allows: what dense, convolving and pooling layers share."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np

from edgerun.arrays import F32, F64, I64
from edgerun.kernels import requant
from edgerun.layers import Conv, Dense, Depthwise
from edgerun.layers.base import Carrier, Tensors, effective


class Clipped(Protocol):
    """The fields that every requantised layer has."""

    @property
    def zero_point(self) -> int: ...
    @property
    def qmin(self) -> int: ...
    @property
    def qmax(self) -> int: ...


class Requantiser:
    """out = clip((sums * m + o >> s) + zero_point, qmin, qmax): a layer fills `sums` and calls `finish`.

    out      (..., n)  float32, in one piece       m, o, s  int64, broadcast to (..., n)
    sums     the same shape, as the carrier has it

        float32-folded   in `out` itself, already times 2**-s: weights carry it
        float32-dot      float32, then float64
        float64          float64
        int64            float64, then int64: a sum is exact to 2**53, and no certificate lets one reach 2**31
    """

    sums: F32 | F64
    folded: bool  # whether weights carry 2**-s
    finish: Callable[[], None]

    def __init__(self, carrier: Carrier, spec: Clipped, out: F32, m: I64, o: I64, s: I64) -> None:
        low, high, zero = np.array(spec.qmin, np.float32), np.array(spec.qmax, np.float32), spec.zero_point
        step: F64 = np.exp2(-s.astype(np.float64))
        offset: F64 = o * step + zero
        self.folded = carrier == "float32-folded"
        if self.folded:
            self.sums = out
            self.finish = partial(requant.requant_folded, out, offset.astype(np.float32), low, high)
            return
        wide = np.zeros(out.shape, np.float64)
        self.sums = np.zeros(out.shape, np.float32) if carrier == "float32-dot" else wide
        if carrier == "int64":
            whole = np.zeros(out.shape, np.int64)
            self.finish = partial(requant.requant_wide, out, wide, m, o, s, zero, low, high, whole)
        else:
            self.finish = partial(requant.requant_scaled, out, self.sums, m * step, offset, low, high, wide)


def by_filter(
    spec: Dense | Conv | Depthwise, tensors: Tensors, out: F32, places: int = 1, carrier: Carrier | None = None
) -> tuple[Requantiser, F32 | F64]:
    """The requantiser of weighted sums and the weights (..., filters) that belong to its carrier.

    out      (..., places * filters)  numbers of filters are repeated for each of `places`: long rows are quick rows
    carrier  the fastest that is exact for the weights as they stand, where none is given
    """
    carrier = carrier or spec.proof(tensors).carrier
    bias, m, s = (spec.tensor(tensors, part).astype(np.int64) for part in ("bias", "multiplier", "shift"))
    offset = bias * m + np.left_shift(1, s - 1)
    end = Requantiser(carrier, spec, out, *(np.tile(numbers, places) for numbers in (m, offset, s)))
    return end, carried(spec, tensors, end)


def carried(spec: Dense | Conv | Depthwise, tensors: Tensors, end: Requantiser) -> F32 | F64:
    """Weights (..., filters) as the sums of `end` take them."""
    weight, _, _, shift, *zero = (spec.tensor(tensors, field.part) for field in spec.fields())
    weights: Any = np.moveaxis(effective(weight, *zero), 0, -1)
    if end.folded:
        weights = weights * np.exp2(-shift.astype(np.float64))
    found: F32 | F64 = weights.astype(end.sums.dtype, order="C")
    return found


def load_rows(out: F32 | F64, spec: Dense, tensors: Tensors, end: Requantiser, rows: slice) -> None:
    """The same of some filters that were written.    out  (filters, inputs)  written"""
    np.copyto(out, spec.tensor(tensors, "weight")[rows])
    if spec.asymmetric:
        out -= spec.tensor(tensors, "weight_zero")[rows, None]
    if end.folded:
        out *= np.exp2(-spec.tensor(tensors, "shift")[rows, None].astype(np.float64)).astype(out.dtype)
