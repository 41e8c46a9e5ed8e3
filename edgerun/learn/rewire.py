"""Structural plasticity: at boundaries the weakest synapses go and as many grow where the gradient asks for them.

The factory says by its weights which synapses there are: those that are not zero. How many there are never changes, so
neither does what a tensor costs: a bit and 16 bits a weight beside what any plastic one takes. As in sparse
evolutionary training (Mocanu et al. 2018) the smallest weights go, less readily where they are important; as in RigL
(Evci et al. 2020) the largest gradients grow, summed over the updates since the last boundary.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgerun.arrays import I64, AnyArray, Bool, Tensors
from edgerun.kernels import rewire
from edgerun.kernels.noise import Use
from edgerun.learn.profiles import PROFILES, Profile
from edgerun.learn.stages import Step, blocks
from edgerun.plan import Slot
from edgerun.spec import Rewiring

BESIDE = ("importance", "omega", "ref")
"""What synaptic intelligence notes of a weight."""


@dataclass(frozen=True, slots=True)
class Rewire:
    """The stage: weights that are not there stay zero, and what the gradient would have done to them is summed.

    mask (m, ceil(n / 8)) bits, 1 where a synapse is     growth (m, n) int16, 0 where one is
    """

    spec: Rewiring
    profile: Profile = PROFILES["standard"]

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
        return {
            f"mask.{tensor}": Slot((shape[0], -(-shape[1] // 8)), "uint8", "weights"),
            f"growth.{tensor}": Slot(shape, "int16", "state"),
        }

    def begin(self, tensor: str, factory: AnyArray, state: Tensors) -> None:
        """The factory's synapses."""
        rewire.set_alive(state[f"mask.{tensor}"], factory != 0)

    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        living = rewire.alive(state[f"mask.{step.tensor}"][step.rows], step.shadow.shape[1])
        growth, words = state[f"growth.{step.tensor}"][step.rows], step.noise(Use.GROWTH)
        rewire.grow(growth, step.small, living, self.spec.growth_shift, words)
        np.copyto(step.wanted, 0, where=~living)

    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        """Nothing: what was not wanted was not made."""

    def stirs(self, tensor: str, state: Mapping[str, AnyArray]) -> Bool:
        """All rows: growth is summed in place."""
        return np.ones(len(state[f"shadow.{tensor}"]), np.bool_)

    def move(self, tensor: str, state: Tensors) -> int:
        """Take the weakest share of a tensor's synapses away and grow as many; returns how many."""
        shadow, mask, growth = (state[f"{kind}.{tensor}"] for kind in ("shadow", "mask", "growth"))
        width, middle, spans = shadow.shape[1], self.profile.middle, list(blocks(len(shadow), self.profile.block_rows))
        there = sum(int(rewire.alive(mask[rows], width).sum()) for rows in spans)
        count = min(there * self.spec.share >> 15, shadow.size - there)
        code = state.get(f"importance.{tensor}")

        def living(rows: slice) -> Bool:
            return rewire.alive(mask[rows], width)

        def weak(rows: slice) -> I64:
            mattered = np.zeros((), np.uint8) if code is None else code[rows]
            return rewire.weakness(shadow[rows], mattered, middle, living(rows))

        def still(rows: slice) -> I64:
            return rewire.stillness(growth[rows], living(rows))

        for rows, gone in rewire.smallest(weak, spans, count):
            rewire.set_alive(mask[rows], living(rows) & ~gone)
            shadow[rows][gone] = middle
            for kind in BESIDE:
                if f"{kind}.{tensor}" in state:
                    state[f"{kind}.{tensor}"][rows][gone] = 0
        for rows, grown in rewire.smallest(still, spans, count):
            rewire.set_alive(mask[rows], living(rows) | grown)
        growth[...] = 0
        return count
