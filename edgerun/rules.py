"""How weights may learn on a device: one record a rule, checked once, as `edgerun.layers` has one a layer.

A record says which tensors it changes and how far a step goes (`rates`), when a lesson is worth an update, and what its
recorded window costs in memory and work. What it does is in `edgerun/learn`, under the same name.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Annotated, ClassVar, Final, Literal, TypeAlias

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Lif, Readout
from edgerun.layers.base import LayerRecord, Name, Record, State

ALL: Final = 1 << 15  # of windows, Q0.15
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
    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        """Arrays that a recorded window and the factors made of it take. reach: of what drives the first such layer."""

    @abstractmethod
    def neurons(self, layer: LayerOf) -> int:
        """Traces and filters that a step of learning moves on."""

    def macs(self, layer: LayerOf) -> int:
        """int8 multiply-accumulates of learning from a window, beside running it and the gradient's own products."""
        return 0


class EProp(RuleRecord, tag="eprop", frozen=True, kw_only=True):
    """Deferred e-prop over one window (Bellec et al. 2020), `docs/arithmetic.md` for the integer form.

    A layer's learning signal comes through its feedback: the live readout weights (symmetric) or its own matrix, the
    tensor `<layer>.feedback` int8 (n, k), which stays as it is (random) or receives the updates that a readout of that
    layer would (adaptive). Hidden layers have a matrix of their own in any case.
    """

    layer: Name  # the Lif layer that the readout reads
    readout: Name
    hidden: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()  # Lif layers under it that learn too
    chunk_steps: Annotated[int, Meta(ge=1, le=128)]
    target_steps: Annotated[int, Meta(ge=1, le=128)] = 1  # the error is taken after each of the last so many steps
    signal_shift: Annotated[int, Meta(ge=1, le=16)] = 7  # L = sat16(half_up(sum_k w_k error_k / 2**signal_shift))
    post_shift: Annotated[int, Meta(ge=1, le=8)] = 8
    feedback: Literal["symmetric", "random", "adaptive"] = "symmetric"
    gamma: Annotated[int, Meta(ge=1, le=256)] = 77  # Q0.8 height of the surrogate; scales only ALIF's own feedback
    spikes_target: Annotated[int, Meta(ge=0, le=ALL)] = 0  # f*: spikes of a neuron in the chunk, Q8
    spikes_cost: Annotated[int, Meta(ge=0, le=ALL)] = 0  # c: R = (256 * spikes - f*) * c / 2**16, at any step

    def __post_init__(self) -> None:
        if self.target_steps > self.chunk_steps:
            raise SpecError(f"eprop target_steps {self.target_steps} is above the {self.chunk_steps} of a chunk")

    @property
    def layers(self) -> tuple[str, ...]:
        """All that learn, as the spikes go."""
        return (*self.hidden, self.layer)

    @property
    def fed(self) -> tuple[str, ...]:
        """Layers with a feedback matrix of their own."""
        return self.hidden if self.feedback == "symmetric" else self.layers

    def check(self, layer: LayerOf) -> None:
        for name in self.layers:
            if not isinstance(layer(name), Lif):
                raise SpecError(f"eprop layer {name!r} is no lif layer")
        if len(set(self.layers)) != len(self.layers):
            raise SpecError(f"eprop layers {', '.join(self.layers)} repeat")
        if not isinstance(layer(self.readout), Readout):
            raise SpecError(f"eprop readout {self.readout!r} is no readout layer")
        self._check_feedback()

    def _check_feedback(self) -> None:
        """Adaptive matrices learn, others stay."""
        matrices = {f"{name}.feedback" for name in self.fed}
        rated = matrices & self.tensors
        if self.feedback == "adaptive" and matrices - rated:
            raise SpecError(f"eprop feedback 'adaptive' leaves {min(matrices - rated)!r} without a rate")
        if self.feedback != "adaptive" and rated:
            raise SpecError(f"eprop feedback {self.feedback!r} has a rate for {min(rated)!r}, which stays as it is")

    def own(self, layer: LayerOf) -> Iterator[State]:
        for name in self.fed:
            yield State(f"{name}.feedback", "int8", (layer(name).outputs, layer(self.readout).outputs))

    def describe(self) -> str:
        return (
            f"{' and '.join(self.layers)} through {self.readout}, {self.feedback} feedback, "
            f"chunks of {self.chunk_steps} steps"
        )

    def rows(self, tensor: str, steps: int) -> int:
        within = tensor.endswith((".input", ".recurrent")) and tensor != f"{self.readout}.input"
        return min(steps, self.chunk_steps if within else self.target_steps)

    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        """Traces belong to no plastic tensor but to what feeds it."""
        chunk, classes = min(steps, self.chunk_steps), layer(self.readout).outputs
        last = min(steps, self.target_steps)
        for name in self.layers:
            m, n = layer(name).widths[0], layer(name).outputs
            prefix = "" if name == self.layer else f"{name}."
            yield State(f"tape.{prefix}pre", "uint8" if reach <= 1 else "int8", (steps, m))
            yield State(f"tape.{prefix}spikes", "uint8", (steps, n))
            yield State(f"tape.{prefix}psi", "uint8", (chunk, n))
        n = max(layer(name).outputs for name in self.layers)
        yield State("trace.post", "int16", (chunk, n))
        for part, units in (("input", max(layer(name).widths[0] for name in self.layers)), ("recurrent", n)):
            if any(f"{name}.{part}" in self.tensors for name in self.layers):
                yield State(f"trace.{part}", "int16", (chunk, units))
                yield State(f"trace.{part}_state", "int16", (2, units))
        yield State("trace.readout", "int16", (last + 1, n))
        yield State("trace.signal", "int32", (2, n))
        yield State("trace.error", "int32", (last, classes))
        if last > 1:
            yield State("tape.logits", "int32", (last, classes))

    def neurons(self, layer: LayerOf) -> int:
        return sum(layer(name).widths[0] + layer(name).outputs for name in self.layers)


class EPropValues(EProp, tag="eprop-values", frozen=True, kw_only=True):
    """E-prop towards values: the loss is half the square of y - target after each of the last `target_steps` steps.

    A lesson brings the targets (target_steps, k) int16 in Q3.12. Its p is 2**15 - mean|error|, in Q0.15 and at least 0.
    """

    error_shift: Annotated[int, Meta(ge=1, le=24)] = 9  # error = sat16((y - target * 2**12) >> this, half up), y Q7.24

    classifies: ClassVar[bool] = False

    def targets(self, layer: LayerOf) -> int:
        return self.target_steps * layer(self.readout).outputs

    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        yield from super().tape(layer, steps, reach)
        yield State("tape.target", "int16", (self.target_steps, layer(self.readout).outputs))


class EPropOnline(EProp, tag="eprop-online", frozen=True, kw_only=True):
    """E-prop as the window goes: each of its last `target_steps` steps has an error and an update of its own.

    No readout filter and nothing to keep of a window: every gradient is one outer product. Layers without adaptation.
    """

    chunk_steps: Annotated[int, Meta(ge=1, le=1)] = 1

    online: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.spikes_cost:
            raise SpecError(f"eprop-online has no window to count over: spikes_cost {self.spikes_cost} must be 0")

    @property
    def updates(self) -> int:
        return self.target_steps

    def check(self, layer: LayerOf) -> None:
        super().check(layer)
        for name in self.layers:
            if getattr(layer(name), "adaptive", False):
                raise SpecError(f"eprop-online layer {name!r} is adaptive, which takes state for every synapse")

    def rows(self, tensor: str, steps: int) -> int:
        return 1

    def tape(self, layer: LayerOf, steps: int, reach: int) -> Iterator[State]:
        return super().tape(layer, 1, reach)


Rule: TypeAlias = EProp | EPropValues | EPropOnline
