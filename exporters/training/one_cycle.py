"""One cycle of the rate: how the nets that are trained from nothing here are trained (Smith, Topin 2017)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgerun.arrays import I64
from exporters.training.torch_net import Tensor

STEEPEST = 1.0
"""Norm that a gradient is cut to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """Of a training: passes over all samples, samples a step, the rate at its highest, the decay of the weights."""

    epochs: int
    batch: int
    rate: float
    decay: float = 1e-3


def silent(epoch: int, loss: float) -> None:
    """Tell nobody."""


def one_cycle(
    net: nn.Module,
    course: Course,
    samples: int,
    order: Callable[[int], I64],
    loss: Callable[[I64], Tensor],
    tell: Callable[[int, float], None] = silent,
) -> None:
    """Train a net, where it is, by AdamW; over all steps the rate rises once and falls once.

    order  of so many samples, drawn for each epoch     loss  of the samples of one step, by the net as it is then
    tell   is told each epoch, from 1 on, and its mean loss
    """
    batches = samples // course.batch
    optimiser = torch.optim.AdamW(net.parameters(), lr=course.rate, weight_decay=course.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, course.rate, total_steps=course.epochs * batches)
    for epoch in range(course.epochs):
        losses = []
        for rows in np.array_split(order(samples), batches):
            now = loss(rows)
            optimiser.zero_grad()
            now.backward()
            nn.utils.clip_grad_norm_(net.parameters(), STEEPEST)
            optimiser.step()
            schedule.step()
            losses.append(now.item())
        tell(epoch + 1, float(np.mean(losses)))
