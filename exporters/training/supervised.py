"""Plain supervised training of a float net; weights that are zero stay zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch.nn import functional

from exporters.data import Samples
from exporters.float_net import FloatNet
from exporters.sensitivity import bit_layers
from exporters.training.torch_net import parameters, seen_by, torch_answers


def train(
    net: FloatNet, samples: Samples, *, epochs: int, rate: float = 1e-3, batch: int = 64, seed: int = 0
) -> FloatNet:
    """The net after so many passes over labelled samples: Adam on their cross-entropy, its rate falling as a cosine."""
    rng = np.random.default_rng(seed)
    values, seen = parameters(net), seen_by(net, samples)
    masks = {
        f"{name}.{part}": torch.from_numpy(weight != 0)
        for name, parts in bit_layers(net).items()
        for part, weight in parts.items()
    }
    batches = -(-len(samples) // batch)
    optimiser = torch.optim.Adam(values.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * batches)
    for _ in range(epochs):
        for rows in np.array_split(rng.permutation(len(samples)), batches):
            answers = torch_answers(net, values, seen(samples.take(rows)))
            optimiser.zero_grad()
            functional.cross_entropy(answers, torch.tensor(samples.y[rows])).backward()
            for name, mask in masks.items():
                values[name].grad *= mask  # Adam moves nothing that never had a gradient
            optimiser.step()
            schedule.step()
    found = {name: value.detach().numpy() for name, value in values.items()}
    return replace(
        net,
        layers=tuple(
            replace(layer, **{part: found[f"{layer.name}.{part}"] for part in fields_of(layer.name, found)})
            for layer in net.layers
        ),
    )


def fields_of(name: str, found: dict[str, object]) -> list[str]:
    """The fields of one layer among `<layer>.<field>`."""
    return [key.removeprefix(f"{name}.") for key in found if key.rpartition(".")[0] == name]
