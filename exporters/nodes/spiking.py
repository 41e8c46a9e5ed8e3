"""Spiking neurons and leaky integrators on raw sums, and gated ones, float and quantised.

Steps follow snnTorch 1.0 operation by operation in float32, so spikes are equal, not close (Eshraghian et al. 2023).

A dense synapse with plain neurons is one layer, `FloatLif` in `lif`. Everything else is synapses that give sums
(`synapses`) and neurons that take them (`FloatCells`, `FloatAlphaCells`, `FloatIntegrators`); an SLSTM has gates of its
own (`FloatSLstm`). Membranes and thresholds are told in a power of two near the layer's largest threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Final, Literal, TypeAlias, cast

import numpy as np

from edgerun.arrays import F32, I16, I32, Tensors
from edgerun.errors import ModelError
from edgerun.layers import AlphaCells, Cells, Integrators, LayerRecord, Lstm, SLstm
from edgerun.layers.spiking import NEVER, CellReset, Reading
from exporters.nodes.base import Affine, Quantised, Range, State, StatefulLayer
from exporters.nodes.fixed import DRIVE_LIMIT, Q12, Q24, decays, fixed, power_of_two, pre_major
from exporters.nodes.recurrent import FloatLstm
from exporters.nodes.synapses import Sums

READOUT_REACH: Final = 64.0  # half of what Q7.24 holds: the rest is room for learning
SUM_EXPONENT_MAX: Final = 40
NEAR: Final = 1e-6  # of a power of two: what float64 products leave over

Reset: TypeAlias = CellReset


# ------------------------------------------------------------------ neurons on sums


@dataclass(frozen=True, slots=True)
class OnSums(StatefulLayer):
    """What layers driven by sums share. Parameters are (n,), or (channels,) for all places of a channel.

    cells  (..., channels)  the shape of the layer     bias  added to the sums
    """

    cells: tuple[int, ...]
    bias: F32

    @property
    def widths(self) -> tuple[int, ...]:
        return (math.prod(self.cells),)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.cells

    @property
    def shared(self) -> bool:
        return len(self.bias) != self.outputs

    def spread(self, parameter: F32) -> F32:
        """(n,) from (n,) or (channels,)."""
        return np.tile(parameter, self.outputs // len(parameter))

    def exponent(self, x: Affine, unit: float) -> int:
        """f of real = sum * 2**-f, in units of the membrane. Raises ModelError where the scale is no power of two."""
        found = math.log2(unit / x.scale)
        if abs(found - round(found)) > NEAR or not 0 <= round(found) <= SUM_EXPONENT_MAX:
            raise ModelError(f"layer {self.name}: a sum stands for {x.scale / unit:g}, must be 2**-f, f in [0, 40]")
        return round(found)

    def whole(self, parameter: F32, unit: float, fraction: int) -> I32:
        return fixed(self.name, parameter.astype(np.float64) / unit, 1 << fraction)


@dataclass(frozen=True, slots=True)
class Firing(OnSums):
    """What spiking neurons on sums share.    threshold  as the bias"""

    threshold: F32
    reset: Reset = "subtract"
    inhibition: bool = False
    reading_of: Literal["counts", "last", "max", "mean"] = "counts"

    def begin(self, batch: int, *names: str) -> State:
        """counts and the named arrays (N, n); reach (2,): the lowest and the highest U / threshold so far."""
        zeros = np.zeros((batch, self.outputs), np.float32)
        state = {name: zeros for name in ("mem", "spikes", "counts", "total", *names)}
        return state | {
            "peak": np.full_like(zeros, -np.inf), "steps": np.zeros(1, np.float32), "reach": np.zeros(2, np.float32)
        }  # fmt: skip

    def fired(self, mem: F32) -> F32:
        over = mem - self.spread(self.threshold)
        spikes = (over > 0).astype(np.float32)
        if not self.inhibition:
            return spikes
        return np.where(np.arange(self.outputs) == over.argmax(axis=1)[:, None], spikes, np.float32(0))

    def end(self, state: State, mem: F32, spikes: F32) -> F32:
        state["mem"], state["spikes"], state["counts"] = mem, spikes, state["counts"] + spikes
        gather(state, mem)
        return spikes

    def reading(self, state: State, out: F32) -> F32:
        return state["counts"] if self.reading_of == "counts" else gathered(state, state["mem"], self.reading_of)

    def unit(self, x: Affine) -> float:
        """What a membrane of 1.0 stands for: the power of two nearest to the largest threshold; where all thresholds
        are zero, 4096 units of the sums."""
        if above_zero(self.name, self.threshold):
            return float(2.0 ** round(math.log2(float(self.threshold.max()))))
        return x.scale * Q12

    def thresholds(self, unit: float) -> I16:
        found = np.rint(self.threshold.astype(np.float64) / unit * Q12)
        return np.maximum(found, 1).astype(np.int16)

    def finish(self, layer: Cells | AlphaCells, parts: Tensors, unit: float, clipped: float) -> tuple[Quantised, ...]:
        if self.inhibition and len(set(self.threshold.tolist())) > 1:
            raise ModelError(f"layer {self.name}: inhibition needs one threshold for all neurons")
        tensors = {f"{self.name}.{part}": array for part, array in parts.items()}
        output = Affine(1.0, 0) if self.reading_of == "counts" else Affine(unit / Q12, 0)
        return (Quantised(layer, tensors, output, clipped),)


@dataclass(frozen=True, slots=True)
class FloatCells(Firing):
    """Leaky integrate-and-fire neurons on sums: U <- beta U + I + V s + b, less the reset; s = [U > threshold].

    With `alpha` there is a synaptic current: A <- alpha A + I + V s + b; U <- beta U + A.

    beta, alpha  as the bias     recurrent  V: (n,) or (channels,) onto the same neuron, or (n, n)
    """

    beta: F32 = field(kw_only=True)
    alpha: F32 | None = None
    recurrent: F32 | None = None
    reset_delay: bool = True
    bits: int = 8  # of an integer weight of a dense recurrence, 2 to 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Cells,)

    def start(self, batch: int) -> State:
        return self.begin(batch, "syn")

    def step(self, state: State, *sources: F32) -> F32:
        threshold, mem = self.spread(self.threshold), state["mem"]
        reset = (mem > threshold).astype(np.float32)
        drive = sources[0] + self.spread(self.bias)
        if self.reset == "zero":
            mem = (1 - reset) * mem
        if self.alpha is None:
            mem = self.back(self.spread(self.beta) * mem + drive, state)
        else:
            state["syn"] = self.back(self.spread(self.alpha) * state["syn"] + drive, state)
            mem = self.spread(self.beta) * mem + state["syn"]
        mem = after_input(mem, reset, self.reset, threshold)
        note_reach(state, mem, threshold)
        spikes = self.fired(mem)
        if not self.reset_delay:
            mem = after_spikes(mem, spikes - reset, self.reset, threshold)
        return self.end(state, mem, spikes)

    def back(self, total: F32, state: State) -> F32:
        """What the spikes of the step before add."""
        if self.recurrent is None:
            return total
        if self.recurrent.ndim == 2:
            return total + state["spikes"] @ self.recurrent.T
        return total + state["spikes"] * self.spread(self.recurrent)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        unit, fraction = self.unit(sources[0]), 12 if self.alpha is None else 24
        parts: Tensors = {
            "bias": self.whole(self.bias, unit, fraction),
            "decay": decays(self.name, self.beta),
            "threshold": self.thresholds(unit),
        }
        if self.alpha is not None:
            parts["alpha"] = decays(self.name, self.alpha)
        recurrence: Literal["none", "diagonal", "dense"] = "none"
        back, clipped = 0, 0.0
        if self.recurrent is not None and self.recurrent.ndim == 2:
            back, (integers,), clipped = power_of_two([self.recurrent.astype(np.float64) / unit], self.bits)
            parts["recurrent"], recurrence = pre_major(integers), "dense"
        elif self.recurrent is not None:
            parts["recurrent"], recurrence = self.whole(self.recurrent, unit, fraction), "diagonal"
        layer = Cells(
            name=self.name,
            sources=self.sources,
            shape=self.cells,
            weight_exponent=self.exponent(sources[0], unit),
            shared=self.shared,
            synaptic=self.alpha is not None,
            recurrence=recurrence,
            recurrent_exponent=back,
            reset=self.reset,
            reset_delay=self.reset_delay,
            inhibition=self.inhibition,
            reading=self.reading_of,
        )
        return self.finish(layer, parts, unit, clipped)


@dataclass(frozen=True, slots=True)
class FloatAlphaCells(Firing):
    """Neurons behind an alpha-function synapse: E <- alpha E + I; N <- beta N - I; U = tau (E + N).

    tau = ln(alpha) / (ln(beta) - ln(alpha)) + 1; alpha > beta, as the bias. The reset acts in the next step: `hold`
    clears E, N and U (snnTorch's "zero"), `subtract` takes the threshold from E, clears N and adds its old value to U.
    """

    alpha: F32 = field(kw_only=True)
    beta: F32 = field(kw_only=True)

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (AlphaCells,)

    @property
    def tau(self) -> F32:
        a, b = np.log(self.alpha), np.log(self.beta)
        return np.asarray(a / (b - a) + 1, np.float32)

    def start(self, batch: int) -> State:
        return self.begin(batch, "excitatory", "inhibitory")

    def step(self, state: State, *sources: F32) -> F32:
        threshold = self.spread(self.threshold)
        reset = (state["mem"] > threshold).astype(np.float32)
        drive = sources[0] + self.spread(self.bias)
        before = state["inhibitory"]
        excitatory = self.spread(self.alpha) * state["excitatory"] + drive
        inhibitory = self.spread(self.beta) * before - drive
        mem = self.spread(self.tau) * (excitatory + inhibitory)
        if self.reset == "hold":
            excitatory, inhibitory, mem = ((1 - reset) * x for x in (excitatory, inhibitory, mem))
        elif self.reset == "subtract":
            excitatory = excitatory - threshold * reset
            inhibitory = inhibitory - inhibitory * reset
            mem = mem + before * reset
        note_reach(state, mem, threshold)
        state["excitatory"], state["inhibitory"] = excitatory, inhibitory
        return self.end(state, mem, self.fired(mem))

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        if not (self.beta.min() > 0 and (self.beta < self.alpha).all() and self.alpha.max() < 1):
            raise ModelError(f"layer {self.name}: alpha must be above beta, both inside (0, 1)")
        tau = np.rint(self.tau.astype(np.float64) * (1 << 16))
        if tau.max() > 1 << 24:
            raise ModelError(f"layer {self.name}: tau {self.tau.max():g} is above 256: alpha and beta are too near")
        unit = self.unit(sources[0])
        parts: Tensors = {
            "bias": self.whole(self.bias, unit, 24),
            "alpha": decays(self.name, self.alpha),
            "beta": decays(self.name, self.beta),
            "tau": tau.astype(np.int32),
            "threshold": self.thresholds(unit),
        }
        layer = AlphaCells(
            name=self.name,
            sources=self.sources,
            shape=self.cells,
            weight_exponent=self.exponent(sources[0], unit),
            shared=self.shared,
            reset=self.reset,
            inhibition=self.inhibition,
            reading=self.reading_of,
        )
        return self.finish(layer, parts, unit, 0.0)


@dataclass(frozen=True, slots=True)
class FloatIntegrators(OnSums):
    """Leaky integrators on sums: U <- beta U + I + b; with `alpha`, A <- alpha A + I + b; U <- beta U + A.

    reading_of  what a head reads: the last value, the largest of the window, or the mean
    """

    beta: F32
    alpha: F32 | None = None
    reading_of: Reading = "last"

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Integrators,)

    def start(self, batch: int) -> State:
        zeros = np.zeros((batch, self.outputs), np.float32)
        return {"mem": zeros, "syn": zeros, "total": zeros, "peak": zeros - np.inf, "steps": np.zeros(1, np.float32)}

    def step(self, state: State, *sources: F32) -> F32:
        drive = sources[0] + self.spread(self.bias)
        if self.alpha is not None:
            drive = state["syn"] = self.spread(self.alpha) * state["syn"] + drive
        state["mem"] = self.spread(self.beta) * state["mem"] + drive
        gather(state, state["mem"])
        return state["mem"]

    def reading(self, state: State, out: F32) -> F32:
        return gathered(state, state["mem"], self.reading_of)

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Told in a power of two that keeps what was seen under 64 and the largest drive inside Q7.24."""
        x = sources[0]
        bound = (x.bound if isinstance(x, Sums) else 1) * x.scale + float(np.abs(self.bias).max())
        most = max(reach.most / READOUT_REACH, bound * Q24 / (0.99 * DRIVE_LIMIT))
        unit = 2.0 ** math.ceil(math.log2(most)) if most > 0 else 1.0
        parts: Tensors = {"bias": self.whole(self.bias, unit, 24), "decay": decays(self.name, self.beta)}
        if self.alpha is not None:
            parts["alpha"] = decays(self.name, self.alpha)
        layer = Integrators(
            name=self.name,
            sources=self.sources,
            shape=self.cells,
            weight_exponent=self.exponent(x, unit),
            shared=self.shared,
            synaptic=self.alpha is not None,
            reading=self.reading_of,
        )
        tensors = {f"{self.name}.{part}": array for part, array in parts.items()}
        return (Quantised(layer, tensors, Affine(unit / Q24, 0)),)


# ------------------------------------------------------------------ gated neurons


@dataclass(frozen=True, slots=True)
class FloatSLstm(StatefulLayer):
    """Long short-term memory whose hidden values are membranes (snnTorch's `SLSTM`), gates i, f, g, o:

        r = [U > threshold];    i, f, o = sigmoid(W x + R U + b);    g = tanh(W x + R U + b)
        A <- f * A + i * g;     U <- o * tanh(A), less the reset;    s = [U > threshold]

    weight (4 n, in), recurrent R (4 n, n), bias (4 n,) the sum of PyTorch's two, threshold (n,) >= 0.

    reset  "none", "subtract", or "hold", which is snnTorch's "zero": U = 0 in the step after a spike. A is never reset.
    bits   of an integer weight, 2 to 8
    """

    weight: F32
    recurrent: F32
    bias: F32
    threshold: F32
    reset: Literal["none", "subtract", "hold"] = "none"
    bits: int = 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (SLstm,)

    @property
    def lstm(self) -> FloatLstm:
        """Its gates and its cell, one step a call. The map of its hidden values covers what a reset leaves of them."""
        deepest = min(1.0, float(self.threshold.max())) if self.reset == "subtract" else 0.0
        hidden = Range(-1.0 - deepest, 1.0).affine() if deepest else None
        return FloatLstm(self.name, 1, self.weight, self.recurrent, self.bias, bits=self.bits, output=hidden)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.threshold),)

    def start(self, batch: int) -> State:
        """hidden (the membranes), cell, counts (N, n); reach (2,): the lowest and the highest U / threshold so far."""
        zeros = np.zeros((batch, self.outputs), np.float32)
        return self.lstm.start(batch) | {"counts": zeros, "reach": np.zeros(2, np.float32)}

    def step(self, state: State, *sources: F32) -> F32:
        due = (state["hidden"] > self.threshold).astype(np.float32)
        mem = after_input(self.lstm.step(state, *sources), due, self.reset, self.threshold)
        note_reach(state, mem, self.threshold)
        spikes = (mem > self.threshold).astype(np.float32)
        state["hidden"], state["counts"] = mem, state["counts"] + spikes
        return spikes

    def reading(self, state: State, out: F32) -> F32:
        """Spike counts of the window."""
        return state["counts"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The integers of its LSTM, and thresholds in Q0.15; from 1 on a membrane never comes to them."""
        if self.threshold.min() < 0:
            raise ModelError(f"layer {self.name}: threshold {self.threshold.min():g} is below 0")
        (found,) = self.lstm.quantise(sources, reach)
        inner = cast(Lstm, found.layer)
        layer = SLstm(
            name=self.name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=self.outputs,
            reset=self.reset,
            hidden_map=inner.hidden_map,
            cell_exponent=inner.cell_exponent,
        )
        threshold = np.clip(np.rint(self.threshold.astype(np.float64) * NEVER), 1, NEVER).astype(np.uint16)
        tensors = found.tensors | {f"{self.name}.threshold": threshold}
        return (Quantised(layer, tensors, Affine(1.0, 0), found.clipped),)


# ------------------------------------------------------------------ parts that they share


def after_input(mem: F32, reset: F32, kind: Reset, threshold: F32) -> F32:
    """The membrane after leak and input, with the reset that was due at the step's beginning."""
    match kind:
        case "subtract":
            return mem - reset * threshold
        case "hold":
            return (1 - reset) * mem
    return mem


def after_spikes(mem: F32, due: F32, kind: Reset, threshold: F32) -> F32:
    """A reset in the spike's own step; snnTorch gives back what the step's beginning has already taken.

    "soft" is the reset of NIR's own equations: the threshold is taken once for each spike, and nothing before.
    """
    match kind:
        case "soft":
            return mem - cast(F32, (mem > threshold) * threshold)
        case "subtract":
            return mem - due * threshold
        case "zero" | "hold":
            return mem - due * mem
    return mem


def note_reach(state: State, mem: F32, threshold: F32) -> None:
    relative = mem / np.where(threshold > 0, threshold, 1)
    low, high = state["reach"]
    state["reach"] = np.array([min(low, relative.min()), max(high, relative.max())], np.float32)


def gather(state: State, mem: F32) -> None:
    """What may be read of a window: the largest membrane and the sum of all."""
    state["peak"] = np.maximum(state["peak"], mem)
    state["total"], state["steps"] = state["total"] + mem, state["steps"] + 1


def gathered(state: State, mem: F32, reading: str) -> F32:
    match reading:
        case "max":
            return state["peak"]
        case "mean":
            return state["total"] / state["steps"]
    return mem


def above_zero(name: str, threshold: F32) -> bool:
    """Whether thresholds are above zero; all of them may be zero. Raises ModelError for anything else."""
    if (threshold > 0).all():
        return True
    if threshold.any():
        raise ModelError(f"layer {name}: thresholds reach down to {threshold.min():g}; all above 0, or all 0")
    return False
