"""The record of the inner step: what a device does from a meta-trained start (Stewart, Neftci 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from edgerun.errors import SpecError
from edgerun.layers import Readout
from edgerun.layers.base import DType, Name, State
from edgerun.rules.base import LayerOf, Reaches, RuleRecord


class InnerStep(RuleRecord, tag="inner-step", frozen=True, kw_only=True):
    """One gradient step of the last layer on the presynaptic traces at the window's end: dW = P[T] (p - onehot)^T.

    Every class has a column, so classes may join up to the readout's width, and be forgotten.
    """

    readout: Name
    gate: Annotated[int, Meta(ge=0, le=32768)] = 0  # theta_e: errors of at most this teach nothing, Q0.15

    @property
    def tensor(self) -> str:
        return f"{self.readout}.input"

    @property
    def by_class(self) -> tuple[str, ...]:
        return (self.tensor,)

    def check(self, layer: LayerOf) -> None:
        if not isinstance(layer(self.readout), Readout):
            raise SpecError(f"inner-step readout {self.readout!r} is no readout layer")
        other = sorted(self.tensors - {self.tensor})
        if other or len(self.rates) != 1:
            raise SpecError(f"inner-step changes {self.tensor!r} alone, by one rate, not {other or len(self.rates)}")

    def describe(self) -> str:
        return f"{self.readout} from its traces at the end of a window, errors over {self.gate / 32768:.3g}"

    def rows(self, tensor: str, steps: int) -> int:
        return 1

    def tape(self, layer: LayerOf, steps: int, reaches: Reaches, trace: DType = "int16") -> Iterator[State]:
        """No step of the window is kept: traces move on while it runs."""
        readout = layer(self.readout)
        yield State("trace.readout", "int16", (1, readout.widths[0]))
        yield State("trace.readout_state", "int32", (3, readout.widths[0]))
        yield State("trace.clipped", "int16", (1, readout.outputs))

    def neurons(self, layer: LayerOf) -> int:
        return layer(self.readout).widths[0]
