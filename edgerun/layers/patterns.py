"""Spike trains known by heart: which of them the spikes of a window come nearest to."""

from __future__ import annotations

from typing import Annotated, ClassVar, Final

import numpy as np
from msgspec import Meta

from edgerun.layers.base import F32_EXACT, Certificate, Count, Field, State, Tensors, VectorLayer, Work, refuse_above

LEAK: Final = (1 << 15) - 1
Decay = Annotated[int, Meta(ge=0, le=LEAK)]


class Patterns(VectorLayer, tag="patterns", frozen=True, kw_only=True):
    """The van Rossum distance of the spikes that come in to each of `outputs` target patterns, as scores: class k is
    pattern k, and the nearest one wins. Behind the last step a target is silent.

        raw_k = z - target_k[t];   f_k = smooth(smooth(raw_k * 2**14, rise), fall)
        score_k <- score_k - sum_o f_ko**2 / 2**8

    Tensor: `<name>.target` uint8 (outputs, steps, inputs), zeros and ones.
    """

    steps: Count  # of a target
    rise: Decay  # exp(-dt / tau) of the kernel's two filters, Q0.15
    fall: Decay

    stateful: ClassVar[bool] = True

    def fields(self) -> tuple[Field, ...]:
        return (Field("target", "uint8", (self.outputs, self.steps, self.inputs), 0, 1),)

    def state(self) -> tuple[State, ...]:
        each = (self.outputs, self.inputs)
        filters = [State(name, "int16", each) for name in ("rising", "falling")]
        carries = [State(f"{name}_carry", "uint16", each) for name in ("rising", "falling")]
        return (*filters, *carries, State("score", "int32", (self.outputs,)), State("seen", "int32", (1,)))

    def reach(self, reaches: tuple[int, ...]) -> int:
        """Of what it emits step by step: how many of the inputs differ from each pattern."""
        return self.inputs

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        """What comes in must be spikes, then no filter leaves [-2**14, 2**14] and the scores saturate."""
        refuse_above(self.name, "max|x|", np.array(reaches[0]), 1)
        refuse_above(self.name, "inputs", np.array(self.inputs), F32_EXACT)
        return Certificate(carrier="int64", bound=1 << 14)

    def work(self) -> Work:
        return Work(macs=self.outputs * self.inputs, neurons=2 * self.outputs * self.inputs, calls=20)

    def describe(self, tensors: Tensors) -> str:
        return f"{self.outputs} patterns of {self.inputs} x {self.steps} steps"
