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
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import nir
import numpy as np

from edgerun.arrays import F32, F64
from edgerun.errors import ModelError
from edgerun.layers.base import INPUT
from edgerun.layers.window import Pair, Sides, output_size
from exporters.data import first_line
from exporters.nir_graph import PORTS, Wiring, is_wire, parameter, real, whole
from exporters.nodes import (
    FloatCells,
    FloatConvSum,
    FloatDenseSum,
    FloatIntegrators,
    FloatLayer,
    FloatLif,
    FloatReadout,
    FloatSumPool,
    FloatTotal,
    FloatTranspose,
    Reset,
)
from exporters.nodes.conv import ungroup
from exporters.nodes.spiking import power_of_two

EXACT: Final = 1e-5  # a gain this near to one, or an alpha this near to zero, is float32 rounding
DIAGONAL_MAX: Final = 4096  # units that a scale of each may have: it becomes a matrix
SPIKE, FEATURE = 1, 128  # the largest integer that neurons, or an analog input, give

DENSE: Final = (nir.Affine, nir.Linear)
CONV: Final = (nir.Conv2d, nir.Conv1d)
POOLS: Final = (nir.AvgPool2d, nir.SumPool2d)
THROUGH: Final = (*POOLS, nir.Scale, nir.Flatten)
CURRENTS: Final = (nir.CubaLIF, nir.CubaLI)
SILENT: Final = (nir.LI, nir.CubaLI, nir.I)
NEURONS: Final = (nir.LIF, nir.IF, nir.CubaLIF, nir.Threshold, *SILENT)
KNOWN: Final = (*PORTS, *DENSE, *CONV, *THROUGH, *NEURONS)
ADVICE: Final[Mapping[str, str]] = MappingProxyType(
    {"Delay": "train without delays of wires, or give neurons a synaptic current"}
)
RESETS: Final[Mapping[str, Reset]] = MappingProxyType(
    {kind: kind for kind in ("subtract", "soft", "zero", "hold", "none")}
)
MALFORMED: Final = (ValueError, TypeError, IndexError, KeyError, AttributeError, OverflowError, ZeroDivisionError)
"""What numpy, fields and layers raise over parameters of the wrong rank, type or size."""
READINGS: Final = ("counts", "last", "max", "mean")

Read: TypeAlias = Literal["counts", "last", "max", "mean"]


@dataclass(frozen=True, slots=True)
class Assumed:
    """What the options say of neurons; None leaves it to metadata and defaults."""

    reset: Reset | None
    reset_delay: bool | None
    last_is_readout: bool


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
        layer = replace(pool_of(self, name, node, x.shape), peak=x.peak)
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
        total = FloatTotal(unused(self, f"{short(name)}.total"), math.prod(found[0].shape), len(found))
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
        w, b = matrix(self, name, node)
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
        geometry = geometry_of(self, name, node, x.shape)
        w, b = filters(self, name, node, x.shape[0])
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
        pool = pool_of(self, name, node, inner.shape)
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
        cells = Population(self, name, node, shape, terms[0].image, last=last)
        terms = [self.rescaled(name, term, cells.gain) for term in terms]
        recurrent, back = self.recurrence(name, own, cells)
        bias = cells.bias(sum((term.bias for term in terms), np.zeros(())), back)
        self.signals[name] = Signal(short(name), shape, cells.image, SPIKE, np.ones(()))
        plain = len(terms) == 1 and terms[0].conv is None and cells.image is None and not cells.special
        if plain and cells.readout and recurrent is None:
            x, weight = terms[0].signal.layer, terms[0].weight.astype(np.float32)
            self.add(FloatReadout(short(name), weight, bias, cells.beta, sources=(x,)))
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
                w, b = matrix(self, link, node)
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
            label = unused(self, short(term.name))
            weight, x = term.weight.astype(np.float32), (term.signal.layer,)
            peak, conv = term.signal.peak, term.conv
            if conv is None:
                self.add(FloatDenseSum(label, weight, gain, peak, exponent, sources=x))
            else:
                zeros = np.zeros(len(weight), np.float32)
                layer = FloatConvSum(label, conv[0], weight, zeros, *conv[1:], gain=gain, peak=peak, exponent=exponent)
                self.add(replace(layer, sources=x))
            for pool in term.pools:
                self.add(replace(pool, name=unused(self, pool.name), sources=(self.layers[-1].name,)))
            ends.append(self.layers[-1].name)
        if len(ends) > 1:
            total = FloatTotal(unused(self, f"{short(name)}.total"), math.prod(terms[0].shape), len(ends))
            self.add(replace(total, sources=tuple(ends)))

    def common_exponent(self, name: str, terms: list[Term]) -> int:
        """One power of two for the weights of several terms, which only spikes allow: their scale is known."""
        if any(term.signal.layer in (INPUT, f"{INPUT}.last") and self.input_peak != SPIKE for term in terms):
            raise self.refuse(f"{name} adds several maps, one of analog input; let spikes drive all of them")
        if any(term.pools for term in terms):
            raise self.refuse(f"{name} adds sums that are pooled; pool before the maps")
        return power_of_two([term.weight * term.signal.pooled for term in terms])[0]


@dataclass(frozen=True)
class Population:
    """Neurons of one node in discrete time; arrays by neuron or, for images, by channel where places agree."""

    builder: Builder
    name: str
    node: Any
    shape: tuple[int, ...]
    image: tuple[int, ...] | None
    last: bool

    def own(self, part: str) -> F64:
        """A parameter (n,), as NIR orders neurons."""
        return parameter(self.name, self.node, part, math.prod(self.shape))

    def turned(self, values: F64) -> F32:
        """(n,) in our order, or (channels,) where all places of a channel agree."""
        if self.image is None:
            return values.astype(np.float32)
        lying = values[first_to_last(self.image)].reshape(-1, self.image[-1])
        found: F64 = lying[0] if (lying == lying[0]).all() else lying.reshape(-1)
        return found.astype(np.float32)

    @property
    def synaptic(self) -> bool:
        """Whether there is a current that lasts longer than one step."""
        if not isinstance(self.node, CURRENTS):
            return False
        tau, dt = self.own("tau_syn"), self.builder.wiring.dt
        return not bool(np.all((tau == 0) | (np.abs(tau - dt) <= EXACT * dt)))

    @property
    def readout(self) -> bool:
        role = self.builder.wiring.facts[self.name].get("role")
        if not (role is None or (isinstance(role, str) and role == "readout")):
            raise ModelError(f"{self.name}: role {first_line(role)!r} is not 'readout'")
        marked = role == "readout" or isinstance(self.node, SILENT)
        if marked and not self.last:
            raise ModelError(f"{self.name}: a readout must be the last layer")
        return marked or (self.last and self.builder.assumed.last_is_readout)

    @property
    def reading(self) -> Read:
        default = "last" if self.readout else "counts"
        reading = self.builder.wiring.facts[self.name].get("reading", default)
        allowed = READINGS[1:] if self.readout else READINGS
        if not isinstance(reading, str) or reading not in allowed:
            raise ModelError(f"{self.name}: reading {first_line(reading)!r} is none of {', '.join(allowed)}")
        found: Mapping[str, Read] = {"counts": "counts", "last": "last", "max": "max", "mean": "mean"}
        return found[reading]

    @property
    def inhibition(self) -> bool:
        flag = self.builder.wiring.facts[self.name].get("inhibition", 0)
        if np.ndim(flag) or flag not in (0, 1):
            raise ModelError(f"{self.name}: inhibition {first_line(flag)} is neither 0 nor 1")
        return bool(flag)

    @property
    def special(self) -> bool:
        """Whether neurons of a dense map need more than a `Lif` or a `Readout` has."""
        usual = self.reading == ("last" if self.readout else "counts")
        return self.synaptic or self.inhibition or not usual

    def decay(self, part: str) -> F64:
        """1 - dt/tau, or exp(-dt/tau) where the graph says so. Raises ModelError for time constants under the step."""
        dt, tau = self.builder.wiring.dt, self.own(part)
        if self.builder.wiring.exponential:
            if not (tau > 0).all():
                raise ModelError(f"{self.name}: {part} {tau.min():g} s is not above 0")
            return np.asarray(np.exp(-dt / tau))
        if not (tau >= dt * (1 - EXACT)).all():
            raise ModelError(f"{self.name}: {part} {tau.min():g} s is under the time step of {dt:g} s (--dt)")
        beta = np.maximum(1 - dt / tau, 0).astype(np.float32)  # as it was before NIR divided by 1 - beta
        return beta.astype(np.float64)

    def decayed(self) -> F64:
        """What the membrane keeps in a step, (n,) as NIR orders neurons."""
        match self.node:
            case nir.IF() | nir.I():
                return np.ones(math.prod(self.shape))
            case nir.Threshold():
                return np.zeros(math.prod(self.shape))
        return self.decay("tau_mem" if isinstance(self.node, CURRENTS) else "tau")

    @property
    def beta(self) -> F32:
        return self.turned(self.decayed())

    @property
    def gain(self) -> F64:
        """What a step adds of the input, (*shape) as NIR sees it or ()."""
        if isinstance(self.node, nir.Threshold):
            return np.ones(())
        if isinstance(self.node, (nir.IF, nir.I)):
            found = self.own("r")
        else:
            part = "tau_mem" if isinstance(self.node, CURRENTS) else "tau"
            found = self.into(part) * self.own("r") if not self.endless(part) else np.ones(math.prod(self.shape))
        if isinstance(self.node, CURRENTS):
            found = found * self.own("w_in") * (self.into("tau_syn") if self.synaptic else 1.0)
        found = np.where(np.abs(found - 1) < EXACT, 1.0, found)
        return np.asarray(found[0]) if (found == found[0]).all() else found.reshape(self.shape)

    def into(self, part: str) -> F64:
        """dt/tau, or 1 - exp(-dt/tau)."""
        if self.builder.wiring.exponential:
            return 1 - self.decay(part)
        return self.builder.wiring.dt / self.own(part)

    def endless(self, part: str) -> bool:
        """How snnTorch writes beta = 1."""
        return bool((np.isinf(self.own(part)) & np.isinf(self.own("r"))).all())

    def bias(self, terms: F64, back: F64) -> F32:
        """Biases of all terms and of the recurrence, and the leak potential; gains are in them already."""
        leak = np.zeros(math.prod(self.shape))
        if hasattr(self.node, "v_leak"):
            v_leak = self.own("v_leak")
            if self.synaptic and v_leak.any():
                raise ModelError(f"{self.name}: v_leak must be 0 where there is a synaptic current")
            leak = (1 - self.decayed()) * v_leak
        parts = [np.atleast_1d(part) for part in (terms, back, self.turned(leak).astype(np.float64))]
        most = max(len(part) for part in parts)
        return sum((np.tile(part, most // len(part)) for part in parts), np.zeros(most)).astype(np.float32)

    @property
    def threshold(self) -> F32:
        part = "threshold" if isinstance(self.node, nir.Threshold) else "v_threshold"
        threshold = self.own(part)
        if not ((threshold > 0).all() or not threshold.any()):
            raise ModelError(f"{self.name}: {part} reaches down to {threshold.min():g}, must be above 0, or 0 for all")
        if hasattr(self.node, "v_reset") and np.any(self.own("v_reset")):
            raise ModelError(f"{self.name}: v_reset must be 0")
        return self.turned(threshold)

    @property
    def reset(self) -> tuple[Reset, bool]:
        """How and when the membrane resets: the node's metadata, else the options, else what NIR's equations say."""
        if isinstance(self.node, nir.Threshold):
            return "none", False
        wiring, assumed = self.builder.wiring, self.builder.assumed
        facts = wiring.facts[self.name]
        reset, delay = facts.get("reset", assumed.reset), facts.get("reset_delay", assumed.reset_delay)
        if reset is None:
            wiring.notes.append(f"{self.name}: reset not stated, assumed 'zero' (--reset says otherwise)")
        if delay is None:
            wiring.notes.append(f"{self.name}: reset delay not stated, assumed 0 (--reset-delay says otherwise)")
        reset, delay = "zero" if reset is None else reset, 0 if delay is None else delay
        if not isinstance(reset, str) or reset not in RESETS:
            raise ModelError(f"{self.name}: reset {first_line(reset)!r} is none of {', '.join(RESETS)}")
        if np.ndim(delay) or delay not in (0, 1):
            raise ModelError(f"{self.name}: reset_delay {first_line(delay)} is neither 0 nor 1")
        if reset == "soft" and delay:
            raise ModelError(f"{self.name}: reset 'soft' acts in the spike's own step, reset_delay must be 0")
        whole_step = self.synaptic or self.loops  # snnTorch clears these after the input of the next step
        return RESETS["hold" if reset == "zero" and delay and whole_step else reset], bool(delay)

    @property
    def loops(self) -> bool:
        return any(
            link == self.name or self.builder.returns(link, self.name)
            for link in self.builder.wiring.upstream(self.name)
        )

    def layer(self, bias: F32, recurrent: F32 | None) -> FloatLayer:
        """The neurons on sums that a synapse before them gives."""
        cells, name = self.image or (math.prod(self.shape),), short(self.name)
        alpha = self.turned(self.decay("tau_syn")) if self.synaptic else None
        own = recurrent if recurrent is not None and recurrent.ndim == 1 else None
        most = max(len(part) for part in (bias, self.beta, alpha, own) if part is not None)
        reading = self.reading
        if self.readout:
            if recurrent is not None or reading == "counts":
                raise ModelError(f"{self.name}: a readout is not recurrent and has no spikes to count")
            bias, beta = stretched(bias, most), stretched(self.beta, most)
            return FloatIntegrators(name, cells, bias, beta, None if alpha is None else stretched(alpha, most), reading)
        most = max(most, len(self.threshold))
        reset, delay = self.reset
        return FloatCells(
            name,
            cells,
            stretched(bias, most),
            stretched(self.threshold, most),
            reset,
            self.inhibition,
            reading,
            beta=stretched(self.beta, most),
            alpha=None if alpha is None else stretched(alpha, most),
            recurrent=recurrent if own is None else stretched(own, most),
            reset_delay=delay,
        )


# ------------------------------------------------------------------ shapes and numbers


def short(name: str) -> str:
    """A node's name as a layer may have it; the neurons of a recurrent subgraph bear the subgraph's."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name.removesuffix(".lif"))[:56]


def unused(builder: Builder, name: str) -> str:
    """The name, or the name with a number where a layer or a population has it."""
    taken = {layer.name for layer in builder.layers}
    taken |= {short(other) for other, node in builder.wiring.nodes.items() if isinstance(node, NEURONS)}
    return next(found for k in range(len(taken) + 1) if (found := f"{name}.{k}" if k else name) not in taken)


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


def matrix(builder: Builder, name: str, node: Any) -> tuple[F64, F64]:
    """Weights (n, in) and bias (n,) of a dense node."""
    w = real(f"{name}: weight", node.weight)
    b = real(f"{name}: bias", node.bias) if isinstance(node, nir.Affine) else np.zeros(w.shape[0])
    if w.ndim != 2 or not w.size or b.shape != (len(w),):
        raise builder.refuse(f"{name} has weights of shape {w.shape}, bias {b.shape}, must be (n, in) and (n,)")
    return w, b


def filters(builder: Builder, name: str, node: Any, channels: int) -> tuple[F64, F64]:
    """Weights (filters, kh, kw, channels) and bias (filters,) of a convolution."""
    w = real(f"{name}: weight", node.weight)
    w = w[:, :, None, :] if isinstance(node, nir.Conv1d) and w.ndim == 3 else w
    groups = int(node.groups)
    if w.ndim != 4 or not w.size or groups < 1 or len(w) % groups or w.shape[1] * groups != channels:
        raise builder.refuse(f"{name} has weights of shape {w.shape} in {groups} groups, {channels} channels arrive")
    b = np.zeros(len(w)) if node.bias is None else real(f"{name}: bias", node.bias)
    if b.shape != (len(w),):
        raise builder.refuse(f"{name} has a bias of shape {b.shape}, must be ({len(w)},)")
    return np.asarray(ungroup(w.transpose(0, 2, 3, 1), groups, channels), np.float64), b


def pair(builder: Builder, name: str, value: Any, flat: bool = False) -> Pair:
    """(down, across) of a number or a pair; in one dimension down is 1."""
    found = whole(f"{builder.wiring.file}: {name}", value)
    if len(found) not in (1, 2) or (flat and len(found) != 1):
        raise builder.refuse(f"{name}: {first_line(value)} is neither a number nor a pair")
    return (1, found[0]) if flat else (found[0], found[-1])


def geometry_of(builder: Builder, name: str, node: Any, shape: tuple[int, ...]) -> Geometry:
    """Where the windows of a convolution lie."""
    flat = isinstance(node, nir.Conv1d)
    stride, dilation = pair(builder, name, node.stride, flat), pair(builder, name, node.dilation, flat)
    kernel = (1, node.weight.shape[-1]) if flat else node.weight.shape[-2:]
    return Geometry(lying_last(shape), stride, dilation, padding_of(builder, name, node, kernel, dilation, flat))


def padding_of(builder: Builder, name: str, node: Any, kernel: Any, dilation: Pair, flat: bool) -> Sides:
    """(top, left, bottom, right); "same" pads what a stride of 1 needs, the odd one behind."""
    if isinstance(node.padding, (str, bytes)):
        text = node.padding if isinstance(node.padding, str) else node.padding.decode()
        if text == "valid":
            return 0, 0, 0, 0
        down, across = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return down // 2, across // 2, down - down // 2, across - across // 2
    if flat:
        across = pair(builder, name, node.padding, flat)[1]
        return 0, across, 0, across
    down, across = pair(builder, name, node.padding)
    return down, across, down, across


def pool_of(builder: Builder, name: str, node: Any, shape: tuple[int, ...]) -> FloatSumPool:
    """A pool over an image of NIR's shape."""
    if len(shape) != 3:
        raise builder.refuse(f"{name} ({type(node).__name__}) is fed by values of shape {shape}")
    kernel, stride = pair(builder, name, node.kernel_size), pair(builder, name, node.stride)
    down, across = pair(builder, name, node.padding)
    padding = (down, across, down, across)
    image = lying_last(shape)
    if min(output_size(image[:2], kernel, stride, (1, 1), padding)) < 1:
        raise builder.refuse(f"{name}: no window of {kernel} fits an input of shape {shape}")
    return FloatSumPool(short(name), image, kernel, stride, padding, isinstance(node, nir.AvgPool2d))


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
