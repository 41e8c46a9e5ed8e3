"""The memory that a bundle's rule works in: every array of a recorded window and of the factors made of it, by name.

What numpy takes beyond these slots is what a scalar loop would hold in registers, spread over one row block, or over
`kernels.eprop.TILE` steps of one layer: it never grows with the window.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgerun.arrays import Tensors
from edgerun.graph import layer_reaches
from edgerun.layers.base import State
from edgerun.learn.profiles import profile_of
from edgerun.plan import Slot, carve, make_arena, make_plan
from edgerun.spec import Manifest


def slots(manifest: Manifest) -> dict[str, Slot]:
    """One recorded window and its factors; nothing without a rule."""
    rule = manifest.learning.rule
    if rule is None:
        return {}
    reaches = {name: max(sources) for name, (sources, _) in layer_reaches(manifest).items()}
    trace = profile_of(manifest.learning).trace
    return dict(map(_slot, rule.tape(manifest.layer, manifest.steps, reaches, trace)))


def carriers(manifest: Manifest) -> dict[str, Slot]:
    """Weights in float64 that numpy multiplies: a controller does not need them, so a bundle is not priced at them."""
    rule = manifest.learning.rule
    return {} if rule is None else dict(map(_slot, rule.carriers(manifest.layer)))


def room(manifest: Manifest) -> Tensors:
    """Tape and carriers in an arena of their own, for a rule that runs without a learner."""
    return laid_out(slots(manifest) | carriers(manifest))


def laid_out(wanted: Mapping[str, Slot]) -> Tensors:
    """Views of a new arena that holds these slots and nothing else."""
    plan = make_plan(wanted)
    return carve(make_arena(plan), plan)


def _slot(state: State) -> tuple[str, Slot]:
    return state.name, Slot(state.shape, state.dtype, "traces")
