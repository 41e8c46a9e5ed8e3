"""Sensors to integers, integers to spikes. The only place where a float becomes an integer."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgerun.arrays import F32, I16, AnyArray
from edgerun.encode.sound import log_mel
from edgerun.errors import DataError
from edgerun.spec import Constant, Direct, Frames, InputSpec, LogMel, Manifest, PhaseRate


def quantise(spec: InputSpec, x: AnyArray) -> I16:
    """q = clip(half_up(x / scale) + zero_point) in the input's dtype, as int16 (size,): the one rounding at the edge.

    Integers of the input's own dtype pass as they are. Raises DataError on a wrong shape or readings not finite.
    """
    x = np.asarray(x)
    if x.size != spec.size:
        raise DataError(
            f"a sample has {x.size} values (shape {x.shape}), the bundle takes {spec.size} (shape {spec.shape})"
        )
    flat = x.reshape(-1)
    if flat.dtype == np.dtype(spec.dtype):
        return flat.astype(np.int16)
    if flat.dtype.kind not in "fiub":
        raise DataError(f"a sample has dtype {flat.dtype}, which is no number")
    real = flat.astype(np.float64)
    if not np.isfinite(real).all():
        raise DataError(f"a sample has {int((~np.isfinite(real)).sum())} values that are not finite")
    low, high = (0, 255) if spec.dtype == "uint8" else (-128, 127)
    q = np.floor(real / spec.scale + 0.5) + spec.zero_point
    clipped: I16 = np.clip(q, low, high).astype(np.int16)
    return clipped


def sense(front: LogMel | None, spec: InputSpec, x: AnyArray) -> I16:
    """What a bundle with this front and input makes of one reading of its sensor, (size,).

    With a front, a recording becomes features; what is features already, integers of the input's own dtype, passes.
    Raises DataError on what is neither.
    """
    x = np.asarray(x)
    if front is None or (x.dtype == np.dtype(spec.dtype) and x.size == spec.size):
        return quantise(spec, x)
    return log_mel(front, spec, x)


class Coder(Protocol):
    """One window of quantised values as what the layers see, step by step, in memory that the coder owns."""

    def encode(self, q: I16) -> F32:
        """(steps, ..., step size)    q  (..., size)  read"""


def coder(manifest: Manifest, batch: tuple[int, ...]) -> Coder:
    """The encoder of a manifest."""
    match manifest.encoder:
        case PhaseRate() as spec:
            return PhaseCoder(spec, batch, manifest.input.size)
        case Frames(offset=offset):
            return FrameCoder(manifest.steps, batch, manifest.step_size, offset)
        case Direct(offset=offset) | Constant(offset=offset):
            return ConstantCoder(manifest.steps, batch, manifest.input.size, offset)


class ConstantCoder:
    """The same values, less `offset`, at every step; the network sees one copy of them."""

    def __init__(self, steps: int, batch: tuple[int, ...], size: int, offset: int = 0) -> None:
        self._offset = offset
        self._value = np.zeros((1, *batch, size), np.float32)
        self._steps = np.broadcast_to(self._value, (steps, *batch, size))

    def encode(self, q: I16) -> F32:
        np.subtract(q, self._offset, out=self._value[0])
        return self._steps


class FrameCoder:
    """A recording (..., steps * size), less `offset`, as its moments (steps, ..., size)."""

    def __init__(self, steps: int, batch: tuple[int, ...], size: int, offset: int = 0) -> None:
        self._offset = offset
        self._frames = np.zeros((steps, *batch, size), np.float32)
        self._by_sample = np.moveaxis(self._frames, 0, -2)

    def encode(self, q: I16) -> F32:
        np.subtract(q.reshape(self._by_sample.shape), self._offset, out=self._by_sample)
        return self._frames


class PhaseCoder:
    """The deterministic rate code of `spec.PhaseRate`, into memory that it owns: encoding allocates no arrays.

    After t + 1 steps a unit has spiked floor((full_scale // 2 + (t + 1) * u) / full_scale) times in all, which is what
    `phase <- phase + u; spike where phase >= full_scale` adds up to; u is clipped to [0, full_scale].
    """

    def __init__(self, spec: PhaseRate, batch: tuple[int, ...], size: int) -> None:
        self._spec = spec
        self._value = np.zeros((*batch, size), np.int32)
        self._total = np.zeros((spec.steps + 1, *batch, size), np.int32)
        self._count = np.zeros((spec.steps, *batch, size), np.int32)
        self.spikes = np.zeros((spec.steps, *batch, size), np.float32)
        """(steps, ..., size)  zeros and ones of the newest window, held in float32."""

    def encode(self, q: I16) -> F32:
        """The spikes of one window.    q  (..., size)  read"""
        full = self._spec.full_scale
        np.copyto(self._value, q)
        np.maximum(self._value, 0, out=self._value)
        np.minimum(self._value, full, out=self._value)
        for t, total in enumerate(self._total):
            np.multiply(self._value, t, out=total)
        self._total += full // 2
        self._total //= full
        np.subtract(self._total[1:], self._total[:-1], out=self._count)
        np.copyto(self.spikes, self._count, casting="unsafe")
        return self.spikes
