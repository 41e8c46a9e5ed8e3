"""What a bundle may learn on its device, by the name given to `--learn`, and the numbers that this starts from.

Rates differ by tensor: the input learns most, because a drifting sensor needs that; the recurrent weights least.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Final, NamedTuple

from edgerun.errors import ModelError
from edgerun.spec import (
    EProp,
    Guard,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)


class Rate(NamedTuple):
    """One tensor's step: d = SR(-G * eta, shift), at most `max_step` shadow LSB a lesson."""

    eta: int
    shift: int
    max_step: int = 512


EPROP_RATES: Final = MappingProxyType(
    {"input": Rate(1024, 20), "recurrent": Rate(256, 20), "readout": Rate(256, 20)}
)  # fmt: skip
CONSOLIDATION: Final = Intelligence(strength=12, damping=16, every=0)
REPLAY: Final = Replay(capacity=64, passes=1)
GUARD: Final = Guard()
ERROR_THRESHOLD: Final = 29491  # p(label) of 0.9 in Q0.15: what is known so well teaches nothing
RECENT_LABELS: Final = 40


def learning_plan(learn: str, manifest: Manifest) -> LearningPlan:
    """The plan that `--learn` names, for the layers of this manifest. Raises ModelError where they do not allow it."""
    match learn:
        case "none":
            return LearningPlan()
        case "prototypes":
            return LearningPlan(replay=REPLAY, guard=GUARD)
        case "eprop":
            return LearningPlan(eprop=eprop(manifest), intelligence=CONSOLIDATION, replay=REPLAY, guard=GUARD)
    raise ModelError(f"--learn {learn!r} is none of none, prototypes, eprop")


def eprop(manifest: Manifest) -> EProp:
    """E-prop for the last Lif layer and the readout behind it. Raises ModelError where there is no such pair."""
    if len(manifest.layers) < 2 or not isinstance(manifest.encoder, PhaseRate):
        raise ModelError("--learn eprop needs a spiking model with a readout")
    lif, readout = manifest.layers[-2:]
    if not isinstance(lif, Lif) or not isinstance(readout, Readout):
        raise ModelError(
            f"--learn eprop needs a Lif layer before a readout; {lif.name} and {readout.name} are not that"
        )
    names = {"input": f"{lif.name}.input", "recurrent": f"{lif.name}.recurrent", "readout": f"{readout.name}.input"}
    rates = tuple(
        PlasticRate(tensor=names[role], eta=rate.eta, shift=rate.shift, max_step=rate.max_step)
        for role, rate in EPROP_RATES.items()
        if role != "recurrent" or lif.recurrent
    )
    return EProp(
        layer=lif.name,
        readout=readout.name,
        rates=rates,
        chunk_steps=manifest.encoder.steps,
        error_threshold=ERROR_THRESHOLD,
        recent_labels=RECENT_LABELS,
    )
