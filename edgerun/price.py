"""What a bundle costs before it runs: operations counted from its own self-test, and the memory that it needs.

    one window     weights that spikes of the mean self-test sample meet; T times the weights that meet other values,
                   and every neuron
    deep lesson    answer + (1 + passes) * (recorded window + update) + its share of the prototypes' refresh + journal
    update         T * (m n + n n) + n k products of trace and post, and every plastic synapse written once
    head lesson    answer + journal, and where prototypes decide one more window + its class's mean

Counts are of the work that `learn.Learner` and `network.Network` really do. `array_calls` says how often they call
numpy; firmware boards price such a call at nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from edgerun.arrays import F32
from edgerun.boards import Board, Ops, price
from edgerun.bundle import Bundle
from edgerun.encode import coder
from edgerun.graph import feature_width, layer_reaches, plastic_tensors
from edgerun.image import Image, image_of, slot_of
from edgerun.kernels.rewire import NEVER
from edgerun.layers.base import INPUT
from edgerun.learn import watch
from edgerun.learn.learner import BATCH, DEEP, learned_slots, working_slots
from edgerun.learn.profiles import profile_of
from edgerun.network import Network
from edgerun.plan import Plan, Slot, make_plan
from edgerun.spec import Layer, Level, Manifest, PhaseRate, Prices, Rewiring

LESSONS: Final[tuple[Level, ...]] = ("full", "light", "sparse", "head")

HASHED: Final = 30
"""Bytes that could be moved while one is hashed: SHA-256 in software, near 30 cycles a byte on a Cortex-M4."""
RECORD_BYTES: Final = 160  # a journal record beside its sample: frame, numbers, draws, digest
ROW_BYTES: Final = 160  # of a checkpoint's table, an array: its name of up to 77 characters, dtype, shape, padding
CLASS_BYTES: Final = 67  # of a checkpoint's table, a class: a name of 64 letters, quoted
CHECKPOINTS: Final = 3  # slots: the newest, the last good, the one being written
EPOCHS: Final = 2  # of the journal, at the least: the one that is kept and the one that is written

CALLS_ENCODE: Final = 8
CALLS_FRONT: Final = 40
CALLS_SCORE: Final = 12
CALLS_WATCH: Final = 14  # of an answer whose sample is watched for drift
CALLS_TICK: Final = 46  # of learning, a step: record, three traces, the filter backwards
CALLS_BLOCK: Final = 150  # of an update, a block of rows of one tensor: three fills of noise, pull, write, credit
CALLS_KEYS: Final = 12  # of moving synapses, a pass over a block of rows of one tensor
KEY_BYTES: Final = 4  # read of a weight for its key: shadow, importance, its bit
CALLS_CONSOLIDATE: Final = 85  # of a consolidation, a block of rows of one tensor


@dataclass(frozen=True)
class Work:
    """The operations of every act of one bundle. A level's lesson is what it costs if no update is skipped."""

    inference: Ops
    lesson: Mapping[Level, Ops]  # full, light, sparse, head
    unchanged: Mapping[Level, Ops]  # the same lessons where every update was skipped
    update: Ops
    consolidate: Ops
    checkpoint: Ops
    message: Ops
    guard: Ops  # one scoring of the guard's mix and of the probe, and keeping the state


def work(bundle: Bundle) -> Work:
    """Count every act of a bundle. Runs its self-test samples once."""
    manifest, plan = bundle.manifest, bundle.manifest.learning
    slots = learned_slots(manifest, bundle.tensors)
    state_bytes = sum(slot.bytes for slot in slots.values())
    saved_bytes = state_bytes + sum(slot.bytes for slot in watch.slots(manifest).values())
    window = inference(bundle)
    consolidation, moves = consolidate(bundle), rewire(bundle)
    change = update(bundle, consolidation, moves)
    digest = _every(Ops(bytes_moved=HASHED * state_bytes), plan.guard.every)
    journal = Ops.total([digest, Ops(flash_bytes=_record_bytes(manifest))])
    head = Ops.total([window, journal, prototype(manifest, window)])
    unchanged: dict[Level, Ops] = dict.fromkeys(LESSONS, head)
    lesson = dict(unchanged)
    if plan.rule:
        for level in DEEP:
            count = windows(manifest, level)
            seen = Ops.total([window, recorded(manifest)]).times(count)
            unchanged[level] = Ops.total([window, seen, refresh(manifest, window), journal])
            lesson[level] = Ops.total([unchanged[level], change.times(count * plan.rule.updates)])
    return Work(
        inference=window,
        lesson=lesson,
        unchanged=unchanged,
        update=change,
        consolidate=Ops.total([consolidation, moves]),
        checkpoint=Ops(bytes_moved=2 * saved_bytes, flash_bytes=checkpoint_bytes(bundle)),
        message=Ops(messages=1),
        guard=Ops.total([_batch(window, plan.guard.samples + len(bundle.probe.x)), Ops(bytes_moved=state_bytes)]),
    )


def learn_cost(work: Work, updates: int, level: Level) -> Ops:
    """What a lesson of this level really cost, `updates` of its windows having changed something.

    At most `work.lesson[level]` for as many updates as the level has windows.
    """
    return Ops.total([work.unchanged[level], work.update.times(updates)])


def prices(board: Board, work: Work) -> Prices:
    """What the governor reckons with on this board."""
    inference_uj, inference_us = price(board, work.inference)
    consolidate_uj, consolidate_us = price(board, work.consolidate)
    lessons = {level: price(board, ops) for level, ops in work.lesson.items()}
    return Prices(
        sleep_mw=board.sleep_mw,
        inference_uj=inference_uj,
        inference_us=inference_us,
        telemetry_uj=price(board, work.message)[0],
        lesson_uj={level: cost[0] for level, cost in lessons.items()},
        lesson_us={level: cost[1] for level, cost in lessons.items()},
        consolidate_uj=consolidate_uj,
        consolidate_us=consolidate_us,
        checkpoint_uj=price(board, Ops.total([work.checkpoint, work.guard]))[0],
    )


# ------------------------------------------------------------------ operations


def windows(manifest: Manifest, level: Level) -> int:
    """Windows that a deep lesson learns from: its own and the replayed ones."""
    replay = manifest.learning.replay
    passes = replay.passes if replay.capacity else 0
    return 1 + (passes if level == "full" else min(1, passes))


def inference(bundle: Bundle) -> Ops:
    """One window and its decision, for the mean sample of the self-test."""
    manifest = bundle.manifest
    parts = [*layer_ops(bundle).values(), front(manifest), Ops(array_calls=CALLS_SCORE)]
    if isinstance(manifest.encoder, PhaseRate):
        parts.append(Ops(bytes_moved=manifest.steps * manifest.input.size, array_calls=CALLS_ENCODE))
    if manifest.head.kind == "prototypes":
        parts.append(Ops(dense_macs=_means(manifest)))
    if manifest.learning.drift is not UNSET:
        parts.append(Ops(dense_macs=manifest.input.size, array_calls=CALLS_WATCH))
    return Ops.total(parts)


def front(manifest: Manifest) -> Ops:
    """A recording's features: its energy once through, and for each frame the products with Fourier table and bands."""
    if manifest.front is None:
        return Ops()
    (frames, bands), window = manifest.input.shape, manifest.front.window
    macs = window * (window + 2) + (window // 2 + 1) * bands
    return Ops(
        dense_macs=frames * macs + manifest.front.longest,
        bytes_moved=2 * manifest.front.longest + 2 * frames * window,
        array_calls=CALLS_FRONT,
    )


def _means(manifest: Manifest) -> int:
    """Values of all means of a prototype head."""
    return manifest.head.means * manifest.classes.capacity * feature_width(manifest)


def layer_ops(bundle: Bundle) -> dict[str, Ops]:
    """What each layer does in one window, the whitening layer included, for the mean sample of the self-test."""
    manifest, rows, ticks = bundle.manifest, len(bundle.selftest.x), _ticks(bundle.manifest)
    whole, spikes = multiplied(bundle), events(bundle)
    found = {
        layer.name: _layer(layer, ticks[layer.name], math.ceil(spikes[layer.name] / rows), whole=layer.name in whole)
        for layer in manifest.layers
    }
    whiten = manifest.head.whiten
    return found | ({whiten.name: _layer(whiten, 1, 0, whole=True)} if whiten else {})


def multiplied(bundle: Bundle) -> frozenset[str]:
    """Layers whose every weight is multiplied at every step, since what they read is no spikes.

    Spikes come from what can emit no more than 1, and from a recording that holds zeros and ones alone.
    """
    reaches, x = layer_reaches(bundle.manifest), _encoded(bundle)
    recorded_spikes = bool(((x == 0) | (x == 1)).all())
    return frozenset(
        layer.name
        for layer, sources in bundle.manifest.wiring()
        if max(reaches[layer.name][0]) > 1 and not (sources == (INPUT,) and recorded_spikes)
    )


def events(bundle: Bundle) -> dict[str, int]:
    """By layer, the weight additions that spikes cause over all self-test samples: those that come in, where the
    layer is not `multiplied`, and its own of the step before."""
    manifest, rows, whole, ticks = bundle.manifest, len(bundle.selftest.x), multiplied(bundle), _ticks(bundle.manifest)
    network = Network(manifest, bundle.tensors, (rows,))
    counts = {layer.name: 0 for layer in manifest.layers}
    driven = [layer for layer in manifest.layers if layer.work().synapses and layer.name not in whole]
    fans = {layer.name: layer.fan_out() for layer in driven}
    network.reset()
    for t, x in enumerate(_encoded(bundle)):
        for layer in manifest.layers:
            if layer.echo:
                counts[layer.name] += int(np.count_nonzero(network.layers[layer.name].out)) * layer.echo
        network.step(x)
        for layer, sources in manifest.wiring():
            if layer.name in fans and t + ticks[layer.name] >= manifest.steps:
                source = x if sources[0] == INPUT else network.layers[sources[0]].out
                counts[layer.name] += int(np.count_nonzero(source, axis=0) @ fans[layer.name])
    return counts


def _ticks(manifest: Manifest) -> dict[str, int]:
    """By layer, how often it runs in a window: layers behind the last one with state run once, at its end."""
    last = max((k + 1 for k, layer in enumerate(manifest.layers) if layer.stateful), default=0)
    return {layer.name: manifest.steps if k < last else 1 for k, layer in enumerate(manifest.layers)}


def recorded(manifest: Manifest) -> Ops:
    """What learning from a window costs beside running it, before anything is changed: traces and filtered signal."""
    rule, steps = manifest.learning.rule, manifest.steps
    if rule is None:
        return Ops()
    return Ops(
        neuron_updates=steps * rule.neurons(manifest.layer),
        dense_macs=rule.macs(manifest.layer),
        array_calls=steps * CALLS_TICK,
    )


def update(bundle: Bundle, consolidation: Ops, moves: Ops) -> Ops:
    """One update of every plastic tensor, with its share of the boundaries that updates bring about."""
    plan = bundle.manifest.learning
    if plan.rule is None:
        return Ops()
    parts = [
        _every(consolidation, plan.intelligence.every if plan.intelligence else 0),
        _every(moves, plan.rewiring.every if isinstance(plan.rewiring, Rewiring) else 0),
    ]
    for rate in plan.rule.rates:
        rows, width = bundle.tensors[rate.tensor].shape
        ticks = plan.rule.rows(rate.tensor, bundle.manifest.steps)
        parts.append(
            Ops(
                outer_macs=ticks * rows * width + ticks * ticks * (rows + width),  # the gradient, and its norm
                plastic_updates=rows * width,
                array_calls=CALLS_BLOCK * math.ceil(rows / profile_of(plan).block_rows),
            )
        )
    return Ops.total(parts)


def consolidate(bundle: Bundle) -> Ops:
    """Turn the credit of every plastic synapse into importance."""
    plan = bundle.manifest.learning
    if plan.rule is None or plan.intelligence is None:
        return Ops()
    shapes = [bundle.tensors[rate.tensor].shape for rate in plan.rule.rates]
    return Ops(
        plastic_updates=sum(math.prod(shape) for shape in shapes),
        array_calls=sum(CALLS_CONSOLIDATE * math.ceil(shape[0] / profile_of(plan).block_rows) for shape in shapes),
    )


def rewire(bundle: Bundle) -> Ops:
    """Let synapses of every plastic tensor go and grow: two thresholds, each found by many passes over all keys."""
    plan = bundle.manifest.learning
    if plan.rule is None or not isinstance(plan.rewiring, Rewiring):
        return Ops()
    shapes = [bundle.tensors[rate.tensor].shape for rate in plan.rule.rates]
    passes = 2 * (NEVER.bit_length() + 2)
    return Ops(
        bytes_moved=sum(passes * KEY_BYTES * math.prod(shape) for shape in shapes),
        array_calls=sum(passes * CALLS_KEYS * math.ceil(shape[0] / profile_of(plan).block_rows) for shape in shapes),
    )


def refresh(manifest: Manifest, window: Ops) -> Ops:
    """A deep lesson's share of recomputing the prototypes from the whole reservoir."""
    replay = manifest.learning.replay
    if not replay.capacity or manifest.head.kind != "prototypes":
        return Ops()
    scatter = replay.capacity * feature_width(manifest)
    return _every(Ops.total([_batch(window, replay.capacity), Ops(dense_macs=scatter)]), replay.refresh_every)


def prototype(manifest: Manifest, window: Ops) -> Ops:
    """Add one window's features to its class and take the means again."""
    if manifest.head.kind != "prototypes":
        return Ops()
    values = _means(manifest)
    return Ops.total([window, Ops(dense_macs=values, array_calls=CALLS_SCORE)])


def _layer(layer: Layer, steps: int, synaptic_ops: int, *, whole: bool) -> Ops:
    once = layer.work()
    return Ops(
        dense_macs=steps * (once.macs + once.synapses * whole),
        synaptic_ops=synaptic_ops,
        neuron_updates=steps * once.neurons,
        bytes_moved=steps * once.elements,
        array_calls=steps * once.calls,
    )


def _batch(window: Ops, n: int) -> Ops:
    """`n` windows scored together: numpy is called once for each batch."""
    ops = msgspec.structs.replace(window, array_calls=0).times(n)
    return msgspec.structs.replace(ops, array_calls=window.array_calls * math.ceil(n / BATCH))


def _every(ops: Ops, n: int) -> Ops:
    """One share in n, each kind rounded up; nothing if n is 0, which means never."""
    return Ops(**{kind: math.ceil(getattr(ops, kind) / n) for kind in Ops.__struct_fields__}) if n else Ops()


def _encoded(bundle: Bundle) -> F32:
    """(T, rows, step size): the self-test samples as the first layer sees them."""
    rows = len(bundle.selftest.x)
    return coder(bundle.manifest, (rows,)).encode(bundle.selftest.x.reshape(rows, -1).astype(np.int16))


# ------------------------------------------------------------------ memory


def memory_plan(bundle: Bundle) -> Plan:
    """Every array that a device needs to run and to learn this bundle, in the integers of `docs/arithmetic.md`.

    Learning's arrays (`learned_slots`, `working_slots`) are what the learner carves, to the byte; what numpy takes
    beside them is bounded (`learn.tape`), but for the floats that it multiplies (`RuleRecord.carriers`, `Factors`). For
    the network it is the firmware's view (`image_of`): what C has, to the byte, int16 between layers, no carriers.
    The numpy backend holds these integers in wider arrays and scores in batches, which Linux boards have the memory
    for. Weights count as memory also where a controller could leave the frozen ones in flash (`firmware_parts` does),
    and as they are unpacked, a byte each, in however few bytes the bundle stores them: packing saves flash only.

    Raises SpecError where a layer has no C form.
    """
    manifest = bundle.manifest
    learned = learned_slots(manifest, bundle.tensors)
    return make_plan(
        dict(_weights(bundle, learned))
        | dict(_front(manifest))
        | dict(_network(bundle))
        | learned
        | watch.slots(manifest)
        | working_slots(manifest, bundle.tensors)
    )


def checkpoint_bytes(bundle: Bundle) -> int:
    """At most so many bytes has a checkpoint: header and counters, a table row an array, the names of all classes."""
    slots = learned_slots(bundle.manifest, bundle.tensors) | watch.slots(bundle.manifest)
    names = bundle.manifest.classes.capacity * CLASS_BYTES
    return 512 + names + sum(slot.bytes + ROW_BYTES for slot in slots.values())


def flash_parts(bundle: Bundle) -> dict[str, int]:
    """Bytes in flash by part: the bundle, its checkpoints, and the shortest journal that holds a guard's group."""
    manifest, checkpoint = bundle.manifest, checkpoint_bytes(bundle)
    group = manifest.learning.guard.every * _record_bytes(manifest)
    return {"bundle": bundle.size, "checkpoints": CHECKPOINTS * checkpoint, "journal": EPOCHS * (checkpoint + group)}


FIRMWARE_RAM: Final = 4608
"""Bytes beside the arrays of a firmware: a stack of 4 KiB, buffers of port and checkpoint."""


FIRMWARE_CODE: Final = MappingProxyType(
    {"loop": 6900, "prototypes": 1100, "lessons": 24600, "populations": 1200, "kind": 700, "cells": 1000}
)
"""Bytes of its program, by what it does; `kind` is of a kind of layer beside dense, lif and readout, `cells` what
that kind takes more; `populations` is SuperSpike's."""


def firmware_parts(image: Image) -> dict[str, dict[str, int]]:
    """What a bundle's C firmware takes of a Cortex-M, by part, of "RAM" and of "flash", checkpoints not counted.

    constants are what its records only read, factory is what written arrays begin with; code was counted for -O2.
    """
    ram: dict[str, int] = dict(image.plan.bytes_by_part().items())
    kinds = {kind for kind, _ in image.records.layers} - {"dense", "lif", "readout"}
    uses = {
        "loop": True, "prototypes": "head.mean" in image.held, "lessons": image.lessons is not None,
        "populations": image.learner is not None and bool(image.learner.populations), "cells": "cells" in kinds,
    }  # fmt: skip
    code = sum(FIRMWARE_CODE[part] * used for part, used in uses.items()) + FIRMWARE_CODE["kind"] * len(kinds)
    learned = image.factory if image.lessons is not None else {}
    flash = {
        "constants": sum(array.nbytes for array in image.constants.values()),
        "factory": sum(array.nbytes for array in (image.begun | learned).values()),
        "code": code,
    }
    return {"RAM": ram | {"process": FIRMWARE_RAM}, "flash": flash}


def _record_bytes(manifest: Manifest) -> int:
    """At most so many bytes has a lesson in the journal."""
    rule = manifest.learning.rule
    return manifest.input.size + RECORD_BYTES + (2 * rule.targets(manifest.layer) if rule else 0)


def _weights(bundle: Bundle, learned: Mapping[str, Slot]) -> Iterator[tuple[str, Slot]]:
    """Tensors as they are stored, but those that learning's own arrays stand for: the head's sums, and where the
    network reads the shadows' high bytes, plastic weights, whose factory values stay in flash."""
    copies = profile_of(bundle.manifest.learning).copies
    gone = learned.keys() if copies else learned.keys() | plastic_tensors(bundle.manifest)
    for record in bundle.manifest.tensors:
        if record.name in bundle.tensors and record.name not in gone:
            yield record.name, Slot(record.shape, record.dtype, "weights")


def _front(manifest: Manifest) -> Iterator[tuple[str, Slot]]:
    if manifest.front is not None:
        bands, window = manifest.input.shape[1], manifest.front.window
        yield "front.recording", Slot((manifest.front.longest,), "int16", "io")
        yield "front.fourier", Slot((window, window + 2), "int16", "weights")
        yield "front.bank", Slot((window // 2 + 1, bands), "int16", "weights")
        yield "front.energy", Slot((manifest.input.size,), "int64", "scratch", (0, 0))


def _network(bundle: Bundle) -> Iterator[tuple[str, Slot]]:
    """What the network keeps and writes, to the byte what its C form has, and the tables that C makes for itself."""
    image = image_of(bundle.manifest, bundle.tensors)
    yield from ((name, held.slot) for name, held in image.held.items())
    made = ((name, array) for name, array in image.constants.items() if name not in bundle.tensors)
    yield from ((name, slot_of(array, "weights")) for name, array in made)
