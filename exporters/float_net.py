"""The float model as a short list of frozen layers, and what it computes: the twin that integers are measured against.

A net is either dense (FloatDense only) or spiking (FloatLif, then possibly one FloatReadout). Spiking steps follow
snnTorch 1.0 operation by operation in float32, so spikes are equal, not close (Eshraghian et al. 2023).
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, I16, U8
from edgerun.encode import PhaseCoder
from edgerun.errors import ModelError
from edgerun.spec import Direct, Encoder, PhaseRate

Reset: TypeAlias = Literal["subtract", "zero", "none"]


@dataclass(frozen=True, slots=True)
class FloatDense:
    """y = W x + b, then max(0, y) where `relu`. weight (out, in), bias (out,)."""

    name: str
    weight: F32
    bias: F32
    relu: bool = False


@dataclass(frozen=True, slots=True)
class FloatLif:
    """Leaky integrate-and-fire: r = [U > threshold]; U <- beta U + W x + V s + b, less the reset; s = [U > threshold].

    weight (n, in), recurrent (n, n) or None, bias (n,), beta (n,), threshold (n,).
    `reset_delay`: the reset acts in the step after the spike; otherwise at the end of the spike's own step.
    """

    name: str
    weight: F32
    recurrent: F32 | None
    bias: F32
    beta: F32
    threshold: F32
    reset: Reset = "zero"
    reset_delay: bool = False


@dataclass(frozen=True, slots=True)
class FloatReadout:
    """Leaky integrators without spikes: y <- kappa y + W s + b. weight (n, in), bias (n,), kappa (n,)."""

    name: str
    weight: F32
    bias: F32
    kappa: F32


FloatLayer: TypeAlias = FloatDense | FloatLif | FloatReadout


@dataclass(frozen=True, slots=True)
class FloatNet:
    """What an importer gives: layers in order, the input's shape and encoder, and what was assumed on the way."""

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[FloatLayer, ...]
    encoder: Encoder = field(default_factory=Direct)
    input_scale: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def spiking(self) -> bool:
        return isinstance(self.layers[0], FloatLif)

    def __post_init__(self) -> None:
        width = math.prod(self.input_shape)
        for layer in self.layers:
            outputs, inputs = layer.weight.shape
            if inputs != width:
                raise ModelError(f"layer {layer.name} takes {inputs} inputs, the layer before gives {width}")
            width = outputs
            check_parameters(layer)


def file_name(file: str) -> str:
    """A name that a bundle may have, from a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", Path(file).stem)[:64] or "model"


def check_parameters(layer: FloatLayer) -> None:
    """Raises ModelError naming the first parameter that is not finite or has the wrong length."""
    n = len(layer.weight)
    for name in layer.__slots__:
        value = getattr(layer, name)
        if not isinstance(value, np.ndarray):
            continue
        if wrong := int((~np.isfinite(value)).sum()):
            raise ModelError(f"layer {layer.name}: {name} has {wrong} values that are not finite")
        if value.shape[0] != n or (name == "recurrent" and value.shape != (n, n)):
            raise ModelError(f"layer {layer.name}: {name} has shape {value.shape}, the layer has {n} units")


def dense_forward(layers: tuple[FloatLayer, ...], x: F32 | F64) -> list[F32]:
    """Outputs (N, out) of every dense layer for inputs x (N, ...). Raises ModelError where one overflows."""
    outputs: list[F32] = []
    with np.errstate(over="ignore", invalid="ignore"):
        value = x.reshape(len(x), -1).astype(np.float32)
        for layer in layers:
            value = value @ layer.weight.T + layer.bias
            if isinstance(layer, FloatDense) and layer.relu:
                value = np.maximum(value, 0)
            if not np.isfinite(value).all():
                raise ModelError(f"layer {layer.name}: its float outputs overflow on these data")
            outputs.append(value)
    return outputs


def encode_spikes(encoder: PhaseRate, q: I16) -> F32:
    """Spike trains (steps, N, in) of quantised inputs (N, in): the same that the device makes."""
    return PhaseCoder(encoder, (len(q),), q.shape[1]).encode(q)


@dataclass(frozen=True, slots=True)
class SpikingTrace:
    """What a spiking net did: per Lif layer spikes (steps, N, n) and its membrane's reach in thresholds."""

    spikes: tuple[U8, ...]
    membrane: tuple[tuple[float, float], ...]
    readout: F32 | None  # (N, n) after the last step
    readout_reach: float  # largest |y| at any step


def spiking_forward(layers: tuple[FloatLayer, ...], spikes: F32) -> SpikingTrace:
    """Run LIF layers and readout over spike trains (steps, N, in), state starting at zero.

    Raises ModelError where the readout overflows.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        trace = run_spiking(layers, spikes)
    if not np.isfinite(trace.readout_reach):
        raise ModelError("the readout overflows on these data")
    return trace


def run_spiking(layers: tuple[FloatLayer, ...], spikes: F32) -> SpikingTrace:
    """The steps of `spiking_forward`; an overflow shows as an infinite reach."""
    steps, batch, _ = spikes.shape
    record, membranes = [], []
    train, y, reach = spikes, None, 0.0
    for layer in layers:
        n = len(layer.weight)
        if isinstance(layer, FloatLif):
            out = np.empty((steps, batch, n), dtype=np.float32)
            low, high = run_lif(layer, train, out)
            record.append(out.astype(np.uint8))
            membranes.append((low, high))
            train = out
        elif isinstance(layer, FloatReadout):
            y = np.zeros((batch, n), dtype=np.float32)
            for x in train:
                y = layer.kappa * y + (x @ layer.weight.T + layer.bias)
                reach = max(reach, float(np.abs(y).max()))
    return SpikingTrace(tuple(record), tuple(membranes), y, reach)


def run_lif(layer: FloatLif, train: F32, out: F32) -> tuple[float, float]:
    """Fill `out` (steps, N, n) with the spikes of one layer; returns the lowest and highest U / threshold."""
    mem = np.zeros(out.shape[1:], dtype=np.float32)
    spikes = np.zeros_like(mem)
    low = high = 0.0
    for t, x in enumerate(train):
        reset = (mem > layer.threshold).astype(np.float32)
        if layer.reset == "zero":
            mem = (1 - reset) * mem
        current = x @ layer.weight.T + layer.bias
        mem = layer.beta * mem + current
        if layer.recurrent is not None:
            mem = mem + spikes @ layer.recurrent.T
        if layer.reset == "subtract":
            mem = mem - reset * layer.threshold
        relative = mem / layer.threshold
        low, high = min(low, float(relative.min())), max(high, float(relative.max()))
        spikes = (mem > layer.threshold).astype(np.float32)
        if not layer.reset_delay:
            due = spikes - reset  # snnTorch: what the step's beginning has already taken is given back
            if layer.reset == "subtract":
                mem = mem - due * layer.threshold
            elif layer.reset == "zero":
                mem = mem - due * mem
        out[t] = spikes
    return low, high
