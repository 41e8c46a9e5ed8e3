"""How wide the numbers of learning are stored: the profiles that a learning plan may name.

    standard  shadows of 16 bits beside int8 weights, anchors of 16 bits, credit of 32, traces of 16
    small     a shadow's high byte is the weight, anchors are weights, credit of 16 bits and traces of 8

`docs/arithmetic.md` has what that changes in the bits that are learned, `docs/results.md` what it costs in accuracy.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, cast

from edgerun.arrays import I8, I16
from edgerun.layers.base import DType
from edgerun.spec import LearningPlan, ProfileName


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The widths of one profile."""

    block_rows: int  # of a tensor that are updated together
    gradient: DType
    trace: DType
    trace_drop: int  # low bits of a trace that its history leaves out
    anchor: DType  # what synaptic intelligence pulls back to
    credit: DType
    credit_drop: int  # low bits of gradient times step that the credit leaves out
    copies: bool  # whether int8 weights lie beside the shadows; else the network reads the shadows' high bytes

    @property
    def middle(self) -> int:
        """What a shadow of weight 0 holds: a high byte is rounded down, so what it stands for is half a step up."""
        return 0 if self.copies else 128


PROFILES: Final[Mapping[ProfileName, Profile]] = MappingProxyType(
    {
        "standard": Profile(
            block_rows=32,
            gradient="int64",
            trace="int16",
            trace_drop=0,
            anchor="int16",
            credit="int32",
            credit_drop=8,
            copies=True,
        ),
        "small": Profile(
            block_rows=4,
            gradient="int32",
            trace="int8",
            trace_drop=8,
            anchor="int8",
            credit="int16",
            credit_drop=18,
            copies=False,
        ),
    }
)


def profile_of(plan: LearningPlan) -> Profile:
    """The widths that a plan asks for."""
    return PROFILES[plan.profile]


def high_bytes(shadow: I16) -> I8:
    """The int8 weights that shadows of profile `small` hold: a view.    (m, n)"""
    return cast(I8, shadow.view("int8")[:, int(sys.byteorder == "little") :: 2])
