"""From a flat NIR graph to float layers.

A population of neurons is fed by terms, one for each edge that ends in it. A term, walked back from the neurons, is:
pools, scales and flattenings; at most one linear map (several dense ones in a row are one); then again pools, scales
and flattenings of what an earlier population or the input gives. A linear map from the population back to itself is
its recurrence, one step late.

    plain neurons behind one dense map                          FloatLif, or FloatReadout
    everything else          FloatDenseSum or FloatConvSum, FloatSumPool, FloatTotal; FloatCells or FloatIntegrators

Images are (channel, height, width) in NIR and (height, width, channel) here: one FloatTranspose at the entry, weights
and parameters turned for good. The bias of a linear map goes to the neurons, gains go into its weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

import nir
import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.layers.window import output_size
from exporters.data import first_line
from exporters.nir_graph import PORTS, Wiring, is_wire, positive, short, whole
from exporters.nir_maps import (
    Geometry,
    Signal,
    Term,
    channels_first,
    filters,
    first_to_last,
    geometry_of,
    lying_last,
    matrix,
    per_channel_of,
    pool_of,
    scale_of,
)
from exporters.nir_population import NEURONS, Assumed, Population
from exporters.nodes import (
    FloatConvSum,
    FloatDenseSum,
    FloatLayer,
    FloatLif,
    FloatReadout,
    FloatTotal,
    FloatTranspose,
)
from exporters.nodes.fixed import power_of_two

DIAGONAL_MAX: Final = 4096  # units that a scale of each may have: it becomes a matrix
SPIKE, FEATURE = 1, 128  # the largest integer that neurons, or an analog input, give

DENSE: Final = (nir.Affine, nir.Linear)
CONV: Final = (nir.Conv2d, nir.Conv1d)
POOLS: Final = (nir.AvgPool2d, nir.SumPool2d)
THROUGH: Final = (*POOLS, nir.Scale, nir.Flatten)
KNOWN: Final = (*PORTS, *DENSE, *CONV, *THROUGH, *NEURONS)
ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {"Delay": "train without delays of wires, or give neurons a synaptic current"}
)
MALFORMED: Final = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError)
"""What numpy, fields and layers raise over parameters of the wrong rank, type or size."""


@dataclass(slots=True)
class Builder:
    """Layers in running order, and the signals that nodes stand for."""

    wiring: Wiring
    input_shape: tuple[int, ...]
    input_peak: int
    assumed: Assumed
    layers: list[FloatLayer] = field(default_factory=list)
    signals: dict[str, Signal] = field(default_factory=dict)

    def refuse(self, what: str) -> ModelError:
        return ModelError(f"{self.wiring.file}: {what}")

    # -------------------------------------------------------------- the order of populations

    def build(self) -> tuple[FloatLayer, ...]:
        """Every population in running order, the one that is the output last."""
        last = self.last()
        order: list[str] = []
        self.visit(last, (), order)
        stray = [name for name, node in self.wiring.nodes.items() if isinstance(node, NEURONS) and name not in order]
        if stray:
            raise self.refuse(f"{', '.join(stray)} does not lead from the input to the output")
        for name in order:
            try:
                self.population(name, last=name == last)
            except ModelError:
                raise
            except MALFORMED as err:
                raise self.refuse(f"{name}, or what leads to it, makes no sense ({first_line(err)})") from None
        return tuple(self.layers)

    def last(self) -> str:
        outputs = [name for name, node in self.wiring.nodes.items() if isinstance(node, nir.Output)]
        ends = [end for name in outputs if not self.feeds(name) for end in self.wiring.upstream(name)]
        if len(ends) != 1:
            raise self.refuse(f"the output comes from {' and '.join(ends) or 'nothing'}, must be one population")
        if not isinstance(self.wiring.nodes[ends[0]], NEURONS):
            raise self.refuse(f"the output comes from {ends[0]}; end in an LI, or in a LIF with role readout")
        return ends[0]

    def feeds(self, name: str) -> bool:
        return any(name in sources for sources in self.wiring.sources.values())

    def origins(self, name: str) -> list[str]:
        """The populations whose spikes arrive at a node without neurons in between, each once."""
        found: list[str] = []
        seen, ways = {name}, [name]
        while ways:
            for source in self.wiring.upstream(ways.pop()):
                if isinstance(self.wiring.nodes[source], NEURONS):
                    found.append(source)
                elif source not in seen:
                    seen.add(source)
                    ways.append(source)
        return list(dict.fromkeys(found))

    def visit(self, name: str, path: tuple[str, ...], order: list[str]) -> None:
        if name in path:
            raise self.refuse(f"{' -> '.join((*path[path.index(name) :], name))} is a loop over several populations")
        if name not in order:
            for origin in self.origins(name):
                if origin != name:
                    self.visit(origin, (*path, name), order)
            order.append(name)

    # -------------------------------------------------------------- what arrives before a linear map

    def signal(self, name: str) -> Signal:
        """What node `name` gives: the input, spikes, or either of them pooled, scaled or flattened."""
        if name not in self.signals:
            self.signals[name] = self.make_signal(name)
        return self.signals[name]

    def make_signal(self, name: str) -> Signal:
        node = self.wiring.nodes[name]
        if isinstance(node, nir.Input):
            return Signal(INPUT, self.input_shape, None, self.input_peak, np.ones(()))
        if not isinstance(node, THROUGH):
            raise self.refuse(f"{name} ({type(node).__name__}) stands between two linear maps; put neurons there")
        x = self.arriving(name)
        match node:
            case nir.Flatten():
                return self.flattened(name, node, x)
            case nir.Scale():
                return replace(x, scale=x.scale * scale_of(name, node, x.shape))
        if x.scale.ndim:
            raise self.refuse(f"{name} pools values that are scaled one by one; scale behind the pool")
        layer = replace(pool_of(self.wiring.file, name, node, x.shape), peak=x.peak)
        x = self.channels_last(x)
        self.add(replace(layer, sources=(x.layer,)))
        count = math.prod(layer.kernel)
        shape, pooled = channels_first(layer.shape, x.shape), x.pooled / layer.count
        return Signal(layer.name, shape, layer.shape, x.peak * count, x.scale, pooled)

    def arriving(self, name: str) -> Signal:
        """The signal at the entry of a node; several edges add up."""
        found = [self.signal(source) for source in self.wiring.upstream(name)]
        if not found:
            raise self.refuse(f"{name} is fed by nothing")
        if len(found) == 1:
            return found[0]
        kinds = {(x.shape, x.image, x.pooled, x.scale.tobytes()) for x in found}
        if len(kinds) > 1 or any(x.layer == INPUT or x.scale.ndim for x in found):
            raise self.refuse(f"{name} adds {' and '.join(x.layer for x in found)}; only spikes of one shape are added")
        total = FloatTotal(self.unused(f"{short(name)}.total"), math.prod(found[0].shape), len(found))
        self.add(replace(total, sources=tuple(x.layer for x in found)))
        return replace(found[0], layer=total.name, peak=sum(x.peak for x in found))

    def flattened(self, name: str, node: Any, x: Signal) -> Signal:
        shape = self.flat_shape(name, node, x.shape)
        return replace(x, shape=shape, scale=x.scale.reshape(shape) if x.scale.ndim else x.scale)

    def flat_shape(self, name: str, node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(n,), or the shape as it is where a Flatten joins no axes.

        From axis 1 on is how torch says it, which counts a batch axis that NIR does not have: one less, and a note.
        """
        first, last = whole(f"{name}: dimensions", (node.start_dim, node.end_dim))
        axes = len(shape)
        if first > 0 and axes > 1:
            self.wiring.notes.append(f"{name} flattens from axis {first} on: taken to count a batch axis in front")
            first, last = first - 1, last - 1 if last > 0 else last
        first, last = first % axes, last % axes
        if first >= last:
            return shape
        if last - first + 1 < axes:
            raise self.refuse(f"{name} flattens axes {first} to {last} of {shape}; flatten all to one")
        return (math.prod(shape),)

    def channels_last(self, x: Signal) -> Signal:
        """The same values with channels last; turned where the input still has them first."""
        if x.image is not None or len(x.shape) == 1:
            return x
        image = lying_last(x.shape)
        if x.shape[0] == 1 or math.prod(x.shape[1:]) == 1:
            return replace(x, image=image)
        name = f"{x.layer}.last"
        if all(layer.name != name for layer in self.layers):
            first = x.shape if len(x.shape) == 3 else (x.shape[0], 1, x.shape[1])
            self.add(FloatTranspose(name, first, (1, 2, 0), sources=(x.layer,)))
        return replace(x, layer=name, image=image)

    def add(self, layer: FloatLayer) -> None:
        self.layers.append(layer)

    def unused(self, name: str) -> str:
        """The name, or the name with a number where a layer or a population has it."""
        taken = {layer.name for layer in self.layers}
        taken |= {short(other) for other, node in self.wiring.nodes.items() if isinstance(node, NEURONS)}
        return next(found for k in range(len(taken) + 1) if (found := f"{name}.{k}" if k else name) not in taken)

    # -------------------------------------------------------------- terms

    def term(self, name: str) -> Term:
        """The way into a population through node `name`, the last one before the neurons."""
        node = self.wiring.nodes[name]
        if isinstance(node, DENSE):
            return self.dense(name, node)
        if isinstance(node, CONV):
            return self.convolution(name, node)
        if isinstance(node, THROUGH) and self.linear_before(name):
            return self.behind(name, node)
        return self.identity(name)

    def linear_before(self, name: str) -> bool:
        """Whether a linear map comes before neurons or the input do, on the way back from a node."""
        sources = list(self.wiring.upstream(name))
        if len(sources) != 1:
            return False
        node = self.wiring.nodes[sources[0]]
        return isinstance(node, (*DENSE, *CONV)) or (isinstance(node, THROUGH) and self.linear_before(sources[0]))

    def dense(self, name: str, node: Any) -> Term:
        w, b = matrix(self.wiring.file, name, node)
        sources = list(self.wiring.upstream(name))
        if len(sources) == 1 and isinstance(self.wiring.nodes[sources[0]], DENSE):
            inner = self.dense(sources[0], self.wiring.nodes[sources[0]])
            self.fit(name, w, len(inner.weight))
            return replace(inner, name=name, weight=w @ inner.weight, bias=w @ inner.bias + b, shape=(len(w),))
        x = self.arriving(name)
        self.fit(name, w, math.prod(x.shape))
        w = w * x.scale.reshape(-1)
        if x.image is not None:
            w = w[:, first_to_last(x.image)]
        return Term(name, x, w, b, (len(w),))

    def fit(self, name: str, w: F64, width: int) -> None:
        if w.shape[1] != width:
            raise self.refuse(f"{name} takes {w.shape[1]} values, {width} arrive")

    def convolution(self, name: str, node: Any) -> Term:
        x = self.arriving(name)
        flat = isinstance(node, nir.Conv1d)
        if len(x.shape) != (2 if flat else 3):
            raise self.refuse(f"{name} ({type(node).__name__}) is fed by values of shape {x.shape}")
        if x.scale.ndim:
            raise self.refuse(f"{name} convolves values that are scaled one by one; scale before the neurons instead")
        geometry = geometry_of(self.wiring.file, name, node, x.shape)
        w, b = filters(self.wiring.file, name, node, x.shape[0])
        x = self.channels_last(x)
        size = output_size(geometry.input_shape[:2], (w.shape[1], w.shape[2]), *geometry[1:])
        if min(size) < 1:
            raise self.refuse(f"{name}: no window of its kernel fits an input of shape {x.shape}")
        lying = (*size, len(w))
        return Term(name, x, w * float(x.scale), b, channels_first(lying, x.shape), geometry, image=lying)

    def behind(self, name: str, node: Any) -> Term:
        """A term whose sums are pooled, scaled or flattened."""
        inner = self.term(next(iter(self.wiring.upstream(name))))
        if isinstance(node, nir.Flatten):
            return replace(inner, shape=self.flat_shape(name, node, inner.shape))
        if isinstance(node, nir.Scale):
            return self.rescaled(name, inner, scale_of(name, node, inner.shape))
        if inner.conv is None:
            raise self.refuse(f"{name} pools the sums of a dense map")
        pool = pool_of(self.wiring.file, name, node, inner.shape)
        if any(pool.padding) and inner.bias.any():
            raise self.refuse(f"{name} pools a convolution with bias and pads it; pad no pools, or drop the bias")
        bias = inner.bias * (1 if pool.mean else math.prod(pool.kernel))
        shape = channels_first(pool.shape, inner.shape)
        return replace(inner, bias=bias, shape=shape, pools=(*inner.pools, pool), image=pool.shape)

    def rescaled(self, name: str, term: Term, factor: F64) -> Term:
        """A factor (*shape) or () of every sum, taken into the weights; of a convolution, one for each filter."""
        if not factor.ndim:
            return replace(term, weight=term.weight * float(factor), bias=term.bias * float(factor))
        if term.conv is None:
            rows = factor.reshape(-1)
            return replace(term, weight=term.weight * rows[:, None], bias=term.bias * rows)
        by_filter = per_channel_of(factor, term)
        if by_filter is None:
            raise self.refuse(f"{name}: neurons behind a convolution must have one gain for each channel")
        return replace(term, weight=term.weight * by_filter[:, None, None, None], bias=term.bias * by_filter)

    def identity(self, name: str) -> Term:
        """Neurons without weights: each listens to its own value."""
        x = self.signal(name)
        label = f"{short(name)}.self"
        if x.scale.ndim == 0 and len(x.shape) == 3:
            x = self.channels_last(x)
            image = lying_last(x.shape)
            w = np.eye(image[2])[:, None, None, :] * float(x.scale)
            return Term(label, x, w, np.zeros(image[2]), x.shape, Geometry(image), image=image)
        n = math.prod(x.shape)
        if n > DIAGONAL_MAX:
            raise self.refuse(f"{name} scales {n} values one by one, at most {DIAGONAL_MAX} are possible")
        w = np.diag(np.broadcast_to(x.scale.reshape(-1), (n,)))
        if x.image is not None:
            w = w[:, first_to_last(x.image)]
        return Term(label, x, w, np.zeros(n), x.shape)

    # -------------------------------------------------------------- one population

    def population(self, name: str, *, last: bool) -> None:
        wiring, node = self.wiring, self.wiring.nodes[name]
        own: list[str] = []
        forward: list[str] = []
        for link in wiring.upstream(name):
            (own if link == name or self.returns(link, name) else forward).append(link)
        if not forward:
            raise self.refuse(f"{name} is fed by nothing")
        terms = [self.term(link) for link in forward]
        if len({(term.shape, term.image) for term in terms}) > 1:
            raise self.refuse(f"{name} adds maps of different kinds or shapes: {' and '.join(t.name for t in terms)}")
        shape = terms[0].shape
        cells = Population(wiring, self.assumed, name, node, shape, terms[0].image, last, loops=bool(own))
        terms = [self.rescaled(name, term, cells.gain) for term in terms]
        recurrent, back = self.recurrence(name, own, cells)
        bias = cells.bias(sum((term.bias for term in terms), np.zeros(())), back)
        self.signals[name] = Signal(short(name), shape, cells.image, SPIKE, np.ones(()))
        plain = len(terms) == 1 and terms[0].conv is None and cells.image is None and not cells.special
        if plain and cells.readout and recurrent is None:
            x, weight = terms[0].signal.layer, terms[0].weight.astype(np.float32)
            rate = positive(name, wiring.facts[name], "inner_rate", 0.0) or None
            sharp = positive(name, wiring.facts[name], "inner_sharpness", 1.0)
            readout = FloatReadout(short(name), weight, bias, cells.beta, inner_rate=rate, inner_sharpness=sharp)
            self.add(replace(readout, sources=(x,)))
        elif plain and not cells.readout and (recurrent is None or recurrent.ndim == 2):
            x, weight = terms[0].signal.layer, terms[0].weight.astype(np.float32)
            reset, delay = cells.reset
            self.add(
                FloatLif(short(name), weight, recurrent, bias, cells.beta, cells.threshold, reset, delay, sources=(x,))
            )
        else:
            self.drive(name, terms)
            self.add(cells.layer(bias, recurrent))

    def returns(self, link: str, name: str) -> bool:
        """Whether a linear node carries the population's own spikes back to it."""
        sources = list(self.wiring.upstream(link))
        return isinstance(self.wiring.nodes[link], (*DENSE, *CONV, nir.Scale)) and sources == [name]

    def recurrence(self, name: str, own: list[str], cells: Population) -> tuple[F32 | None, F64]:
        """Weights from the population onto itself, (n, n) or, where they are diagonal, (n,); the bias beside them."""
        n, total, bias = math.prod(cells.shape), None, np.zeros(())
        for link in own:
            node = self.wiring.nodes[link]
            if isinstance(node, CONV):
                raise self.refuse(f"{link}: convolutional recurrence is not supported; use dense or one-to-one weights")
            if link == name:
                w, b = np.eye(n), np.zeros(n)
            elif isinstance(node, nir.Scale):
                w, b = np.diag(np.broadcast_to(scale_of(link, node, cells.shape).reshape(-1), (n,))), np.zeros(n)
            else:
                w, b = matrix(self.wiring.file, link, node)
            if w.shape != (n, n):
                raise self.refuse(f"{name} has recurrent weights {w.shape}, must be {(n, n)}")
            total, bias = w if total is None else total + w, bias + b
        if total is None:
            return None, bias
        gains = np.broadcast_to(cells.gain.reshape(-1), (n,))
        if cells.image is not None:
            turn = first_to_last(cells.image)
            total, gains = total[turn][:, turn], gains[turn]
            bias = bias[turn] if bias.ndim else bias
        total = total * gains[:, None]
        if n > 1 and np.array_equal(total, np.diag(np.diag(total))):
            return np.diag(total).astype(np.float32), bias * gains
        return total.astype(np.float32), bias * gains

    def drive(self, name: str, terms: list[Term]) -> None:
        """Synapses and pools that end in the sums of one population."""
        exponent = self.common_exponent(name, terms) if len(terms) > 1 else None
        ends = []
        for term in terms:
            gain = math.prod(1 / pool.count for pool in term.pools)
            label = self.unused(short(term.name))
            weight, x = term.weight.astype(np.float32), (term.signal.layer,)
            peak, conv = term.signal.peak, term.conv
            if conv is None:
                self.add(FloatDenseSum(label, weight, gain, peak, exponent, sources=x))
            else:
                zeros = np.zeros(len(weight), np.float32)
                layer = FloatConvSum(label, conv[0], weight, zeros, *conv[1:], gain=gain, peak=peak, exponent=exponent)
                self.add(replace(layer, sources=x))
            for pool in term.pools:
                self.add(replace(pool, name=self.unused(pool.name), sources=(self.layers[-1].name,)))
            ends.append(self.layers[-1].name)
        if len(ends) > 1:
            total = FloatTotal(self.unused(f"{short(name)}.total"), math.prod(terms[0].shape), len(ends))
            self.add(replace(total, sources=tuple(ends)))

    def common_exponent(self, name: str, terms: list[Term]) -> int:
        """One power of two for the weights of several terms, which only spikes allow: their scale is known."""
        if any(term.signal.layer in (INPUT, f"{INPUT}.last") and self.input_peak != SPIKE for term in terms):
            raise self.refuse(f"{name} adds several maps, one of analog input; let spikes drive all of them")
        if any(term.pools for term in terms):
            raise self.refuse(f"{name} adds sums that are pooled; pool before the maps")
        return power_of_two([term.weight * term.signal.pooled for term in terms])[0]


def unsupported(wiring: Wiring) -> None:
    """Raises one ModelError that lists every node that has no counterpart here, and what to do about it."""
    found = [
        f"{name} ({kind}{': ' + ADVICE[kind] if kind in ADVICE else ''})"
        for name, node in wiring.nodes.items()
        if not isinstance(node, KNOWN) and not is_wire(node)
        for kind in (type(node).__name__,)
    ]
    if found:
        raise ModelError(f"{wiring.file}: {len(found)} nodes are not supported: {', '.join(found)}")
