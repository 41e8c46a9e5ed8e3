"""Records of the rules that teach a chain of dense layers; `edgerun/rules.py` has what every rule's record says.

A chain is a bundle's whole graph: dense layers in a row on int8 values around zero, one weight scale a layer, clipped
at zero between layers (ReLU). Weights learn, biases stay the factory's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Dense
from edgerun.layers.base import Name, State
from edgerun.rules import LayerOf, RuleRecord


class ChainRecord(RuleRecord, frozen=True, kw_only=True):
    """What the rules of dense chains share: the layers in running order. Each may be plastic, by its rate."""

    layers: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=64)]

    title: ClassVar[str] = ""

    def check(self, layer: LayerOf) -> None:
        width = 0
        for name in self.layers:
            found = layer(name)
            if not isinstance(found, Dense) or found.asymmetric or found.zero_point:
                raise SpecError(f"{self.title} layer {name!r} is no dense layer around zero point 0")
            if width and found.inputs != width:
                raise SpecError(f"{self.title} layer {name!r} takes {found.inputs} values, {width} reach it")
            width = found.outputs
        unknown = sorted(self.tensors - {f"{name}.weight" for name in self.layers} - self._more())
        if unknown:
            raise SpecError(f"{self.title} cannot change {unknown[0]!r}, which is no weight of its layers")

    def _more(self) -> frozenset[str]:
        """Plastic tensors beside the layers' weights."""
        return frozenset()

    @property
    def lowest(self) -> int:
        """The place of the first layer that learns: errors go no further down."""
        return min((k for k, name in enumerate(self.layers) if f"{name}.weight" in self.tensors), default=0)

    def describe(self) -> str:
        learning = sum(f"{name}.weight" in self.tensors for name in self.layers)
        return f"{self.title} through {len(self.layers)} dense layers, {learning} of them plastic"

    def rows(self, tensor: str, steps: int) -> int:
        return 1

    def neurons(self, layer: LayerOf) -> int:
        return sum(layer(name).outputs for name in self.layers)

    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        """What each layer read and its error."""
        for name in self.layers:
            yield State(f"tape.{name}.read", "int16", (layer(name).widths[0],))
        for name in self.layers[self.lowest :]:
            yield State(f"tape.{name}.error", "int16", (layer(name).outputs,))
        yield State("tape.logits", "int64", (layer(self.layers[-1]).outputs,))
        yield State("tape.softmax", "int32", (layer(self.layers[-1]).outputs,))


class Backprop(ChainRecord, tag="backprop", frozen=True, kw_only=True):
    """Backpropagation of one sample: the yardstick. `back_shifts[l]` belongs to the l-th layer's products, from the
    second layer on: error <- sat16(half_up(W' error / 2**shift)) where the layer below is active."""

    back_shifts: Annotated[tuple[Annotated[int, Meta(ge=0, le=30)], ...], Meta(max_length=63)] = ()

    title: ClassVar[str] = "backprop"

    def __post_init__(self) -> None:
        if len(self.back_shifts) != len(self.layers) - 1:
            raise SpecError(f"backprop has {len(self.back_shifts)} back_shifts for {len(self.layers)} layers")

    def macs(self, layer: LayerOf) -> int:
        """Products of the way back."""
        return sum(layer(name).outputs * layer(name).widths[0] for name in self.layers[self.lowest + 1 :])


DenseRule: TypeAlias = Backprop
