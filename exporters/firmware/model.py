"""model.c and model.h: a bundle's tensors as constant arrays, its records as initialisers, its memory as one arena."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import numpy as np

from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle
from edgerun.graph import score_width
from edgerun.image import Image
from edgerun.learn.native import LearnerRecords
from edgerun.learn.watch import slots
from edgerun.native import Fields, Records
from edgerun.plan import Plan
from edgerun.rules import ALL, RuleRecord
from edgerun.spec import Drift, Manifest
from exporters.firmware.guard import FirmwareGuard

WIDTH: Final = 118
COUNTERS: Final = 48
"""Bytes of `er_counters`."""
WATCH: Final = "watch."
"""How the names of the watch's arrays begin."""
TARGET: Final = "tape.target"
"""The array of values that a lesson teaches."""
C_TYPE: Final[Mapping[str, str]] = {"bool": "uint8_t"}


def header(bundle: Bundle, image: Image, guard: FirmwareGuard | None) -> str:
    """model.h: what the other files ask of the model."""
    manifest = bundle.manifest
    numbers = {
        "MODEL_SIZE": manifest.input.size,
        "MODEL_SCORES": score_width(manifest),
        "MODEL_CLASSES": len(manifest.classes.names),
        "MODEL_TARGETS": image.held[TARGET].array.size if TARGET in image.held else 0,
    }
    lines = [
        "/* The model. Written by `edgerun export-firmware`. */",
        "#ifndef MODEL_H",
        "#define MODEL_H",
        "",
        '#include "edgerun/edgerun.h"',
        "",
        f"#define MODEL_NAME {json.dumps(manifest.name)}",
        f'#define MODEL_ID "{bundle.id}"',
        *(f"#define {name} {value}" for name, value in numbers.items()),
        f"typedef {c_type(np.dtype(manifest.input.dtype))} model_input;",
        "",
        "extern const er_net model;",
        "extern int16_t *const model_sample; /* (MODEL_SIZE,) */",
        "extern int16_t *const model_target; /* (MODEL_TARGETS,) */",
        "extern int32_t *const model_scores;",
        "/* Everything that is written as it leaves the factory, but for what samples are like. */",
        "void model_reset(void);",
        "",
        *(_learning_header(image) if image.lessons is not None else ()),
        *(_guard_header(guard) if guard is not None else ()),
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _learning_header(image: Image) -> Iterator[str]:
    rule = image.manifest.learning.rule
    yield f"#define MODEL_KEPT {len(image.kept) + 1}"
    yield f"#define MODEL_KEPT_BYTES {kept_bytes(image)}"
    yield f"#define MODEL_PLASTIC {len(image.factory)}"
    yield f"#define MODEL_THRESHOLD {rule.error_threshold if rule else ALL}"
    yield "extern const er_pupil pupil;"
    yield "extern er_counters model_counters;"
    yield ""
    if image.learner is not None:
        yield "extern const er_learner learner;"
        yield "extern const int8_t *const model_factory[MODEL_PLASTIC]; /* weights, before they learn */"
        yield ""
    yield from _watch_header(image.manifest)
    yield "/* What a checkpoint holds; learned: 1 of learned state, 0 of what samples are like. */"
    yield "typedef struct {"
    yield "    const char *name;"
    yield "    void *bytes;"
    yield "    uint32_t count, learned;"
    yield "} kept_array;"
    yield "extern const kept_array model_kept[MODEL_KEPT];"
    yield ""


def _watch_header(manifest: Manifest) -> Iterator[str]:
    plan = manifest.learning.drift
    if not isinstance(plan, Drift):
        yield "#define MODEL_WATCH_SAMPLES 0"
        yield ""
        return
    yield f"#define MODEL_WATCH_SAMPLES {plan.samples}"
    yield f"#define MODEL_WATCH_CLASSES {manifest.classes.capacity}"
    yield f"#define MODEL_WATCH_SLACK {plan.slack}"
    yield f"#define MODEL_WATCH_ALARM {plan.threshold << 15}"
    for name, slot in slots(manifest).items():
        yield f"extern {c_type(np.dtype(slot.dtype))} *const model_{name.replace('.', '_')};"
    yield ""


def _guard_header(guard: FirmwareGuard) -> Iterator[str]:
    yield "/* The guard's: shares are in Q0.15. */"
    yield f"#define MODEL_GUARD_EVERY {guard.every}"
    yield f"#define MODEL_MOST_DROP {guard.most_drop}"
    yield f"#define MODEL_FACTORY_SHARE {guard.factory}"
    yield f"#define MODEL_NEWEST {guard.newest}"
    yield f"#define MODEL_PROBE {len(guard.x)}"
    if len(guard.x):
        yield "extern const model_input model_probe[MODEL_PROBE * MODEL_SIZE];"
        yield "extern const int16_t model_probe_label[MODEL_PROBE];"
    yield ""


def kinds(image: Image) -> str:
    """layers.h: the kinds of layers that the firmware has, and those that learning knows by name."""
    names = dict.fromkeys(("dense", "lif", "readout", *(kind for kind, _ in image.records.layers)))
    rows = " \\\n".join(f"    ROW({name}, er_{name}, ER_{name.upper()})" for name in names)
    calls = " ".join(f"er_{name}_step" for name in names)
    patterns = "#define ER_POPULATIONS\n" if {"dense_sum", "cells", "patterns"} <= names.keys() else ""
    return f"/* Written by `edgerun export-firmware`. Steps: {calls}. */\n{patterns}#define ER_LAYERS(ROW) \\\n{rows}\n"


def kept_bytes(image: Image) -> int:
    """Of all learned state, with what of it is no array."""
    return COUNTERS + sum(image.held[name].slot.bytes for name in image.kept)


def source(image: Image, plan: Plan, guard: FirmwareGuard | None) -> str:
    """model.c. `plan` lays out what the image holds."""
    names = identifiers([*image.held, *image.constants])
    of_array = {id(held.array): names[name] for name, held in image.held.items()}
    of_array |= {id(array): names[name] for name, array in image.constants.items()}
    parts = [
        "/* The model's arrays and records. Written by `edgerun export-firmware`. */",
        '#include "model.h"',
        "",
        "#include <string.h>",
        "",
        f"/* Everything that is written: {plan.total_bytes:,} bytes. What is never needed at once shares a place. */",
        f"static uint8_t arena[{plan.total_bytes}] __attribute__((aligned(64)));",
        *(place(names[name], held.array, plan.slots[name].offset) for name, held in image.held.items()),
        "",
        *(constant(names[name], array) for name, array in image.constants.items()),
        *_network(image.records, of_array),
        f"int16_t *const model_sample = {names['io.sample']};",
        f"int16_t *const model_target = {names.get(TARGET, 'NULL')};",
        f"int32_t *const model_scores = {names['io.scores']};",
        "",
        *(_learner(image, of_array, names) if image.learner is not None else ()),
        *(_pupil(image, image.lessons, of_array, names) if image.lessons is not None else ()),
        *(_probe(guard) if guard is not None and len(guard.x) else ()),
        *_reset(image, plan, names),
    ]
    return "\n".join(parts) + "\n"


def _network(records: Records, of_array: Mapping[int, str]) -> Iterator[str]:
    yield from table(
        "er_layer", "layers", [(f".kind = ER_KIND_{k}, .as.{k} =", f) for k, f in records.layers], of_array
    )
    if records.whiten is not None:
        yield f"static const er_dense whiten = {braced(records.whiten, of_array)};"
    yield f"const er_net model = {{.plan = {braced(records.plan, of_array)},"
    yield f"    .layers = layers, .whiten = {'&whiten' if records.whiten is not None else 'NULL'}}};"


def _learner(image: Image, of_array: Mapping[int, str], names: Mapping[str, str]) -> Iterator[str]:
    rule, *lists = cast(LearnerRecords, image.learner)
    members = []
    for (name, record), rows in zip(LISTS, lists, strict=True):
        if rows:
            yield from table(record, name, [("", fields) for fields in rows], of_array)
        members.append(f".{name} = {name if rows else 'NULL'}")
    yield f"const er_learner learner = {{.net = &model, .rule = {braced(rule, of_array)},"
    yield f"    {', '.join(members)}}};"
    yield ""
    plastic = [rate.tensor for rate in cast(RuleRecord, image.manifest.learning.rule).rates]
    factory = [f"{names[f'shadow.{name}']}_factory" for name in plastic]
    for name, tensor in zip(factory, plastic, strict=True):
        yield constant(name, image.factory[tensor])
    yield f"const int8_t *const model_factory[MODEL_PLASTIC] = {{{', '.join(factory)}}};"
    yield ""


LISTS: Final = (
    ("plastic", "er_plastic"), ("tapes", "er_tape"), ("taught", "er_taught"), ("links", "er_link"),
    ("populations", "er_population"),
)  # fmt: skip
"""The lists of `er_learner` and their records, in the order of `LearnerRecords`."""


def table(record: str, name: str, rows: list[tuple[str, Fields]], of_array: Mapping[int, str]) -> Iterator[str]:
    """An array of records."""
    yield f"static const {record} {name}[] = {{"
    for before, fields in rows:
        yield f"    {{{before} {braced(fields, of_array)}}}," if before else f"    {braced(fields, of_array)},"
    yield "};"


def _pupil(image: Image, lessons: Fields, of_array: Mapping[int, str], names: Mapping[str, str]) -> Iterator[str]:
    rule = "&learner" if image.learner is not None else "NULL"
    yield "er_counters model_counters;"
    yield f"const er_pupil pupil = {{.net = &model, .learner = {rule}, .at = &model_counters,"
    yield f"    .plan = {braced(lessons, of_array)}}};"
    for name, slot in slots(image.manifest).items():
        yield f"{c_type(np.dtype(slot.dtype))} *const model_{name.replace('.', '_')} = {names[name]};"
    yield "const kept_array model_kept[MODEL_KEPT] = {"
    for name in image.kept:
        learned = int(not name.startswith(WATCH))
        yield f"    {{{json.dumps(name)}, {names[name]}, {image.held[name].slot.bytes}, {learned}}},"
    yield '    {"counters", &model_counters, sizeof model_counters, 1},'
    yield "};"
    yield ""


def _probe(guard: FirmwareGuard) -> Iterator[str]:
    for name, array in (("model_probe", guard.x), ("model_probe_label", guard.label)):
        yield constant(name, array).removeprefix("static ")


def _reset(image: Image, plan: Plan, names: Mapping[str, str]) -> Iterator[str]:
    """`model_reset`: zeros but for the watch, and over them what arrays hold in the factory, where that does not follow
    from others."""
    begun = {names[name]: first for name, first in image.begun.items()}
    yield from (constant(f"{name}_factory", first) for name, first in begun.items())
    yield "void model_reset(void) {"
    yield from (f"    memset(arena + {first}, 0, {last - first});" for first, last in _forgotten(image, plan))
    yield from (f"    memcpy({name}, {name}_factory, sizeof {name}_factory);" for name in begun)
    if "head.mean" in image.held:
        yield "    const er_plan *plan = &model.plan;"
        yield "    er_class_means(plan->mean, plan->sums, plan->counts, plan->means * plan->capacity, plan->width);"
    yield "}"


def _forgotten(image: Image, plan: Plan) -> Iterator[tuple[int, int]]:
    """The arena's bytes without those of the watch, which lessons and their undoing leave alone: (first, end)."""
    last = 0
    for slot in sorted((plan.slots[name] for name in slots(image.manifest)), key=lambda slot: slot.offset):
        if slot.offset > last:
            yield last, slot.offset
        last = slot.end
    if last < plan.total_bytes:
        yield last, plan.total_bytes


def identifiers(names: list[str]) -> dict[str, str]:
    """A C name of its own for each name, as like it as may be, and like no word of C or field of a record."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = "m_" + re.sub(r"\W", "_", name, flags=re.ASCII)
        found[name] = next(each for k in range(len(names)) if (each := plain + "_" * k) not in taken)
        taken.add(found[name])
    return found


def place(name: str, array: AnyArray, offset: int) -> str:
    """An array's place in the arena."""
    return f"#define {name} (({c_type(array.dtype)} *)(arena + {offset})) /* {array.size} */"


def constant(name: str, array: AnyArray) -> str:
    """An array in flash."""
    values = ", ".join(map(literal, array.reshape(-1).tolist()))
    rows = textwrap.wrap(values, WIDTH, initial_indent="    ", subsequent_indent="    ")
    head = f"static const {c_type(array.dtype)} {name}[{array.size}] = {{"
    return "\n".join([head, *rows, "};", ""])


def c_type(dtype: np.dtype[Any]) -> str:
    return C_TYPE.get(dtype.name, f"{dtype.name}_t")


def literal(value: int) -> str:
    """An integer constant of C: the least of a type has none of its own."""
    if value in (-(1 << 31), -(1 << 63)):
        return f"({literal(value + 1)} - 1)"
    return f"{value}{'' if -(1 << 31) < value < 1 << 31 else 'LL' if value < 0 else 'ULL'}"


def braced(fields: Fields, of_array: Mapping[int, str]) -> str:
    """`{.name = value, ...}` of a record."""
    pairs = ", ".join(f".{name} = {value}" for name, value in _values(fields, of_array))
    return "\n        ".join(textwrap.wrap(f"{{{pairs}}}", WIDTH - 8))


def _values(fields: Fields, of_array: Mapping[int, str]) -> Iterator[tuple[str, str]]:
    for name, value in fields.items():
        if isinstance(value, np.ndarray):
            yield name, of_array[id(value)]
        else:
            yield name, "NULL" if value is None else literal(int(value))
