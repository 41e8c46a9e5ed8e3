"""What every float layer can do: compute, and become an integer layer.

An importer turns a file into float layers; each kind knows its own arithmetic in float32 (`forward`), and the integer
layer that stands for it once ranges are known (`quantise`). Values between layers are flat, (N, width); images lie as
(height, width, channel), sequences as (step, feature), so a reshape is no layer at all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, Final, TypeAlias

import numpy as np

from edgerun.arrays import F32, F64, AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import Layer, LayerRecord
from edgerun.layers.base import Requant

STEPS_OF_INT8: Final = 255

State: TypeAlias = dict[str, F32]


@dataclass(frozen=True, slots=True)
class Affine:
    """real = scale * (q - zero_point), q int8; spikes are Affine(1.0, 0)."""

    scale: float
    zero_point: int

    def integer(self, real: float) -> int:
        """The int8 value nearest to a real one; beyond the ends, the ends."""
        if math.isinf(real):
            return 127 if real > 0 else -128
        return int(np.clip(np.rint(real / self.scale) + self.zero_point, -128, 127))


@dataclass(frozen=True, slots=True)
class Range:
    """The reach of one tensor's values; always holds zero, which must be exact."""

    low: float
    high: float

    def affine(self) -> Affine:
        """The int8 map that covers the range. A range of nothing gets scale 1."""
        scale = (self.high - self.low) / STEPS_OF_INT8 or 1.0
        return Affine(scale, int(np.clip(np.rint(-128 - self.low / scale), -128, 127)))

    @property
    def most(self) -> float:
        return max(-self.low, self.high)


@dataclass(frozen=True, slots=True)
class Quantised:
    """An integer layer, its tensors, the real map of its output, and the share of its weights that saturate."""

    layer: Layer
    tensors: Tensors
    output: Affine
    clipped: float = 0.0


@dataclass(frozen=True, slots=True)
class FloatLayer:
    """The base of all float layers. `sources` names earlier layers, or "input"; empty stands for the layer before.

    output  the quantisation of the output, where the file fixes it (an already quantised model); else ranges decide
    """

    name: str
    sources: tuple[str, ...] = field(default=(), kw_only=True)
    output: Affine | None = field(default=None, kw_only=True)

    makes: ClassVar[tuple[type[LayerRecord], ...]] = ()
    """The kinds of integer layers that it becomes."""

    @property
    def widths(self) -> tuple[int, ...]:
        """How many values each source must give."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output, without the batch."""
        raise NotImplementedError

    @property
    def outputs(self) -> int:
        return math.prod(self.shape)

    def forward(self, *sources: F32) -> F32:
        """(N, outputs) from the sources' (N, width), in float32."""
        raise NotImplementedError

    def quantise(self, sources: tuple[Affine, ...], reach: Range) -> tuple[Quantised, ...]:
        """The integer layers that compute it, in running order; the last one bears its name.

        sources  the real maps of what it reads        reach  how far its output goes on calibration data

        Raises ModelError naming the layer and the channel whose numbers no scale can hold.
        """
        raise NotImplementedError

    def check(self) -> None:
        """Raises ModelError naming the first parameter that is not finite."""
        for parameter in fields(self):
            value = getattr(self, parameter.name)
            if isinstance(value, np.ndarray) and (wrong := int((~np.isfinite(value)).sum())):
                raise ModelError(f"layer {self.name}: {parameter.name} has {wrong} values that are not finite")

    def output_map(self, reach: Range) -> Affine:
        """The real map of the output: the file's, else the one that covers the reach."""
        return self.output or reach.affine()


class Matrix:
    """What float layers have in common that turn one source into n values by a `weight` (n, in)."""

    __slots__ = ()
    weight: F32 | F64

    @property
    def widths(self) -> tuple[int, ...]:
        return (self.weight.shape[1],)

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.weight),)


@dataclass(frozen=True, slots=True)
class StatefulLayer(FloatLayer):
    """A float layer that keeps arrays from step to step."""

    def start(self, batch: int) -> State:
        """The state before the first step, arrays (N, ...)."""
        raise NotImplementedError

    def step(self, state: State, *sources: F32) -> F32:
        """One time step: changes the state, gives (N, outputs)."""
        raise NotImplementedError

    def reading(self, state: State, out: F32) -> F32:
        """What a head reads at the end of a window; `out` is the newest output."""
        return out

    def forward(self, *sources: F32) -> F32:
        """One step from silence."""
        return self.step(self.start(len(sources[0])), *sources)


def per_channel(tensors: Mapping[str, AnyArray], name: str, scales: F64, **parts: AnyArray) -> Tensors:
    """The tensors of a requantised layer: `parts`, and multiplier and shift of each channel's real scale.

    Raises ModelError naming the channel whose scale no multiplier can hold.
    """
    maps = [requant(name, k, float(scale)) for k, scale in enumerate(scales)]
    found = dict(tensors) | {f"{name}.{part}": array for part, array in parts.items()}
    found[f"{name}.multiplier"] = np.array([m.multiplier for m in maps], dtype=np.int32)
    found[f"{name}.shift"] = np.array([m.shift for m in maps], dtype=np.uint8)
    return found


def requant(name: str, channel: int, scale: float) -> Requant:
    try:
        return Requant.from_scale(scale)
    except SpecError as err:
        raise ModelError(f"layer {name} channel {channel}: {err}") from None
