"""Target values of a lesson, for a bundle that learns values: real numbers in, the rule's int16 out.

wire = floor(real / (scale * 2**12) + 1/2)        real = scale * y, y the readout's Q7.24; targets are Q3.12 of it
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I64, AnyArray, Tensors
from edgerun.errors import DataError
from edgerun.spec import Manifest, OutputSpec

COARSER: Final = 12  # bits: Q3.12 beside Q7.24
TOP: Final = (1 << 15) - 1


def learns_values(manifest: Manifest) -> bool:
    """Whether the bundle's lessons bring values, not labels."""
    rule = manifest.learning.rule
    return rule is not None and not rule.classifies


def target_shape(manifest: Manifest) -> tuple[int, int]:
    """(steps, outputs) of a lesson's target. Raises DataError for a bundle that learns no values."""
    rule, output = manifest.learning.rule, manifest.output
    if rule is None or rule.classifies or output is None:
        raise DataError("the bundle learns no values, so a lesson of it has no target")
    return rule.targets(manifest.layer) // output.size, output.size


def wire_target(manifest: Manifest, values: AnyArray) -> I16:
    """A lesson's target as the rule takes it.    values  (steps, k), or (k,) for every step alike  ->  (steps * k,)

    int16 is the rule's own and passes as it is, all other numbers are real. Raises DataError for the wrong shape, a
    value that is not finite, and one that the rule cannot hold.
    """
    steps, k = target_shape(manifest)
    if values.dtype.kind not in "fiu" or values.shape not in ((k,), (steps, k)):
        either = f"({steps}, {k}) or ({k},)" if steps > 1 else f"({k},)"
        raise DataError(f"a target is {values.dtype} {values.shape}, the bundle takes numbers of shape {either}")
    wire = values.astype(np.int64) if values.dtype == np.int16 else _steps_of(_output(manifest), values)
    return np.broadcast_to(wire, (steps, k)).reshape(-1).astype(np.int16)


def wire_targets(manifest: Manifest, name: str, arrays: Tensors, count: int) -> I16:
    """The targets of a data file, (N, steps * k): its `targets` (N, steps, k), or (N, k) for every step alike.

    Raises DataError naming the file and the first sample whose target is none.
    """
    found = arrays.get("targets")
    if found is None:
        raise DataError(f"{name}: has no 'targets', and the bundle learns values")
    if found.ndim not in (2, 3) or len(found) != count:
        raise DataError(
            f"{name}: targets have shape {found.shape}, must be ({count}, outputs) or ({count}, steps, outputs)"
        )
    rows = []
    for sample, values in enumerate(found):
        try:
            rows.append(wire_target(manifest, values))
        except DataError as err:
            raise DataError(f"{name}: sample {sample}: {err}") from None
    return np.stack(rows)


def real_targets(manifest: Manifest, wire: I16) -> F64:
    """What targets (..., steps * k) mean, (..., steps, k)."""
    steps, k = target_shape(manifest)
    real: F64 = _output(manifest).scale * 2.0**COARSER * wire.astype(np.float64)
    return real.reshape(*wire.shape[:-1], steps, k)


def wanted_answers(manifest: Manifest, name: str, arrays: Tensors, count: int) -> F64:
    """What a data file's samples should give at their end, (N, k) in real units, also of a bundle that learns nothing.

    Raises DataError naming the file for targets that are none.
    """
    if learns_values(manifest):
        return real_targets(manifest, wire_targets(manifest, name, arrays, count))[:, -1]
    found, k = arrays["targets"], _output(manifest).size
    if found.dtype.kind not in "fiu" or found.ndim not in (2, 3) or len(found) != count or found.shape[-1] != k:
        wanted = f"({count}, {k}) or ({count}, steps, {k})"
        raise DataError(f"{name}: targets are {found.dtype} {found.shape}, must be numbers of shape {wanted}")
    last: F64 = found.reshape(count, -1, k)[:, -1].astype(np.float64)
    if not np.isfinite(last).all():
        raise DataError(f"{name}: the target of sample {(~np.isfinite(last)).any(axis=1).argmax()} is not finite")
    return last


def real_answers(manifest: Manifest, y: AnyArray) -> F64:
    """What the last layer's integers mean."""
    output = _output(manifest)
    real: F64 = output.scale * (y.astype(np.float64) - output.zero_point)
    return real


def _output(manifest: Manifest) -> OutputSpec:
    if manifest.output is None:
        raise DataError("the bundle does not say what its outputs mean")
    return manifest.output


def _steps_of(output: OutputSpec, values: AnyArray) -> I64:
    """Real numbers in steps of a target. Raises DataError naming the first that has none."""
    step, flat = output.scale * 2.0**COARSER, values.astype(np.float64).reshape(-1)
    for place, value in enumerate(flat):
        if not abs(value) <= (TOP + 0.5) * step:
            raise DataError(f"target value {place} is {value:g}, must lie in [{-TOP * step:g}, {TOP * step:g}]")
    wire: I64 = np.clip(np.floor(values.astype(np.float64) / step + 0.5), -TOP, TOP).astype(np.int64)
    return wire
