"""The prototype head: nearest class mean in squared distance, in integers (Snell et al. 2017)."""

from __future__ import annotations

import numpy as np

from edgerun.arrays import I32, I64, Bool

NEVER = -(1 << 31)


def class_means(means: I64, sums: I32, counts: I32) -> None:
    """c <- half_up(S / n), 0 where n is 0.    means, sums  (k, d)     counts  (k,)"""
    n = np.maximum(counts, 1).astype(np.int64)[:, None]
    np.floor_divide(2 * sums.astype(np.int64) + n, 2 * n, out=means)


def prototype_scores(scores: I32, z: I64, means: I64, bias: I32, known: Bool) -> None:
    """score_k <- sat32(2 z.c_k - c_k.c_k + bias_k); the least int32 for classes that nobody taught.

    scores  (..., k)  written     z  (..., d)  read     means  (k, d)     bias, known  (k,)
    """
    wide = 2 * (z @ means.T) - (means * means).sum(axis=1) + bias
    np.copyto(scores, np.clip(wide, NEVER + 1, (1 << 31) - 1), casting="unsafe")
    scores[..., ~known] = NEVER
