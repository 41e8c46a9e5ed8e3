"""What of a bundle a controller holds: constants, which stay in flash, and everything written, at its place in memory.

    records     the network as C takes it (`native.Records`)
    learner     its rule, the same (`learn.native.LearnerRecords`); None where none of C's learns
    lessons     the fields of `er_lessons`; None where nothing learns
    constants   every array that the records only read
    held        every array that they write, by name, with what it holds in the factory
    kept        names of those that a checkpoint holds: learned state, which a digest covers, and the watch's

Scratch whose layers do not meet shares bytes (`plan.make_plan`). Layers count from 0, the whitening is the one behind
the last.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import NamedTuple, TypeAlias, cast

import numpy as np

from edgerun.arrays import I16, I32, AnyArray, Tensors
from edgerun.bundle import Bundle
from edgerun.graph import learns, plastic_tensors, score_width
from edgerun.layers.base import INPUT
from edgerun.learn import watch
from edgerun.learn.learner import Learner, learned_slots, working_slots
from edgerun.learn.native import LearnerRecords, has_window, learner_records, lesson_fields, numpy_lessons
from edgerun.learn.profiles import profile_of
from edgerun.native import Fields, NativeLayer, NativeNetwork, Records
from edgerun.network import Network
from edgerun.plan import Part, Plan, Slot, SlotType, carve, make_arena, make_plan
from edgerun.spec import Constant, Manifest


class Held(NamedTuple):
    """An array that is written, and its place in the plan of memory."""

    array: AnyArray
    slot: Slot


@dataclass(frozen=True, slots=True)
class Image:
    """A bundle on a controller. Names are those of tensors, of state as `<layer>.<name>`, of the learner's slots; what
    lies between layers is `out/<layer>`."""

    manifest: Manifest
    records: Records
    learner: LearnerRecords | None
    lessons: Fields | None
    held: Mapping[str, Held]
    constants: Tensors
    kept: tuple[str, ...]
    factory: Tensors  # weights that learning changes, as they leave the factory

    @property
    def plan(self) -> Plan:
        """Memory, to the byte."""
        return make_plan({name: held.slot for name, held in self.held.items()})

    @property
    def begun(self) -> Tensors:
        """What written arrays hold in the factory where that is not zeros, up to the last that is not; without those
        that follow from others: means, and weights, shadows and anchors, which begin as `factory` says."""
        made = {f"{kind}.{tensor}" for tensor in self.factory for kind in ("shadow", "ref")}
        made |= self.factory.keys() | {"head.mean"}
        first = {
            name: np.trim_zeros(held.array.reshape(-1), "b") for name, held in self.held.items() if name not in made
        }
        return {name: array for name, array in first.items() if len(array)}


class Unbound(NativeNetwork):
    """A network of records alone: no C need be there to describe it."""

    def bind(self, shadows: Mapping[str, I16] = MappingProxyType({})) -> None:
        self._shadows = {f"shadow.{name}": array for name, array in shadows.items()}
        self.packed = self.records()

    def runs(self) -> list[NativeLayer]:
        """Every layer, the whitening last."""
        return self._runs + ([self._whitened] if self.manifest.head.whiten else [])


def image_of(manifest: Manifest, tensors: Mapping[str, AnyArray]) -> Image:
    """The image of a network that learns nothing. Raises SpecError where a layer has no C form."""
    return _image(Unbound(manifest, tensors), None, None, {}, (), tensors, ())


def learning_image(bundle: Bundle) -> Image:
    """The image of a bundle with all that it learns with, as the factory leaves it, where `learns_in_c` says so; else
    that of its network. Raises SpecError where a layer has no C form."""
    manifest = bundle.manifest
    if not learns_in_c(manifest):
        return image_of(manifest, bundle.tensors)
    learned, narrow = learned_slots(manifest, bundle.tensors), not profile_of(manifest.learning).copies
    slots = learned | working_slots(manifest, bundle.tensors)
    layout = make_plan(slots)
    state = carve(make_arena(layout), layout)
    plastic = sorted(plastic_tensors(manifest))
    copies = {} if narrow else {name: bundle.tensors[name].copy() for name in plastic}
    for name, array in _factory(bundle, copies).items():
        state[name][...] = array
    network = Unbound(manifest, bundle.tensors | copies)
    if network.prototypes is not None:
        head = network.prototypes
        head.sums, head.counts, head.bias = (cast(I32, state[f"head.{name}"]) for name in ("sum", "count", "bias"))
    network.bind({name: cast(I16, state[f"shadow.{name}"]) for name in plastic if narrow})
    records = learner_records(manifest, network.tensors, state) if has_window(manifest) else None
    lessons = lesson_fields(manifest, state, bundle.tensors.get("head.count")) | {"scores": _scores(manifest)}
    own = {"lesson.sample": "sample", "lesson.in_play": "in_play", "io.scores": "scores"}
    held = {name: Held(lessons[field], slot_of(lessons[field], "io")) for name, field in own.items()}
    held |= {name: Held(state[name], slot) for name, slot in slots.items()}
    held |= {name: Held(array, slot_of(array, "weights")) for name, array in copies.items()}
    watched = watch.slots(manifest)
    held |= {name: Held(np.zeros(slot.shape, slot.dtype), slot) for name, slot in watched.items()}
    return _image(network, records, lessons, held, (*learned, *watched), bundle.tensors, plastic)


def learns_in_c(manifest: Manifest) -> bool:
    """Whether C gives whole lessons of a bundle."""
    return learns(manifest) and not numpy_lessons(manifest)


def _factory(bundle: Bundle, copies: Tensors) -> Tensors:
    """Learned state that has learned nothing."""
    exemplars = None if bundle.exemplars is None else (bundle.exemplars.x, bundle.exemplars.label)
    if exemplars is not None:
        exemplars = (exemplars[0].reshape(len(exemplars[0]), -1), exemplars[1])
    network = Network(bundle.manifest, bundle.tensors | copies)
    return Learner(network, priors=bundle.priors, exemplars=exemplars, backend="numpy").arrays()


def _image(
    network: Unbound,
    learner: LearnerRecords | None,
    lessons: Fields | None,
    learning: Mapping[str, Held],
    kept: tuple[str, ...],
    tensors: Mapping[str, AnyArray],
    plastic: Sequence[str],
) -> Image:
    fields = [*_network_fields(network.packed), *_learner_fields(learner), lessons or {}]
    used = {id(array) for each in fields for array in each.values() if array is not None}
    written = {name: Held(array, slot_of(array, part, live)) for name, array, part, live in _written(network)}
    held = {
        name: each
        for name, each in (written | dict(learning)).items()
        if id(each.array) in used or name in kept or each.slot.part == "io"
    }
    mine = {id(each.array) for each in held.values()}
    named = {id(array): f"factory.{name}" if name in held else name for name, array in tensors.items()}
    constants = {
        named.get(id(array), f"record{place}.{part}"): array
        for place, each in enumerate(fields)
        for part, array in each.items()
        if isinstance(array, np.ndarray) and id(array) not in mine
    }
    factory = {name: tensors[name] for name in plastic}
    return Image(network.manifest, network.packed, learner, lessons, held, constants, kept, factory)


def slot_of(array: AnyArray, part: Part, live: tuple[int, int] | None = None) -> Slot:
    return Slot(array.shape, cast(SlotType, array.dtype.name), part, live)


def _network_fields(records: Records) -> Iterator[Fields]:
    yield records.plan
    yield from (fields for _, fields in records.layers)
    if records.whiten is not None:
        yield records.whiten


def _learner_fields(records: LearnerRecords | None) -> Iterator[Fields]:
    if records is not None:
        yield records.rule
        for several in records[1:]:
            yield from several


def _scores(manifest: Manifest) -> I32:
    """Room for the scores of every class that may come, and for what the last layer gives."""
    return np.zeros(max(score_width(manifest), manifest.classes.capacity, manifest.layers[-1].outputs), np.int32)


Claim: TypeAlias = tuple[str, AnyArray, Part, tuple[int, int] | None]
"""Name, array, part, lifetime."""


def _written(network: Unbound) -> Iterator[Claim]:
    """Everything that a network might write, whether or not its records have it."""
    manifest, plan, end = network.manifest, network.packed.plan, len(network.manifest.layers)
    until = last_readers(manifest)
    yield "io.sample", np.zeros(manifest.input.size, np.int16), "io", None
    yield "io.scores", _scores(manifest), "io", None
    yield "encoder.x", plan["x"], "scratch", (0, until[INPUT])
    if plan["phase"] is not None:
        yield "encoder.phase", plan["phase"], "state", None
    for k, run in enumerate(network.runs()):
        layer = run.spec.name
        yield from ((f"{layer}.{name}", array, "state", None) for name, array in run.arrays.items())
        yield from ((f"{name}/{layer}", array, "scratch", (k, k)) for name, array in run.scratch.items())
        yield f"out/{layer}", run.out, "scratch", (k, until.get(layer, k))
    if network.prototypes is not None:
        yield "head.raw", plan["raw"], "scratch", (end, end)
        yield "head.feature", plan["z"], "head", None
        yield "head.mean", plan["mean"], "head", None
        for name, field in (("sum", "sums"), ("count", "counts"), ("bias", "bias")):
            yield f"head.{name}", plan[field], "head", None


def last_readers(manifest: Manifest) -> dict[str, int]:
    """Of the input and of each layer, up to which layer its values are needed: the last one that reads them, or the
    end of the window where the head reads them, a constant code is written but once, or a rule records them."""
    end, wiring = len(manifest.layers), list(manifest.wiring())
    until = {source: k for k, (_, sources) in enumerate(wiring) for source in sources}
    until |= {manifest.layers[-1].name: end} | ({manifest.head.features: end} if manifest.head.features else {})
    if isinstance(manifest.encoder, Constant):
        until[INPUT] = end
    if manifest.learning.rule is not None:
        until = dict.fromkeys((INPUT, *(layer.name for layer in manifest.layers)), end)
    return until
