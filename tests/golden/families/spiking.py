"""Synapses, neurons on sums, and readouts that do more than leak."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from reference import integers, spiking

from edgerun.arrays import AnyArray, Tensors
from edgerun.layers import AlphaCells, Cells, ConvSum, DenseSum, Integrators, Layer, Lif, SLstm, SumPool, Total
from edgerun.layers.base import Requant

Driven: TypeAlias = Cells | AlphaCells | Integrators

STEPS = 40
WATCHED = ("v", "fired", "carry", "current", "excitatory", "inhibitory", "hidden", "cell")
GATHERED = ("peak", "sum")


def parameters(rng: np.random.Generator, spec: Driven) -> Tensors:
    """Random parameters for every tensor that the layer asks for."""
    fine = 12 if spec.fraction == 24 else 0
    draws = {
        "bias": (-(300 << fine), 700 << fine), "decay": (20000, 32769), "alpha": (24000, 31000), "beta": (8000, 23000),
        "tau": (1 << 16, 4 << 16), "threshold": (2500, 8200),
    }  # fmt: skip
    found: Tensors = {}
    for field in spec.fields():
        low, high = draws.get(field.part, (-127, 128) if field.dtype == "int8" else (-(2000 << fine), 2000 << fine))
        found[f"l.{field.part}"] = rng.integers(low, high, field.shape).astype(field.dtype)
    return found


def cell_cases() -> dict[str, Driven]:
    cells = {"name": "l", "shape": (7,), "weight_exponent": 6}
    image = {"name": "l", "shape": (2, 2, 3), "weight_exponent": 14, "shared": True}
    return {
        "cells.subtract": Cells(**cells),
        "cells.subtract-now": Cells(**cells, reset_delay=False),
        "cells.zero": Cells(**image, reset="zero"),
        "cells.zero-now": Cells(**image, reset="zero", reset_delay=False, reading="max"),
        "cells.hold": Cells(**cells, reset="hold", recurrence="diagonal"),
        "cells.none": Cells(**image, reset="none", reading="mean"),
        "cells.recurrent": Cells(**cells, recurrence="dense", recurrent_exponent=5),
        "cells.inhibited": Cells(**cells, inhibition=True),
        "cells.inhibited-now": Cells(**cells, inhibition=True, reset_delay=False),
        "cells.synaptic": Cells(**cells, synaptic=True),
        "cells.synaptic-now": Cells(**cells, synaptic=True, reset_delay=False, reading="last"),
        "cells.synaptic-hold": Cells(**image, synaptic=True, reset="hold", recurrence="diagonal"),
        "cells.synaptic-recurrent": Cells(
            **cells, synaptic=True, reset="zero", recurrence="dense", recurrent_exponent=7
        ),
        "alpha-cells.hold": AlphaCells(**cells, reset="hold"),
        "alpha-cells.subtract": AlphaCells(**cells, reset="subtract"),
        "alpha-cells.none": AlphaCells(**image, reset="none", inhibition=True),
        "integrators.last": Integrators(**image),
        "integrators.max": Integrators(**cells, synaptic=True, reading="max"),
        "integrators.mean": Integrators(**cells, reading="mean"),
    }


def cases(rng: np.random.Generator) -> dict[str, tuple[Layer, Tensors, list[AnyArray]]]:
    found: dict[str, tuple[Layer, Tensors, list[AnyArray]]] = {}
    for case, spec in cell_cases().items():
        top = 60 << (spec.weight_exponent - 6)
        drawn = parameters(rng, spec)
        found[case] = (spec, drawn, [rng.integers(-top, 2 * top, (STEPS, spec.outputs)).astype(np.int32)])
    weight = rng.integers(-127, 128, (6, 5)).astype(np.int8)
    for case, zero_point in (("dense-sum.spikes", 0), ("dense-sum.features", -37)):
        spec = DenseSum(name="l", inputs=6, outputs=5, zero_point=zero_point)
        low, high = (0, 2) if zero_point == 0 else (-128, 128)
        found[case] = (spec, {"l.weight": weight}, [rng.integers(low, high, (STEPS, 6)).astype(np.int16)])
    image = {"name": "l", "input_shape": (5, 4, 2), "kernel": (3, 2), "padding": (1, 0, 1, 1)}
    for case, fields in {"spikes": {}, "features": {"zero_point": 53, "stride": (2, 1), "dilation": (1, 2)}}.items():
        conv = ConvSum(**image, filters=3, **fields)
        kernel = rng.integers(-127, 128, (3, 3, 2, 2)).astype(np.int8)
        low, high = (0, 2) if case == "spikes" else (-128, 128)
        found[f"conv-sum.{case}"] = (conv, {"l.weight": kernel}, [rng.integers(low, high, (6, 40)).astype(np.int16)])
    pool = SumPool(name="l", input_shape=(5, 4, 2), kernel=(2, 2), stride=(2, 2), padding=(0, 0, 1, 0))
    found["sum-pool.sums"] = (pool, {}, [rng.integers(-9000, 9000, (6, 40)).astype(np.int32)])
    xs = [rng.integers(-5000, 5000, (STEPS, 4)).astype(np.int32) for _ in range(3)]
    found["total.three"] = (Total(name="l", outputs=4, terms=3), {}, xs)
    for case, fields in {"hold": {"reset": "hold"}, "above-zero": {"threshold": 1, "reset": "zero"}}.items():
        lif = Lif(name="l", inputs=6, outputs=7, weight_exponent=7, **fields)
        tensors = {
            "l.input": rng.integers(-127, 128, (6, 7)).astype(np.int8),
            "l.recurrent": rng.integers(-127, 128, (7, 7)).astype(np.int8),
            "l.bias": rng.integers(-500, 500, 7).astype(np.int32),
            "l.decay": rng.integers(20000, 32769, 7).astype(np.uint16),
        }
        found[f"lif.{case}"] = (lif, tensors, [rng.integers(0, 2, (STEPS, 6)).astype(np.uint8)])
    deep = Requant.from_scale(2.0**-8 / 1.5, zero_point=43)
    for case, fields in {
        "none": {"input_bound": 1}, "subtract": {"reset": "subtract", "hidden_map": deep}, "hold": {"reset": "hold"}
    }.items():  # fmt: skip
        slstm = SLstm(name="l", inputs=6, outputs=7, cell_exponent=11, **fields)
        low, high = (0, 2) if slstm.input_bound == 1 else (-128, 128)
        found[f"slstm.{case}"] = (
            slstm, slstm_tensors(rng, slstm), [rng.integers(low, high, (STEPS, 6)).astype(np.int16)]
        )  # fmt: skip
    soft = Cells(name="l", shape=(7,), weight_exponent=6, reset="soft", reset_delay=False)
    found["cells.soft"] = (soft, parameters(rng, soft), [rng.integers(-60, 120, (STEPS, 7)).astype(np.int32)])
    return found


def slstm_tensors(rng: np.random.Generator, spec: SLstm) -> Tensors:
    """Gates that work in their middle; of the thresholds one is met by any membrane above zero, one by none."""
    n, found = 4 * spec.outputs, {}
    for weight, prefix, width, scale in (
        ("weight", "", spec.inputs, 40 / spec.input_bound), ("recurrent", "recurrent_", spec.outputs, 0.2)
    ):  # fmt: skip
        maps = [Requant.from_scale(scale * 2.0 ** rng.uniform(-1, 1)) for _ in range(n)]
        found |= {
            f"l.{weight}": rng.integers(-127, 128, (n, width)).astype(np.int8),
            f"l.{prefix}bias": rng.integers(-spec.input_bound, spec.input_bound + 1, n).astype(np.int32),
            f"l.{prefix}multiplier": np.array([m.multiplier for m in maps], np.int32),
            f"l.{prefix}shift": np.array([m.shift for m in maps], np.uint8),
        }
    threshold = rng.integers(2000, 12000, spec.outputs).astype(np.uint16)
    threshold[:2] = 1, 1 << 15
    return found | {"l.threshold": threshold}


def slow(spec: Layer, tensors: Tensors) -> Any:
    match spec:
        case DenseSum():
            return spiking.SlowDenseSum(spec, tensors)
        case ConvSum():
            return spiking.SlowConvSum(spec, tensors)
        case SumPool():
            return spiking.SlowSumPool(spec, tensors)
        case Total():
            return spiking.SlowTotal(spec, tensors)
        case Cells():
            return spiking.SlowCells(spec, tensors)
        case AlphaCells():
            return spiking.SlowAlphaCells(spec, tensors)
        case Integrators():
            return spiking.SlowIntegrators(spec, tensors)
        case Lif():
            return integers.SlowLif(spec, tensors)
        case SLstm():
            return spiking.SlowSLstm(spec, tensors)
    raise TypeError(spec)


def outputs(spec: Layer, tensors: Tensors, xs: list[AnyArray]) -> dict[str, Any]:
    layer = slow(spec, tensors)
    seen: dict[str, list[Any]] = {}
    for row in zip(*(x.tolist() for x in xs), strict=True):
        seen.setdefault("y", []).append(layer.step(*row))
        for name in sorted({state.name for state in spec.state()} & {*WATCHED, *GATHERED}):
            if isinstance(spec, Lif):
                now = [getattr(neuron, name) for neuron in layer.neurons]
            else:
                now = list(getattr(layer.window if name in GATHERED else layer, name))
            seen.setdefault(name, []).append(now)
    found = {name: np.array(rows) for name, rows in seen.items()}
    return found | ({"reading": np.array(layer.reading())} if hasattr(layer, "reading") else {})
