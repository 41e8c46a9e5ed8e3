"""A bundle's graph, running: one object a layer, every array allocated once, nothing allocated while it infers.

    sample -> encode -> [layer.step for each layer] for each time step -> head -> Outcome

Layers that follow the last stateful one depend on nothing but the newest step: in a whole window they run once, at its
end. Streaming (`step`) runs them all.

Arrays between layers hold integers in float32, an exact carrier by each layer's certificate. A network works on one
sample, or, made with `batch=(n,)`, on n at once with the same bits: that is how probes and reservoirs are scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from edgerun import encode
from edgerun.arrays import F32, I8, I16, I32, I64, U8, AnyArray, Tensors
from edgerun.errors import DataError
from edgerun.kernels import head, spiking
from edgerun.kernels.eprop import TILE
from edgerun.layers.base import INPUT
from edgerun.ops import OPS, DenseRun, LayerRun, LifRun
from edgerun.spec import Manifest


class Outcome(NamedTuple):
    """What one sample means: the winning class, or UNDECIDED, and the int32 scores of all known classes, or values."""

    label: int
    scores: I32


UNDECIDED: Final = -1
"""The label of an outcome where the outputs themselves are the answer."""


@dataclass(frozen=True, slots=True)
class Tape:
    """Where one window of one layer is written, for e-prop.

    pre     (T, m)  int8 or int16  what drives the layer      psi  (S, n)  uint8  its surrogate derivative, at the last
    spikes  (T, n)  uint8          its own spikes                                 S steps
    """

    pre: I8 | I16
    spikes: U8
    psi: U8


@dataclass(frozen=True, slots=True)
class Recording:
    """Where one window of several learning layers is written.

    tapes    by layer name                  outputs  (S, k)  int32  the last layer's outputs after the last S steps
    """

    tapes: Mapping[str, Tape]
    outputs: I32

    @property
    def logits(self) -> I64:
        """(k,)  the last layer's outputs after the last step."""
        last: I64 = self.outputs[-1].astype(np.int64)
        return last


class Prototypes:
    """The state of a prototype head: sums, counts and biases, and the means they give.

    Row k is class k; with a second mean a class, row capacity + k is what the field has taught of it.
    """

    def __init__(self, tensors: Mapping[str, AnyArray], capacity: int, means: int = 1) -> None:
        factory, rows = tensors["head.sum"], means * capacity
        self.capacity = capacity
        self.taught = rows - capacity
        """The row of class 0 that a lesson adds to."""
        self.sums: I32 = np.zeros((rows, factory.shape[1]), np.int32)
        self.counts: I32 = np.zeros(rows, np.int32)
        self.bias: I32 = np.zeros(rows, np.int32)
        for mine, name in ((self.sums, "sum"), (self.counts, "count"), (self.bias, "bias")):
            mine[: len(factory)] = tensors[f"head.{name}"]
        self.means: I64 = np.zeros(self.sums.shape, np.int64)
        self.refresh()

    def refresh(self) -> None:
        """Recompute the means after sums or counts changed."""
        head.class_means(self.means, self.sums, self.counts)

    def scores(self, z: I64, known: int) -> I32:
        """(..., known) int32; the least int32 for classes without a sample."""
        scores = np.empty((*z.shape[:-1], known), np.int32)
        self._score(scores, z, slice(0, known))
        if self.taught:
            nearer = np.empty_like(scores)
            self._score(nearer, z, slice(self.taught, self.taught + known))
            np.maximum(scores, nearer, out=scores)
        return scores

    def _score(self, scores: I32, z: I64, rows: slice) -> None:
        head.prototype_scores(scores, z, self.means[rows], self.bias[rows], self.counts[rows] > 0)


class Network:
    """A manifest's layers over its tensors. Weights are shared, not copied: call `load_weights` after a write.

    tensors  arrays by name, as a bundle holds them
    batch    () for one sample at a time, (n,) for n at once; prototypes may be shared between both
    """

    def __init__(
        self,
        manifest: Manifest,
        tensors: Mapping[str, AnyArray],
        batch: tuple[int, ...] = (),
        prototypes: Prototypes | None = None,
    ) -> None:
        self.manifest = manifest
        self.tensors = tensors
        self.batch = batch
        self.known = len(manifest.classes.names)
        self.layers: dict[str, LayerRun] = {s.name: OPS[type(s)](s, tensors, batch) for s in manifest.layers}
        self._wires = _wire(manifest, self.layers)
        self._each_step = self._wires[: last_stateful(manifest)]
        self._stateful = tuple(run for run in self.layers.values() if run.spec.stateful)
        self._last = next(reversed(self.layers.values()))
        self._coder, self._taken = encode.coder(manifest, batch), (*batch, manifest.input.size)
        self.prototypes = prototypes
        if manifest.head.kind == "prototypes" and prototypes is None:
            self.prototypes = Prototypes(tensors, manifest.classes.capacity, manifest.head.means)
        whiten = manifest.head.whiten
        self._whiten = DenseRun(whiten, tensors, batch) if whiten else None
        self._raw: F32 = np.zeros((*batch, whiten.inputs if whiten else 1), np.float32)

    @property
    def steps(self) -> int:
        """Time steps of one window."""
        return self.manifest.steps

    def batched(self, n: int) -> Network:
        """The same weights and prototypes, n samples at once."""
        return Network(self.manifest, self.tensors, (n,), self.prototypes)

    def infer(self, q: I16) -> Outcome:
        """Run one window from a clean state and decide.    q  (size,)  quantised input, see `encode.quantise`"""
        scores = self.scores(q)
        return Outcome(int(np.argmax(scores[: self.known])) if self.known else UNDECIDED, scores)

    def scores(self, q: I16) -> I32:
        """Scores of the known classes after one window, or the values.    q  (..., size)  ->  (..., k) int32"""
        self._run(q)
        return self.decide()

    def outputs(self, q: I16) -> I64:
        """The last layer's outputs after one window, as `Manifest.output` maps them.    q  (..., size)  ->  (..., k)"""
        self._run(q)
        return self.logits()

    def decide(self) -> I32:
        """Scores of the window that has just run."""
        if self.prototypes is not None:
            return self.prototypes.scores(self.features(), self.known)
        return self.logits().astype(np.int32)

    def logits(self) -> I64:
        """The last layer's outputs, int64: Q7.24 of a readout, int8 of a dense layer, the window's counts of spikes."""
        return self._last.reading()

    def features(self) -> I64:
        """z (..., d) of the window that has just run: what prototypes live in."""
        raw = self.layers[self.manifest.head.features or ""].reading()
        if self._whiten is None:
            return raw
        np.copyto(self._raw, raw, casting="unsafe")
        self._whiten.step(self._raw)
        return self._whiten.out.astype(np.int64)

    def record(self, q: I16, layer: str) -> Tape:
        """Run one window and keep what e-prop on `layer` needs, on a tape of its own.    q  (size,)"""
        spec, steps = self.manifest.layer(layer), self.steps
        tape = Tape(
            np.zeros((steps, spec.widths[0]), np.int16),
            np.zeros((steps, spec.outputs), np.uint8),
            np.zeros((steps, spec.outputs), np.uint8),
        )
        self.record_all(q, Recording({layer: tape}, np.zeros((1, self.logits().size), np.int32)))
        return tape

    def record_all(self, q: I16, recording: Recording) -> None:
        """Run one window and write it down.    q  (size,)"""
        inputs = self.moments(q)
        reels = {name: _Reel(self.layers[name], tape) for name, tape in recording.tapes.items()}
        first = len(inputs) - len(recording.outputs)
        self.reset()
        for t, x in enumerate(inputs):
            for wire in self._wires:
                sources, reel = wire.feed(x), reels.get(wire.run.spec.name)
                if reel is None:
                    wire.run.step(*sources)
                else:
                    reel.step(t, sources[0])
            if t >= first:
                np.copyto(recording.outputs[t - first], self.logits(), casting="unsafe")

    def play(self, q: I16) -> Iterator[F32]:
        """Run one window from a clean state; yields what came in at each step, once every layer has done it."""
        inputs = self.moments(q)
        self.reset()
        for x in inputs:
            self.step(x)
            yield x

    def step(self, x: F32) -> None:
        """Advance one time step on encoded input (..., size), keeping state: the streaming form."""
        for wire in self._wires:
            wire.run.step(*wire.feed(x))

    def reset(self) -> None:
        """Back to silence: membranes, carries, adaptation, integrators."""
        for run in self.layers.values():
            run.reset()

    def snapshot(self) -> Tensors:
        """Copies of all streaming state, by `<layer>.<name>`."""
        return {f"{name}.{key}": a.copy() for name, run in self.layers.items() for key, a in run.state().items()}

    def restore(self, state: Mapping[str, AnyArray]) -> None:
        """Continue from a snapshot, bit for bit.

        Raises DataError, and changes nothing, if an array is missing or has another shape.
        """
        mine = {f"{name}.{key}": array for name, run in self.layers.items() for key, array in run.state().items()}
        for name, array in mine.items():
            saved = state.get(name)
            if saved is None or saved.shape != array.shape:
                raise DataError(f"snapshot has no {name} of shape {array.shape}")
        for name, array in mine.items():
            np.copyto(array, state[name], casting="unsafe")
        for run in self.layers.values():
            run.resume()

    def load_weights(self, tensor: str, rows: slice = slice(None)) -> None:
        """Take over rows of a weight tensor that has just been written."""
        layer, _, part = tensor.rpartition(".")
        if part != "feedback":  # a rule's own, which no layer runs on
            self.layers[layer].load_weights(part, rows)

    def moments(self, q: I16) -> F32:
        """What the layers see of one window, (steps, ..., step size).    q  (..., size)  quantised input"""
        if q.shape != self._taken:
            raise DataError(f"input has shape {q.shape}, the network takes {self._taken}")
        return self._coder.encode(q)

    def _run(self, q: I16) -> None:
        inputs = self.moments(q)
        for run in self._stateful:  # others are written before they are read
            run.reset()
        for x in inputs[:-1]:
            for wire in self._each_step:
                wire.run.step(*wire.feed(x))
        self.step(inputs[-1])


class _Reel:
    """A Lif layer whose window is recorded. Raises DataError for any other layer."""

    def __init__(self, run: LayerRun, tape: Tape) -> None:
        if not isinstance(run, LifRun):
            raise DataError(f"layer {run.spec.name!r} has no spikes to record")
        self._run, self._tape, self._first = run, tape, len(tape.pre) - len(tape.psi)
        self._margins: I32 = np.zeros((TILE, run.spec.outputs), np.int32)

    def step(self, t: int, source: F32) -> None:
        """Run step t and keep what came in and what came of it."""
        tape, at = self._tape, t - self._first
        np.copyto(tape.pre[t], source, casting="unsafe")
        self._run.step(source)
        np.copyto(tape.spikes[t], self._run.fired)
        if at < 0:
            return
        np.copyto(self._margins[at % TILE], self._run.margin)
        if (at + 1) % TILE == 0 or at + 1 == len(tape.psi):
            done = slice(at - at % TILE, at + 1)
            spiking.surrogate(tape.psi[done], self._margins[: at % TILE + 1], self._run.spec.threshold)


class Wire(NamedTuple):
    """A layer at work and the memory that it reads; None stands for what the encoder gives."""

    run: LayerRun
    sources: tuple[F32 | None, ...]
    fixed: tuple[F32, ...]  # the same, where none of them is the input

    def feed(self, x: F32) -> tuple[F32, ...]:
        return self.fixed or tuple(x if source is None else source for source in self.sources)


def _wire(manifest: Manifest, runs: Mapping[str, LayerRun]) -> tuple[Wire, ...]:
    """Every layer in running order."""
    wires = []
    for layer, sources in manifest.wiring():
        outs = tuple(runs[source].out for source in sources if source != INPUT)
        mixed = tuple(None if source == INPUT else runs[source].out for source in sources)
        wires.append(Wire(runs[layer.name], mixed, outs if len(outs) == len(mixed) else ()))
    return tuple(wires)


def last_stateful(manifest: Manifest) -> int:
    """How many layers, from the first, a step before the last one must run."""
    return max((k + 1 for k, layer in enumerate(manifest.layers) if layer.stateful), default=0)
