"""One sample under two names: refused before anything is learned, for nobody can say which of them was meant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edgerun.arrays import I16, AnyArray
from edgerun.errors import Refused
from edgerun.learn.reservoir import Reservoir


def same_under_two_names(x: AnyArray, name: Sequence[str]) -> tuple[int, int] | None:
    """The first two rows of x (n, size) that are equal and have different names."""
    seen: dict[bytes, int] = {}
    for k, row in enumerate(x):
        first = seen.setdefault(row.tobytes(), k)
        if name[first] != name[k]:
            return first, k
    return None


def held_as_another(reservoir: Reservoir | None, q: I16, label: int | None) -> int | None:
    """The class of a stored sample that equals q (size,) and is not of this class; None where there is none."""
    if reservoir is None:
        return None
    filled = reservoir.filled
    others = filled if label is None else filled[reservoir.label[filled] != label]
    equal = others[(reservoir.x[others] == q).all(axis=1)]
    return int(reservoir.label[equal[0]]) if len(equal) else None


class Told:
    """What past windows were called: of the newest `bound` windows that feedback named."""

    def __init__(self, bound: int) -> None:
        self._bound, self._name = bound, dict[int, str]()

    def take(self, items: Iterable[tuple[int, str]]) -> None:
        """Remember (sample, name). Raises Refused, and remembers none, for a sample that had another name."""
        found = dict(self._name)
        for sample, name in items:
            before = found.setdefault(sample, name)
            if before != name:
                raise Refused(f"feedback sample {sample} was called {before!r}, now {name!r}")
        for sample in sorted(found)[: max(0, len(found) - self._bound)]:
            del found[sample]
        self._name = found

    def clear(self) -> None:
        self._name.clear()


def check_examples(held: Reservoir | None, examples: Sequence[I16], label: int | None, names: Sequence[str]) -> None:
    """Raises Refused for an example that is stored as a sample of another class than `label`, None for a new one."""
    for place, q in enumerate(examples):
        other = held_as_another(held, q, label)
        if other is not None:
            raise Refused(f"example {place} is stored as a sample of {names[other]!r}")
