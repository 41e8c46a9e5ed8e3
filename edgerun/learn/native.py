"""Learning in C: the same bits as the stages and rules of this folder, over the same arrays of the learner.

Where a plan has a part without a C form, numpy does that part; `NUMPY_ONLY` and `NUMPY_ONLY_RULES` say why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, cast

import numpy as np

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import SpecError
from edgerun.kernels.native import library
from edgerun.learn.profiles import profile_of
from edgerun.learn.stages import Factors
from edgerun.spec import LearningPlan, Manifest, MeanQuotient, PlasticRate, Rewiring, RMaxProp

Fields = dict[str, Any]

NUMPY_ONLY: Final[Mapping[type, str]] = MappingProxyType(
    {
        RMaxProp: "a byte of state a weight and two divisions a gradient: it goes with spike trains, which numpy runs",
        MeanQuotient: "a mean over all of a tensor's gradient: it goes with rules that settle, which numpy runs",
        Rewiring: "sorts a tensor's synapses at boundaries, with numpy's sort",
    }
)
"""Stages of an update without a C form, and why."""


def numpy_stages(plan: LearningPlan) -> tuple[str, ...]:
    """What keeps a plan's updates in numpy; empty where C does them."""
    return tuple(type(part).__name__ for part in (plan.normaliser, plan.rewiring) if type(part) in NUMPY_ONLY)


def plastic_fields(plan: LearningPlan, rate: PlasticRate, index: int, weights: AnyArray, state: Tensors) -> Fields:
    """`er_plastic` of the index-th plastic tensor, its factors still open. Weights (m, n) follow the shadow."""
    profile = profile_of(plan)
    if plan.rule is None:
        raise SpecError("the bundle has no learning rule")
    notes, (rows, columns) = plan.intelligence, weights.shape
    found: Fields = {
        f"{kind}{end}": None for kind, end in (("ref", ""), ("ref", "_high"), ("omega", ""), ("omega", "_narrow"))
    }
    if notes is not None:
        found["ref" if profile.copies else "ref_high"] = state[f"ref.{rate.tensor}"]
        found["omega" if profile.copies else "omega_narrow"] = state[f"omega.{rate.tensor}"]
    return found | {
        "rows": rows, "columns": columns, "steps": 0, "index": index, "small": int(not profile.copies),
        "eta": rate.eta, "shift": rate.shift, "max_step": rate.max_step, "max_norm": rate.max_norm,
        "decay_shift": rate.decay_shift, "gradient_shift": plan.rule.gradient_shift,
        "strength": notes.strength_of(index) if notes else 0, "damping": notes.damping_of(index) if notes else 1,
        "history": None, "history_high": None, "post": np.zeros(0, np.int16),
        "shadow": state[f"shadow.{rate.tensor}"], "weight": weights if profile.copies else None,
        "importance": state[f"importance.{rate.tensor}"] if notes else None,
    }  # fmt: skip


class Plastic:
    """A plastic tensor that C updates and consolidates: `stages.update` and `stages.Consolidation.consolidate`."""

    def __init__(self, fields: Fields, seed: int) -> None:
        native = library()
        if native is None:
            raise SpecError("the C kernels are not built")
        self._held, self._seed = native.Plastic(fields), seed

    def update(self, factors: Factors, number: int) -> int:
        """One update; returns the squared norm of the change made, in shadow LSB."""
        return cast(int, self._held.update(factors.history, factors.post, self._seed, number))

    def consolidate(self, number: int) -> None:
        """A boundary."""
        self._held.consolidate(self._seed, number)


def plastics(manifest: Manifest, tensors: Tensors, state: Tensors) -> tuple[Plastic, ...]:
    """Every plastic tensor of a learner, in the order of the rule's rates."""
    rates = manifest.learning.rule.rates if manifest.learning.rule else ()
    return tuple(
        Plastic(plastic_fields(manifest.learning, rate, index, tensors[rate.tensor], state), manifest.seed)
        for index, rate in enumerate(rates)
    )
