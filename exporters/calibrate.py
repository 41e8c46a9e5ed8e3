"""How far values reach on real data: the ranges that scales are chosen from.

minmax      from the least to the greatest value seen
percentile  without the outermost (100 - P) per cent at either end
mse         the range whose int8 grid has the least mean squared error over the values seen
entropy     the range whose int8 histogram diverges least from the histogram of the values (Kullback-Leibler)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np

from edgerun.arrays import F32, F64, AnyArray
from edgerun.errors import DataError, ModelError
from exporters.float_net import FloatNet, forward
from exporters.nodes import FloatLayer, Range

Values: TypeAlias = F32 | F64
Method: TypeAlias = Literal["minmax", "percentile", "mse", "entropy"]

METHODS: Final[tuple[Method, ...]] = get_args(Method)
KEPT: Final = 1 << 18
"""Values of one layer that a range is chosen from, at most: every k-th of more. Minima and maxima see all."""
SHARES: Final = np.geomspace(1.0, 0.02, 60)
"""Candidates of `mse` and `entropy` for either end of a range, as shares of the whole; the widest of equals wins."""
BINS: Final = 4096
LEVELS: Final = 256


@dataclass(frozen=True, slots=True)
class Calibration:
    """How ranges are chosen. `percentile` is the share of values inside, in per cent, of the method of that name."""

    method: Method = "minmax"
    percentile: float = 99.99

    def __post_init__(self) -> None:
        if not 90 <= self.percentile <= 100:
            raise DataError(f"--percentile {self.percentile} is outside [90, 100]")

    def __str__(self) -> str:
        return f"percentile {self.percentile:g}" if self.method == "percentile" else self.method


MINMAX: Final = Calibration()


def reach(values: AnyArray, how: Calibration = MINMAX) -> Range:
    """The range that `how` chooses for these values, any shape, finite. It always holds zero."""
    whole = Range(min(float(values.min()), 0.0), max(float(values.max()), 0.0))
    if how.method == "minmax" or whole.low == whole.high:
        return whole
    if how.method == "percentile":
        low, high = np.percentile(values.astype(np.float64), [100.0 - how.percentile, how.percentile])
        return Range(min(float(low), 0.0), max(float(high), 0.0))
    counts, edges = np.histogram(values.reshape(-1).astype(np.float64), BINS, (whole.low, whole.high))
    centres = edges[1:] / 2 + edges[:-1] / 2
    cost = squared_error if how.method == "mse" else divergence
    best = whole
    for end in ("high", "low", "high"):  # each end in turn, the other as it is
        trials = [
            replace(whole, **{"high": best.high, "low": best.low, end: float(share * getattr(whole, end))})
            for share in SHARES
        ]
        with np.errstate(over="ignore", invalid="ignore"):
            costs = [cost(counts.astype(np.float64), centres, trial) for trial in trials]
        best = trials[int(np.argmin(np.nan_to_num(costs, nan=np.inf)))]
    return best


def squared_error(counts: F64, centres: F64, range_: Range) -> float:
    """Sum of (x - Q(x))**2 over a histogram, Q the int8 grid of a range, clipping included."""
    grid = range_.affine()
    q = np.clip(np.rint(centres / grid.scale) + grid.zero_point, -128, 127)
    return float((counts * np.square(centres - (q - grid.zero_point) * grid.scale)).sum())


def divergence(counts: F64, centres: F64, range_: Range) -> float:
    """KL(p || q): p the histogram with everything beyond the range in its end bins, q what 256 levels keep of it.

    A level spreads its mass evenly over the bins that held any (Migacz 2017).
    """
    inside = np.flatnonzero((centres >= range_.low) & (centres <= range_.high))
    p = counts[inside].copy()
    kept = p.copy()
    p[0] += counts[: inside[0]].sum()
    p[-1] += counts[inside[-1] + 1 :].sum()
    level = np.arange(len(p)) * LEVELS // len(p)
    mass = np.bincount(level, kept, LEVELS)
    filled = np.bincount(level, kept > 0, LEVELS)
    q = np.where(kept > 0, (mass / np.maximum(filled, 1))[level], 0.0)
    held = p > 0
    if not q.any():
        return np.inf
    p, q = p / p.sum(), np.maximum(q / q.sum(), 1e-12)
    return float((p[held] * np.log(p[held] / q[held])).sum())


class Observer:
    """Gathers what one layer gives, block by block: its ends, and, where `keep`, values to choose a range from."""

    def __init__(self, *, keep: bool) -> None:
        self._keep = keep
        self._blocks: list[AnyArray] = []
        self._ends = Range(0.0, 0.0)
        self._seen = 0

    def add(self, values: Values) -> None:
        ends = reach(values)
        self._ends = Range(min(self._ends.low, ends.low), max(self._ends.high, ends.high))
        if self._keep:
            self._seen += values.size
            self._blocks.append(values.reshape(-1)[:: 1 + self._seen // KEPT].copy())

    def range(self, how: Calibration) -> Range:
        return self._ends if how.method == "minmax" else reach(np.concatenate(self._blocks), how)


def observe(net: FloatNet, blocks: Iterable[F32], *, keep: bool) -> dict[str, Observer]:
    """What every layer gives over blocks of moments (steps, N, step size), all steps together."""
    observers = {layer.name: Observer(keep=keep) for layer in net.layers}

    def watch(layer: FloatLayer, out: F32) -> None:
        observers[layer.name].add(out)

    for block in blocks:
        forward(net, block, watch)
    return observers


def spiking_input_scale(net: FloatNet, x: AnyArray, full_scale: int) -> float:
    """What one step of the encoder stands for: the model's word, else 1 where the data are such steps, else max / full.

    Raises ModelError where a value is negative: a rate code has no sign.
    """
    if x.min() < 0:
        raise ModelError(f"the phase-rate code takes values from 0, the calibration data reach down to {x.min():g}")
    if net.input_scale is not None:
        return net.input_scale
    top = float(x.max())
    if top <= full_scale and not (x % 1).any():
        return 1.0
    return top / full_scale
