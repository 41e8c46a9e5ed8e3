"""Few-shot episodes, and nets whose features lie near others of their class: prototypical networks (Snell et al. 2017).

    c_k = mean of z over the shots of class k      logits_k = -|z - c_k|**2 / width      loss = cross entropy of queries

An episode draws some classes, and of each some shots to learn from and some queries to be asked about. Labels are the
classes' places in the episode: what a class is called elsewhere says nothing here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional

from edgerun.arrays import I64, AnyArray
from edgerun.errors import DataError
from exporters.training.torch_net import Tensor


@dataclass(frozen=True, slots=True)
class Form:
    """Of an episode: so many classes, shots and queries of each."""

    ways: int
    shots: int = 1
    queries: int = 5


class Episode(NamedTuple):
    """Rows of a data set: shots (ways * shots,), class by class, and queries (ways * queries,), likewise."""

    shots: I64
    queries: I64


def labels(ways: int, each: int) -> I64:
    """(ways * each,)  0, 0, ..., 1, 1, ...: the labels of one part of an episode."""
    return np.repeat(np.arange(ways), each)


def classes_of(y: AnyArray) -> list[I64]:
    """The rows of each class, by rising label."""
    order = np.argsort(y, kind="stable")
    _, first = np.unique(y[order], return_index=True)
    return [rows.astype(np.int64) for rows in np.split(order, first[1:])]


def draw(rng: np.random.Generator, groups: Sequence[I64], form: Form) -> Episode:
    """An episode of classes that are `groups` of rows. Raises DataError where there are too few, or too few rows."""
    if form.ways > len(groups):
        raise DataError(f"an episode of {form.ways} classes, there are {len(groups)}")
    picked = [groups[k] for k in rng.choice(len(groups), form.ways, replace=False)]
    need, least = form.shots + form.queries, min(len(rows) for rows in picked)
    if need > least:
        raise DataError(f"an episode of {form.shots} shots and {form.queries} queries, a class has {least} samples")
    rows = np.stack([rng.permutation(mine)[:need] for mine in picked])
    return Episode(rows[:, : form.shots].reshape(-1), rows[:, form.shots :].reshape(-1))


def quarter_turns(images: AnyArray, y: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Images (n, h, w) in all four orientations, each a class of its own: (4 n, h, w) and (4 n,)."""
    classes = int(y.max()) + 1
    turned = np.concatenate([np.rot90(images, k, axes=(1, 2)) for k in range(4)])
    return turned, np.concatenate([y.astype(np.int64) + k * classes for k in range(4)])


def prototype_logits(shots: Tensor, queries: Tensor, ways: int) -> Tensor:
    """(q, ways)  minus the squared distance of features (q, d) to the class means of shots (ways * s, d), over d."""
    means = shots.reshape(ways, -1, shots.shape[-1]).mean(dim=1)
    return -(torch.cdist(queries[None], means[None])[0] ** 2) / shots.shape[-1]


def prototype_loss(z: Tensor, form: Form, scale: Tensor | float = 1.0) -> Tensor:
    """Cross entropy of an episode's queries, from the features (n, d) of its shots and then its queries."""
    split = form.ways * form.shots
    logits = scale * prototype_logits(z[:split], z[split:], form.ways)
    return functional.cross_entropy(logits, torch.from_numpy(labels(form.ways, form.queries)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long to train, and how fast: Adam, its rate falling as a cosine to a fiftieth."""

    episodes: int
    rate: float = 1e-3
    clip: float = 1.0  # of the gradient's norm


def train(
    parameters: Sequence[Tensor],
    loss_of: Callable[[int], Tensor],
    schedule: Schedule,
    tell: Callable[[int, float], None] = lambda number, loss: None,
) -> None:
    """Minimise the loss of episode after episode, in place; `tell` hears each one's number and loss."""
    optimiser = torch.optim.Adam(parameters, lr=schedule.rate)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, schedule.episodes, schedule.rate / 50)
    for number in range(schedule.episodes):
        loss = loss_of(number)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimiser.step()
        falling.step()
        tell(number, loss.item())
