"""model.c and model.h: a bundle's tensors as constant arrays, its records as initialisers, its memory as one arena."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np

from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle
from edgerun.graph import score_width
from edgerun.image import Image
from edgerun.native import Fields
from edgerun.plan import Plan

WIDTH: Final = 118
C_TYPE: Final[Mapping[str, str]] = {"bool": "uint8_t"}


def header(bundle: Bundle) -> str:
    """model.h: what main.c and frames.c ask of the model."""
    manifest = bundle.manifest
    numbers = {
        "MODEL_SIZE": manifest.input.size,
        "MODEL_SCORES": score_width(manifest),
        "MODEL_CLASSES": len(manifest.classes.names),
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
        "/* Everything that is written as it leaves the factory. */",
        "void model_reset(void);",
        "extern int16_t *const model_sample; /* (MODEL_SIZE,) */",
        "extern int32_t *const model_scores;",
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def source(image: Image, plan: Plan) -> str:
    """model.c. `plan` lays out what the image holds."""
    names = identifiers([*image.held, *image.constants])
    of_array = {id(held.array): names[name] for name, held in image.held.items()}
    of_array |= {id(array): names[name] for name, array in image.constants.items()}
    records, size = image.records, plan.total_bytes
    parts = [
        "/* The model's arrays and records. Written by `edgerun export-firmware`. */",
        '#include "model.h"',
        "",
        "#include <string.h>",
        "",
        f"/* Everything that is written, in {size:,} bytes. What is never needed at once shares a place. */",
        f"static uint8_t arena[{size}] __attribute__((aligned(64)));",
        *(place(names[name], held.array, plan.slots[name].offset) for name, held in image.held.items()),
        "",
        *(constant(names[name], array) for name, array in image.constants.items()),
        "static const er_layer layers[] = {",
        *(
            "    " + initialiser(f".kind = ER_KIND_{kind}, .as.{kind} =", fields, of_array) + ","
            for kind, fields in records.layers
        ),
        "};",
    ]
    if records.whiten is not None:
        parts.append(f"static const er_dense whiten = {braced(records.whiten, of_array)};")
    parts += [
        f"const er_net model = {{.plan = {braced(records.plan, of_array)},",
        f"    .layers = layers, .whiten = {'&whiten' if records.whiten is not None else 'NULL'}}};",
        f"int16_t *const model_sample = {names['io.sample']};",
        f"int32_t *const model_scores = {names['io.scores']};",
    ]
    parts += ["", *reset(image, names)]
    return "\n".join(parts) + "\n"


def reset(image: Image, names: Mapping[str, str]) -> Iterator[str]:
    """`model_reset`: zeros, and over them what an array holds before anything has run."""
    begun = {
        name: first for name, held in image.held.items() if len(first := np.trim_zeros(held.array.reshape(-1), "b"))
    }
    yield from (constant(f"{names[name]}_factory", first) for name, first in begun.items())
    yield "void model_reset(void) {"
    yield "    memset(arena, 0, sizeof arena);"
    yield from (f"    memcpy({n}, {n}_factory, sizeof {n}_factory);" for n in map(names.__getitem__, begun))
    yield "}"


def identifiers(names: list[str]) -> dict[str, str]:
    """A C name of its own for each name, as like it as may be."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        plain = re.sub(r"\W", "_", name, flags=re.ASCII)
        plain = f"m{plain}" if plain[0].isdigit() or plain[0] == "_" else plain
        given = next(each for k in range(len(names) + 1) if (each := plain + "_" * k) not in taken)
        found[name] = given
        taken.add(given)
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


def initialiser(before: str, fields: Fields, of_array: Mapping[int, str]) -> str:
    return f"{{{before} {braced(fields, of_array)}}}"


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
