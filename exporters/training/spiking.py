"""A convolutional spiking net as a function of its weights, for training that differentiates through training.

    v[t] = clip(beta v[t-1] + conv(s[t]) + b - z[t-1], -8, 8)     z[t] = [v[t] > 1]     s: the picture, or spikes below
    P[t] = kappa P[t-1] + z_last[t]                               y = W P[T]: the readout's membrane after T steps

The picture is what the first layer receives at every step. While gains are trained, each layer's sums are normalised
over the batch; `folded` puts the statistics of many pictures into the weights, and the gains are gone. The derivative
of a step is 1 / (1 + slope |v - 1|)**2, which can itself be differentiated (Stewart, Neftci 2022). Strides stand for
pools.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, TypeAlias

import nir
import numpy as np
import torch
from torch.nn import functional

from exporters.training.nir_nodes import DT, NEVER, leaky
from exporters.training.surrogate import LIMIT, Fire
from exporters.training.torch_net import Tensor

Weights: TypeAlias = Mapping[str, Tensor]
Spike: TypeAlias = Callable[[Tensor, float], Tensor]
"""From the distance to the threshold, and a slope, to the spike."""

EPSILON: Final = 1e-5
HEAD: Final = "readout"


def spike(x: Tensor, slope: float) -> Tensor:
    """[x > 0], with the derivative of `fast_sigmoid`."""
    return Fire.apply(x, slope)


def fast_sigmoid(x: Tensor, slope: float) -> Tensor:
    """What a spike is to its derivative: a smooth function that rises by 1 / (1 + slope |x|)**2."""
    return 0.5 / slope + x / (1 + slope * x.abs())


@dataclass(frozen=True, slots=True, kw_only=True)
class SpikingConv:
    """The net of this module's equations, for square pictures (n, 1, side, side)."""

    side: int = 28
    filters: tuple[int, ...] = (16, 32, 64)
    kernels: tuple[int, ...] = (5, 3, 3)
    stride: int = 2
    steps: int = 6
    beta: float = 0.8
    kappa: float = 0.9
    slope: float = 2.0
    fire: Spike = spike

    @property
    def layers(self) -> tuple[str, ...]:
        return tuple(f"conv{k}" for k in range(len(self.filters)))

    @property
    def sides(self) -> tuple[int, ...]:
        """Of each layer's image, the picture's first."""
        found = [self.side]
        for kernel in self.kernels:
            found.append((found[-1] + 2 * (kernel // 2) - kernel) // self.stride + 1)
        return tuple(found)

    @property
    def width(self) -> int:
        """Values of P."""
        return self.filters[-1] * self.sides[-1] ** 2

    def start(self, seed: int) -> dict[str, Tensor]:
        """Weights to train from, every layer's drive normalised: `<layer>.weight`, `.gain` and `.bias`."""
        random, channels = torch.Generator().manual_seed(seed), 1
        values: dict[str, Tensor] = {}
        for name, filters, kernel in zip(self.layers, self.filters, self.kernels, strict=True):
            drawn = torch.randn(filters, channels, kernel, kernel, generator=random)
            values[f"{name}.weight"] = drawn * (channels * kernel**2) ** -0.5
            values[f"{name}.gain"] = torch.ones(filters)
            values[f"{name}.bias"] = torch.zeros(filters)
            channels = filters
        return {name: value.requires_grad_() for name, value in values.items()}

    def features(self, values: Weights, x: Tensor) -> Tensor:
        """P[T] (n, width) of pictures (n, 1, side, side). A layer with a gain is normalised over this batch."""
        spikes = x[None]
        for k in range(len(self.layers)):
            spikes = self._spikes(self._drive(values, k, spikes))
        kept = self.kappa ** torch.arange(self.steps - 1, -1, -1, dtype=spikes.dtype)
        return torch.tensordot(kept, spikes.flatten(2), dims=1)

    def folded(self, values: Weights, x: Tensor) -> dict[str, Tensor]:
        """The same net with the mean and deviation of these pictures in its weights: no gains, for single pictures."""
        found: dict[str, Tensor] = {}
        spikes = x[None]
        with torch.no_grad():
            for k, name in enumerate(self.layers):
                mean, scale = statistics(self._sums(values[f"{name}.weight"], k, spikes))
                gain = values[f"{name}.gain"] / scale
                found[f"{name}.weight"] = values[f"{name}.weight"] * gain[:, None, None, None]
                found[f"{name}.bias"] = values[f"{name}.bias"] - mean * gain
                spikes = self._spikes(self._drive(found, k, spikes))
        return found

    def _drive(self, values: Weights, k: int, spikes: Tensor) -> Tensor:
        """(steps or 1, n, c, h, w)  what a layer's neurons receive."""
        name = self.layers[k]
        sums, bias = self._sums(values[f"{name}.weight"], k, spikes), values[f"{name}.bias"][:, None, None]
        if f"{name}.gain" not in values:
            return sums + bias
        mean, scale = statistics(sums)
        return (sums - mean[:, None, None]) * (values[f"{name}.gain"] / scale)[:, None, None] + bias

    def _sums(self, weight: Tensor, k: int, spikes: Tensor) -> Tensor:
        sums = functional.conv2d(spikes.flatten(0, 1), weight, None, self.stride, self.kernels[k] // 2)
        return sums.unflatten(0, spikes.shape[:2])

    def _spikes(self, drive: Tensor) -> Tensor:
        """(steps, n, c, h, w)  the spikes of neurons that this drives; the same at every step where it has one."""
        v: Any = 0.0
        z: Any = 0.0
        found = []
        for current in drive.expand(self.steps, *drive.shape[1:]):
            v = (self.beta * v + current - z).clamp(-LIMIT, LIMIT)
            z = self.fire(v - 1, self.slope)
            found.append(z)
        return torch.stack(found)

    def write_nir(
        self, values: Weights, readout: Any, path: Path, inner_rate: float, inner_sharpness: float = 1.0
    ) -> None:
        """The net with a readout (classes, width) as a NIR graph; `inner_rate` is that of the readout's inner step."""
        nodes: dict[str, Any] = {"input": nir.Input({"input": np.array([1, self.side, self.side])})}
        for name, filters, kernel, side, after in zip(
            self.layers, self.filters, self.kernels, self.sides, self.sides[1:], strict=False
        ):
            nodes[name] = nir.Conv2d(
                input_shape=(side, side),
                weight=values[f"{name}.weight"].detach().numpy(),
                stride=self.stride,
                padding=kernel // 2,
                dilation=1,
                groups=1,
                bias=values[f"{name}.bias"].detach().numpy(),
            )
            nodes[f"lif{name.removeprefix('conv')}"] = leaky((filters, after, after), self.beta, 1.0, reset="subtract")
        last = (self.filters[-1], self.sides[-1], self.sides[-1])
        nodes["flat"] = nir.Flatten({"input": np.array(last)}, 0, -1)
        nodes["classify"] = nir.Linear(np.asarray(readout, np.float32))
        learned = {"inner_rate": inner_rate, "inner_sharpness": inner_sharpness}
        nodes[HEAD] = leaky((len(readout),), self.kappa, NEVER, reset="none", role="readout", **learned)
        nodes["output"] = nir.Output({"output": np.array([len(readout)])})
        names = list(nodes)
        edges = list(pairwise(names))
        metadata = {"dt": DT, "encoder": "constant", "steps": self.steps}
        nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata))


def statistics(sums: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel (c,) of sums (t, n, c, h, w)."""
    variance, mean = torch.var_mean(sums, dim=(0, 1, 3, 4), correction=0)
    return mean, (variance + EPSILON).sqrt()
