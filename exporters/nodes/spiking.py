"""Spiking neurons and leaky readouts, float and quantised.

Steps follow snnTorch 1.0 operation by operation in float32, so spikes are equal, not close (Eshraghian et al. 2023).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, I8, I32, U16, Tensors
from edgerun.errors import ModelError
from edgerun.layers import LayerRecord, Lif, Readout
from exporters.nodes.base import Affine, Quantised, Range, State, StatefulLayer

Reset: TypeAlias = Literal["subtract", "zero", "none"]

WEIGHT_TOP: Final = 127
DRIVE_LIMIT: Final = 1 << 30
EXPONENT_MAX: Final = 20
READOUT_REACH: Final = 64.0  # half of what Q7.24 holds: the rest is room for learning
Q12: Final = 1 << 12
Q15: Final = 1 << 15
Q24: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class FloatLif(StatefulLayer):
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

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Lif,)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.weight),)

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
        if self.reset == "subtract":
            mem = mem - reset * self.threshold
        relative = mem / self.threshold
        low, high = state["reach"]
        state["reach"] = np.array([min(low, relative.min()), max(high, relative.max())], np.float32)
        spikes = (mem > self.threshold).astype(np.float32)
        if not self.reset_delay:
            due = spikes - reset  # snnTorch: what the step's beginning has already taken is given back
            if self.reset == "subtract":
                mem = mem - due * self.threshold
            elif self.reset == "zero":
                mem = mem - due * mem
        state["mem"], state["spikes"], state["counts"] = mem, spikes, state["counts"] + spikes
        return spikes

    def reading(self, state: State, out: F32) -> F32:
        """Spike counts of the window."""
        return state["counts"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """Weights and bias divided by each neuron's threshold, which becomes 4096; one weight exponent for the layer.

        The input's scale is folded into its weights, its zero point into the bias.
        """
        x, per_threshold = sources[0], self.threshold.astype(np.float64)[:, None]
        parts = [self.weight * x.scale / per_threshold]
        if self.recurrent is not None:
            parts.append(self.recurrent / per_threshold)
        exponent, integers, clipped = power_of_two(parts)
        offset = x.zero_point * 2.0**-exponent * integers[0].sum(axis=1)
        name = self.name
        tensors: Tensors = {
            f"{name}.input": pre_major(integers[0]),
            f"{name}.bias": fixed(name, self.bias / per_threshold[:, 0] - offset, Q12),
            f"{name}.decay": decays(name, self.beta),
        }
        if self.recurrent is not None:
            tensors[f"{name}.recurrent"] = pre_major(integers[1])
        layer = Lif(
            name=name,
            sources=self.sources,
            inputs=self.weight.shape[1],
            outputs=self.outputs,
            weight_exponent=exponent,
            recurrent=self.recurrent is not None,
            reset=self.reset,
            reset_delay=self.reset_delay,
        )
        return (Quantised(layer, tensors, Affine(1.0, 0), clipped),)


@dataclass(frozen=True, slots=True)
class FloatReadout(StatefulLayer):
    """Leaky integrators without spikes: y <- kappa y + W s + b. weight (n, in), bias (n,), kappa (n,)."""

    weight: F32
    bias: F32
    kappa: F32

    makes: ClassVar[tuple[type[LayerRecord], ...]] = (Readout,)

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.weight),)

    def start(self, batch: int) -> State:
        return {"y": np.zeros((batch, self.outputs), np.float32)}

    def step(self, state: State, *sources: F32) -> F32:
        state["y"] = self.kappa * state["y"] + (sources[0] @ self.weight.T + self.bias)
        return state["y"]

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """One exponent; the whole layer is halved until what was seen stays under 64 and its drive fits Q7.24.

        Halving all logits alike moves no decision; the output's scale says by how much.
        """
        x = sources[0]
        weight = self.weight.astype(np.float64) * x.scale
        bias = self.bias - x.zero_point * weight.sum(axis=1)
        halvings = max(0, int(np.ceil(np.log2(reach.most / READOUT_REACH)))) if reach.most > 0 else 0
        while np.any((np.abs(weight).sum(axis=1) + np.abs(bias)) * 2.0**-halvings * Q24 >= 0.99 * DRIVE_LIMIT):
            halvings += 1
        shrink = 2.0**-halvings
        exponent, (integers,), clipped = power_of_two([weight * shrink])
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


def power_of_two(parts: list[F64]) -> tuple[int, list[F64], float]:
    """The exponent f in [0, 20] with the least squared error of clip(round(w 2**f), +-127) 2**-f, the finer of equals.

    It weighs clipping a few large weights against resolving all the others. Returns f, the integers, the clipped share.
    """
    w = np.concatenate([part.reshape(-1) for part in parts])
    errors = [float(np.square(rounded(w, f) * 2.0**-f - w).sum()) for f in range(EXPONENT_MAX + 1)]
    best = max(f for f, error in enumerate(errors) if error <= min(errors))
    clipped = float((np.abs(np.rint(w * 2.0**best)) > WEIGHT_TOP).mean())
    return best, [rounded(part, best) for part in parts], clipped


def rounded(w: F64, f: int) -> F64:
    return np.clip(np.rint(w * 2.0**f), -WEIGHT_TOP, WEIGHT_TOP)


def pre_major(weight: F64) -> I8:
    return np.ascontiguousarray(weight.T.astype(np.int8))


def fixed(name: str, value: F64 | F32, one: int) -> I32:
    """Round to fixed point. Raises ModelError where a value is beyond what an input current may be."""
    scaled = np.rint(value.astype(np.float64) * one)
    if np.abs(scaled).max() >= DRIVE_LIMIT:
        raise ModelError(f"layer {name}: bias {np.abs(value).max():g} is above {DRIVE_LIMIT // one}")
    return scaled.astype(np.int32)


def decays(name: str, beta: F32) -> U16:
    if beta.min() < 0 or beta.max() > 1:
        raise ModelError(f"layer {name}: decay reaches from {beta.min():g} to {beta.max():g}, must lie in [0, 1]")
    return np.rint(beta.astype(np.float64) * Q15).astype(np.uint16)
