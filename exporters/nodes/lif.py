"""A dense synapse with its neurons in one layer, float and quantised: the layers that e-prop teaches.

Steps follow snnTorch 1.0 operation by operation in float32, so spikes are equal, not close (Eshraghian et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from edgerun.arrays import F32, F64, Tensors
from edgerun.layers import LayerRecord, Lif, Readout
from edgerun.packing import top
from exporters.nodes.base import Affine, Matrix, Quantised, Range, State, StatefulLayer
from exporters.nodes.fixed import DRIVE_LIMIT, Q12, Q24, decays, fixed, power_of_two, pre_major, rounded
from exporters.nodes.spiking import READOUT_REACH, Reset, above_zero, after_input, after_spikes, note_reach

LIFT_MAX = 12  # what a layer record holds
TAUGHT_ROOM = 2.0  # times as large as now, what weights of such a readout may become
TAUGHT_REACH = 2.0  # of values that are taught, where Q3.12 ends at 8 and an error at 1


@dataclass(frozen=True, slots=True)
class FloatLif(Matrix, StatefulLayer):
    """Leaky integrate-and-fire: r = [U > threshold]; U <- beta U + W x + V s + b, less the reset; s = [U > threshold].

    weight (n, in), recurrent (n, n) or None, bias (n,), beta (n,), threshold (n,).
    `reset_delay`: the reset acts in the step after the spike; otherwise at the end of the spike's own step.
    """

    weight: F32
    recurrent: F32 | None
    bias: F32
    beta: F32
    threshold: F32
    reset: Reset = "zero"
    reset_delay: bool = False
    bits: int = 8  # of an integer weight, 2 to 8

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Lif,)

    def start(self, batch: int) -> State:
        """mem, spikes, counts (N, n); reach (2,): the lowest and the highest U / threshold so far."""
        zeros = np.zeros((batch, self.outputs), np.float32)
        return {"mem": zeros, "spikes": zeros, "counts": zeros, "reach": np.zeros(2, np.float32)}

    def step(self, state: State, *sources: F32) -> F32:
        mem = state["mem"]
        reset = (mem > self.threshold).astype(np.float32)
        if self.reset == "zero":
            mem = (1 - reset) * mem
        mem = self.beta * mem + (sources[0] @ self.weight.T + self.bias)
        if self.recurrent is not None:
            mem = mem + state["spikes"] @ self.recurrent.T
        mem = after_input(mem, reset, self.reset, self.threshold)
        note_reach(state, mem, self.threshold)
        spikes = (mem > self.threshold).astype(np.float32)
        if not self.reset_delay:
            mem = after_spikes(mem, spikes - reset, self.reset, self.threshold)
        state["mem"], state["spikes"], state["counts"] = mem, spikes, state["counts"] + spikes
        return spikes

    def reading(self, state: State, out: F32) -> F32:
        """Spike counts of the window."""
        return state["counts"]

    def units(self) -> F64:
        """(n,)  what a membrane of 4096 stands for: the threshold; where all are zero, a part of the largest drive."""
        if above_zero(self.name, self.threshold):
            return self.threshold.astype(np.float64)
        drive = np.abs(self.weight).sum(axis=1) + np.abs(self.bias)
        return np.full(self.outputs, float(drive.max()) / 4 or 1.0)

    def exponents(self, scale: float) -> tuple[int, int]:
        """f of the input's weights and of the recurrent ones, whose spikes count 2**(their difference).

        One for both where spikes come in. Values of another scale would share it badly: they have their own, from 0 to
        12 above that of the recurrent weights.
        """
        parts = self.folded(scale)
        if len(parts) == 1 or scale == 1:
            shared = power_of_two(parts, self.bits)[0]
            return shared, shared
        own, back = (power_of_two([part], self.bits)[0] for part in parts)
        own = min(own, back + LIFT_MAX)
        return own, min(own, back)

    def folded(self, scale: float) -> list[F64]:
        """The weights that are rounded: the input's times its scale, the recurrent ones, both over the threshold."""
        per_threshold = self.units()[:, None]
        parts = [self.weight * scale / per_threshold]
        return parts if self.recurrent is None else [*parts, self.recurrent / per_threshold]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Weights and bias divided by each neuron's threshold, which becomes 4096.

        The input's scale is folded into its weights, its zero point into the bias. Where all thresholds are zero, the
        smallest membrane above zero spikes, and a step's largest drive becomes four.
        """
        x, name = sources[0], self.name
        own, back = self.exponents(x.scale)
        parts = [*zip(self.folded(x.scale), (own, back), strict=False)]
        integers = [rounded(part, exponent, self.bits) for part, exponent in parts]
        over = np.concatenate([np.abs(np.rint(part * 2.0**f)).reshape(-1) > top(self.bits) for part, f in parts])
        offset = x.zero_point * 2.0**-own * integers[0].sum(axis=1)
        tensors: Tensors = {
            f"{name}.input": pre_major(integers[0]),
            f"{name}.bias": fixed(name, self.bias / self.units() - offset, Q12),
            f"{name}.decay": decays(name, self.beta),
        }
        if self.recurrent is not None:
            tensors[f"{name}.recurrent"] = pre_major(integers[1])
        layer = Lif(
            name=name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=self.outputs,
            weight_exponent=own,
            recurrent=self.recurrent is not None,
            recurrent_shift=own - back,
            threshold=Q12 if self.threshold.any() else 1,
            reset="subtract" if self.reset == "soft" else self.reset,
            reset_delay=self.reset_delay,
        )
        return (Quantised(layer, tensors, Affine(1.0, 0), float(over.mean())),)


@dataclass(frozen=True, slots=True)
class FloatReadout(Matrix, StatefulLayer):
    """Leaky integrators without spikes: y <- kappa y + W s + b. weight (n, in), bias (n,), kappa (n,)."""

    weight: F32
    bias: F32
    kappa: F32
    bits: int = 8  # of an integer weight, 2 to 8
    inner_rate: float | None = None  # what meta-training found for one step of its weights, in real units
    inner_sharpness: float = 1.0  # by which its logits count more when it learns than when it answers
    taught: float = 0.0  # the largest value that it is to be taught; 0: it learns none

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Readout,)

    def start(self, batch: int) -> State:
        return {"y": np.zeros((batch, self.outputs), np.float32)}

    def step(self, state: State, *sources: F32) -> F32:
        state["y"] = self.kappa * state["y"] + (sources[0] @ self.weight.T + self.bias)
        return state["y"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """One exponent; the whole layer is halved until what was seen stays under 64 and its drive fits Q7.24.

        Halving all logits alike moves no decision; the output's scale says by how much. Where values are taught, it is
        halved or doubled until they stay under 2 and come close: errors end at 1, and targets at 8.
        """
        x = sources[0]
        weight = self.weight.astype(np.float64) * x.scale
        bias = self.bias - x.zero_point * weight.sum(axis=1)
        halvings = max(0, int(np.ceil(np.log2(reach.most / READOUT_REACH)))) if reach.most > 0 else 0
        if self.taught:
            halvings = int(np.ceil(np.log2(max(self.taught, reach.most) / TAUGHT_REACH)))
        while np.any((np.abs(weight).sum(axis=1) + np.abs(bias)) * 2.0**-halvings * Q24 >= 0.99 * DRIVE_LIMIT):
            halvings += 1
        shrink = 2.0**-halvings
        room = TAUGHT_ROOM if self.taught else 1.0
        exponent, (integers, _), clipped = power_of_two([weight * shrink, room * weight * shrink], self.bits)
        name = self.name
        offset = x.zero_point * 2.0**-exponent * integers.sum(axis=1)
        layer = Readout(
            name=name, sources=self.sources, inputs=weight.shape[1], outputs=self.outputs, weight_exponent=exponent
        )
        tensors: Tensors = {
            f"{name}.input": pre_major(integers),
            f"{name}.bias": fixed(name, self.bias * shrink - offset, Q24),
            f"{name}.kappa": decays(name, self.kappa),
        }
        return (Quantised(layer, tensors, Affine(1 / (Q24 * shrink), 0), clipped),)
