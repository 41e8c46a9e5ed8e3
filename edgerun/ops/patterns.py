"""Target patterns at work: how far the window's spikes are from each, so far."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, I64, AnyArray, Tensors
from edgerun.kernels import superspike
from edgerun.kernels.spiking import I32_MIN
from edgerun.layers import Patterns
from edgerun.ops.base import LayerRun


class PatternsRun(LayerRun):
    """Spikes against patterns. `out` counts the inputs that differ from each in this step; `score` sums up."""

    def __init__(self, spec: Patterns, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        each = (*batch, spec.outputs, spec.inputs)
        targets = np.moveaxis(tensors[f"{spec.name}.target"], 1, 0)  # (steps, outputs, inputs)
        self._targets = np.concatenate([targets, np.zeros((1, spec.outputs, spec.inputs), np.uint8)])
        self.rising, self.rising_carry, self.falling, self.falling_carry, self._raw, self._drive = (
            np.zeros(each, np.int64) for _ in range(6)
        )
        self.score, self._energy = (np.zeros((*batch, spec.outputs), np.int64) for _ in range(2))
        self.seen: I64 = np.zeros((*batch, 1), np.int64)
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)

    def step(self, *sources: F32) -> None:
        target = self._targets[min(int(self.seen.flat[0]), self.spec.steps)]
        np.copyto(self._raw, sources[0][..., None, :], casting="unsafe")
        self._raw -= target
        np.abs(self._raw, out=self._drive)
        np.sum(self._drive, axis=-1, out=self._energy)
        np.copyto(self.out, self._energy)
        self._raw *= superspike.ONE
        superspike.smooth(self.rising, self.rising_carry, self.spec.rise, self._raw, self._drive)
        superspike.smooth(self.falling, self.falling_carry, self.spec.fall, self.rising, self._drive)
        np.multiply(self.falling, self.falling, out=self._drive)
        np.sum(self._drive, axis=-1, out=self._energy)
        self._energy >>= superspike.ENERGY_SHIFT
        self.score -= self._energy
        np.maximum(self.score, I32_MIN, out=self.score)
        self.seen += 1

    def reset(self) -> None:
        for array in self.state().values():
            array[...] = 0

    def state(self) -> Tensors:
        return {
            "rising": self.rising, "rising_carry": self.rising_carry, "falling": self.falling,
            "falling_carry": self.falling_carry, "score": self.score, "seen": self.seen,
        }  # fmt: skip

    def reading(self) -> I64:
        """Minus the distance to each pattern."""
        return self.score.copy()
