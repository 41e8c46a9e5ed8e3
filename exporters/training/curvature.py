"""The trace of each layer's block of the Hessian by exact products, differentiated twice (Hutchinson).

trace_l = E[v_l . (H v)_l],  v = +-1 on all weights at once, biases excluded;  H v = d (grad L . v) / dW
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional

from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.sensitivity import PROBES, PROBES_LEAST, SETTLED, labelled
from exporters.training.torch_net import parameters, seen_by, torch_answers

BATCH = 64


def traces(net: FloatNet, samples: Samples, *, probes: int = PROBES, seed: int = 0) -> dict[str, float]:
    """The Hessian's trace by layer with weights; a recurrent layer's blocks are added up.

    L is the mean cross-entropy of the labels. Probes are drawn until one more moves no layer's mean by a thousandth.
    Raises DataError where no sample has a label.
    """
    total: dict[str, float] = {}
    for k, draw in enumerate(draws(net, labelled(samples), probes, seed), 1):
        before = {name: value / max(k - 1, 1) for name, value in total.items()}
        total = {name: total.get(name, 0.0) + value for name, value in draw.items()}
        moved = (abs(total[name] / k - old) / (abs(old) + 1e-6) for name, old in before.items())
        if k >= PROBES_LEAST and max(moved) < SETTLED:
            break
    return {name: value / k for name, value in total.items()}


def draws(net: FloatNet, samples: Samples, probes: int, seed: int) -> Iterator[dict[str, float]]:
    """v_l . (H v)_l by layer, for one v after another."""
    generator = torch.Generator().manual_seed(seed)
    values = parameters(net)
    names = [name for name in values if not name.endswith("bias")]
    weights = [values[name] for name in names]
    seen = seen_by(net, samples)
    parts = np.array_split(np.arange(len(samples)), -(-len(samples) // BATCH))
    for _ in range(probes):
        v = [2.0 * torch.randint(0, 2, w.shape, generator=generator) - 1.0 for w in weights]
        found = dict.fromkeys((name.rpartition(".")[0] for name in names), 0.0)
        for rows in parts:
            some = samples.take(rows)
            answers = torch_answers(net, values, seen(some))
            loss = functional.cross_entropy(answers, torch.tensor(some.y))
            slopes = torch.autograd.grad(loss, weights, create_graph=True)
            along = sum((slope * direction).sum() for slope, direction in zip(slopes, v, strict=True))
            products = torch.autograd.grad(along, weights)
            for name, product, direction in zip(names, products, v, strict=True):
                share = len(rows) / len(samples)
                found[name.rpartition(".")[0]] += share * float((product * direction).sum())
        yield found
