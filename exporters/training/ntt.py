"""Neural tangent transfer: which weights a sparse net should keep, found without a label (Liu and Zenke 2020).

The sparse student shall learn as its dense teacher would, so it imitates the teacher's outputs and its tangent kernel:

    K(X1, X2) = J(X1) J(X2)^T,   J = df/dw over all outputs and all weights and biases, at the masked weights
    loss = kernel_weight * mean((K_student - K_teacher)**2) + mean((f_student - f_teacher)**2)
           + decay / density * |M * w|**2

Gradients flow through M * w. Every `refresh` iterations M becomes the largest |w| of each layer again. For chains of
dense layers the kernel has a closed form: with a the inputs of layer l and D = df/dz its Jacobian,

    K = sum_l (D(X1) D(X2)^T) * (a(X1) a(X2)^T + 1)
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from exporters.float_net import FloatNet
from exporters.nodes import FloatDense
from exporters.prune import largest
from exporters.training.torch_net import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The numbers of a transfer; the defaults are the paper's."""

    iterations: int = 18_750  # 20 epochs of 60,000
    batch: int = 64  # in two halves
    rate: float = 5e-4
    refresh: int = 100  # U
    kernel_weight: float = 1e-3
    decay: float = 1e-4


def fresh(sizes: Sequence[int], seed: int, name: str = "mlp") -> FloatNet:
    """A net of dense layers with ReLUs between them: Glorot-normal weights, biases of a hundredth."""
    rng = np.random.default_rng(seed)
    layers = []
    for k, (n, m) in enumerate(itertools.pairwise(sizes)):
        weight = rng.normal(0, np.sqrt(2 / (n + m)), (m, n)).astype(np.float32)
        low = 0.0 if k < len(sizes) - 2 else -np.inf
        layers.append(FloatDense(f"dense{k + 1}", weight, rng.normal(0, 0.01, m).astype(np.float32), low))
    return FloatNet(name, (sizes[0],), tuple(layers))


def transfer(net: FloatNet, x: F32 | F64, density: float, how: Transfer | None = None, seed: int = 0) -> FloatNet:
    """A net with `density` of each layer's weights that imitates `net`, its dense teacher, on x (N, width).

    x should be standardised: on pixels from 0 to 1 the kernel says little, and masks end a point lower on MNIST.

    Raises ModelError where the net is no chain of dense layers with ReLUs.
    """
    how = how or Transfer()
    layers = chain(net)
    rng = np.random.default_rng(seed)
    teacher = [tensor for layer in layers for tensor in (torch.tensor(layer.weight), torch.tensor(layer.bias))]
    student = [tensor.clone().requires_grad_() for tensor in teacher]
    optimiser = torch.optim.Adam(student, lr=how.rate)
    masks = renewed(student, density)
    for k in range(how.iterations):
        if k and k % how.refresh == 0 and k < how.iterations - how.refresh:
            masks = renewed(student, density)
        some = torch.tensor(x[rng.integers(0, len(x), how.batch)].reshape(how.batch, -1), dtype=torch.float32)
        sparse = [tensor * mask for tensor, mask in zip(student, masks, strict=True)]
        with torch.no_grad():
            wanted, wanted_kernel = outputs_and_kernel(teacher, some)
        found, kernel = outputs_and_kernel(sparse, some)
        weights = sum(tensor.square().sum() for tensor in sparse[::2])
        loss = how.kernel_weight * (kernel - wanted_kernel).square().mean() + (found - wanted).square().mean()
        optimiser.zero_grad()
        (loss + how.decay / density * weights).backward()
        optimiser.step()
    kept = [(tensor * mask).detach().numpy() for tensor, mask in zip(student, masks, strict=True)]
    return replace(
        net,
        layers=tuple(
            replace(layer, weight=weight, bias=bias)
            for layer, weight, bias in zip(layers, kept[::2], kept[1::2], strict=True)
        ),
    )


def chain(net: FloatNet) -> list[FloatDense]:
    """The layers of a plain multilayer perceptron. Raises ModelError for any other net."""
    layers = [layer for layer in net.layers if isinstance(layer, FloatDense)]
    plain = len(layers) == len(net.layers) and not any(layer.sources for layer in layers)
    lows = [layer.low for layer in layers]
    if not plain or lows != [0.0] * (len(lows) - 1) + [-np.inf] or any(layer.high != np.inf for layer in layers):
        raise ModelError(f"{net.name} is no chain of dense layers with ReLUs between them")
    return layers


def renewed(tensors: Sequence[Tensor], density: float) -> list[Tensor]:
    """Masks of the largest weights of each layer; biases, every second tensor, are kept whole."""
    return [
        torch.ones_like(tensor) if k % 2 else torch.from_numpy(largest(tensor.detach().numpy(), density)).float()
        for k, tensor in enumerate(tensors)
    ]


def outputs_and_kernel(tensors: Sequence[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """f(x) (N, m) and the tangent kernel (N/2, N/2, m, m) between the first half of x and the second.

    tensors  weight (n, in) and bias (n,) of each layer in turn
    """
    weights, biases = tensors[::2], tensors[1::2]
    inputs, z = [x], x @ weights[0].T + biases[0]
    for weight, bias in zip(weights[1:], biases[1:], strict=True):
        inputs.append(torch.relu(z))
        z = inputs[-1] @ weight.T + bias
    half, outputs = len(x) // 2, z.shape[1]
    slopes = torch.eye(outputs).expand(len(x), outputs, outputs)  # D: df/dz of the last layer
    kernel: Tensor = 0.0
    for k in reversed(range(len(weights))):
        first, second = slopes[:half].reshape(half * outputs, -1), slopes[half:].reshape(half * outputs, -1)
        products = (first @ second.T).reshape(half, outputs, half, outputs)
        kernel = kernel + products * (inputs[k][:half] @ inputs[k][half:].T + 1)[:, None, :, None]
        if k:
            slopes = (slopes @ weights[k]) * (inputs[k] > 0)[:, None, :]
    return z, kernel.transpose(1, 2)
