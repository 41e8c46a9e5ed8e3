"""How many bits the weights of each layer get: as few as a budget asks for, where the loss minds it least.

    minimise  sum_l trace_l / n_l * |Q_b(W_l) - W_l|**2     subject to  sum_l bytes(W_l, b) <= budget,  b in {2, 4, 8}

The first is the second-order change of the loss if rounding errors are as good as random (Dong et al. 2020, HAWQ-V2).
Bytes are those of a bundle. Memory is no part of it: a device holds unpacked weights, a byte each, whatever their bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np

from edgerun.arrays import I64
from edgerun.errors import ModelError
from edgerun.packing import best_packing, pack_array
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.rounding import Rounding, roundings
from exporters.sensitivity import traces

WIDTHS: Final = (2, 4, 8)


def choose_bits(
    net: FloatNet, samples: Samples, budget_bytes: int, trace: Mapping[str, float] | None = None
) -> dict[str, int]:
    """Bits by layer name, for `quantise_net`, so that all weights together take at most `budget_bytes` in a bundle.

    trace  the Hessian's trace by layer (`training.curvature.traces`); by forward passes on these samples if not given

    Raises ModelError where even 2 bits a weight are too many, or nothing is free to choose.
    """
    free = roundings(net, samples)
    if not free:
        raise ModelError("no layer's bits are free to choose")
    found = traces(net, samples) if trace is None else trace
    costs = [[damage(layer, found[name], bits) for bits in WIDTHS] for name, layer in free.items()]
    sizes = [[stored_bytes(layer, bits) for bits in WIDTHS] for layer in free.values()]
    chosen = allocate(costs, sizes, budget_bytes)
    return {name: WIDTHS[k] for name, k in zip(free, chosen, strict=True)}


def damage(layer: Rounding, trace: float, bits: int) -> float:
    """trace / n * |Q(W) - W|**2: twice what rounding to so many bits is expected to add to the loss, at least 0."""
    rounded = layer.rounded(bits)
    error = sum(float(np.square(rounded[part] - weight).sum()) for part, weight in layer.weights.items())
    return max(trace, 0.0) / layer.size * error


def stored_bytes(layer: Rounding, bits: int) -> int:
    """What the weights of a layer take in a bundle, rounded to so many bits and packed as is best."""
    rounded = [values.astype(np.int8) for values in layer.integers(bits).values()]
    return sum(len(pack_array("weight", values, best_packing(values))) for values in rounded)


def allocate(costs: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int) -> list[int]:
    """One option a row: the least total cost of all whose total size is within the budget; of equals the smallest.

    Exact: layer by layer it keeps every (size, cost) that no other beats in both. Raises ModelError where none fits.
    """
    reached_size, reached_cost = np.zeros(1, np.int64), np.zeros(1)
    steps: list[tuple[I64, I64]] = []  # (option, place among those reached before) of each that is kept
    for row_cost, row_size in zip(costs, sizes, strict=True):
        size = np.concatenate([reached_size + s for s in row_size])
        cost = np.concatenate([reached_cost + c for c in row_cost])
        option, before = np.divmod(np.arange(len(size)), len(reached_size))
        order = np.lexsort((cost, size))
        order = order[size[order] <= budget]
        order = order[cost[order] < np.concatenate([[np.inf], np.minimum.accumulate(cost[order])])[:-1]]
        if not len(order):
            least = sum(min(row) for row in sizes)
            raise ModelError(f"the weights take {least} bytes at the least, the budget has {budget}")
        reached_size, reached_cost = size[order], cost[order]
        steps.append((option[order], before[order]))
    chosen, place = [], len(reached_cost) - 1
    for option, before in reversed(steps):
        chosen.append(int(option[place]))
        place = int(before[place])
    return chosen[::-1]
