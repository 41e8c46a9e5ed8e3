"""How weights may learn on a device: one record a rule, checked once, as `edgerun.layers` has one a layer.

A record says which tensors it changes and how far a step goes (`rates`), when a lesson is worth an update, and what its
recorded window costs in memory and work. What it does is in `edgerun/learn`, under the same name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, ClassVar, Final, TypeAlias

from msgspec import Meta

from edgerun.layers.base import DType, LayerRecord, Name, Record, State

ALL: Final = 1 << 15  # of windows, Q0.15
Reaches: TypeAlias = Mapping[str, int]
"""The largest |x| that drives each layer, by its name."""
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
    decay_shift: Annotated[int, Meta(ge=0, le=30)] = 0  # each update takes SR(shadow, this) off; 0 = nothing


class RuleRecord(Record, frozen=True, kw_only=True):
    """What every rule has. The error is p - onehot of a softmax over the classes in play, Q0.15."""

    rates: Annotated[tuple[PlasticRate, ...], Meta(max_length=64)]
    gradient_shift: Annotated[int, Meta(ge=1, le=30)] = 8  # sg of the gradient that synaptic intelligence sees
    temperature_shift: Annotated[int, Meta(ge=0, le=24)] = 19  # (top - logit) >> this: a 32nd a table step
    error_threshold: Annotated[int, Meta(ge=0, le=32768)] = 32768  # skip a lesson whose p(label) is at or above, Q0.15
    update_share: Annotated[int, Meta(ge=1, le=ALL)] = ALL  # share of windows that may update, Q0.15; 2**15 = any
    recent_labels: Annotated[int, Meta(ge=0, le=4096)] = 0  # restrict the error to classes in the last so many; 0 = all

    classifies: ClassVar[bool] = True
    """Whether lessons are labels; else they are target values."""
    online: ClassVar[bool] = False
    """Whether weights change within a window, step by step."""

    @property
    def tensors(self) -> frozenset[str]:
        return frozenset(rate.tensor for rate in self.rates)

    @property
    def by_class(self) -> tuple[str, ...]:
        """Tensors with a column for each class that no other class needs: new ones may join, old ones be forgotten."""
        return ()

    @property
    def updates(self) -> int:
        """How many updates one window may bring."""
        return 1

    def targets(self, layer: LayerOf) -> int:
        """How many int16 values a lesson brings beside its input, 0 where its label says all."""
        return 0

    def own(self, layer: LayerOf) -> Iterator[State]:
        """int8 weights that no layer asks for and the bundle brings for the rule, by their full names."""
        yield from ()

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
    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """Every array that a recorded window and the factors made of it take: the rule works in these and no others.

        trace  the type that e-prop keeps presynaptic traces in: int8 in profile `small`
        """

    def carriers(self, layer: LayerOf) -> Iterator[State]:
        """Weights in the wide form that numpy multiplies; a controller multiplies them as they are stored."""
        yield from ()

    @abstractmethod
    def neurons(self, layer: LayerOf) -> int:
        """Traces and filters that a step of learning moves on."""

    def macs(self, layer: LayerOf) -> int:
        """int8 multiply-accumulates of learning from a window, beside running it and the gradient's own products."""
        return 0
