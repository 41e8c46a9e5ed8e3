"""The float model as a graph of frozen layers, and what it computes: the twin that integers are measured against."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np

from edgerun.arrays import F32, AnyArray
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.spec import Constant, Direct, Encoder, Frames, PhaseRate
from exporters.nodes import Affine, FloatLayer, FloatSoftmax, StatefulLayer
from exporters.nodes.base import State

Watch: TypeAlias = Callable[[FloatLayer, F32], None]


@dataclass(frozen=True, slots=True)
class FloatNet:
    """What an importer gives: layers in running order, the input's shape and encoder, and what was assumed on the way.

    input        the quantisation of the input where the file fixes it, as int8; a file with uint8 inputs has an encoder
                 with offset 128
    input_scale  what one step of a phase-rate input stands for, where the file says so
    left_out     the softmax that the file has behind all of them: it moves no decision, so only values need it
    dynamic      whether the file's runtime rounds values to int8 by scales that it finds anew for each sample
    """

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[FloatLayer, ...]
    encoder: Encoder = field(default_factory=Direct)
    input_scale: float | None = None
    notes: tuple[str, ...] = ()
    input: Affine | None = None
    left_out: FloatSoftmax | None = None
    dynamic: bool = False

    @property
    def spiking(self) -> bool:
        """Whether what the layers see is spikes, made from quantised values."""
        return isinstance(self.encoder, PhaseRate)

    @property
    def steps(self) -> int:
        match self.encoder:
            case PhaseRate(steps=steps) | Constant(steps=steps):
                return steps
            case Frames():
                return self.input_shape[0]
        return 1

    @property
    def step_size(self) -> int:
        return math.prod(self.input_shape[1:] if isinstance(self.encoder, Frames) else self.input_shape)

    @property
    def outputs(self) -> int:
        return self.layers[-1].outputs

    def __post_init__(self) -> None:
        if not self.layers:
            raise ModelError("the model has no layer that computes")
        given = {INPUT: self.step_size}
        for layer, sources in self.wiring():
            if layer.name in given:
                raise ModelError(f"two layers are called {layer.name!r}")
            if len(sources) != len(layer.widths):
                raise ModelError(f"layer {layer.name} has {len(sources)} sources, must have {len(layer.widths)}")
            for source, width in zip(sources, layer.widths, strict=True):
                if source not in given:
                    raise ModelError(f"layer {layer.name} reads {source!r}, which is no earlier layer")
                if given[source] != width:
                    raise ModelError(f"layer {layer.name} takes {width} values, {source} gives {given[source]}")
            given[layer.name] = layer.outputs
            layer.check()

    def wiring(self) -> tuple[tuple[FloatLayer, tuple[str, ...]], ...]:
        """Every layer with the names of what it reads, in running order."""
        before = [INPUT, *(layer.name for layer in self.layers)]
        return tuple((layer, layer.sources or (before[k],)) for k, layer in enumerate(self.layers))

    def whole(self) -> FloatNet:
        """With the softmax that was left out."""
        return self if self.left_out is None else replace(self, layers=(*self.layers, self.left_out), left_out=None)

    def layer(self, name: str) -> FloatLayer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ModelError(f"no layer is called {name!r}")

    def moments(self, x: AnyArray) -> F32:
        """What the layers see of real samples x (N, *input_shape), step by step: (steps, N, step size) float32.

        Not for a phase-rate code, whose spikes are made from quantised values.
        """
        with np.errstate(over="ignore"):  # `forward` names the layer that cannot take it
            values = x.reshape(len(x), -1).astype(np.float32)
        if isinstance(self.encoder, Frames):
            return np.moveaxis(values.reshape(len(x), self.steps, self.step_size), 1, 0)
        return np.broadcast_to(values, (self.steps, *values.shape))


def file_name(file: str) -> str:
    """A name that a bundle may have, from a file's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", Path(file).stem)[:64] or "model"


@dataclass(frozen=True, slots=True)
class Outcome:
    """A window that has run: what a head reads of every layer, and the states that were left."""

    readings: Mapping[str, F32]
    states: Mapping[str, State]


def forward(net: FloatNet, moments: F32, watch: Watch | None = None) -> Outcome:
    """Run the float net over (steps, N, step size), state starting at zero; `watch` sees every output of every step.

    Layers behind the last stateful one run once, at the end. Raises ModelError naming a layer whose outputs overflow.
    """
    batch = moments.shape[1]
    states = {layer.name: layer.start(batch) for layer in net.layers if isinstance(layer, StatefulLayer)}
    wiring = net.wiring()
    each = max((k + 1 for k, layer in enumerate(net.layers) if layer.name in states), default=0)
    values: dict[str, F32] = {}
    with np.errstate(over="ignore", invalid="ignore"):
        for t, x in enumerate(moments):
            values[INPUT] = x
            for layer, sources in wiring if t == len(moments) - 1 else wiring[:each]:
                seen = [values[source] for source in sources]
                if isinstance(layer, StatefulLayer):
                    out = layer.step(states[layer.name], *seen)
                else:
                    out = layer.forward(*seen)
                if not np.isfinite(out).all():
                    raise ModelError(f"layer {layer.name}: its float outputs overflow on these data")
                values[layer.name] = out
                if watch is not None:
                    watch(layer, out)
    readings = {
        layer.name: layer.reading(states[layer.name], values[layer.name])
        if isinstance(layer, StatefulLayer)
        else values[layer.name]
        for layer in net.layers
    }
    return Outcome(readings, states)
