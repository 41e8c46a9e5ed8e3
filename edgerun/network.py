"""A bundle's graph, running: one object a layer, every array allocated once, nothing allocated while it infers.

    sample -> encode -> [layer.step for each layer] for each time step -> head -> Outcome

Arrays between layers hold integers in float32, an exact carrier by each layer's certificate. A network works on one
sample, or, made with `batch=(n,)`, on n at once with the same bits: that is how probes and reservoirs are scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from edgerun import certificate, encode
from edgerun.arrays import F32, I16, I32, I64, U8, AnyArray, Bool, Tensors
from edgerun.errors import DataError
from edgerun.kernels import dense, head, spiking
from edgerun.spec import Dense, Layer, Lif, Manifest, PhaseRate, Readout


class Outcome(NamedTuple):
    """What one sample means: the winning class and the int32 scores of all known classes."""

    label: int
    scores: I32


@dataclass(frozen=True, slots=True)
class Tape:
    """What e-prop needs of one window.

    pre     (T, m)  uint8   spikes into the plastic layer        psi     (T, n)  uint8  its surrogate derivative
    spikes  (T, n)  uint8   its own spikes                       logits  (k,)    int64  the readout after the last step
    """

    pre: U8
    spikes: U8
    psi: U8
    logits: I64


DENSE_PARTS: Final = ("weight", "bias", "multiplier", "shift")


class LayerRun(Protocol):
    """One layer at work. `out` (..., outputs) float32 holds its newest output."""

    out: F32

    def step(self, x: F32) -> None: ...
    def reset(self) -> None: ...
    def state(self) -> Tensors: ...
    def load_weights(self, part: str, rows: slice) -> None: ...


class DenseRun:
    """A dense layer on the carrier that its certificate allows."""

    def __init__(self, spec: Dense, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        self.out: F32 = np.zeros((*batch, spec.outputs), np.float32)
        self._step = _dense_program(spec, tensors, self.out)

    def step(self, x: F32) -> None:
        self._step(x)

    def reset(self) -> None:
        self.out[...] = 0

    def state(self) -> Tensors:
        return {}

    def load_weights(self, part: str, rows: slice) -> None:
        raise DataError(f"dense tensor {part} is not plastic")


def _dense_program(spec: Dense, tensors: Mapping[str, AnyArray], out: F32) -> Callable[[F32], None]:
    """The kernel and constants of one dense layer, bound to its output array."""
    weight, bias, multiplier, shift = (tensors[f"{spec.name}.{part}"] for part in DENSE_PARTS)
    proof = certificate.certify_dense(spec, weight, bias, multiplier, shift)
    low, high, zero = spec.qmin, spec.qmax, spec.zero_point
    w, b, m, s = (tensor.astype(np.int64) for tensor in (weight.T, bias, multiplier, shift))
    real = np.asarray(m * np.exp2(-s.astype(np.float64)), np.float64)
    if proof.carrier == "float32-folded" and proof.folds_zero_point:
        weights = np.ascontiguousarray(w * real, np.float32)
        offset = (b * real + 0.5 + zero).astype(np.float32)
        return lambda x: dense.dense_folded(out, x, weights, offset, low, high)
    if proof.carrier in ("float32-folded", "float32-dot") and proof.folds_zero_point:
        weights = np.ascontiguousarray(w, np.float32)
        wide_offset = np.asarray(b * real + 0.5 + zero, np.float64)
        acc, wide = np.zeros_like(out), np.zeros(out.shape, np.float64)
        return lambda x: dense.dense_requant(out, x, weights, real, wide_offset, low, high, acc, wide)
    whole, offset64 = np.ascontiguousarray(w), b * m + np.left_shift(1, s - 1)
    x64, acc64 = np.zeros((*out.shape[:-1], spec.inputs), np.int64), np.zeros(out.shape, np.int64)
    return lambda x: dense.dense_wide(out, x, whole, m, offset64, s, zero, low, high, x64, acc64)


class LifRun:
    """Recurrent LIF or ALIF neurons. Input and recurrent weights are stacked, so that one product serves both."""

    def __init__(self, spec: Lif, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        n, m = spec.outputs, spec.inputs
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((m + n * spec.recurrent, n), np.float32)
        self._drive: F32 = np.zeros((*batch, m + n * spec.recurrent), np.float32)
        self.out: F32 = self._drive[..., m:] if spec.recurrent else np.zeros((*batch, n), np.float32)
        self.load_weights("input", slice(None))
        if spec.recurrent:
            self.load_weights("recurrent", slice(None))
        self._bias = tensors[f"{spec.name}.bias"].astype(np.int32)
        self._decay = tensors[f"{spec.name}.decay"].astype(np.int32)
        self.v, self.carry, self.counts, self.margin = (np.zeros((*batch, n), np.int32) for _ in range(4))
        self._current, self._back, self._spikes = (np.zeros((*batch, n), np.int32) for _ in range(3))
        self._product: F32 = np.zeros((*batch, n), np.float32)
        self.fired: Bool = np.zeros((*batch, n), np.bool_)
        self._threshold: I32 = np.full((*batch, n), spec.threshold, np.int32)
        self._shift = 12 - spec.weight_exponent
        if spec.adaptive:
            self._rho = tensors[f"{spec.name}.rho"].astype(np.int32)
            self._beta = tensors[f"{spec.name}.beta"].astype(np.int32)
            self.adaptation, self.adaptation_carry = (np.zeros((*batch, n), np.int32) for _ in range(2))
        if spec.refractory_steps:
            self.resting: I32 = np.zeros((*batch, n), np.int32)
            self._silent: Bool = np.zeros((*batch, n), np.bool_)

    def step(self, x: F32) -> None:
        spec = self.spec
        self._drive[..., : spec.inputs] = x
        spiking.synaptic_current(self._current, self._drive, self._weights, self._product, self._shift, self._bias)
        if spec.reset_delay:
            self._reset(self._current)
        if spec.adaptive:
            np.multiply(self._spikes, self._beta, out=self._back)
            spiking.leak(self.adaptation, self.adaptation_carry, self._rho, self._back)
            np.add(self.adaptation, spec.threshold, out=self._threshold)
        spiking.leak(self.v, self.carry, self._decay, self._current)
        spiking.fire(self.fired, self.margin, self.v, self._threshold)
        if spec.refractory_steps:
            self._rest()
        np.copyto(self._spikes, self.fired)
        if not spec.reset_delay:
            self._reset(self.v)
        np.copyto(self.out, self.fired)
        self.counts += self._spikes

    def _reset(self, target: I32) -> None:
        """Act on the newest spikes: take the threshold from `target`, or clear the membrane."""
        if self.spec.reset == "subtract":
            np.multiply(self._spikes, self.spec.threshold, out=self._back)
            target -= self._back
        elif self.spec.reset == "zero":
            np.copyto(self.v, 0, where=self.fired)
            np.copyto(self.carry, 0, where=self.fired)

    def _rest(self) -> None:
        """Silence neurons that fired within the last `refractory_steps`."""
        np.greater(self.resting, 0, out=self._silent)
        np.copyto(self.fired, False, where=self._silent)
        np.copyto(self.margin, spiking.I16_MIN * 2, where=self._silent)  # no surrogate while resting
        self.resting -= 1
        np.maximum(self.resting, 0, out=self.resting)
        np.copyto(self.resting, self.spec.refractory_steps, where=self.fired)

    def reset(self) -> None:
        for array in self.state().values():
            array[...] = np.zeros((), array.dtype)
        self.resume()

    def resume(self) -> None:
        """Take over a state that was written from outside."""
        np.copyto(self._spikes, self.fired)
        np.copyto(self.out, self.fired)

    def state(self) -> Tensors:
        arrays: Tensors = {"v": self.v, "carry": self.carry, "fired": self.fired, "counts": self.counts}
        if self.spec.adaptive:
            arrays |= {"adaptation": self.adaptation, "adaptation_carry": self.adaptation_carry}
        if self.spec.refractory_steps:
            arrays["resting"] = self.resting
        return arrays

    def load_weights(self, part: str, rows: slice) -> None:
        source = self._tensors[f"{self.spec.name}.{part}"]
        first = 0 if part == "input" else self.spec.inputs
        self._weights[first : first + source.shape[0]][rows] = source[rows]


class ReadoutRun:
    """Leaky integrators; `y` (..., k) int64 in Q7.24 is the logit after each step."""

    def __init__(self, spec: Readout, tensors: Mapping[str, AnyArray], batch: tuple[int, ...]) -> None:
        k = spec.outputs
        self.spec = spec
        self._tensors = tensors
        self._weights: F32 = np.zeros((spec.inputs, k), np.float32)
        self.load_weights("input", slice(None))
        self._bias = tensors[f"{spec.name}.bias"].astype(np.int64)
        self._kappa = tensors[f"{spec.name}.kappa"].astype(np.int64)
        self.y, self.carry, self._sum = (np.zeros((*batch, k), np.int64) for _ in range(3))
        self.out: F32 = np.zeros((*batch, k), np.float32)
        self._shift = 24 - spec.weight_exponent

    def step(self, x: F32) -> None:
        np.dot(x, self._weights, out=self.out)
        np.copyto(self._sum, self.out, casting="unsafe")
        self._sum <<= self._shift
        self._sum += self._bias
        spiking.integrate(self.y, self.carry, self._kappa, self._sum)

    def reset(self) -> None:
        self.y[...] = 0
        self.carry[...] = 0

    def state(self) -> Tensors:
        return {"y": self.y, "carry": self.carry}

    def load_weights(self, part: str, rows: slice) -> None:
        self._weights[rows] = self._tensors[f"{self.spec.name}.{part}"][rows]


OPS: Final[Mapping[type[Layer], Callable[[Any, Mapping[str, AnyArray], tuple[int, ...]], LayerRun]]] = MappingProxyType(
    {Dense: DenseRun, Lif: LifRun, Readout: ReadoutRun}
)
"""Every kind of layer that runs. `docs/operators.md` has a heading for each."""


class Prototypes:
    """The state of a prototype head, `capacity` rows of it: class sums, counts and biases, and the means they give."""

    def __init__(self, tensors: Mapping[str, AnyArray], capacity: int) -> None:
        factory = tensors["head.sum"]
        self.sums: I32 = np.zeros((capacity, factory.shape[1]), np.int32)
        self.counts: I32 = np.zeros(capacity, np.int32)
        self.bias: I32 = np.zeros(capacity, np.int32)
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
        head.prototype_scores(scores, z, self.means[:known], self.bias[:known], self.counts[:known] > 0)
        return scores


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
        self._runs = tuple(self.layers.values())
        size = manifest.input.size
        coder = manifest.encoder
        self._coder = encode.PhaseCoder(coder, batch, size) if isinstance(coder, PhaseRate) else None
        self._direct: F32 = np.zeros((1, *batch, size), np.float32)
        self.prototypes = prototypes
        if manifest.head.kind == "prototypes" and prototypes is None:
            self.prototypes = Prototypes(tensors, manifest.classes.capacity)
        whiten = manifest.head.whiten
        self._whiten = DenseRun(whiten, tensors, batch) if whiten else None
        self._raw: F32 = np.zeros((*batch, whiten.inputs if whiten else 1), np.float32)

    @property
    def steps(self) -> int:
        """Time steps of one window."""
        coder = self.manifest.encoder
        return coder.steps if isinstance(coder, PhaseRate) else 1

    def batched(self, n: int) -> Network:
        """The same weights and prototypes, n samples at once."""
        return Network(self.manifest, self.tensors, (n,), self.prototypes)

    def infer(self, q: I16) -> Outcome:
        """Run one window from a clean state and decide.    q  (size,)  quantised input, see `encode.quantise`"""
        scores = self.scores(q)
        return Outcome(int(np.argmax(scores[: self.known])), scores)

    def scores(self, q: I16) -> I32:
        """Scores of the known classes after one window.    q  (..., size)  ->  (..., k) int32"""
        self._run(q)
        return self.decide()

    def decide(self) -> I32:
        """Scores of the window that has just run."""
        if self.prototypes is not None:
            return self.prototypes.scores(self.features(), self.known)
        return self.logits().astype(np.int32)

    def logits(self) -> I64:
        """The last layer's outputs, int64: Q7.24 of a readout, int8 of a dense layer."""
        last = self._runs[-1]
        return last.y.copy() if isinstance(last, ReadoutRun) else last.out.astype(np.int64)

    def features(self) -> I64:
        """z (..., d) of the window that has just run: what prototypes live in."""
        source = self.layers[self.manifest.head.features or ""]
        raw = source.counts if isinstance(source, LifRun) else source.out
        if self._whiten is None:
            return raw.astype(np.int64)
        np.copyto(self._raw, raw, casting="unsafe")
        self._whiten.step(self._raw)
        return self._whiten.out.astype(np.int64)

    def record(self, q: I16, layer: str) -> Tape:
        """Run one window and keep what e-prop on `layer` needs (its own copies).    q  (size,)"""
        run = self.layers[layer]
        if not isinstance(run, LifRun):
            raise DataError(f"layer {layer!r} has no spikes to record")
        inputs = self._encode(q)
        steps, n = len(inputs), run.spec.outputs
        pre = np.zeros((steps, run.spec.inputs), np.uint8)
        spikes, psi = np.zeros((steps, n), np.uint8), np.zeros((steps, n), np.uint8)
        self.reset()
        for t in range(steps):
            x = inputs[t]
            for layer_run in self._runs:
                if layer_run is run:
                    np.copyto(pre[t], x, casting="unsafe")
                layer_run.step(x)
                x = layer_run.out
            np.copyto(spikes[t], run.fired)
            spiking.surrogate(psi[t], run.margin, run.spec.threshold)
        return Tape(pre=pre, spikes=spikes, psi=psi, logits=self.logits())

    def step(self, x: F32) -> None:
        """Advance one time step on encoded input (..., size), keeping state: the streaming form."""
        for run in self._runs:
            run.step(x)
            x = run.out

    def reset(self) -> None:
        """Back to silence: membranes, carries, adaptation, integrators."""
        for run in self._runs:
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
        for run in self._runs:
            if isinstance(run, LifRun):
                run.resume()

    def load_weights(self, tensor: str, rows: slice = slice(None)) -> None:
        """Take over rows of a weight tensor that has just been written."""
        layer, _, part = tensor.rpartition(".")
        self.layers[layer].load_weights(part, rows)

    def _encode(self, q: I16) -> F32:
        if q.shape != self._direct.shape[1:]:
            raise DataError(f"input has shape {q.shape}, the network takes {self._direct.shape[1:]}")
        if self._coder is not None:
            return self._coder.encode(q)
        np.copyto(self._direct[0], q, casting="unsafe")
        return self._direct

    def _run(self, q: I16) -> None:
        inputs = self._encode(q)
        self.reset()
        for t in range(len(inputs)):
            self.step(inputs[t])
