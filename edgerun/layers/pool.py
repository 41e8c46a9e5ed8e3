"""Max and average pooling over images (height, width, channel)."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import numpy as np
from msgspec import Meta

from edgerun.arrays import I64
from edgerun.errors import SpecError
from edgerun.layers.base import (
    F32_EXACT,
    F64_EXACT,
    MULTIPLIER,
    SHIFT,
    Certificate,
    Field,
    Int8,
    Tensors,
    Work,
    describe_scales,
    refuse_above,
    refuse_reach,
    refuse_wide,
)
from edgerun.layers.window import Windowed, taps_inside

OFFSET = (-(1 << 52), 1 << 52)

Ties: TypeAlias = Literal["up", "even", "away"]

TIE_BITS: Final = 15
"""A mean that lies less than 2**-15 of a step above a half, as `offset` has it, is taken for the half itself."""


class Pool(Windowed, frozen=True, kw_only=True):
    """What both kinds share: every window sees a value of the image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.counts.all():
            raise SpecError(f"padding {self.padding} holds a whole window of kernel {self.kernel}")

    @property
    def counts(self) -> I64:
        """(oh, ow)  how many values of the image each window sees."""
        (h, w, _), (top, left, bottom, right) = self.input_shape, self.padding
        down = taps_inside(h, top, bottom, self.kernel[0], self.stride[0], self.dilation[0])
        across = taps_inside(w, left, right, self.kernel[1], self.stride[1], self.dilation[1])
        return np.multiply.outer(down, across)

    def work(self) -> Work:
        return Work(elements=self.outputs * sum(self.kernel), calls=3 + self.kernel[1])


class MaxPool(Pool, tag="max-pool", frozen=True, kw_only=True):
    """y = clip(the largest x of the window, qmin, qmax). Padding is -128 and never wins. No tensors."""

    def reach(self, reaches: tuple[int, ...]) -> int:
        return min(super().reach(reaches), max(*reaches, self.qmin, -self.qmax))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_wide(self.name, reaches)
        return Certificate(carrier="float32-folded", bound=max(reaches))


class AveragePool(Pool, tag="average-pool", frozen=True, kw_only=True):
    """y = clip((sum of the window * m + o >> s) + zero_point, qmin, qmax), the sum over values inside the image.

    `ties` says where a half goes: `up`, as above; or, where o - 2**(s-15) gives one less, to that one of the two which
    is `even` before the zero point is added, or which is `away` from 0 after it.

    m, o and s belong to the number of those values: a mean that counts padding or does not is a matter of them, and `o`
    holds the input's zero point and the rounding. Tensors, one entry for each different number, least first:
    `<name>.multiplier` int32, `<name>.offset` int64, `<name>.shift` uint8.
    """

    zero_point: Int8 = 0
    input_bound: Annotated[int, Meta(ge=1, le=128)] = 128  # largest |x| that the layer before can emit
    ties: Ties = "up"

    @property
    def sizes(self) -> I64:
        """The different numbers of values that windows see, least first."""
        return np.unique(self.counts)

    def fields(self) -> tuple[Field, ...]:
        n = len(self.sizes)
        return (
            Field("multiplier", "int32", (n,), *MULTIPLIER),
            Field("offset", "int64", (n,), *OFFSET),
            Field("shift", "uint8", (n,), *SHIFT),
        )

    def offsets(self, tensors: Tensors) -> tuple[I64, I64]:
        """o, which sends halves up, and what sends them down: less by 2**-15 of a step, at least by 1."""
        up, shift = (self.tensor(tensors, part).astype(np.int64) for part in ("offset", "shift"))
        return up, up - (1 << np.maximum(shift - TIE_BITS, 0))

    def certify(self, tensors: Tensors, reaches: tuple[int, ...], plastic: frozenset[str]) -> Certificate:
        refuse_reach(self.name, self.input_bound, reaches)
        return self.proof(tensors)

    def proof(self, tensors: Tensors) -> Certificate:
        """Sums in float32, n * max|x| <= 2**24; then float64 where n * max|x| * m + |o| + |zp| * 2**s <= 2**53.

        Where a tie is looked for, both offsets keep that bound.
        """
        multiplier, shift = (self.tensor(tensors, part).astype(np.int64) for part in ("multiplier", "shift"))
        up, down = self.offsets(tensors)
        offset = np.abs(up) if self.ties == "up" else np.maximum(np.abs(up), np.abs(down))
        total = self.sizes * self.input_bound
        refuse_above(self.name, "values of a window * max|x|", total, F32_EXACT)
        whole = total * multiplier + offset + (np.int64(abs(self.zero_point)) << shift)
        exact = bool((whole <= F64_EXACT).all())
        return Certificate(carrier="float32-dot" if exact else "int64", bound=int(total.max()))

    def describe(self, tensors: Tensors) -> str:
        scales = describe_scales(self.tensor(tensors, "multiplier"), self.tensor(tensors, "shift"), self.zero_point)
        ties = "" if self.ties == "up" else f", halves {self.ties}"
        return f"{'x'.join(map(str, self.shape))}, {scales}{ties}"

    def work(self) -> Work:
        rounds, calls = (1, 8) if self.ties == "up" else (2, 18)
        return Work(elements=self.outputs * (sum(self.kernel) + rounds), calls=calls + self.kernel[1])
