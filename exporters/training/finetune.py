"""A short training of weights that are rounded as they will be: the float net teaches what its bits forget.

W_q = Q_b(W) going forward, W going backward (straight through; Bengio et al. 2013)
loss = mean KL(float net's answers || answers with W_q): no label is needed
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from edgerun.arrays import F64
from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.nodes import FloatLayer
from exporters.nodes.grid import grid_steps, on_grid
from exporters.sensitivity import bit_layers
from exporters.training.torch_net import Parameters, Tensor, parameters, torch_answers

RATE = 3e-4
BATCH = 64


def finetune(
    net: FloatNet, samples: Samples, bits: Mapping[str, int], *, epochs: int = 3, rate: float = RATE, seed: int = 0
) -> FloatNet:
    """The same net with weights on their grids, and biases that go with them, after so many passes over the samples.

    bits  by layer, for those whose bits are free; others keep their weights and learn biases only. Zeros stay zeros

    Adam, its rate falling to 0 along a cosine. The steps of the grids are found anew before each pass and after the
    last; the layers that come back name them as their `weight_scale`, so that quantising finds the same integers.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed)
    teacher, values = parameters(net, gradients=False), parameters(net)
    free = {name: width for name, width in bits.items() if name in bit_layers(net)}
    trained = [value for name, value in values.items() if name.endswith("bias") or name.rpartition(".")[0] in free]
    there = {name: torch.from_numpy(bit_layers(net)[name] != 0) for name in free}
    batches = -(-len(samples) // BATCH)
    optimiser = torch.optim.Adam(trained, lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    for _ in range(epochs):
        steps = {name: grid_steps(values[f"{name}.weight"].detach().numpy(), width) for name, width in free.items()}
        for rows in np.array_split(order.permutation(len(samples)), batches):
            moments = torch.tensor(net.moments(samples.x[rows]))
            with torch.no_grad():
                wanted = torch.log_softmax(torch_answers(net, teacher, moments), dim=-1)
            rounded = dict(values) | {
                f"{name}.weight": straight_through(values[f"{name}.weight"], steps[name], free[name]) for name in free
            }
            found = torch.log_softmax(torch_answers(net, rounded, moments), dim=-1)
            optimiser.zero_grad()
            functional.kl_div(found, wanted, reduction="batchmean", log_target=True).backward()
            for name, mask in there.items():
                values[f"{name}.weight"].grad *= mask
            optimiser.step()
            schedule.step()
    return replace(net, layers=tuple(tuned(layer, values, free.get(layer.name)) for layer in net.layers))


def straight_through(weight: Tensor, steps: F64, bits: int) -> Tensor:
    """Q(W), with the gradient of W."""
    rounded = on_grid(weight.detach().numpy(), steps, bits).astype(np.float32)
    return weight + (torch.from_numpy(rounded) - weight).detach()


def tuned(layer: FloatLayer, values: Parameters, bits: int | None) -> FloatLayer:
    """The layer with its new weights on their grid and its new biases."""
    changes = {
        part: values[f"{layer.name}.{part}"].detach().numpy()
        for part in ("bias", "recurrent_bias")
        if f"{layer.name}.{part}" in values
    }
    if bits is not None:
        weight = values[f"{layer.name}.weight"].detach().numpy()
        steps = grid_steps(weight, bits)
        changes |= {"weight": on_grid(weight, steps, bits), "weight_scale": np.where(steps > 0, steps, 1.0)}
    return replace(layer, **changes)
