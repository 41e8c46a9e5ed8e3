"""Spiking neurons and leaky integrators at work."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, I32, I64, AnyArray, Bool, Tensors
from edgerun.kernels import spiking
from edgerun.layers import Lif, Readout
from edgerun.ops.base import LayerRun


class LifRun(LayerRun):
    """Recurrent LIF or ALIF neurons. Input and recurrent weights are stacked, so that one product serves both."""

    def __init__(self, spec: Lif, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n, m = spec.outputs, spec.inputs
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((m + n * spec.recurrent, n), np.float32)
        self._drive: F32 = np.zeros((*batch, m + n * spec.recurrent), np.float32)
        self.out: F32 = self._drive[..., m:] if spec.recurrent else np.zeros((*batch, n), np.float32)
        self.load_weights("input", slice(None))
        if spec.recurrent:
            self.load_weights("recurrent", slice(None))
        self._bias = tensors[f"{spec.name}.bias"].astype(np.int32)
        self._decay = tensors[f"{spec.name}.decay"].astype(np.int32)
        self.v, self.carry, self.counts, self.margin = (np.zeros((*batch, n), np.int32) for _ in range(4))
        self._current, self._back, self._spikes = (np.zeros((*batch, n), np.int32) for _ in range(3))
        self._product: F32 = np.zeros((*batch, n), np.float32)
        self.fired: Bool = np.zeros((*batch, n), np.bool_)
        self._threshold: I32 = np.full((*batch, n), spec.threshold, np.int32)
        self._shift = 12 - spec.weight_exponent
        if spec.adaptive:
            self._rho = tensors[f"{spec.name}.rho"].astype(np.int32)
            self._beta = tensors[f"{spec.name}.beta"].astype(np.int32)
            self.adaptation, self.adaptation_carry = (np.zeros((*batch, n), np.int32) for _ in range(2))
        if spec.refractory_steps:
            self.resting: I32 = np.zeros((*batch, n), np.int32)
            self._silent: Bool = np.zeros((*batch, n), np.bool_)

    def step(self, *sources: F32) -> None:
        spec = self.spec
        self._drive[..., : spec.inputs] = sources[0]
        spiking.synaptic_current(self._current, self._drive, self._weights, self._product, self._shift, self._bias)
        if spec.reset_delay:
            self._reset(self._current)
        if spec.adaptive:
            np.multiply(self._spikes, self._beta, out=self._back)
            spiking.leak(self.adaptation, self.adaptation_carry, self._rho, self._back)
            np.add(self.adaptation, spec.threshold, out=self._threshold)
        spiking.leak(self.v, self.carry, self._decay, self._current)
        spiking.fire(self.fired, self.margin, self.v, self._threshold)
        if spec.refractory_steps:
            self._rest()
        np.copyto(self._spikes, self.fired)
        if not spec.reset_delay:
            self._reset(self.v)
        np.copyto(self.out, self.fired)
        self.counts += self._spikes

    def _reset(self, target: I32) -> None:
        """Act on the newest spikes: take the threshold from `target`, or clear the membrane."""
        if self.spec.reset == "subtract":
            np.multiply(self._spikes, self.spec.threshold, out=self._back)
            target -= self._back
        elif self.spec.reset == "zero":
            np.copyto(self.v, 0, where=self.fired)
            np.copyto(self.carry, 0, where=self.fired)

    def _rest(self) -> None:
        """Silence neurons that fired within the last `refractory_steps`."""
        np.greater(self.resting, 0, out=self._silent)
        np.copyto(self.fired, False, where=self._silent)
        np.copyto(self.margin, spiking.I16_MIN * 2, where=self._silent)  # no surrogate while resting
        self.resting -= 1
        np.maximum(self.resting, 0, out=self.resting)
        np.copyto(self.resting, self.spec.refractory_steps, where=self.fired)

    def reset(self) -> None:
        for array in self.state().values():
            array[...] = np.zeros((), array.dtype)
        self.resume()

    def resume(self) -> None:
        np.copyto(self._spikes, self.fired)
        np.copyto(self.out, self.fired)

    def state(self) -> Tensors:
        arrays: Tensors = {"v": self.v, "carry": self.carry, "fired": self.fired, "counts": self.counts}
        if self.spec.adaptive:
            arrays |= {"adaptation": self.adaptation, "adaptation_carry": self.adaptation_carry}
        if self.spec.refractory_steps:
            arrays["resting"] = self.resting
        return arrays

    def load_weights(self, part: str, rows: slice) -> None:
        source = self._tensors[f"{self.spec.name}.{part}"]
        first = 0 if part == "input" else self.spec.inputs
        self._weights[first : first + source.shape[0]][rows] = source[rows]

    def reading(self) -> I64:
        """Spike counts of the window."""
        return self.counts.astype(np.int64)


class ReadoutRun(LayerRun):
    """Leaky integrators; `y` (..., k) int64 in Q7.24 is the logit after each step."""

    def __init__(self, spec: Readout, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        k = spec.outputs
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((spec.inputs, k), np.float32)
        self.load_weights("input", slice(None))
        self._bias = tensors[f"{spec.name}.bias"].astype(np.int64)
        self._kappa = tensors[f"{spec.name}.kappa"].astype(np.int64)
        self.y, self.carry, self._sum = (np.zeros((*batch, k), np.int64) for _ in range(3))
        self.out: F32 = np.zeros((*batch, k), np.float32)
        self._shift = 24 - spec.weight_exponent

    def step(self, *sources: F32) -> None:
        np.dot(sources[0], self._weights, out=self.out)
        np.copyto(self._sum, self.out, casting="unsafe")
        self._sum <<= self._shift
        self._sum += self._bias
        spiking.integrate(self.y, self.carry, self._kappa, self._sum)

    def reset(self) -> None:
        self.y[...] = 0
        self.carry[...] = 0

    def state(self) -> Tensors:
        return {"y": self.y, "carry": self.carry}

    def load_weights(self, part: str, rows: slice) -> None:
        self._weights[rows] = self._tensors[f"{self.spec.name}.{part}"][rows]

    def reading(self) -> I64:
        """The logits, Q7.24."""
        return self.y.copy()
