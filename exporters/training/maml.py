"""Weights from which one step of learning goes far: MAML and first-order MAML (Finn et al. 2017; for spiking nets and
coarse weights Stewart, Neftci 2022).

    inner   phi <- Q_inner(phi - rate * grad L_support(phi)), from phi = Q_outer(theta), over batches of the support set
    outer   theta, rate <- Adam(grad mean over tasks of L_query(phi))

The second-order form differentiates through the inner gradient; the first-order form takes that gradient for a
constant. Q rounds to fixed point and passes no gradient where it clamps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch.nn import functional

from edgerun.errors import DataError
from exporters.training.torch_net import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
Model: TypeAlias = Callable[[Weights, Tensor], Tensor]
"""From weights and inputs (n, ...) to logits (n, k)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiser:
    """Fixed point of so many bits: multiples of top * 2**(1 - bits) in [-top, top * (1 - 2**(1 - bits))]."""

    bits: int
    top: float = 1.0
    rounding: Literal["nearest", "stochastic"] = "nearest"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 16:
            raise DataError(f"a quantiser of {self.bits} bits is outside [2, 16]")
        if self.top <= 0:
            raise DataError(f"a quantiser's top {self.top} is not above 0")

    @property
    def step(self) -> float:
        return self.top * 2.0 ** (1 - self.bits)

    def __call__(self, x: Tensor, random: torch.Generator | None = None) -> Tensor:
        """x rounded; its gradient goes through, but where x lies outside the range."""
        least, most = -self.top, self.top - self.step
        inside = x.clamp(least, most)  # its derivative is zero outside
        stochastic = self.rounding == "stochastic"
        up = torch.rand(x.shape, generator=random, dtype=x.dtype) if stochastic else 0.5
        rounded = (torch.floor(inside.detach() / self.step + up) * self.step).clamp(least, most)
        return inside + (rounded - inside.detach())


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """The inner loop: which weights it moves, and how.

    moved  names; those of the last layer alone are what a device can do
    batch  samples of the support set a step, in order; None: all at once. 1 is a device's lessons, one after the other
    """

    moved: tuple[str, ...]
    passes: int = 1
    batch: int | None = None
    first_order: bool = False
    outer: Quantiser | None = None
    inner: Quantiser | None = None


def adapt(
    model: Model,
    theta: Weights,
    rates: Weights,
    x: Tensor,
    y: Tensor,
    inner: Inner,
    random: torch.Generator | None = None,
) -> dict[str, Tensor]:
    """phi: all weights after the inner loop on a support set x (n, ...), y (n,). A rate under 0 counts as 0."""
    phi = {name: quantised(inner.outer, value, random) for name, value in theta.items()}
    size = inner.batch or len(x)
    for _ in range(inner.passes):
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            loss = functional.cross_entropy(model(phi, x[rows]), y[rows])
            moved = [phi[name] for name in inner.moved]
            gradients = torch.autograd.grad(loss, moved, create_graph=not inner.first_order)
            for name, gradient in zip(inner.moved, gradients, strict=True):
                phi[name] = quantised(inner.inner, phi[name] - rates[name].clamp(min=0) * gradient, random)
    return phi


def quantised(quantiser: Quantiser | None, x: Tensor, random: torch.Generator | None) -> Tensor:
    return x if quantiser is None else quantiser(x, random)


@dataclass(frozen=True, slots=True)
class Task:
    """One few-shot task: support and query inputs with their labels."""

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor


def meta_loss(
    model: Model,
    theta: Weights,
    rates: Weights,
    tasks: Sequence[Task],
    inner: Inner,
    random: torch.Generator | None = None,
    sharpness: Tensor | float = 1.0,
) -> Tensor:
    """The mean over tasks of the queries' cross entropy after the inner loop, differentiable in theta and rates.

    The queries' logits count `sharpness` times: no decision moves, and small steps can make sure answers.
    """
    losses = []
    for task in tasks:
        phi = adapt(model, theta, rates, task.x, task.y, inner, random)
        losses.append(functional.cross_entropy(sharpness * model(phi, task.query_x), task.query_y))
    return torch.stack(losses).mean()
