"""A bounded, class-balanced memory of quantised samples: half of each class may come from the field.

Every random choice is a word of the counter-based generator, so the same lessons fill it with the same samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgerun.arrays import I16, AnyArray, Tensors
from edgerun.kernels.noise import Use, fill_words, key, stream
from edgerun.plan import Slot
from edgerun.spec import Manifest

EMPTY = -1
MOST = (1 << 31) - 1
"""Counters stay there: 68 years of a lesson a second."""
TENSOR_INDEX = 4095  # its noise streams lie beside those of any plastic tensor


def slots(manifest: Manifest) -> Mapping[str, Slot]:
    capacity, classes = manifest.learning.replay.capacity, manifest.classes.capacity
    return {
        "replay.x": Slot((capacity, manifest.input.size), manifest.input.dtype, "replay"),
        "replay.label": Slot((capacity,), "int16", "replay"),
        "replay.field": Slot((capacity,), "uint8", "replay"),
        "replay.since": Slot((capacity,), "int32", "replay"),
        "replay.seen": Slot((classes,), "int32", "replay"),
    }


def draw(seed: int, lesson: int, count: int, below: int, use: Use = Use.UPDATE) -> list[int]:
    """`count` numbers in [0, below), a pure function of the seed, the lesson's number and the use."""
    words = np.empty(count, np.uint32)
    fill_words(words, key(seed, lesson, stream(TENSOR_INDEX, use)))
    return [int(word) * below >> 32 for word in words]


class Reservoir:
    """Views of the reservoir's slots and the rule that fills them.

    x (n, size)   label (n,) EMPTY where free   field (n,) 1 = met in the field
    since (n,) the lesson that brought it   seen (classes,) field samples so far; both at most MOST
    """

    def __init__(self, state: Tensors, seed: int) -> None:
        self.x, self.label, self.field, self.since, self.seen = (
            state[f"replay.{part}"] for part in ("x", "label", "field", "since", "seen")
        )
        self._seed = seed

    @property
    def filled(self) -> AnyArray:
        """Indices of the samples held."""
        return np.flatnonzero(self.label != EMPTY)

    def newest(self, count: int) -> AnyArray:
        """Indices of the `count` field samples that came last."""
        held = np.flatnonzero((self.field == 1) & (self.label != EMPTY))
        return held[np.argsort(self.since[held], kind="stable")][max(0, len(held) - count) :]

    def sample(self, index: int) -> I16:
        held: I16 = self.x[index].astype(np.int16)
        return held

    def fill(self, x: AnyArray, label: AnyArray) -> None:
        """Start from the bundle's exemplars."""
        count = min(len(x), len(self.x))
        self.x[:count], self.label[:count] = x[:count], label[:count]
        self.label[count:] = EMPTY

    def add(self, q: I16, label: int, lesson: int, known: int) -> None:
        """Offer a field sample. Below its class's quota it is kept; above, it competes with its own class only."""
        if not len(self.x):
            return
        self.seen[label] = min(int(self.seen[label]) + 1, MOST)
        word = draw(self._seed, lesson, 2, 1 << 32, Use.PULL)
        place = self._place(label, known, word)
        if place is not None:
            self.x[place], self.label[place], self.field[place] = q, label, 1
            self.since[place] = min(lesson, MOST)

    def forget(self, label: int) -> None:
        self.label[self.label == label] = EMPTY

    def _place(self, label: int, known: int, word: list[int]) -> int | None:
        quota = max(1, len(self.x) // known)
        mine = np.flatnonzero(self.label == label)
        if len(mine) < quota:
            free = np.flatnonzero(self.label == EMPTY)
            return int(free[0]) if len(free) else self._from_largest(word[0])
        factory = mine[self.field[mine] == 0]
        if len(factory) > quota // 2:
            return int(factory[word[0] * len(factory) >> 32])
        field = mine[self.field[mine] == 1]
        chance = word[1] * int(self.seen[label]) >> 32
        return int(field[word[0] * len(field) >> 32]) if len(field) > chance else None

    def _from_largest(self, word: int) -> int:
        """A place of the class that holds most, its factory samples first."""
        counts = np.bincount(self.label[self.label != EMPTY])
        members = np.flatnonzero(self.label == int(np.argmax(counts)))
        factory = members[self.field[members] == 0]
        pool = factory if len(factory) else members
        return int(pool[word * len(pool) >> 32])
