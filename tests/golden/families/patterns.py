"""Spike trains known by heart: usual kernels, one without memory, windows longer than the targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference.patterns import SlowPatterns

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Layer, Patterns

STEPS = 24


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    specs = {
        "patterns.usual": Patterns(name="l", inputs=5, outputs=3, steps=STEPS, rise=26_828, fall=29_649),
        "patterns.short": Patterns(name="l", inputs=4, outputs=2, steps=10, rise=20_000, fall=32_767),
        "patterns.bare": Patterns(name="l", inputs=3, outputs=2, steps=STEPS, rise=0, fall=0),
    }
    return {
        case: (
            spec,
            {"l.target": (rng.random((spec.outputs, spec.steps, spec.inputs)) < 0.2).astype(np.uint8)},
            [(rng.random((STEPS, spec.inputs)) < 0.3).astype(np.uint8)],
        )
        for case, spec in specs.items()
    }


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    if not isinstance(spec, Patterns):
        raise TypeError(spec)
    layer = SlowPatterns(spec, tensors)
    seen: dict[str, list[Any]] = {"y": []}
    for x in xs[0].tolist():
        seen["y"].append(layer.step(x))
        for name, values in layer.state().items():
            seen.setdefault(name, []).append(values)
    return {name: np.array(rows) for name, rows in seen.items()}
