"""E-prop: at the end of a window, over target steps, towards values, or at every step (Bellec et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Lif, Readout
from edgerun.layers.base import DType, Name, State
from edgerun.rules.base import ALL, LayerOf, Reaches, RuleRecord


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

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """The window of each layer and its factors, then what belongs to all."""
        chunk, classes = min(steps, self.chunk_steps), layer(self.readout).outputs
        last = min(steps, self.target_steps)
        for name in self.layers:
            m, n, prefix = layer(name).widths[0], layer(name).outputs, self.prefix(name)
            yield State(f"tape.{prefix}pre", "int8" if reaches[name] <= 127 else "int16", (steps, m))
            yield State(f"tape.{prefix}spikes", "uint8", (steps, n))
            yield State(f"tape.{prefix}psi", "uint8", (chunk, n))
            yield State(f"trace.{prefix}post", "int16", (chunk, n))
            for part, units in (("input", m), ("recurrent", n)):
                if f"{name}.{part}" in self.tensors:
                    yield State(f"trace.{prefix}{part}", trace, (chunk, units))
            if self.bars(name):
                yield State(f"trace.{prefix}readout", trace, (last, n))
            if getattr(layer(name), "adaptive", False):
                yield State(f"trace.{prefix}adjoint", "int64", (n,))
        widest = max(max(layer(name).widths[0], layer(name).outputs) for name in self.layers)
        yield State("trace.state", "int32", (4, widest))
        yield State("trace.error", "int32", (last, classes))
        yield State("trace.clipped", "int16", (last, classes))
        yield State("tape.logits", "int32", (last, classes))

    def prefix(self, name: str) -> str:
        """What stands before a layer's part in the names of its slots."""
        return "" if name == self.layer else f"{name}."

    def bars(self, name: str) -> tuple[str, ...]:
        """Plastic tensors whose gradient is a layer's spikes, filtered as the readout does, times the error."""
        wanted = (f"{name}.feedback", *((f"{self.readout}.input",) if name == self.layer else ()))
        return tuple(tensor for tensor in wanted if tensor in self.tensors)

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

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        yield from super().tape(layer, steps, reaches, trace)
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

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """Traces that go along with the window, each with what its leak carries, and one step's factors."""
        for name in self.layers:
            m, n, prefix = layer(name).widths[0], layer(name).outputs, self.prefix(name)
            for part, units in (("input", m), ("recurrent", n), ("readout", n)):
                yield State(f"trace.{prefix}{part}", "int16", (1, units))
                yield State(f"trace.{prefix}{part}_state", "int32", (3, units))
            yield State(f"tape.{prefix}psi", "uint8", (1, n))
            yield State(f"trace.{prefix}post", "int16", (1, n))
        classes = layer(self.readout).outputs
        yield State("trace.error", "int32", (1, classes))
        yield State("trace.clipped", "int16", (1, classes))
