"""RMaxProp: a gradient in units of the largest that its weight has met, by a comparison, a table and a shift.

    v <- max(G**2, gamma * v)                             Zenke and Ganguli 2018; here u = sqrt(v), in a code of 8 bits
    c <- max(encode(|G|), c - SR(fade, 8), encode(2**floor))
    N  = sign(G) * ((|G| * RECIPROCAL[m]) >> (e + 7))     G / u in Q0.15

    decode(c) = m << e with m, e = c, 0 for c < 8, else 8 + (c & 7), (c >> 3) - 1

`encode` rounds up, to the least code with decode(c) >= |G|: that is why |N| never exceeds 2**15. Eight codes are an
octave, so fading by the factor sqrt(gamma) is a subtraction; SR lets it be a fraction of a code.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I64, U8, U32
from edgerun.kernels.noise import stochastic_round

TOP: Final = 255
LARGEST: Final = 15 << 30
"""decode(255): gradients beyond it count as this."""
RECIPROCAL: Final[I64] = np.array([0] + [(1 << 22) // m for m in range(1, 16)], np.int64)


def encode(magnitude: I64) -> I64:
    """The least code whose value is at least the magnitude, which is in [0, LARGEST]."""
    drop = np.maximum(0, np.frexp(magnitude.astype(np.float64))[1].astype(np.int64) - 4)
    mantissa = -(-magnitude >> drop)  # rounded up, 16 where that leads into the next octave
    return np.where(magnitude < 8, magnitude, 8 * drop + mantissa)


def normalise(gradient: I64, code: U8, fade: int, floor: int, words: U32) -> None:
    """c <- what it is after this update; G <- N, Q0.15.

    gradient  (rows, n)  updated     code  (rows, n)  updated     words  (rows, n)  read
    """
    sign, magnitude = np.sign(gradient), np.minimum(np.abs(gradient), LARGEST)
    faded = np.full(code.shape, fade, np.int64)
    stochastic_round(faded, 8, words)
    np.subtract(code, faded, out=faded)
    np.maximum(faded, encode(magnitude), out=faded)
    np.maximum(faded, encode(np.array(1 << floor)), out=faded)
    np.copyto(code, faded, casting="unsafe")
    mantissa, exponent = np.where(faded < 8, faded, 8 + (faded & 7)), np.maximum(0, (faded >> 3) - 1)
    np.multiply(magnitude, RECIPROCAL[mantissa], out=gradient)
    gradient >>= exponent + 7
    gradient *= sign
