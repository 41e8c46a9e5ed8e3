"""Surrogate-gradient training of the recurrent spiking net that edgerun's e-prop knows, and its way into NIR.

    v[t] = clip(beta v[t-1] + W x[t] + b + R z[t-1] - z[t-1], -8, 8)      z[t] = [v[t] > 1]
    y[t] = kappa y[t-1] + C z[t] + c

The step's derivative is replaced by 1 / (1 + slope |v - 1|)**2 (fast sigmoid; Neftci, Mostafa, Zenke 2019). The logits
are y after the last step, features the spike counts of the window. The reset acts one step after the spike, and the
clip is that of a Q3.12 membrane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nir
import numpy as np
import torch
from torch import nn

from edgerun.arrays import I64
from exporters.training.nir_nodes import DT, NEVER, leaky
from exporters.training.one_cycle import Course, one_cycle, silent
from exporters.training.torch_net import Tensor

LIMIT = 8.0  # thresholds
RATES = (0.02, 0.25)  # spikes a step, over the windows of a batch, that a neuron may fire without being pushed
Metadata: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a net: widths, leak of the membranes and of the readout, slope of the surrogate."""

    inputs: int
    hidden: int
    outputs: int
    beta: float = 0.8
    kappa: float = 0.97
    slope: float = 4.0


class Fire(torch.autograd.Function):  # type: ignore[misc]  # untyped
    """[x > 0], with the derivative of a fast sigmoid."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grads[0] / (1 + ctx.slope * x.abs()) ** 2, None


class RecurrentLif(nn.Module):  # type: ignore[misc]  # untyped
    """The net of this module's equations, for windows (n, steps, inputs)."""

    def __init__(self, shape: Shape, seed: int, input_gain: float = 1.0) -> None:
        super().__init__()
        self.shape = shape
        draw = torch.Generator().manual_seed(seed)

        def normal(*size: int, deviation: float) -> nn.Parameter:
            return nn.Parameter(deviation * torch.randn(*size, generator=draw))

        m, n, k = shape.inputs, shape.hidden, shape.outputs
        self.input = normal(n, m, deviation=input_gain / m**0.5)
        self.bias = nn.Parameter(torch.zeros(n))
        self.recurrent = normal(n, n, deviation=0.5 / n**0.5)
        self.output = normal(k, n, deviation=0.3 / n**0.5)
        self.output_bias = nn.Parameter(torch.zeros(k))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, outputs) and spike counts (n, hidden)."""
        drive = x @ self.input.T + self.bias
        v = z = counts = torch.zeros(len(x), self.shape.hidden)
        y = torch.zeros(len(x), self.shape.outputs)
        for t in range(x.shape[1]):
            v = (self.shape.beta * v + drive[:, t] + z @ self.recurrent.T - z).clamp(-LIMIT, LIMIT)
            z = Fire.apply(v - 1, self.shape.slope)
            y = self.shape.kappa * y + z @ self.output.T + self.output_bias
            counts = counts + z
        return y, counts


def fit(
    net: RecurrentLif,
    label: I64,
    course: Course,
    seed: int,
    windows: Callable[[I64, np.random.Generator], Tensor],
    tell: Callable[[int, float], None] = silent,
) -> RecurrentLif:
    """The net, trained on windows of these labels; one thread and a seed make it the same every time on a machine.

    windows  of some samples (n, steps, inputs), changed by the generator as they might have come otherwise
    """
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng, wanted = np.random.default_rng(seed), torch.from_numpy(label)

    def loss(rows: I64) -> Tensor:
        x = windows(rows, rng)
        logits, counts = net(x)
        return loss_of(logits, counts, x.shape[1], wanted[rows])

    one_cycle(net, course, len(label), rng.permutation, loss, tell)
    return net


def loss_of(logits: Tensor, counts: Tensor, steps: int, label: Tensor) -> Tensor:
    """Cross entropy of smoothed labels, and a push for neurons that fire more rarely or more often than `RATES`."""
    rate, (least, most) = counts.mean(0) / steps, RATES
    loss = nn.functional.cross_entropy(logits, label, label_smoothing=0.1)
    return loss + 0.05 * torch.relu(rate - most).square().sum() + 0.1 * torch.relu(least - rate).sum()


def write_nir(net: RecurrentLif, path: Path, metadata: Metadata) -> None:
    """The net as a NIR graph; what NIR has no field for (reset, delay, encoder) travels as metadata."""
    shape = net.shape

    def array(parameter: Tensor) -> Any:
        return parameter.detach().numpy()

    nodes = {
        "input": nir.Input({"input": np.array([shape.inputs])}),
        "dense": nir.Affine(array(net.input), array(net.bias)),
        "lif.lif": leaky(shape.hidden, shape.beta, 1.0, reset="subtract"),
        "lif.w_rec": nir.Linear(array(net.recurrent)),
        "classify": nir.Affine(array(net.output), array(net.output_bias)),
        "readout": leaky(shape.outputs, shape.kappa, NEVER, reset="none", role="readout"),
        "output": nir.Output({"output": np.array([shape.outputs])}),
    }
    edges = [
        ("input", "dense"),
        ("dense", "lif.lif"),
        ("lif.lif", "lif.w_rec"),
        ("lif.w_rec", "lif.lif"),
        ("lif.lif", "classify"),
        ("classify", "readout"),
        ("readout", "output"),
    ]
    nir.write(path, nir.NIRGraph(nodes=nodes, edges=edges, metadata={"dt": DT, **metadata}))
