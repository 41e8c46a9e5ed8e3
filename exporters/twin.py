"""The integer model beside the float model that it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from edgerun import encode
from edgerun.arrays import F32, I16, AnyArray, Tensors
from edgerun.encode import PhaseCoder
from edgerun.errors import ModelError
from edgerun.layers import Integrators
from edgerun.layers.base import INPUT
from edgerun.layers.spiking import SPIKING
from edgerun.spec import InputSpec, Layer, PhaseRate, Readout
from exporters import calibrate
from exporters.calibrate import MINMAX, Calibration, Observer
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import (
    Affine,
    FloatCells,
    FloatDense,
    FloatIntegrators,
    FloatLayer,
    FloatLif,
    FloatReadout,
    Quantised,
    Range,
)
from exporters.nodes.conv import Filters
from exporters.nodes.recurrent import FloatRecurrent
from exporters.nodes.spiking import FloatSLstm
from exporters.nodes.synapses import FloatDenseSum

InputDType: TypeAlias = Literal["int8", "uint8"]

MEMBRANE_REACH: Final = 8.0  # thresholds that an int16 in Q3.12 holds
WEIGHED: Final = (
    FloatDense, Filters, FloatRecurrent, FloatLif, FloatReadout, FloatDenseSum, FloatCells, FloatSLstm
)  # fmt: skip
BLOCK: Final = 64  # samples that run side by side
REACH_SAMPLES: Final = 512  # for the reach of membranes and readouts
EVENT: Final = Affine(1 / 127, 0)  # events of 0 and 1: nothing larger than 128/127 can come in
EVENT_NOTE: Final = (
    "input: events of 0 and 1 are 0 and 127 steps of 1/127, so that synaptic currents fit (--input-scale 1 keeps them)"
)


@dataclass(frozen=True, slots=True)
class Twin:
    """A float net and its layers in integers, in order; `parts` may end earlier. `notes` are for the report.

    maps    by layer, and for "input", what one integer stands for
    origin  the float net as it came, where `net` has been pruned, rounded or equalised since: whose answers count
    """

    net: FloatNet
    input: InputSpec
    parts: tuple[Quantised, ...]
    notes: tuple[str, ...] = ()
    maps: Mapping[str, Affine] = field(default_factory=dict)
    origin: FloatNet | None = None

    @property
    def tensors(self) -> Tensors:
        return {name: array for part in self.parts for name, array in part.tensors.items()}

    def inputs(self, samples: Samples) -> I16:
        """Quantised inputs (N, size), by the device's own rounding."""
        rows: I16 = np.zeros((len(samples), self.input.size), np.int16)
        for row, x in zip(rows, samples.x, strict=True):
            row[...] = encode.quantise(self.input, x)
        return rows

    def stored(self, samples: Samples) -> AnyArray:
        """Quantised inputs (N, *shape) in the input's dtype, as a bundle keeps them."""
        return self.inputs(samples).astype(self.input.dtype).reshape(len(samples), *self.input.shape)

    def moments(self, samples: Samples) -> F32:
        """What the float layers see, (steps, N, step size): the encoder's spikes, or the real values themselves."""
        if isinstance(self.net.encoder, PhaseRate):
            return PhaseCoder(self.net.encoder, (len(samples),), self.net.step_size).encode(self.inputs(samples))
        return self.net.moments(self.real(samples))

    def real(self, samples: Samples) -> AnyArray:
        """Samples as the float model takes them: integers of the input's own dtype are quantised, all others real."""
        if samples.x.dtype != np.dtype(self.input.dtype):
            return samples.x
        values: AnyArray = (samples.x.astype(np.float64) - self.input.zero_point) * self.input.scale
        return values


def in_blocks(samples: Samples) -> Iterator[Samples]:
    for start in range(0, len(samples), BLOCK):
        yield samples.take(np.arange(start, min(start + BLOCK, len(samples))))


def quantise_net(
    net: FloatNet,
    samples: Samples,
    how: Calibration = MINMAX,
    bits: Mapping[str, int] = MappingProxyType({}),
    seen: Mapping[str, Observer] | None = None,
) -> Twin:
    """Integer layers for all float layers, with scales from these samples. Raises ModelError.

    bits  of the weights, by layer, where they are not 8
    seen  what `observed` has gathered for another `how`, to spare a run
    """
    net = replace(net, layers=tuple(with_bits(layer, bits.get(layer.name, 8)) for layer in net.layers))
    bare, entry = bare_twin(net, samples, how)
    if seen is None:
        seen = observed(bare, samples, keep=how.method != "minmax")
    ranges = {name: observer.range(how) for name, observer in seen.items()}
    maps = {INPUT: Affine(1.0, 0) if net.spiking else entry}
    parts = quantise_layers(net, maps, ranges)
    return replace(bare, parts=parts, maps=maps)


def bare_twin(net: FloatNet, samples: Samples, how: Calibration) -> tuple[Twin, Affine]:
    """The input alone, and what one integer of it stands for to the layers."""
    entry = input_map(net, samples, how)
    dtype = input_dtype(net)
    if net.spiking and samples.x.dtype == np.dtype(dtype) and entry.scale != 1.0:
        dtype = other_dtype(net, entry.scale)
    zero_point = entry.zero_point + input_offset(net)
    spec = InputSpec(shape=net.input_shape, dtype=dtype, scale=entry.scale, zero_point=zero_point)
    return Twin(net, spec, (), (EVENT_NOTE,) if entry is EVENT else ()), entry


def observed(bare: Twin, samples: Samples, *, keep: bool) -> dict[str, Observer]:
    """What every layer of its float net gives on these samples."""
    return calibrate.observe(bare.net, (bare.moments(block) for block in in_blocks(samples)), keep=keep)


def with_bits(layer: FloatLayer, bits: int) -> FloatLayer:
    """The layer with weights of so many bits. Raises ModelError where it has no such weights.

    Fewer than 8 bits of a plastic layer shape its factory weights: it learns in 16-bit shadows and runs on 8 bits.
    """
    if bits == 8:
        return layer
    if not isinstance(layer, WEIGHED):
        raise ModelError(f"layer {layer.name}: has no weights of {bits} bits")
    return replace(layer, bits=bits)


def quantise_layers(net: FloatNet, maps: dict[str, Affine], ranges: Mapping[str, Range]) -> tuple[Quantised, ...]:
    """Every layer in turn; `maps`, which holds the input's, gets the map of each."""
    parts: list[Quantised] = []
    for layer, sources in net.wiring():
        found = replace(layer, sources=sources).quantise(tuple(maps[s] for s in sources), ranges[layer.name])
        parts.extend(found)
        maps.update({part.layer.name: part.output for part in found})
    return tuple(short(part, parts[k - 1].layer.name if k else INPUT) for k, part in enumerate(parts))


def short(part: Quantised, before: str) -> Quantised:
    """The same layer, its source left unsaid where it is the layer before."""
    if part.layer.sources != (before,):
        return part
    return replace(part, layer=msgspec.structs.replace(part.layer, sources=()))


def input_offset(net: FloatNet) -> int:
    """What the encoder takes from every integer before a layer sees it."""
    return 0 if isinstance(net.encoder, PhaseRate) else net.encoder.offset


def input_dtype(net: FloatNet) -> InputDType:
    return "uint8" if net.spiking or input_offset(net) else "int8"


def input_form(net: FloatNet) -> InputSpec:
    """Shape and dtype of the input, and its zero point where the file fixes it: all that a reader of data needs."""
    zero_point = 0 if net.input is None else net.input.zero_point + input_offset(net)
    return InputSpec(shape=net.input_shape, dtype=input_dtype(net), zero_point=zero_point)


def other_dtype(net: FloatNet, scale: float) -> InputDType:
    """int8 for a rate code whose data are uint8 but no steps of it: a device must not take them for quantised ones.

    Raises ModelError where int8 cannot hold the code's full scale.
    """
    full = net.encoder.full_scale if isinstance(net.encoder, PhaseRate) else 0
    if full > 127:
        raise ModelError(f"uint8 data would be taken as steps of 0 to {full}, but one step is {scale:g}: use float32")
    return "int8"


def input_map(net: FloatNet, samples: Samples, how: Calibration) -> Affine:
    """What one integer of the input stands for: the file's word, the encoder's, or the range of the data.

    Kept as they are: data in the input's own dtype, which a device takes as quantised, and recordings of whole numbers
    that fit int8; but events of 0 and 1 into synaptic currents are `EVENT`.
    """
    if isinstance(net.encoder, PhaseRate):
        return Affine(calibrate.spiking_input_scale(net, samples.x, net.encoder.full_scale), 0)
    if net.input is not None:
        return net.input
    if net.input_scale is not None:
        return Affine(net.input_scale, 0)
    if samples.x.dtype == np.dtype(input_dtype(net)):
        return Affine(1.0, -input_offset(net))
    whole = net.steps > 1 and not (samples.x % 1).any() and samples.x.min() >= -128 and samples.x.max() <= 127
    if whole and samples.x.min() >= 0 and samples.x.max() <= 1 and keeps_currents(net):
        return EVENT
    return Affine(1.0, 0) if whole else calibrate.reach(samples.x, how).affine()


def keeps_currents(net: FloatNet) -> bool:
    """Whether synapses add up what comes in over the steps, so that inputs which never come would count many times."""
    return any(isinstance(layer, FloatCells | FloatIntegrators) and layer.alpha is not None for layer in net.layers)


def saturation_notes(twin: Twin, samples: Samples) -> tuple[str, ...]:
    """Where float membranes go further than integers can follow."""
    some = samples.take(np.linspace(0, len(samples) - 1, min(len(samples), REACH_SAMPLES)).astype(np.int64))
    if twin.net.steps == 1:
        return ()
    states = forward(twin.net, twin.moments(some)).states
    ends = {name: state["reach"] for name, state in states.items() if "reach" in state}
    return tuple(
        f"{name}: membranes reach from {low:.1f} to {high:.1f} thresholds, integers stop at {MEMBRANE_REACH:g}"
        for name, (low, high) in ends.items()
        if max(-low, high) > MEMBRANE_REACH
    )


# ------------------------------------------------------------------ what a head reads


def feature_layer(twin: Twin, wanted: str | None) -> str:
    """What a prototype head reads: the named layer, else the last one that is neither answer nor readout.

    Raises ModelError where the named one does not exist or is a readout, or where nothing comes before the readout.
    """
    candidates: list[str] = [
        part.layer.name for part in twin.parts if not isinstance(part.layer, Readout | Integrators)
    ]
    if wanted is not None:
        if wanted not in candidates:
            raise ModelError(f"--features {wanted!r} is none of {', '.join(candidates)}")
        return wanted
    if not candidates:
        raise ModelError("the readout is the only layer: prototypes have no features to look at; use --head logits")
    hidden = [name for name in candidates if name != twin.parts[-1].layer.name]
    spikes = [part.layer.name for part in twin.parts if isinstance(part.layer, SPIKING)]
    return (spikes or hidden or candidates)[-1]


def cut_after(twin: Twin, name: str) -> Twin:
    """Only what layer `name` needs, and itself: a prototype head on it makes the rest superfluous."""
    before = [INPUT, *(part.layer.name for part in twin.parts)]
    sources = {part.layer.name: part.layer.sources or (before[k],) for k, part in enumerate(twin.parts)}
    needed, open_ends = {name}, [name]
    while open_ends:
        for source in sources.get(open_ends.pop(), ()):
            if source not in needed:
                needed.add(source)
                open_ends.append(source)
    kept = [part for part in twin.parts if part.layer.name in needed]
    return replace(twin, parts=tuple(rewired(kept, sources)))


def rewired(parts: list[Quantised], sources: Mapping[str, tuple[str, ...]]) -> Iterator[Quantised]:
    """Parts of a longer row, each reading what it read there."""
    before = INPUT
    for part in parts:
        layer = msgspec.structs.replace(part.layer, sources=sources[part.layer.name])
        yield short(replace(part, layer=layer), before)
        before = layer.name


def widen_readout(twin: Twin, outputs: int) -> Twin:
    """Silent rows for classes that may come: e-prop needs a readout unit for each class that it is to learn."""
    part = twin.parts[-1]
    layer: Layer = part.layer
    if not isinstance(layer, Readout) or outputs <= layer.outputs:
        return twin
    name, more = layer.name, outputs - layer.outputs
    tensors: Tensors = {
        f"{name}.input": np.pad(part.tensors[f"{name}.input"], ((0, 0), (0, more))),
        f"{name}.bias": np.pad(part.tensors[f"{name}.bias"], (0, more)),
        f"{name}.kappa": np.pad(part.tensors[f"{name}.kappa"], (0, more), mode="edge"),
    }
    wider = msgspec.structs.replace(layer, outputs=outputs)
    return replace(twin, parts=(*twin.parts[:-1], replace(part, layer=wider, tensors=tensors)))
