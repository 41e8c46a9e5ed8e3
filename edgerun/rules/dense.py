"""Records of the rules that teach a chain of dense layers; `edgerun/rules/base.py` has what every rule's record says.

A chain is a bundle's whole graph: dense layers in a row on int8 values around zero, one weight scale a layer, clipped
at zero between layers (ReLU). Weights learn, biases stay the factory's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Dense
from edgerun.layers.base import DType, Name, Record, State
from edgerun.rules.base import LayerOf, Reaches, RuleRecord


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

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """What each layer read and its error."""
        for name in self.layers:
            yield State(f"tape.{name}.read", "int16", (1, layer(name).widths[0]))
        for name in self.layers[self.lowest :]:
            yield State(f"tape.{name}.error", "int16", (1, layer(name).outputs))
        yield State("tape.logits", "int64", (layer(self.layers[-1]).outputs,))


class Backprop(ChainRecord, tag="backprop", frozen=True, kw_only=True):
    """Backpropagation of one sample: the yardstick. `back_shifts[l]` belongs to the l-th layer's products, from the
    second layer on: error <- sat16(half_up(W' error / 2**shift)) where the layer below is active."""

    back_shifts: Annotated[tuple[Annotated[int, Meta(ge=0, le=30)], ...], Meta(max_length=63)] = ()

    title: ClassVar[str] = "backprop"

    def __post_init__(self) -> None:
        if len(self.back_shifts) != len(self.layers) - 1:
            raise SpecError(f"backprop has {len(self.back_shifts)} back_shifts for {len(self.layers)} layers")

    def carriers(self, layer: LayerOf) -> Iterator[State]:
        """One layer at a time: those that errors go back through, and the last, whose sums the error is taken from."""
        back = {self.layers[-1], *self.layers[self.lowest + 1 :]}
        yield State("carrier.weight", "float64", (max(layer(name).outputs * layer(name).widths[0] for name in back),))

    def macs(self, layer: LayerOf) -> int:
        """Products of the way back."""
        return sum(layer(name).outputs * layer(name).widths[0] for name in self.layers[self.lowest + 1 :])


class Gain(Record, frozen=True, kw_only=True):
    """x <- half_up(x * multiplier / 2**shift)."""

    multiplier: Annotated[int, Meta(ge=0, le=32767)]
    shift: Annotated[int, Meta(ge=0, le=40)]


Share: TypeAlias = Annotated[int, Meta(ge=0, le=32768)]
"""Q0.15."""


class SettlingRecord(ChainRecord, frozen=True, kw_only=True):
    """What rules share that infer what each layer should have been, then teach each layer that.

    Activities count 2**12 to one int8 step of their layer. `backs[l]` belongs to the layer after the l-th: it makes
    steps of the layer below of W' error, whose own are the layer's, or 2**-15 at the top.
    """

    steps: Annotated[int, Meta(ge=1, le=128)]  # of inference
    backs: Annotated[tuple[Gain, ...], Meta(max_length=63)] = ()

    def __post_init__(self) -> None:
        if len(self.backs) != len(self.layers) - 1:
            raise SpecError(f"{self.title} has {len(self.backs)} backs for {len(self.layers)} layers")

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """Activities, what they should be and how far off they are, of hidden layers; the rest as in any chain."""
        yield from super().tape(layer, steps, reaches, trace)
        for name in self.layers[:-1]:
            for part in ("activity", "prediction", "pull"):
                yield State(f"settle.{name}.{part}", "int64", (layer(name).outputs,))
        yield State("settle.top", "int64", (layer(self.layers[-1]).outputs,))
        yield State("settle.softmax", "int32", (layer(self.layers[-1]).outputs,))
        yield State("settle.in_play", "bool", (layer(self.layers[-1]).outputs,))

    def carriers(self, layer: LayerOf) -> Iterator[State]:
        """All layers: inference goes through them again and again."""
        for name in self.layers:
            yield State(f"carrier.{name}.weight", "float64", (layer(name).outputs, layer(name).widths[0]))

    def macs(self, layer: LayerOf) -> int:
        """Forwards and back through all layers but the first at each step, whose input stands still."""
        upper = sum(layer(name).outputs * layer(name).widths[0] for name in self.layers[1:])
        first = layer(self.layers[0]).outputs * layer(self.layers[0]).widths[0]
        return first + (2 * self.steps + 1) * upper


class IlProx(SettlingRecord, tag="il-prox", frozen=True, kw_only=True):
    """IL-prox (Alonso, Millidge, Krichmar, Neftci 2022): each layer moves to fit its own target from its own input.

        share = g / (1 + g), g = alpha * (|rates|**2 + eps) of the top layer's input     how much of the label is shown
        h <- h - down * e + up * (W' e above where h > 0)                                  `steps` times, all at once
        dW = e rates' / (|rates|**2 + eps)

    A learning rate above alone: `alpha` moves the output's target, never a step. The step closes at most the whole gap
    between what a layer said and what it should have said, so no alpha is too large.
    """

    up: Share  # g_bot
    down: Share  # g_top
    alpha: Gain  # of |rates|**2 / 2**16
    damping: Annotated[tuple[Annotated[int, Meta(ge=1, le=1 << 40)], ...], Meta(min_length=1, max_length=64)]  # eps
    norm_shifts: Annotated[tuple[Annotated[int, Meta(ge=0, le=38)], ...], Meta(min_length=1, max_length=64)]

    title: ClassVar[str] = "il-prox"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, numbers in (("damping", self.damping), ("norm_shifts", self.norm_shifts)):
            if len(numbers) != len(self.layers):
                raise SpecError(f"il-prox has {len(numbers)} {name} for {len(self.layers)} layers")


class SequentialIl(SettlingRecord, tag="il-mq", frozen=True, kw_only=True):
    """Sequential inference learning (Alonso, Krichmar, Neftci 2024): from the top layer down, newest values at once.

    h[L] = (1 - kept) * onehot + kept * softmax                       a soft clamp
    h <- h + gain / (1 + t) * (W' e above where h > 0, less e)          t = 0, 1, ... `steps` - 1
    dW = e rates'                                                       goes with the normaliser MQ
    """

    gain: Share
    kept: Share = 324  # 1 / (1 + beta), beta = 100

    title: ClassVar[str] = "il-mq"


class PredictiveCoding(SettlingRecord, tag="predictive", frozen=True, kw_only=True):
    """Predictive coding under constraints (Alonso, Neftci 2021): rates are never negative, and errors come back through
    synapses of their own, `<layer>.feedback` int8 laid out like its weight, for each layer but the first.

        a <- clip(a + up * B' delta above - down * e, 0, 127);   e = a - relu(p), delta = e where p > 0
        dW = dB = delta rates'

    Feedback with a rate learns as its weight does; both decay by their rates' `decay_shift`, so that they meet (Kolen
    and Pollack 1994). Without one it stays as it is.
    """

    up: Share
    down: Share

    title: ClassVar[str] = "predictive"

    def _more(self) -> frozenset[str]:
        return frozenset(f"{name}.feedback" for name in self.layers[1:])

    def carriers(self, layer: LayerOf) -> Iterator[State]:
        yield from super().carriers(layer)
        for name in self.layers[1:]:
            yield State(f"carrier.{name}.feedback", "float64", (layer(name).outputs, layer(name).widths[0]))

    def own(self, layer: LayerOf) -> Iterator[State]:
        for name in self.layers[1:]:
            yield State(f"{name}.feedback", "int8", (layer(name).outputs, layer(name).widths[0]))


class MeanQuotient(Record, tag="mq", frozen=True, kw_only=True):
    """MQ: each tensor's gradient over its own running mean size, by a shift (Alonso, Krichmar, Neftci 2024).

        v <- v + (mean|G| - v) / min(updates + 1, 2**memory);   N = G / 2**e with mean|N| near 2**10

    One number a tensor is all the state. The first update only measures.
    """

    memory: Annotated[int, Meta(ge=0, le=20)] = 13
