"""A network whose layers run in C: one call a window. The same interface and the same bits as `edgerun.network`.

Every array lies here, in numpy, in the types that a controller has (`LayerRecord.state`); C reads and writes it in
place. `edgerun.native_layers` says of each kind of layer which numbers and arrays its records in `csrc/edgerun.h` hold.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

from edgerun import encode
from edgerun.arrays import I8, I16, I32, I64, AnyArray
from edgerun.errors import DataError, SpecError
from edgerun.graph import feature_width, layer_reaches, plastic_tensors
from edgerun.kernels.native import Backend, chosen, library, required
from edgerun.layers import Lif
from edgerun.layers.base import INPUT
from edgerun.native_layers import PACKERS, Packing, Record, records_of
from edgerun.native_layers import Fields as Fields
from edgerun.native_layers import NativeLayer as NativeLayer
from edgerun.network import Network, Outcome, Prototypes, Recording, Tape, last_stateful
from edgerun.ops.base import LayerRun
from edgerun.spec import Constant, Direct, Frames, Manifest, PhaseRate

log = logging.getLogger(__name__)

PHASE_RATE, FRAMES, CONSTANT = 0, 1, 2
"""`enum er_encoder`."""
INT32: Final = np.dtype(np.int32)
LINE: Final = 64
"""Bytes of a line of the cache."""
LONG: Final = 1 << 18
"""Multiplications of a window from which on others may run meanwhile: a tenth of a millisecond."""


def tape_fields(manifest: Manifest, name: str, tape: Tape) -> Fields:
    """`er_tape`: where one window of a layer is written. Raises DataError where the layer has no spikes to record."""
    if not isinstance(manifest.layer(name), Lif):
        raise DataError(f"layer {name!r} has no spikes to record")
    return {
        "layer": places(manifest)[name], "inputs": tape.pre.shape[1], "outputs": tape.spikes.shape[1],
        "steps": len(tape.pre), "chunk": len(tape.psi), "pre": tape.pre if tape.pre.dtype == np.int8 else None,
        "pre_wide": tape.pre if tape.pre.dtype == np.int16 else None, "spikes": tape.spikes, "psi": tape.psi,
    }  # fmt: skip


def places(manifest: Manifest) -> dict[str, int]:
    """By layer name, where its last record is among the network's."""
    ends = itertools.accumulate(records_of(layer) for layer in manifest.layers)
    return {layer.name: end - 1 for layer, end in zip(manifest.layers, ends, strict=True)}


def missing(manifest: Manifest) -> tuple[str, ...]:
    """What of a bundle's network has no C form; empty where all of it has."""
    found = [f"layer {layer.name} ({type(layer).__name__})" for layer in manifest.layers if type(layer) not in PACKERS]
    return tuple(found)


def aligned(size: int) -> I8:
    """(size,)  zeros that begin where a line of the cache does."""
    room = np.zeros(size + LINE, np.int8)
    first = -room.ctypes.data % LINE
    return room[first : first + size]


# ------------------------------------------------------------------ the network


class Records(NamedTuple):
    """A network as C takes it: the fields of `er_plan`, of each record by its kind, of the whitening."""

    plan: Fields
    layers: tuple[Record, ...]
    whiten: Fields | None


class Packed(NamedTuple):
    """A layer's record and its weights as this processor multiplies them, none where it takes them as they are."""

    record: Record
    array: I8


class NativeNetwork(Network):
    """One sample at a time, in C. See `Network`, whose methods these are.

    Raises SpecError where a layer has no C form.

    prototypes  shared with another network, its own where not given
    shadows     of tensors whose weights are their high bytes, by tensor
    packed      weights as another network of the same tensors has laid them, by layer
    """

    def __init__(
        self,
        manifest: Manifest,
        tensors: Mapping[str, AnyArray],
        prototypes: Prototypes | None = None,
        shadows: Mapping[str, I16] = MappingProxyType({}),
        packed: Mapping[str, Packed] = MappingProxyType({}),
    ) -> None:
        lacking = missing(manifest)
        if lacking:
            raise SpecError(f"{', '.join(lacking)}: no C form")
        self.manifest, self.tensors, self.batch = manifest, tensors, ()
        self.known = len(manifest.classes.names)
        self._outputs = manifest.layers[-1].outputs
        self._plastic = {tensor.rpartition(".")[0] for tensor in plastic_tensors(manifest)}
        self._names = [layer.name for layer in manifest.layers for _ in range(records_of(layer))]
        self._coder, self._taken = encode.coder(manifest, ()), (manifest.input.size,)
        reaches = layer_reaches(manifest)
        self._places = places(manifest)
        self._runs = [NativeLayer(s, reaches[s.name][1], self._places[s.name]) for s in manifest.layers]
        self.layers: dict[str, LayerRun] = {run.spec.name: run for run in self._runs}
        self._x: I16 = np.zeros(manifest.step_size, np.int16)
        self._moment = np.zeros_like(self._x)  # of `step`: what C takes it from, once it is free
        self.prototypes = prototypes
        if manifest.head.kind == "prototypes" and prototypes is None:
            self.prototypes = NativePrototypes(tensors, manifest.classes.capacity, manifest.head.means)
        self.laid: dict[str, Packed] = dict(packed)
        self.bind(shadows)

    def bind(self, shadows: Mapping[str, I16] = MappingProxyType({})) -> None:
        """Point C at the arrays as they are now: after a learner has moved them.

        shadows  of tensors whose weights are their high bytes, by tensor
        """
        self.shadows, self._shadows = shadows, {f"shadow.{name}": array for name, array in shadows.items()}
        work = sum((each := layer.work()).macs + each.synapses for layer in self.manifest.layers)
        records = self.records()
        layers = tuple(self._laid(name, record) for name, record in zip(self._names, records.layers, strict=True))
        whiten = None if records.whiten is None else self._laid(self._whitened.spec.name, ("dense", records.whiten))[1]
        self._net = required().Net(records.plan, layers, whiten, self.steps * work > LONG)
        for run in self._runs:
            run.net = self._net

    def _laid(self, layer: str, record: Record) -> Record:
        """A record with its packed weights, where the processor has use for them and learning never changes them."""
        kind, fields = record
        if "packed" not in fields or layer in self._plastic:
            return record
        if layer not in self.laid:
            self.laid[layer] = Packed(record, aligned(required().packed_size(record)))
            required().pack(*self.laid[layer])
        array = self.laid[layer].array
        return kind, fields | {"packed": array if array.size else None}

    @property
    def net(self) -> Any:
        """What C holds of it, until the next `bind`."""
        return self._net

    def records(self) -> Records:
        """The network's records over its arrays as they are now."""
        outs = {INPUT: self._x} | {run.spec.name: run.out for run in self._runs}
        layers: list[Record] = []
        tensors = {**self.tensors, **self._shadows}
        for run, (spec, sources) in zip(self._runs, self.manifest.wiring(), strict=True):
            layers += PACKERS[type(spec)](Packing(spec, tensors, run, [outs[name] for name in sources]))
        plan, whiten, made = self._plan(), self.manifest.head.whiten, None
        if whiten is not None:
            self._whitened = NativeLayer(whiten)
            [(_, made)] = PACKERS[type(whiten)](Packing(whiten, self.tensors, self._whitened, [plan["raw"]]))
        return Records(plan, tuple(layers), made)

    def _plan(self) -> Fields:
        """The numbers and arrays of `er_plan`."""
        manifest, encoder = self.manifest, self.manifest.encoder
        ends = [0, *(place + 1 for place in self._places.values())]
        plan: Fields = {
            "encoder": CONSTANT, "size": manifest.input.size, "moment": manifest.step_size, "steps": manifest.steps,
            "full_scale": 0, "offset": 0, "layers": ends[-1], "each_step": ends[last_stateful(manifest)],
            "features": 0, "readings": 0, "width": 0, "capacity": 0, "means": 0,
            "outputs": manifest.layers[-1].outputs, "x": self._x, "phase": None, "z": None, "raw": None,
            "sums": None, "counts": None, "bias": None, "mean": None,
        }  # fmt: skip
        match encoder:
            case PhaseRate():
                plan |= {"encoder": PHASE_RATE, "full_scale": encoder.full_scale}
                plan["phase"] = np.zeros(manifest.input.size, np.uint16)
            case Frames():
                plan |= {"encoder": FRAMES, "offset": encoder.offset}
            case Direct() | Constant():
                plan["offset"] = encoder.offset
        if isinstance(self.prototypes, NativePrototypes):
            plan |= self._head(self.prototypes)
        return plan

    def _head(self, head: NativePrototypes) -> Fields:
        manifest = self.manifest
        layer = manifest.layer(manifest.head.features or "")
        width = feature_width(manifest)
        self._z: I32 = np.zeros(max(layer.outputs, width), np.int32)
        return {
            "features": self._places[layer.name], "readings": layer.outputs, "width": width,
            "capacity": head.capacity, "means": manifest.head.means, "z": self._z,
            "raw": np.zeros(layer.outputs, np.int16), "sums": head.sums, "counts": head.counts, "bias": head.bias,
            "mean": head.narrow,
        }  # fmt: skip

    # -------------------------------------------------------------- running

    def batched(self, n: int) -> Network:
        return NativeBatch(self, n)

    def infer(self, q: I16) -> Outcome:
        scores = np.empty(self.known if self.prototypes is not None else self._outputs, INT32)
        try:
            label = self._net.infer(q, self.known, scores)
        except (TypeError, ValueError):  # what C refuses is looked at again, for numpy takes more
            label = self._net.infer(self._checked(q), self.known, scores)
        return tuple.__new__(Outcome, (label, scores))  # Outcome(...) takes as long as a small net

    def scores(self, q: I16) -> I32:
        return self.infer(q).scores

    def decide(self) -> I32:
        scores = np.empty(self.known if self.prototypes is not None else self._outputs, np.int32)
        self._net.decide(self.known, scores)
        return scores

    def logits(self) -> I64:
        return self._runs[-1].reading()

    def features(self) -> I64:
        self._net.features()
        width = feature_width(self.manifest)
        found: I64 = self._z[:width].astype(np.int64)
        return found

    def step(self, x: AnyArray) -> None:
        np.copyto(self._moment, x, casting="unsafe")
        self._net.step(self._moment)

    def reset(self) -> None:
        self._net.reset()

    def record_all(self, q: I16, recording: Recording) -> None:
        tapes = tuple(tape_fields(self.manifest, name, tape) for name, tape in recording.tapes.items())
        self._net.record(self._checked(q), tapes, recording.outputs.reshape(-1))

    def load_weights(self, tensor: str, rows: slice = slice(None)) -> None:
        """Lay them again where they are packed; else nothing, for C reads the tensors themselves."""
        found = self.laid.get(tensor.rpartition(".")[0])
        if found is not None:
            required().pack(*found)

    def _run(self, q: I16) -> None:
        self._net.run(self._checked(q))

    def _checked(self, q: I16) -> I16:
        if q.shape != (self.manifest.input.size,):
            raise DataError(f"input has shape {q.shape}, the network takes {(self.manifest.input.size,)}")
        return np.ascontiguousarray(q, np.int16)


class NativeBatch(Network):
    """`n` samples one after the other: what probes and reservoirs are scored by.

    one  whose weights and prototypes these are. Its states and counts stay as they are: they are its newest window's.
    """

    def __init__(self, one: NativeNetwork, n: int) -> None:
        self._one = NativeNetwork(one.manifest, one.tensors, one.prototypes, one.shadows, one.laid)
        self.batch = (n,)
        self.manifest, self.tensors, self.known = one.manifest, one.tensors, one.known
        self.prototypes = one.prototypes
        width = feature_width(one.manifest) if one.prototypes is not None else 0
        self._z: I64 = np.zeros((n, width), np.int64)
        self._y: I64 = np.zeros((n, one.manifest.layers[-1].outputs), np.int64)

    def scores(self, q: I16) -> I32:
        if q.shape != (*self.batch, self.manifest.input.size):
            raise DataError(f"input has shape {q.shape}, the network takes {(*self.batch, self.manifest.input.size)}")
        self._one.known, found = self.known, []
        for k, sample in enumerate(q):
            found.append(self._one.scores(sample))
            self._y[k] = self._one.logits()
            if self.prototypes is not None:
                self._z[k] = self._one.features()
        return np.stack(found)

    def outputs(self, q: I16) -> I64:
        self.scores(q)
        return self.logits()

    def logits(self) -> I64:
        return self._y.copy()

    def features(self) -> I64:
        return self._z.copy()

    def load_weights(self, tensor: str, rows: slice = slice(None)) -> None:
        """Nothing: C reads the tensors themselves, or what `one` has laid again."""


class NativePrototypes(Prototypes):
    """The head with its means in 32 bits, where C reads them."""

    def __init__(self, tensors: Mapping[str, AnyArray], capacity: int, means: int = 1) -> None:
        self.narrow: I32 = np.zeros((means * capacity, tensors["head.sum"].shape[1]), np.int32)
        super().__init__(tensors, capacity, means)

    def refresh(self) -> None:
        super().refresh()
        np.copyto(self.narrow, self.means, casting="same_kind")


def network_of(manifest: Manifest, tensors: Mapping[str, AnyArray], asked: Backend | None = None) -> Network:
    """A network for one sample at a time on the backend that is asked for; see `edgerun.kernels.native`.

    Raises SpecError where C is asked for and cannot run it.
    """
    backend = chosen(asked)
    if backend == "numpy" or (backend == "auto" and (library() is None or missing(manifest))):
        return Network(manifest, tensors)
    return NativeNetwork(manifest, tensors)
