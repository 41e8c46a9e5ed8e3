"""Labels that cannot be right: a lesson is set aside that contradicts what the device knows surely.

    margin = best score - second best
    sure     margin >= the bar: a tenth (a plan's share) of the newest margins that labels agreed with lie under it
    doubted  sure of k, told y, and y is not what most of the newest labels of samples that looked surely like k were

Wrong labels scatter, so none of them becomes the most; where the world has changed they agree, and from the fifth of
the last eight on they are learned. It is state of the learner, changed by lessons alone: a replay doubts the same ones.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import I32, Tensors
from edgerun.plan import Slot
from edgerun.spec import Doubt, Manifest

NONE: Final = -1
LARGEST: Final = (1 << 31) - 1


def slots(manifest: Manifest) -> dict[str, Slot]:
    """What the plan's `doubt` adds to the learned state; nothing where there is none."""
    plan = manifest.learning.doubt
    if not isinstance(plan, Doubt):
        return {}
    return {
        "doubt.margin": Slot((plan.margins,), "int32"),
        "doubt.seen": Slot((1,), "int16"),
        "doubt.told": Slot((manifest.classes.capacity, plan.votes), "int16"),
    }


class Doubter:
    """Decides which labels to doubt, over the learner's own slots.

    margin (margins,) newest last    seen (1,) how many of them there are    told (classes, votes) newest last, or NONE
    """

    def __init__(self, plan: Doubt, state: Tensors) -> None:
        self._plan = plan
        self._margin, self._seen, self._told = (state[f"doubt.{part}"] for part in ("margin", "seen", "told"))

    def reset(self) -> None:
        self._margin[...], self._seen[...], self._told[...] = 0, 0, NONE

    def forget(self, label: int) -> None:
        self._told[label] = NONE
        self._told[self._told == label] = NONE

    def doubts(self, scores: I32, label: int) -> bool:
        """Take one labelled sample; True = its label is not to be learned.    scores (known,)"""
        if len(scores) < 2:
            return False
        second, best = np.sort(scores)[-2:].tolist()
        margin, looks = min(best - second, LARGEST), int(scores.argmax())
        sure = int(self._seen[0]) == len(self._margin) and margin >= self._bar()
        if looks == label:
            _push(self._margin, margin)
            self._seen[0] = min(int(self._seen[0]) + 1, len(self._margin))
        if not sure:
            return False
        told = self._told[looks]
        _push(told, label)
        return looks != label and 2 * int((told == label).sum()) <= len(told)

    def _bar(self) -> int:
        return int(np.sort(self._margin)[len(self._margin) * self._plan.share >> 15])


def _push(newest_last: I32, value: int) -> None:
    newest_last[:-1] = newest_last[1:].copy()
    newest_last[-1] = value
