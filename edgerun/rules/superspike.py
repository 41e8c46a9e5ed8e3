"""Records of learning from target spike trains: the rule SuperSpike, and the step by the largest gradient, RMaxProp.

`edgerun/rules/base.py` has what every rule's record says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Cells, DenseSum, Patterns
from edgerun.layers.base import DType, Name, Record, State
from edgerun.rules.base import LayerOf, Reaches, RuleRecord

LONGEST: Final = 128
"""Steps of a window that SuperSpike learns from: the norm of a gradient is counted for so many."""


class RMaxProp(Record, tag="rmaxprop", frozen=True, kw_only=True):
    """Each weight's step in units of the largest gradient that it met, which fades (Zenke and Ganguli 2018).

        v <- max(G**2, gamma * v);   a rate's d = SR(-N * eta, shift) with N = G / sqrt(v) in Q0.15

    So no step is longer than eta * 2**(15 - shift) shadow LSB. v is kept as sqrt(v) in eighths of an octave.
    """

    fade: Annotated[int, Meta(ge=0, le=1 << 12)]  # of sqrt(v), an update, in octaves / 2**11: -log2(gamma) * 2**10
    floor: Annotated[int, Meta(ge=0, le=32)] = 0  # sqrt(v) never falls below 2**floor of the gradient's own LSB

    def describe(self) -> str:
        """For `edgerun inspect`."""
        return (
            f"in units of the largest gradient a weight has met, which fades by {self.fade / 2048:.3g} octaves a step"
        )


class Population(Record, frozen=True, kw_only=True):
    """Neurons that learn and what drives them: `<synapses>.weight` is the plastic tensor."""

    synapses: Name  # a DenseSum layer
    neurons: Name  # Cells with a synaptic current behind it


class SuperSpike(RuleRecord, tag="superspike", frozen=True, kw_only=True):
    """SuperSpike over one window (Zenke and Ganguli 2018): class k is the spike pattern that the Patterns layer has as
    its k-th target, and the error is what the last population's spikes lack of it. `docs/arithmetic.md` has the
    integer form.

    A hidden population hears of the error through the live weights above it (symmetric), through a matrix of its own
    that stays as it is, `<neurons>.feedback` int8 (n, outputs) (random), or through 64 everywhere (uniform). The
    "p(label)" that `error_threshold` is compared with is 1 - distance / the distance of silence, at least 0.
    """

    populations: Annotated[tuple[Population, ...], Meta(min_length=1, max_length=16)]  # as the spikes go
    patterns: Name
    feedback: Literal["symmetric", "random", "uniform"] = "symmetric"
    signal_shift: Annotated[int, Meta(ge=1, le=16)] = 7  # L = sat16(half_up(sum_k w_k error_k / 2**signal_shift))
    width_shift: Annotated[int, Meta(ge=4, le=12)] = 9  # surrogate 1 / (1 + |h|)**2: |h| is 1 at 2**this, Q3.12
    post_shift: Annotated[int, Meta(ge=1, le=15)] = 11

    @property
    def fed(self) -> tuple[str, ...]:
        """Populations with a feedback matrix of their own."""
        return tuple(each.neurons for each in self.populations[:-1]) if self.feedback == "random" else ()

    def own(self, layer: LayerOf) -> Iterator[State]:
        for name in self.fed:
            yield State(f"{name}.feedback", "int8", (layer(name).outputs, layer(self.patterns).widths[0]))

    def check(self, layer: LayerOf) -> None:
        for each in self.populations:
            if not isinstance(layer(each.synapses), DenseSum):
                raise SpecError(f"superspike synapses {each.synapses!r} are no dense-sum layer")
            cells = layer(each.neurons)
            if not isinstance(cells, Cells) or not cells.synaptic or cells.recurrence != "none":
                raise SpecError(f"superspike neurons {each.neurons!r} are no cells with a synaptic current alone")
        if not isinstance(layer(self.patterns), Patterns):
            raise SpecError(f"superspike patterns {self.patterns!r} are no patterns layer")
        unknown = sorted(self.tensors - {f"{each.synapses}.weight" for each in self.populations})
        if unknown:
            raise SpecError(f"superspike cannot change {unknown[0]!r}, which is no weight of its synapses")

    def describe(self) -> str:
        names = " and ".join(each.neurons for each in self.populations)
        return f"{names} towards {self.patterns}, {self.feedback} feedback"

    def rows(self, tensor: str, steps: int) -> int:
        return steps

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """What each population read and felt, and the factors of each; one signal goes down through all of them."""
        for each in self.populations:
            m, n = layer(each.synapses).widths[0], layer(each.neurons).outputs
            yield State(f"tape.{each.neurons}.pre", "uint8", (steps, m))
            yield State(f"tape.{each.neurons}.psi", "uint16", (steps, n))
            yield State(f"trace.{each.neurons}.history", "int16", (steps, m))
            yield State(f"trace.{each.neurons}.post", "int16", (steps, n))
        m = max(layer(each.synapses).widths[0] for each in self.populations)
        n = max(layer(each.neurons).outputs for each in self.populations)
        yield State("tape.spikes", "uint8", (steps, layer(self.patterns).widths[0]))
        yield State("trace.signal", "int16", (steps, n))
        yield State("trace.state", "int32", (4, max(m, n)))

    def neurons(self, layer: LayerOf) -> int:
        """Two filters a presynaptic unit, four a neuron."""
        return sum(2 * layer(each.synapses).widths[0] + 4 * layer(each.neurons).outputs for each in self.populations)
