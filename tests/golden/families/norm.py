"""Layer normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
from reference import norm

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import Layer, LayerNorm

STEPS = 6


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    specs = {
        "layer-norm.row": LayerNorm(name="l", shape=(16,), epsilon=900, shift=38),
        "layer-norm.rows": LayerNorm(name="l", shape=(3, 5), epsilon=0, shift=37, zero_point=-9, qmin=-9, qmax=100),
        "layer-norm.pairs": LayerNorm(name="l", shape=(2, 2, 2), epsilon=1 << 40, shift=24, zero_point=127),
    }
    found: dict[str, tuple[Layer, Tensors, list[AnyArray]]] = {}
    for case, spec in specs.items():
        x = rng.integers(-128, 128, (STEPS, spec.outputs)).astype(np.int16)
        x[0] = 77  # nothing varies
        tensors: Tensors = {
            "l.multiplier": rng.integers(-(1 << 24) + 1, 1 << 24, spec.channels).astype(np.int32),
            "l.offset": rng.integers(-40 << spec.shift, 40 << spec.shift, spec.channels),
        }
        found[case] = (spec, tensors, [x])
    return found


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    match spec:
        case LayerNorm():
            parts = [tensors[f"l.{part}"].tolist() for part in ("multiplier", "offset")]
            y = [norm.layer_norm(spec, *parts, x) for x in xs[0].tolist()]
    return {"y": np.array(y, np.int8)}
