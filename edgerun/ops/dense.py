"""Dense layers at work."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.kernels import dense
from edgerun.layers import Dense
from edgerun.ops.base import LayerRun


class DenseRun(LayerRun):
    """A dense layer on the carrier that its certificate allows."""

    def __init__(self, spec: Dense, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._step = _dense_program(spec, tensors, self.out)

    def step(self, *sources: F32) -> None:
        self._step(sources[0])


def _dense_program(spec: Dense, tensors: Mapping[str, AnyArray], out: F32) -> Callable[[F32], None]:
    """The kernel and constants of one dense layer, bound to its output array."""
    weight, bias, multiplier, shift = (spec.tensor(tensors, field.part) for field in spec.fields())
    proof = spec.proof(tensors)
    low, high, zero = spec.qmin, spec.qmax, spec.zero_point
    w, b, m, s = (tensor.astype(np.int64) for tensor in (weight.T, bias, multiplier, shift))
    real = np.asarray(m * np.exp2(-s.astype(np.float64)), np.float64)
    if proof.carrier == "float32-folded" and proof.folds_zero_point:
        weights = np.ascontiguousarray(w * real, np.float32)
        offset = (b * real + 0.5 + zero).astype(np.float32)
        return lambda x: dense.dense_folded(out, x, weights, offset, low, high)
    if proof.carrier in ("float32-folded", "float32-dot") and proof.folds_zero_point:
        weights = np.ascontiguousarray(w, np.float32)
        wide_offset = np.asarray(b * real + 0.5 + zero, np.float64)
        acc, wide = np.zeros_like(out), np.zeros(out.shape, np.float64)
        return lambda x: dense.dense_requant(out, x, weights, real, wide_offset, low, high, acc, wide)
    whole, offset64 = np.ascontiguousarray(w), b * m + np.left_shift(1, s - 1)
    x64, acc64 = np.zeros((*out.shape[:-1], spec.inputs), np.int64), np.zeros(out.shape, np.int64)
    return lambda x: dense.dense_wide(out, x, whole, m, offset64, s, zero, low, high, x64, acc64)
