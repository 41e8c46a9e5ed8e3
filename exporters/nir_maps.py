"""The linear maps and pools of a NIR graph: weights, windows and shapes as layers here want them.

Images are (channel, height, width) in NIR and (height, width, channel) here. `file` is what messages call the graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import nir
import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.layers.window import Pair, Sides, output_size
from exporters.data import first_line
from exporters.nir_graph import real, short, whole
from exporters.nodes import FloatSumPool
from exporters.nodes.conv import ungroup


class Geometry(NamedTuple):
    """Where a convolution's windows lie."""

    input_shape: tuple[int, int, int]
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Signal:
    """What a layer gives, as NIR sees it.

    layer    its name                       shape   (n,), (channels, length) or (channels, height, width)
    image    the shape before it was flattened, where the layer holds it channels last; None: as it lies
    peak     the largest integer            scale   (*shape) or (), a factor that is still to be applied
    pooled   1 / count of the mean pools on the way, which `scale` of integers will hold
    """

    layer: str
    shape: tuple[int, ...]
    image: tuple[int, ...] | None
    peak: int
    scale: F64
    pooled: float = 1.0


@dataclass(frozen=True, slots=True)
class Term:
    """One way into a population: a linear map of a signal and what happens to its sums.

    weight  (n, in) columns as the signal lies, or (filters, kh, kw, c)     bias  (n,) or (filters,)
    shape   of the sums, as NIR sees them      pools  behind the map      image  as in `Signal`
    """

    name: str
    signal: Signal
    weight: F64
    bias: F64
    shape: tuple[int, ...]
    conv: Geometry | None = None
    pools: tuple[FloatSumPool, ...] = ()
    image: tuple[int, ...] | None = None


def lying_last(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, channels) of a shape that NIR gives channels first; one dimension is a height of 1."""
    return (1, shape[1], shape[0]) if len(shape) == 2 else (shape[1], shape[2], shape[0])


def channels_first(lying: tuple[int, ...], like: tuple[int, ...]) -> tuple[int, ...]:
    """(h, w, c) as NIR gives it, with as many axes as `like`."""
    h, w, c = lying
    return (c, w) if len(like) == 2 else (c, h, w)


def first_to_last(image: tuple[int, ...]) -> Any:
    """(n,)  where each value of an image (h, w, c) lies in the order (c, h, w)."""
    h, w, c = image
    return np.arange(h * w * c).reshape(c, h, w).transpose(1, 2, 0).reshape(-1)


def scale_of(name: str, node: Any, shape: tuple[int, ...]) -> F64:
    """A Scale's factors, (*shape) or ()."""
    scale = real(f"{name}: scale", node.scale)
    if scale.size == 1:
        return scale.reshape(())
    try:
        return np.broadcast_to(scale, shape).astype(np.float64)
    except ValueError:
        raise ModelError(f"{name}: scale has shape {scale.shape}, its input {shape}") from None


def per_channel_of(factor: F64, term: Term) -> F64 | None:
    """One factor for each filter of a convolution, where all places agree."""
    if term.image is None:
        return None
    h, w, c = term.image
    by_filter = factor.reshape(c, h * w)
    return by_filter[:, 0] if (by_filter == by_filter[:, :1]).all() else None


def stretched(part: F32, most: int) -> F32:
    """A parameter by channel as one by neuron, where others are."""
    return np.tile(part, most // len(part))


def matrix(file: str, name: str, node: Any) -> tuple[F64, F64]:
    """Weights (n, in) and bias (n,) of a dense node."""
    w = real(f"{name}: weight", node.weight)
    b = real(f"{name}: bias", node.bias) if isinstance(node, nir.Affine) else np.zeros(w.shape[0])
    if w.ndim != 2 or not w.size or b.shape != (len(w),):
        raise ModelError(f"{file}: {name} has weights of shape {w.shape}, bias {b.shape}, must be (n, in) and (n,)")
    return w, b


def filters(file: str, name: str, node: Any, channels: int) -> tuple[F64, F64]:
    """Weights (filters, kh, kw, channels) and bias (filters,) of a convolution."""
    w = real(f"{name}: weight", node.weight)
    w = w[:, :, None, :] if isinstance(node, nir.Conv1d) and w.ndim == 3 else w
    groups = int(node.groups)
    if w.ndim != 4 or not w.size or groups < 1 or len(w) % groups or w.shape[1] * groups != channels:
        raise ModelError(
            f"{file}: {name} has weights of shape {w.shape} in {groups} groups, {channels} channels arrive"
        )
    b = np.zeros(len(w)) if node.bias is None else real(f"{name}: bias", node.bias)
    if b.shape != (len(w),):
        raise ModelError(f"{file}: {name} has a bias of shape {b.shape}, must be ({len(w)},)")
    return np.asarray(ungroup(w.transpose(0, 2, 3, 1), groups, channels), np.float64), b


def pair(file: str, name: str, value: Any, flat: bool = False) -> Pair:
    """(down, across) of a number or a pair; in one dimension down is 1."""
    found = whole(f"{file}: {name}", value)
    if len(found) not in (1, 2) or (flat and len(found) != 1):
        raise ModelError(f"{file}: {name}: {first_line(value)} is neither a number nor a pair")
    return (1, found[0]) if flat else (found[0], found[-1])


def geometry_of(file: str, name: str, node: Any, shape: tuple[int, ...]) -> Geometry:
    """Where the windows of a convolution lie."""
    flat = isinstance(node, nir.Conv1d)
    stride, dilation = pair(file, name, node.stride, flat), pair(file, name, node.dilation, flat)
    kernel = (1, node.weight.shape[-1]) if flat else node.weight.shape[-2:]
    return Geometry(lying_last(shape), stride, dilation, padding_of(file, name, node, kernel, dilation, flat))


def padding_of(file: str, name: str, node: Any, kernel: Any, dilation: Pair, flat: bool) -> Sides:
    """(top, left, bottom, right); "same" pads what a stride of 1 needs, the odd one behind."""
    if isinstance(node.padding, (str, bytes)):
        text = node.padding if isinstance(node.padding, str) else node.padding.decode()
        if text == "valid":
            return 0, 0, 0, 0
        down, across = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return down // 2, across // 2, down - down // 2, across - across // 2
    if flat:
        across = pair(file, name, node.padding, flat)[1]
        return 0, across, 0, across
    down, across = pair(file, name, node.padding)
    return down, across, down, across


def pool_of(file: str, name: str, node: Any, shape: tuple[int, ...]) -> FloatSumPool:
    """A pool over an image of NIR's shape."""
    if len(shape) != 3:
        raise ModelError(f"{file}: {name} ({type(node).__name__}) is fed by values of shape {shape}")
    kernel, stride = pair(file, name, node.kernel_size), pair(file, name, node.stride)
    down, across = pair(file, name, node.padding)
    padding = (down, across, down, across)
    image = lying_last(shape)
    if min(output_size(image[:2], kernel, stride, (1, 1), padding)) < 1:
        raise ModelError(f"{file}: {name}: no window of {kernel} fits an input of shape {shape}")
    return FloatSumPool(short(name), image, kernel, stride, padding, isinstance(node, nir.AvgPool2d))
