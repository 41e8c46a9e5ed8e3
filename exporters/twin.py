"""The integer model beside the float model that it comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, cast

import numpy as np

from edgerun import encode
from edgerun.arrays import F32, I16, AnyArray, Tensors
from edgerun.errors import ModelError
from edgerun.spec import InputSpec, Layer, Lif, PhaseRate, Readout
from exporters import calibrate, quantise
from exporters.data import Samples
from exporters.float_net import (
    FloatDense,
    FloatLif,
    FloatNet,
    FloatReadout,
    SpikingTrace,
    encode_spikes,
    spiking_forward,
)

READOUT_REACH: Final = 64.0  # half of what Q7.24 holds: the rest is room for learning
MEMBRANE_REACH: Final = 8.0  # thresholds that an int16 in Q3.12 holds
REACH_SAMPLES: Final = 512


@dataclass(frozen=True, slots=True)
class Twin:
    """A float net and its layers in integers, in order; `parts` may end earlier. `notes` are for the report."""

    net: FloatNet
    input: InputSpec
    parts: tuple[quantise.Quantised[Layer], ...]
    notes: tuple[str, ...] = ()

    @property
    def tensors(self) -> Tensors:
        return {name: array for part in self.parts for name, array in part.tensors.items()}

    def inputs(self, samples: Samples) -> I16:
        """Quantised inputs (N, size), by the device's own rounding."""
        return np.stack([encode.quantise(self.input, x) for x in samples.x])

    def stored(self, samples: Samples) -> AnyArray:
        """Quantised inputs (N, *shape) in the input's dtype, as a bundle keeps them."""
        return self.inputs(samples).astype(self.input.dtype).reshape(len(samples), *self.input.shape)

    def spikes(self, samples: Samples) -> F32:
        """What the encoder makes of them: (steps, N, size)."""
        return encode_spikes(cast(PhaseRate, self.net.encoder), self.inputs(samples))


def quantise_net(net: FloatNet, samples: Samples, percentile: float) -> Twin:
    """Integer layers for all float layers, with scales from these samples. Raises ModelError."""
    if isinstance(net.encoder, PhaseRate):
        return quantise_spiking(net, net.encoder, samples)
    return quantise_stack(net, samples, percentile)


def quantise_stack(net: FloatNet, samples: Samples, percentile: float) -> Twin:
    """A dense net: each layer's output map is the next one's input map."""
    entry, ranges = calibrate.dense_ranges(net, samples, percentile)
    x = first = entry.affine()
    parts = []
    for layer, reach in zip(cast(tuple[FloatDense, ...], net.layers), ranges, strict=True):
        parts.append(quantise.quantise_dense(layer, x, reach))
        x = parts[-1].output
    spec = InputSpec(shape=net.input_shape, dtype="int8", scale=first.scale, zero_point=first.zero_point)
    return Twin(net, spec, tuple(parts))


def quantise_spiking(net: FloatNet, encoder: PhaseRate, samples: Samples) -> Twin:
    """A spiking net: scales come from the weights; data say only how far the readout and the membranes reach."""
    scale = calibrate.spiking_input_scale(net, samples, encoder.full_scale)
    bare = Twin(net, InputSpec(shape=net.input_shape, dtype="uint8", scale=scale), ())
    some = samples.take(np.linspace(0, len(samples) - 1, min(len(samples), REACH_SAMPLES)).astype(np.int64))
    trace = spiking_forward(net.layers, bare.spikes(some))
    halvings = calibrate.readout_halvings(trace, READOUT_REACH)
    parts: list[quantise.Quantised[Layer]] = [
        quantise.quantise_lif(layer) if isinstance(layer, FloatLif) else quantise.quantise_readout(layer, halvings)
        for layer in cast(tuple[FloatLif | FloatReadout, ...], net.layers)
    ]
    return replace(bare, parts=tuple(parts), notes=saturation_notes(net, trace))


def saturation_notes(net: FloatNet, trace: SpikingTrace) -> tuple[str, ...]:
    """Where float membranes go further than integers can follow."""
    lifs = [layer for layer in net.layers if isinstance(layer, FloatLif)]
    return tuple(
        f"{layer.name}: membranes reach from {low:.1f} to {high:.1f} thresholds, integers stop at {MEMBRANE_REACH:g}"
        for layer, (low, high) in zip(lifs, trace.membrane, strict=True)
        if max(-low, high) > MEMBRANE_REACH
    )


def feature_layer(twin: Twin, wanted: str | None) -> str:
    """What a prototype head reads: the named layer, else the last Lif or hidden Dense. Raises ModelError."""
    candidates: list[str] = [part.layer.name for part in twin.parts if not isinstance(part.layer, Readout)]
    if wanted is not None:
        if wanted not in candidates:
            raise ModelError(f"--features {wanted!r} is none of {', '.join(candidates)}")
        return wanted
    hidden = candidates if isinstance(twin.net.encoder, PhaseRate) else candidates[:-1]
    return (hidden or candidates)[-1]


def cut_after(twin: Twin, name: str) -> Twin:
    """Without the layers that a prototype head on layer `name` makes superfluous."""
    last = next(k for k, part in enumerate(twin.parts) if part.layer.name == name)
    return replace(twin, parts=twin.parts[: last + 1])


def widen_readout(twin: Twin, outputs: int) -> Twin:
    """Silent rows for classes that may come: e-prop needs a readout unit for each class that it is to learn."""
    part = twin.parts[-1]
    layer = part.layer
    more = outputs - layer.outputs
    if not isinstance(layer, Readout) or more <= 0:
        return twin
    name = layer.name
    tensors: Tensors = {
        f"{name}.input": np.pad(part.tensors[f"{name}.input"], ((0, 0), (0, more))),
        f"{name}.bias": np.pad(part.tensors[f"{name}.bias"], (0, more)),
        f"{name}.kappa": np.pad(part.tensors[f"{name}.kappa"], (0, more), mode="edge"),
    }
    wider = Readout(name=name, inputs=layer.inputs, outputs=outputs, weight_exponent=layer.weight_exponent)
    return replace(twin, parts=(*twin.parts[:-1], replace(part, layer=wider, tensors=tensors)))


def last_is_spiking(twin: Twin) -> bool:
    return isinstance(twin.parts[-1].layer, Lif)
