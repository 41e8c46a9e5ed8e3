"""Softmax by table, Q0.15: probabilities of masked integer logits and the error that e-prop spreads."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edgerun.arrays import I32, I64, Bool

ONE: Final = 1 << 15
STEPS_PER_UNIT: Final = 32

TABLE: Final[I64] = np.array([round(ONE * math.exp(-i / STEPS_PER_UNIT)) for i in range(256)], dtype=np.int64)
"""TABLE[i] = round(2**15 * exp(-i / 32)): 256 entries reach down to exp(-8)."""


def softmax_error(error: I32, logits: I64, shift: int, known: Bool, label: int) -> int:
    """error <- softmax(logits) - onehot(label) in Q0.15 over the known classes; returns p(label).

        i_k = min(255, (max - logit_k) >> shift);  e_k = TABLE[i_k];  p_k = half_up(2**15 * e_k / sum e)

    The rounding rest goes to the label, so the error sums to exactly 0. Classes that are not `known` get 0.

    error   (k,)  written   Q0.15 in int32
    logits  (k,)  read      any Q format; `shift` makes one table step of it
    known   (k,)  read      must contain `label`
    """
    top = int(logits[known].max())
    index = np.minimum((top - logits) >> shift, 255)
    index[~known] = 0
    weight = np.where(known, TABLE[index], 0)
    total = int(weight.sum())
    probability = (2 * ONE * weight + total) // (2 * total)
    probability[label] += ONE - int(probability.sum())
    np.copyto(error, probability, casting="unsafe")
    error[label] -= ONE
    return int(probability[label])
