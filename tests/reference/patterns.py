"""The scores of target patterns with plain Python integers, one number at a time."""

from __future__ import annotations

from edgerun.arrays import Tensors
from edgerun.layers import Patterns

ONE = 1 << 14


class Filter:
    """x <- x * c + drive * (2**15 - c) + r over 2**15, r what the division leaves."""

    def __init__(self, decay: int) -> None:
        self.decay, self.x, self.carry = decay, 0, 0

    def step(self, drive: int) -> int:
        whole = self.x * self.decay + drive * (32768 - self.decay) + self.carry
        self.x, self.carry = whole >> 15, whole & 0x7FFF
        return self.x


class SlowPatterns:
    """One window against every pattern; state by the names of `Patterns.state()`."""

    def __init__(self, spec: Patterns, tensors: Tensors) -> None:
        self.spec, self.targets = spec, tensors[f"{spec.name}.target"].tolist()
        self.first, self.second = (
            [[Filter(decay) for _ in range(spec.inputs)] for _ in range(spec.outputs)]
            for decay in (spec.rise, spec.fall)
        )
        self.score, self.seen = [0] * spec.outputs, [0]

    def step(self, spikes: list[int]) -> list[int]:
        differing = []
        for k, target in enumerate(self.targets):
            row = target[self.seen[0]] if self.seen[0] < self.spec.steps else [0] * self.spec.inputs
            raw = [int(z) - want for z, want in zip(spikes, row, strict=True)]
            risen = [f.step(ONE * each) for f, each in zip(self.first[k], raw, strict=True)]
            fallen = [f.step(each) for f, each in zip(self.second[k], risen, strict=True)]
            self.score[k] = max(-(1 << 31), self.score[k] - (sum(each * each for each in fallen) >> 8))
            differing.append(sum(map(abs, raw)))
        self.seen[0] += 1
        return differing

    def state(self) -> dict[str, list[object]]:
        found: dict[str, list[object]] = {"score": list(self.score), "seen": list(self.seen)}
        for name, filters in (("rising", self.first), ("falling", self.second)):
            found[name] = [[each.x for each in row] for row in filters]
            found[f"{name}_carry"] = [[each.carry for each in row] for row in filters]
        return found
