"""How weights may learn on a device: one record a rule, checked once, as `edgerun.layers` has one a layer.

A record says which tensors it changes and how far a step goes (`rates`), when a lesson is worth an update, and what its
recorded window costs in memory and work. What it does is in `edgerun/learn`, under the same name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Literal, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Lif, Readout
from edgerun.layers.base import LayerRecord, Name, Record, State

LayerOf: TypeAlias = Callable[[str], LayerRecord]
"""A manifest's layers by name. Raises SpecError for a name that none has."""


class PlasticRate(Record, frozen=True, kw_only=True):
    """One plastic tensor's step: d = SR(-G * eta, shift + e), at most `max_step` shadow LSB a weight and update.

    e >= 0 is the fewest halvings that keep the step's Euclidean norm under `max_norm` shadow LSB (0 = no such limit).
    """

    tensor: Name
    eta: Annotated[int, Meta(ge=0, le=32767)]
    shift: Annotated[int, Meta(ge=0, le=30)]
    max_step: Annotated[int, Meta(ge=1, le=32512)] = 512
    max_norm: Annotated[int, Meta(ge=0, le=1 << 24)] = 0


class RuleRecord(Record, frozen=True, kw_only=True):
    """What every rule has. The error is p - onehot of a softmax over the classes in play, Q0.15."""

    rates: Annotated[tuple[PlasticRate, ...], Meta(max_length=64)]
    gradient_shift: Annotated[int, Meta(ge=1, le=30)] = 8  # sg of the gradient that synaptic intelligence sees
    temperature_shift: Annotated[int, Meta(ge=0, le=24)] = 19  # (top - logit) >> this: a 32nd a table step
    error_threshold: Annotated[int, Meta(ge=0, le=32768)] = 32768  # skip a lesson whose p(label) is at or above, Q0.15
    recent_labels: Annotated[int, Meta(ge=0, le=4096)] = 0  # restrict the error to classes in the last so many; 0 = all

    classifies: ClassVar[bool] = True
    """Whether lessons are labels; else they are target values."""

    @property
    def tensors(self) -> frozenset[str]:
        return frozenset(rate.tensor for rate in self.rates)

    @abstractmethod
    def check(self, layer: LayerOf) -> None:
        """Raises SpecError where the layers that the rule names are not of its kind."""

    @abstractmethod
    def describe(self) -> str:
        """What learns through what, for `edgerun inspect`."""

    @abstractmethod
    def rows(self, tensor: str, steps: int) -> int:
        """T of the factors of a tensor's gradient: how many outer products it is the sum of."""

    @abstractmethod
    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        """Arrays that a recorded window and the factors made of it take. reach: of what drives the first such layer."""

    @abstractmethod
    def neurons(self, layer: LayerOf) -> int:
        """Traces and filters that a step of learning moves on."""


class EProp(RuleRecord, tag="eprop", frozen=True, kw_only=True):
    """Deferred e-prop over one window (Bellec et al. 2020), `docs/arithmetic.md` for the integer form."""

    layer: Name  # the Lif layer that learns
    readout: Name
    chunk_steps: Annotated[int, Meta(ge=1, le=128)]
    signal_shift: Annotated[int, Meta(ge=1, le=16)] = 7  # L = sat16(half_up(sum_k w_k error_k / 2**signal_shift))
    post_shift: Annotated[int, Meta(ge=1, le=8)] = 8
    feedback: Literal["symmetric"] = "symmetric"
    gamma: Annotated[int, Meta(ge=1, le=256)] = 77  # Q0.8 height of the surrogate; scales only ALIF's own feedback

    def check(self, layer: LayerOf) -> None:
        if not isinstance(layer(self.layer), Lif):
            raise SpecError(f"eprop layer {self.layer!r} is no lif layer")
        if not isinstance(layer(self.readout), Readout):
            raise SpecError(f"eprop readout {self.readout!r} is no readout layer")

    def describe(self) -> str:
        return f"{self.layer} through {self.readout}, chunks of {self.chunk_steps} steps"

    def rows(self, tensor: str, steps: int) -> int:
        return 1 if tensor == f"{self.readout}.input" else min(steps, self.chunk_steps)

    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        """Traces belong to no plastic tensor but to what feeds it."""
        chunk, m, n = min(steps, self.chunk_steps), layer(self.layer).widths[0], layer(self.layer).outputs
        yield State("tape.pre", "uint8" if reach <= 1 else "int8", (steps, m))
        yield State("tape.spikes", "uint8", (steps, n))
        yield State("tape.psi", "uint8", (chunk, n))
        yield State("trace.post", "int16", (chunk, n))
        for name, units in (("input", m), ("recurrent", n)):
            if f"{self.layer}.{name}" in self.tensors:
                yield State(f"trace.{name}", "int16", (chunk, units))
                yield State(f"trace.{name}_state", "int16", (2, units))
        yield State("trace.readout", "int16", (2, n))
        yield State("trace.signal", "int32", (2, n))
        yield State("trace.error", "int32", (layer(self.readout).outputs,))

    def neurons(self, layer: LayerOf) -> int:
        return layer(self.layer).widths[0] + layer(self.layer).outputs


Rule: TypeAlias = EProp
