"""What of a bundle a controller holds: constants, which stay in flash, and everything written, at its place in memory.

    records     the network as C takes it (`native.Records`)
    constants   every array that its records only read
    held        every array that they write, by name, and from which layer on to which one it is needed

Scratch whose layers do not meet shares bytes (`plan.make_plan`). Layers count from 0, the whitening is the one behind
the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.graph import score_width
from edgerun.layers.base import INPUT
from edgerun.native import Fields, NativeLayer, NativeNetwork, Records
from edgerun.plan import Part, Slot, SlotType
from edgerun.spec import Constant, Manifest


class Held(NamedTuple):
    """An array that is written, and its place in the plan of memory."""

    array: AnyArray
    slot: Slot


@dataclass(frozen=True, slots=True)
class Image:
    """A bundle's network on a controller. Names are those of tensors, of state as `<layer>.<name>`, and their like."""

    manifest: Manifest
    records: Records
    held: Mapping[str, Held]
    constants: Tensors

    def name(self, array: AnyArray) -> str:
        """What the very array is called."""
        named = [*((name, held.array) for name, held in self.held.items()), *self.constants.items()]
        return next(name for name, other in named if other is array)


class _Unbound(NativeNetwork):
    """A network of records alone: no C need be there to describe it."""

    def bind(self, shadows: Mapping[str, I16] = MappingProxyType({})) -> None:
        self._shadows = {f"shadow.{name}": array for name, array in shadows.items()}
        self.packed = self.records()

    def runs(self) -> list[NativeLayer]:
        """Every layer, the whitening last."""
        return self._runs + ([self._whitened] if self.manifest.head.whiten else [])


def image_of(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> Image:
    """The image of a network. Raises SpecError where a layer has no C form."""
    network = _Unbound(manifest, tensors)
    fields = list(_all(network.packed))
    used = {id(array) for each in fields for array in each.values() if array is not None}
    held = {
        name: Held(array, slot_of(array, part, live))
        for name, array, part, live in _written(network)
        if id(array) in used or part == "io"
    }
    mine = {id(each.array) for each in held.values()}
    named = {id(array): name for name, array in tensors.items()}
    constants = {
        named.get(id(array), f"record{place}.{part}"): array
        for place, each in enumerate(fields)
        for part, array in each.items()
        if isinstance(array, np.ndarray) and id(array) not in mine
    }
    return Image(manifest, network.packed, held, constants)


def slot_of(array: AnyArray, part: Part, live: tuple[int, int] | None = None) -> Slot:
    return Slot(array.shape, cast(SlotType, array.dtype.name), part, live)


def _all(records: Records) -> Iterator[Fields]:
    yield records.plan
    yield from (fields for _, fields in records.layers)
    if records.whiten is not None:
        yield records.whiten


Claim: TypeAlias = tuple[str, AnyArray, Part, tuple[int, int] | None]
"""Name, array, part, lifetime."""


def _written(network: _Unbound) -> Iterator[Claim]:
    """Everything that a network might write, whether or not its records have it."""
    manifest, plan, end = network.manifest, network.packed.plan, len(network.manifest.layers)
    until = last_readers(manifest)
    yield "io.sample", np.zeros(manifest.input.size, np.int16), "io", None
    yield "io.scores", np.zeros(max(score_width(manifest), manifest.classes.capacity), np.int32), "io", None
    yield "encoder.x", plan["x"], "scratch", (0, until[INPUT])
    yield "encoder.phase", plan["phase"], "state", None
    for k, run in enumerate(network.runs()):
        layer = run.spec.name
        yield from ((f"{layer}.{name}", array, "state", None) for name, array in run.arrays.items())
        yield from ((f"{name}.{layer}", array, "scratch", (k, k)) for name, array in run.scratch.items())
        yield f"out.{layer}", run.out, "scratch", (k, until.get(layer, k))
    yield "head.raw", plan["raw"], "scratch", (end, end)
    for name, field in (("feature", "z"), ("mean", "mean"), ("sum", "sums"), ("count", "counts"), ("bias", "bias")):
        yield f"head.{name}", plan[field], "head", None


def last_readers(manifest: Manifest) -> dict[str, int]:
    """Of the input and of each layer, up to which layer its values are needed: the last one that reads them, or the
    end of the window where the head reads them, or a constant code that is written but once."""
    end, wiring = len(manifest.layers), list(manifest.wiring())
    until = {source: k for k, (_, sources) in enumerate(wiring) for source in sources}
    until |= {manifest.layers[-1].name: end} | ({manifest.head.features: end} if manifest.head.features else {})
    if isinstance(manifest.encoder, Constant):
        until[INPUT] = end
    if manifest.learning.rule is not None:
        until = dict.fromkeys((INPUT, *(layer.name for layer in manifest.layers)), end)
    return until
