"""What must not be forgotten, measured before the device leaves: synaptic intelligence over the factory's own samples.

The integer learner itself takes one pass over the calibration samples that have labels or targets, with the bundle's
own rates and with the pull switched off; what each weight did for the loss becomes its importance code. The weights
then stay the factory's: only the codes travel in the bundle, as priors (Zenke et al. 2017).
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np
from msgspec import UNSET

from edgerun.arrays import I16, I64, Tensors
from edgerun.learn.learner import Learner
from edgerun.learn.records import Boundary
from edgerun.network import Network
from edgerun.spec import NO_PULL, Manifest, Replay

ORDER_SEED: Final = 3
ALWAYS: Final = 32768  # error threshold: no sample is skipped


def priors(manifest: Manifest, tensors: Tensors, x: I16, y: I64, targets: I16 | None = None) -> Tensors:
    """Importance codes (uint8, shape of the tensor) by plastic tensor; none without e-prop and intelligence.

    x  (n, size)  quantised samples     y  (n,)  labels, 0 where values are learned     targets  (n, m)  those values
    """
    plan = manifest.learning
    if plan.rule is None or plan.intelligence is None:
        return {}
    silent = msgspec.structs.replace(
        plan,
        rule=msgspec.structs.replace(plan.rule, error_threshold=ALWAYS, recent_labels=0),
        intelligence=msgspec.structs.replace(plan.intelligence, strength=NO_PULL, every=0),
        replay=Replay(capacity=0),
        rewiring=UNSET,
    )
    own = {name: array.copy() for name, array in tensors.items()}
    learner = Learner(Network(msgspec.structs.replace(manifest, learning=silent), own), priors={})
    for i in np.random.default_rng(ORDER_SEED).permutation(len(x)):
        target = None if targets is None else targets[i]
        learner.apply(learner.plan_lesson(x[i], int(y[i]), "full", target=target))
    learner.apply(Boundary(reason="command"))
    state = learner.arrays()
    return {rate.tensor: state[f"importance.{rate.tensor}"].copy() for rate in plan.rule.rates}
