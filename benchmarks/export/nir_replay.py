"""A NIR file run in float by its own words: the peer that spiking models are held to. numpy and nir only.

    scores = replay(Path("models/digits_rsnn.nir"), x)     x (n, T, ...) currents -> last value of the output (n, C)

snnTorch's conventions, which its exporter turned into time constants of dt = 1e-4 s and its metadata name:

    beta = 1 - dt/tau;   gain = r dt/tau;   v = beta v + gain current;   z = v > threshold
    a spike takes the threshold away, or empties the membrane: at once, or with `reset_delay` in the next step
    a readout never spikes: its membrane is its output
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import nir
import numpy as np

from edgerun.arrays import F32
from edgerun.errors import ModelError

DT: Final = 1e-4


def replay(path: Path, x: F32) -> F32:
    """Run a graph for as many steps as x has. Raises ModelError for a node type without a row in NODES."""
    graph = nir.read(path)
    feeds = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    neurons = {name: node for name, node in graph.nodes.items() if isinstance(node, nir.LIF)}
    rest = {name: np.zeros((len(x), *node.v_threshold.shape), np.float32) for name, node in neurons.items()}
    values, membranes = dict(rest), dict(rest)
    order = [name for name in in_order(feeds) if feeds[name]]
    for step in np.moveaxis(x, 1, 0):
        values["input"] = step
        for name in order:
            current = np.sum([values[source] for source in feeds[name]], axis=0)
            if name in neurons:
                values[name], membranes[name] = fire(neurons[name], membranes[name], current, values[name])
            else:
                values[name] = operation(graph.nodes[name])(graph.nodes[name], current)
    return np.asarray(values["output"])


def in_order(feeds: Mapping[str, list[str]]) -> list[str]:
    """Sources before what they feed; in a loop, a population comes last and hands its old spikes round."""
    done: dict[str, None] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name not in entered:
            entered.add(name)
            for source in feeds[name]:
                visit(source)
            done[name] = None

    visit("output")
    return list(done)


def fire(node: Any, v: F32, current: F32, spikes: F32) -> tuple[F32, F32]:
    """One step of a population: (spikes, or the readout's membrane; membrane)."""
    ratio = DT / np.asarray(node.tau, np.float64)
    beta, gain = (1 - ratio).astype(np.float32), (node.r * ratio).astype(np.float32)
    threshold = np.asarray(node.v_threshold, np.float32)
    reset, late = node.metadata["reset"], bool(node.metadata["reset_delay"])
    v, before = beta * v + gain * current, spikes
    if reset == "none":
        return v, v
    if late:
        v = RESETS[reset](v, before, threshold)
    spikes = (v > threshold).astype(np.float32)
    return spikes, v if late else RESETS[reset](v, spikes, threshold)


RESETS: Final[Mapping[str, Callable[[F32, F32, F32], F32]]] = MappingProxyType(
    {
        "subtract": lambda v, z, threshold: v - z * threshold,
        "zero": lambda v, z, _: v * (1 - z),
    }
)


def operation(node: Any) -> Callable[[Any, F32], F32]:
    """The row of NODES for a node. Raises ModelError where there is none."""
    if type(node) not in NODES:
        raise ModelError(f"a {type(node).__name__} is none of {', '.join(kind.__name__ for kind in NODES)}")
    return NODES[type(node)]


def convolve(node: Any, x: F32) -> F32:
    """x (n, inputs, h, w) -> (n, outputs, h', w'). Raises ModelError where it is grouped or dilated."""
    if int(node.groups) != 1 or np.any(np.asarray(node.dilation) != 1):
        raise ModelError(f"a Conv2d has groups {node.groups} and dilation {node.dilation}, must be 1 and 1")
    (down, right), (top, left) = np.broadcast_to(node.stride, 2), np.broadcast_to(node.padding, 2)
    padded = np.pad(x, ((0, 0), (0, 0), (top, top), (left, left)))
    views = np.lib.stride_tricks.sliding_window_view(padded, node.weight.shape[2:], axis=(2, 3))[:, :, ::down, ::right]
    sums = np.tensordot(views, node.weight, axes=((1, 4, 5), (1, 2, 3)))
    return np.moveaxis(sums + node.bias, -1, 1)


def average(node: Any, x: F32) -> F32:
    """Means of windows (k, k) that do not overlap; what is left over at the edge is dropped."""
    k = int(node.kernel_size)
    height, width = x.shape[2] // k, x.shape[3] // k
    tiles = x[:, :, : height * k, : width * k].reshape(*x.shape[:2], height, k, width, k)
    return np.asarray(tiles.mean((3, 5)))


NODES: Final[Mapping[type, Callable[[Any, F32], F32]]] = MappingProxyType(
    {
        nir.Affine: lambda node, x: x @ node.weight.T + node.bias,
        nir.Linear: lambda node, x: x @ node.weight.T,
        nir.Conv2d: convolve,
        nir.AvgPool2d: average,
        nir.Flatten: lambda node, x: x.reshape(len(x), -1),
        nir.Output: lambda node, x: x,
    }
)
