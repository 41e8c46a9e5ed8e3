"""Spiking neurons, their synapses and leaky integrators at work."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from edgerun.arrays import F32, I32, I64, AnyArray, Bool, Places, Tensors
from edgerun.kernels import recurrent, spiking
from edgerun.kernels.conv import conv_sums
from edgerun.layers import AlphaCells, Cells, ConvSum, DenseSum, Integrators, Lif, Readout, SLstm, SumPool, Total
from edgerun.layers.spiking import COARSE, FINE, Neurons, OnSums
from edgerun.ops.base import LayerRun
from edgerun.ops.conv import blocks
from edgerun.ops.pool import Pooling
from edgerun.ops.recurrent import LstmRun, to_int8_of
from edgerun.ops.window import Padded


class LifRun(LayerRun):
    """Recurrent LIF or ALIF neurons. Input and recurrent weights are stacked, so that one product serves both."""

    def __init__(self, spec: Lif, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n, m = spec.outputs, spec.inputs
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((m + n * spec.recurrent, n), np.float32)
        self._few = spiking.few_of(self._weights, batch)
        self._drive: F32 = np.zeros((*batch, m + n * spec.recurrent), np.float32)
        self._echo = self._drive[..., m:]
        self.out: F32 = self._echo if spec.recurrent and not spec.recurrent_shift else np.zeros((*batch, n), np.float32)
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
        self._least: I32 = np.array(spec.threshold, np.int32)
        self._shift = COARSE - spec.weight_exponent
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
        shift, bias = self._shift, self._bias
        spiking.synaptic_current(self._current, self._drive, self._weights, self._product, shift, bias, self._few)
        if spec.reset_delay and spec.reset != "hold":
            self._reset(self._current)
        if spec.adaptive:
            np.multiply(self._spikes, self._beta, out=self._back)
            spiking.leak(self.adaptation, self.adaptation_carry, self._rho, self._back)
            np.add(self.adaptation, spec.threshold, out=self._threshold)
        spiking.leak(self.v, self.carry, self._decay, self._current)
        if spec.reset_delay and spec.reset == "hold":
            self._reset(self.v)
        spiking.fire(self.fired, self.margin, self.v, self._threshold)
        if spec.refractory_steps:
            self._rest()
        np.copyto(self._spikes, self.fired)
        if not spec.reset_delay:
            self._reset(self.v)
        self._emit()
        self.counts += self._spikes

    def _emit(self) -> None:
        """The newest spikes to those who read them and, a spike counting 2**recurrent_shift, to the neurons."""
        np.copyto(self.out, self.fired)
        if self.spec.recurrent and self.spec.recurrent_shift:
            np.multiply(self.out, 1 << self.spec.recurrent_shift, out=self._echo)

    def _reset(self, target: I32) -> None:
        """Act on the newest spikes: take the threshold from `target`, or clear the membrane."""
        if self.spec.reset == "subtract":
            np.multiply(self._spikes, self._least, out=self._back)
            target -= self._back
        elif self.spec.reset != "none":
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
        self._emit()

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
        self._shift = FINE - spec.weight_exponent

    def step(self, *sources: F32) -> None:
        np.dot(sources[0], self._weights, out=self.out)
        spiking.scale_sums(self._sum, self.out, self._shift)
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


class Gathered:
    """What is read of a value at the end of a window: the newest one, the largest one, or the mean of all.

    value  (..., n)  int32 or int64; watched, not copied     least  what every value reaches
    """

    def __init__(self, reading: str, value: I32 | I64, least: int) -> None:
        self._reading, self._value, self._least = reading, value, least
        if reading == "max":
            self.peak = np.zeros_like(value)
        if reading == "mean":
            self.sum, self._wide = np.zeros(value.shape, np.int64), np.zeros(value.shape, np.int64)
            self.seen: I64 = np.zeros((*value.shape[:-1], 1), np.int64)
        self.reset()

    def see(self) -> None:
        """Take in the value after one step."""
        if self._reading == "max":
            np.maximum(self.peak, self._value, out=self.peak)
        if self._reading == "mean":
            np.copyto(self._wide, self._value)
            self.sum += self._wide
            self.seen += 1

    def reset(self) -> None:
        for array in self.state().values():
            array[...] = self._least if self._reading == "max" else 0

    def state(self) -> Tensors:
        match self._reading:
            case "max":
                return {"peak": self.peak}
            case "mean":
                return {"sum": self.sum, "seen": self.seen}
        return {}

    def reading(self) -> I64:
        match self._reading:
            case "max":
                return self.peak.astype(np.int64)
            case "mean":
                return self.sum // np.maximum(self.seen, 1)
        return self._value.astype(np.int64)


# ------------------------------------------------------------------ synapses


class DenseSumRun(LayerRun):
    """Raw sums of a dense synapse."""

    def __init__(self, spec: DenseSum, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((spec.inputs, spec.outputs), np.float32)
        self._few = spiking.few_of(self._weights, batch)
        self.load_weights("weight", slice(None))
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)

    def step(self, *sources: F32) -> None:
        spiking.weighted(self.out, sources[0], self._weights, self._few)
        self.out -= self._offset

    def load_weights(self, part: str, rows: slice) -> None:
        self._weights[rows] = self._tensors[f"{self.spec.name}.{part}"][rows]
        self._offset: F32 = self._weights.sum(axis=0, dtype=np.float32) * np.float32(self.spec.zero_point)


class ConvSumRun(LayerRun):
    """Raw sums of a convolution, block by block; the image is padded with the input's zero point."""

    def __init__(self, spec: ConvSum, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        weight = tensors[f"{spec.name}.weight"].astype(np.float32).reshape(spec.filters, -1)
        self._weights = np.ascontiguousarray(weight.T)
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        offset = self._weights.sum(axis=0, dtype=np.float32) * np.float32(spec.zero_point)
        self._offset: F32 = np.tile(offset, math.prod(spec.outputs_size))
        self._image = Padded(spec, batch, spec.zero_point, np.float32)
        self._blocks = blocks(self._image.windows(), self.out.reshape(-1, *spec.shape))

    def step(self, *sources: F32) -> None:
        self._image.load(sources[0])
        for sums, seen, columns in self._blocks:
            conv_sums(sums, seen, columns, self._weights)
        self.out -= self._offset


class SumPoolRun(LayerRun):
    """The sum of each window."""

    def __init__(self, spec: SumPool, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._pooling = Pooling(spec, batch, 0, self.out, np.add)

    def step(self, *sources: F32) -> None:
        self._pooling.step(sources[0])


class TotalRun(LayerRun):
    """Sources added up."""

    def __init__(self, spec: Total, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.spec = spec
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)

    def step(self, *sources: F32) -> None:
        np.add(sources[0], sources[1], out=self.out)
        for source in sources[2:]:
            self.out += source


# ------------------------------------------------------------------ neurons on sums


class OnSumsRun(LayerRun):
    """What layers on raw sums share: parameters spread over all neurons, a membrane, and what is read of it."""

    def __init__(
        self, spec: OnSums, tensors: Mapping[str, AnyArray], batch: tuple[int, ...], whole: type[np.int32 | np.int64]
    ) -> None:
        self.spec = spec
        self._tensors, self._batch, self._whole = tensors, batch, whole
        self._shift = spec.fraction - spec.weight_exponent
        self._bias = self._parameter("bias")
        self.v, self._drive = self._zeros(), self._zeros()
        self.out: F32 = np.zeros(self.v.shape, np.float32)

    def _zeros(self) -> AnyArray:
        return np.zeros((*self._batch, self.spec.outputs), self._whole)

    def _parameter(self, part: str) -> AnyArray:
        values = self.spec.tensor(self._tensors, part).astype(self._whole)
        return np.tile(values, self.spec.outputs // len(values))

    def _take(self, sums: F32) -> None:
        """What the sums drive, bias included."""
        spiking.scale_sums(self._drive, sums, self._shift)
        self._drive += self._bias

    def reset(self) -> None:
        for array in self.state().values():
            array[...] = np.zeros((), array.dtype)
        self.resume()


class NeuronsRun(OnSumsRun):
    """What spiking neurons on raw sums share: resets that are due, spikes, inhibition and what is read.

    The reset follows the membrane, not the spikes: a neuron above its threshold that inhibition kept silent is reset
    too, as in snnTorch.
    """

    spec: Neurons

    def __init__(
        self, spec: Neurons, tensors: Mapping[str, AnyArray], batch: tuple[int, ...], whole: type[np.int32 | np.int64]
    ) -> None:
        super().__init__(spec, tensors, batch, whole)
        self._threshold = self._parameter("threshold")
        self.counts, self.margin, self._back, self._spikes, self._over = (self._zeros() for _ in range(5))
        self.fired, self._above = (np.zeros(self.v.shape, np.bool_) for _ in range(2))
        self._gathered = Gathered(spec.reading, self.v, spiking.I16_MIN)
        if spec.inhibition:
            self._winner: Places = np.zeros((*batch, 1), np.intp)
            self._order: I64 = np.arange(spec.outputs)
            self._mask: Bool = np.zeros(self.v.shape, np.bool_)

    def _begin(self, sums: F32) -> None:
        """Which neurons are due for a reset, and what the sums drive."""
        np.greater_equal(self.v, self._threshold, out=self._above)
        np.copyto(self._over, self._above)
        self._take(sums)

    def _fire(self) -> None:
        """Compare the membrane, silence all but one where the layer asks for it."""
        spiking.fire(self.fired, self.margin, self.v, self._threshold)
        if self.spec.inhibition:
            spiking.leave_one(self.fired, self.margin, self._winner, self._order, self._mask)
        np.copyto(self._spikes, self.fired)

    def _tell(self) -> None:
        """Hand over the spikes and note what will be read."""
        np.copyto(self.out, self.fired)
        self.counts += self._spikes
        self._gathered.see()

    def _clear(self, where: Bool, *arrays: AnyArray) -> None:
        for array in arrays:
            np.copyto(array, 0, where=where)

    def reset(self) -> None:
        super().reset()
        self._gathered.reset()

    def resume(self) -> None:
        np.copyto(self.out, self.fired)
        np.copyto(self._spikes, self.fired)

    def state(self) -> Tensors:
        arrays: Tensors = {"v": self.v, "fired": self.fired, "counts": self.counts}
        return arrays | self._gathered.state()

    def reading(self) -> I64:
        """Spike counts of the window, or its membranes in Q3.12."""
        return self.counts.astype(np.int64) if self.spec.reading == "counts" else self._gathered.reading()


class CellsRun(NeuronsRun):
    """Leaky integrate-and-fire neurons on raw sums. With a synaptic current everything is held in int64."""

    spec: Cells

    def __init__(self, spec: Cells, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch, np.int64 if spec.synaptic else np.int32)
        self._decay = self._parameter("decay")
        self.carry = self._zeros()
        if spec.synaptic:
            self._alpha = self._parameter("alpha")
            self.current, self.current_carry, self._part = (self._zeros() for _ in range(3))
        if spec.recurrence == "diagonal":
            self._own = self._parameter("recurrent")
        if spec.recurrence == "dense":
            self._weights = tensors[f"{spec.name}.recurrent"].astype(np.float32)
            self._product: F32 = np.zeros(self.v.shape, np.float32)
            self._back_shift = spec.fraction - spec.recurrent_exponent

    def step(self, *sources: F32) -> None:
        spec = self.spec
        self._begin(sources[0])
        self._recur()
        if spec.reset == "zero":
            self._clear(self._above, self.v, self.carry)
        self._leak()
        if spec.reset == "hold":
            self._clear(self._above, self.v, self.carry)
        self._fire()
        if not spec.reset_delay:
            self._reset_now()
        self._tell()

    def _recur(self) -> None:
        """Add what the spikes of the step before bring back."""
        if self.spec.recurrence == "diagonal":
            np.multiply(self._own, self._spikes, out=self._back)
            self._drive += self._back
        elif self.spec.recurrence == "dense":
            np.dot(self.out, self._weights, out=self._product)
            spiking.scale_sums(self._back, self._product, self._back_shift)
            self._drive += self._back

    def _leak(self) -> None:
        """The membrane, through the synaptic current where there is one, less the threshold where that is the reset."""
        drive = self._drive
        if self.spec.synaptic:
            spiking.integrate(self.current, self.current_carry, self._alpha, drive)
            np.copyto(drive, self.current)
        if self.spec.reset == "subtract":
            np.multiply(self._threshold, self._over, out=self._back)
            self._back <<= self.spec.fraction - COARSE
            drive -= self._back
        if self.spec.synaptic:
            spiking.leak_fine(self.v, self.carry, self._decay, drive, self._part)
        else:
            spiking.leak(self.v, self.carry, self._decay, drive)

    def _reset_now(self) -> None:
        """Reset in the spike's own step; what the step's beginning has already taken is given back."""
        if self.spec.reset == "soft":
            np.multiply(self._spikes, self._threshold, out=self._back)
            self.v -= self._back
        elif self.spec.reset == "subtract":
            np.subtract(self._spikes, self._over, out=self._back)
            self._back *= self._threshold
            self.v -= self._back
            np.minimum(self.v, spiking.I16_MAX, out=self.v)  # of a neuron that inhibition silenced at its rail
        elif self.spec.reset != "none":
            self._clear(self.fired, self.v, self.carry)

    def state(self) -> Tensors:
        arrays = super().state() | {"carry": self.carry}
        if self.spec.synaptic:
            arrays |= {"current": self.current, "current_carry": self.current_carry}
        return arrays


class AlphaCellsRun(NeuronsRun):
    """Neurons behind an alpha-function synapse."""

    spec: AlphaCells

    def __init__(self, spec: AlphaCells, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch, np.int64)
        self._alpha, self._beta, self._tau = (self._parameter(part) for part in ("alpha", "beta", "tau"))
        self.excitatory, self.excitatory_carry, self.inhibitory, self.inhibitory_carry, self._before = (
            self._zeros() for _ in range(5)
        )

    def step(self, *sources: F32) -> None:
        spec = self.spec
        self._begin(sources[0])
        np.copyto(self._before, self.inhibitory)
        spiking.integrate(self.excitatory, self.excitatory_carry, self._alpha, self._drive)
        np.negative(self._drive, out=self._drive)
        spiking.integrate(self.inhibitory, self.inhibitory_carry, self._beta, self._drive)
        spiking.difference(self.v, self.excitatory, self.inhibitory, self._tau)
        if spec.reset == "hold":
            self._clear(self._above, self.v, *self._currents())
        elif spec.reset == "subtract":
            self._subtract()
        self._fire()
        self._tell()

    def _currents(self) -> tuple[AnyArray, ...]:
        return self.excitatory, self.excitatory_carry, self.inhibitory, self.inhibitory_carry

    def _subtract(self) -> None:
        """E loses the threshold, N is cleared and v gains what N was before the step: snnTorch's subtraction."""
        np.multiply(self._threshold, self._over, out=self._back)
        self._back <<= FINE - COARSE
        self.excitatory -= self._back
        np.maximum(self.excitatory, spiking.I32_MIN, out=self.excitatory)
        self._clear(self._above, self.inhibitory, self.inhibitory_carry)
        np.multiply(self._before, self._over, out=self._back)
        self._back >>= FINE - COARSE
        self.v += self._back
        np.maximum(self.v, spiking.I16_MIN, out=self.v)
        np.minimum(self.v, spiking.I16_MAX, out=self.v)

    def state(self) -> Tensors:
        names = ("excitatory", "excitatory_carry", "inhibitory", "inhibitory_carry")
        return super().state() | dict(zip(names, self._currents(), strict=True))


class IntegratorsRun(OnSumsRun):
    """Leaky integrators on raw sums; `v` (..., n) int64 in Q7.24, `out` the sums, since no layer can read 32 bits."""

    spec: Integrators

    def __init__(self, spec: Integrators, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        super().__init__(spec, tensors, batch, np.int64)
        self._decay, self.carry = self._parameter("decay"), self._zeros()
        self._gathered = Gathered(spec.reading, self.v, spiking.I32_MIN)
        if spec.synaptic:
            self._alpha = self._parameter("alpha")
            self.current, self.current_carry = self._zeros(), self._zeros()

    def step(self, *sources: F32) -> None:
        np.copyto(self.out, sources[0])
        self._take(sources[0])
        drive = self._drive
        if self.spec.synaptic:
            spiking.integrate(self.current, self.current_carry, self._alpha, drive)
            drive = self.current
        spiking.integrate(self.v, self.carry, self._decay, drive)
        self._gathered.see()

    def reset(self) -> None:
        super().reset()
        self._gathered.reset()

    def state(self) -> Tensors:
        arrays: Tensors = {"v": self.v, "carry": self.carry}
        if self.spec.synaptic:
            arrays |= {"current": self.current, "current_carry": self.current_carry}
        return arrays | self._gathered.state()

    def reading(self) -> I64:
        """Q7.24: the newest value, the largest of the window, or its mean, rounded down."""
        return self._gathered.reading()


# ------------------------------------------------------------------ gated neurons


class SLstmRun(LstmRun):
    """An LSTM layer whose hidden values are membranes that spike. `spec` is that of its gates and its cell."""

    def __init__(self, spec: SLstm, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        shape = (*batch, spec.outputs)
        self.fired: Bool = np.zeros(shape, np.bool_)
        self.counts, self._spikes, self._margin, self._taken = (np.zeros(shape, np.int64) for _ in range(4))
        self._threshold = spec.tensor(tensors, "threshold").astype(np.int64)
        self._kind, self._map = spec.reset, to_int8_of(spec.lstm)
        super().__init__(spec.lstm, tensors, batch)
        self._given = self.fired

    def _release(self) -> None:
        """Reset what spiked in the step before, compare, and let the membranes go back as hidden values."""
        if self._kind == "subtract":
            np.multiply(self._threshold, self._spikes, out=self._taken)
            self._g -= self._taken
        elif self._kind != "none":
            np.copyto(self._g, 0, where=self.fired)
        spiking.fire(self.fired, self._margin, self._g, self._threshold)
        np.copyto(self._spikes, self.fired)
        self.counts += self._spikes
        recurrent.to_int8(self.hidden, self._g, *self._map)
        LstmRun.resume(self)

    def reset(self) -> None:
        self.fired[...] = False
        self.counts[...] = 0
        self._silence()

    def resume(self) -> None:
        super().resume()
        np.copyto(self._spikes, self.fired)
        np.copyto(self.out, self.fired)

    def state(self) -> Tensors:
        return super().state() | {"fired": self.fired, "counts": self.counts}

    def reading(self) -> I64:
        """Spike counts of the window."""
        return self.counts.copy()
