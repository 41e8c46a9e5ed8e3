"""A short training of weights that are rounded as they will be: the float net teaches what its bits forget.

W_q = Q_b(W) going forward, W going backward (straight through; Bengio et al. 2013)
loss = mean KL(float net's answers || answers with W_q): no label is needed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from edgerun.arrays import F64
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import FloatLayer
from exporters.nodes.grid import on_grid
from exporters.rounding import SHARED, roundings
from exporters.training.torch_net import TRAINED, Parameters, Tensor, parameters, seen_by, torch_answers

RATE = 3e-4
BATCH = 64
SCALES = {"weight": "weight_scale", "recurrent": "recurrent_scale"}


def finetune(
    net: FloatNet,
    samples: Samples,
    bits: Mapping[str, int],
    *,
    epochs: int = 3,
    rate: float = RATE,
    seed: int = 0,
    teacher: FloatNet | None = None,
) -> FloatNet:
    """The same net with weights on their grids, and biases that go with them, after so many passes over the samples.

    teacher  whose answers are learned; the net's own where none is named
    bits  by layer, for those whose bits are free; others keep their weights and learn biases only. Zeros stay zeros

    Adam, its rate falling to 0 along a cosine. The steps of the grids are found once, before it; quantising finds the
    same integers: layers that come back name the steps as their `weight_scale`, or, where one power of two serves a
    whole layer, find it again, because only it leaves no error.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    wise = teacher or net
    known, values, seen = parameters(wise, gradients=False), parameters(net), seen_by(net, samples)
    grids = {
        name: layer
        for name, layer in roundings(net, samples).items()
        if name in bits and (hasattr(layer.layer, "weight_scale") or isinstance(layer.layer, SHARED))
    }
    free = {
        f"{name}.{part}": (bits[name], torch.from_numpy(weight != 0))
        for name, layer in grids.items()
        for part, weight in layer.weights.items()
    }
    trained = [value for name, value in values.items() if name.endswith("bias") or name in free]
    batches = -(-len(samples) // BATCH)
    optimiser = torch.optim.Adam(trained, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    steps = {f"{name}.{part}": s for name, layer in grids.items() for part, s in layer.steps(bits[name]).items()}
    for _ in range(epochs):
        for rows in np.array_split(order.permutation(len(samples)), batches):
            moments = seen(samples.take(rows))
            with torch.no_grad():
                wanted = torch.log_softmax(torch_answers(wise, known, moments), dim=-1)
            rounded = dict(values) | {
                name: straight_through(values[name], steps[name], width) for name, (width, _) in free.items()
            }
            found = torch.log_softmax(torch_answers(net, rounded, moments), dim=-1)
            optimiser.zero_grad()
            functional.kl_div(found, wanted, reduction="batchmean", log_target=True).backward()
            for name, (_, there) in free.items():
                values[name].grad *= there
            optimiser.step()
            schedule.step()
    return replace(net, layers=tuple(tuned(layer, values, steps, bits) for layer in net.layers))


def straight_through(weight: Tensor, steps: F64, bits: int) -> Tensor:
    """Q(W), with the gradient of W."""
    rounded = on_grid(weight.detach().numpy(), steps, bits).astype(np.float32)
    return weight + (torch.from_numpy(rounded) - weight).detach()


def tuned(layer: FloatLayer, values: Parameters, steps: Mapping[str, F64], bits: Mapping[str, int]) -> FloatLayer:
    """The layer with its new weights on their grids and its new biases."""
    found: dict[str, Any] = {}
    for part in TRAINED:
        name = f"{layer.name}.{part}"
        if name in values:
            found[part] = values[name].detach().numpy()
        if name in steps:
            found[part] = on_grid(found[part], steps[name], bits[layer.name])
            if isinstance(layer, SHARED):
                found[part] = found[part].astype(np.float32)
            else:
                found[SCALES[part]] = np.where(steps[name] > 0, steps[name], 1.0)
    return replace(layer, **found)
