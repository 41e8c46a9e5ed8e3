"""Spiking layers once more, one neuron at a time, in Python integers: synapses, neurons on sums, readouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reference.integers import half_up, leak, sat16, sat32
from reference.recurrent import SlowLstm

from edgerun.layers import AlphaCells, Cells, ConvSum, DenseSum, Integrators, SLstm, SumPool, Total


def current(total: int, exponent: int, fraction: int) -> int:
    """total * 2**-exponent with `fraction` fraction bits, half up where bits are lost."""
    return total << (fraction - exponent) if exponent <= fraction else half_up(total, exponent - fraction)


def fine_leak(x: int, carry: int, decay: int, drive: int) -> tuple[int, int]:
    """(x, carry) of an int32 in Q7.24."""
    t = x * decay + carry
    return sat32((t >> 15) + drive), t & 0x7FFF


def each(values: Sequence[int], n: int) -> list[int]:
    """A parameter of n neurons: its own, or that of its channel."""
    return [int(values[i % len(values)]) for i in range(n)]


class Slow:
    """A layer with its tensors as lists by part."""

    def __init__(self, spec: Any, tensors: Mapping[str, Any]) -> None:
        self.spec = spec
        self.part = {field.part: tensors[f"{spec.name}.{field.part}"].tolist() for field in spec.fields()}


class Window:
    """Every value of a window, and what may be read of them."""

    def __init__(self) -> None:
        self.values: list[list[int]] = []

    @property
    def peak(self) -> list[int]:
        return [max(column) for column in zip(*self.values, strict=True)]

    @property
    def sum(self) -> list[int]:
        return [sum(column) for column in zip(*self.values, strict=True)]

    def read(self, reading: str) -> list[int]:
        match reading:
            case "max":
                return self.peak
            case "mean":
                return [total // len(self.values) for total in self.sum]
        return self.values[-1]


class SlowDenseSum(Slow):
    spec: DenseSum

    def step(self, x: Sequence[int]) -> list[int]:
        centred = [int(v) - self.spec.zero_point for v in x]
        columns = zip(*self.part["weight"], strict=True)
        return [sum(w * v for w, v in zip(column, centred, strict=True)) for column in columns]


def seen(spec: Any, x: Sequence[int], i: int, j: int) -> list[tuple[int, int, list[int]]]:
    """(row, column, channels) of the kernel's taps that lie inside the image, for output place (i, j)."""
    (h, w, c), (top, left, _, _) = spec.input_shape, spec.padding
    found = []
    for r in range(spec.kernel[0]):
        for t in range(spec.kernel[1]):
            y = i * spec.stride[0] + r * spec.dilation[0] - top
            u = j * spec.stride[1] + t * spec.dilation[1] - left
            if 0 <= y < h and 0 <= u < w:
                found.append((r, t, [int(v) for v in x[(y * w + u) * c : (y * w + u + 1) * c]]))
    return found


class SlowConvSum(Slow):
    spec: ConvSum

    def step(self, x: Sequence[int]) -> list[int]:
        (oh, ow), zero = self.spec.outputs_size, self.spec.zero_point
        return [
            sum(w * (v - zero) for r, t, vs in seen(self.spec, x, i, j) for w, v in zip(taps[r][t], vs, strict=True))
            for i in range(oh)
            for j in range(ow)
            for taps in self.part["weight"]
        ]


class SlowSumPool(Slow):
    spec: SumPool

    def step(self, x: Sequence[int]) -> list[int]:
        (oh, ow), channels = self.spec.outputs_size, range(self.spec.input_shape[2])
        return [
            sum(vs[k] for _, _, vs in seen(self.spec, x, i, j)) for i in range(oh) for j in range(ow) for k in channels
        ]


class SlowTotal(Slow):
    spec: Total

    def step(self, *xs: Sequence[int]) -> list[int]:
        return [sum(int(v) for v in values) for values in zip(*xs, strict=True)]


class SlowNeurons(Slow):
    """What is remembered of the window: spikes, and whatever a head reads."""

    def __init__(self, spec: Any, tensors: Mapping[str, Any]) -> None:
        super().__init__(spec, tensors)
        n = self.n = spec.outputs
        self.v, self.fired, self.counts = [0] * n, [0] * n, [0] * n
        self.window = Window()
        self.threshold, self.bias = each(self.part["threshold"], n), each(self.part["bias"], n)

    def fire(self) -> list[int]:
        self.fired = [int(v >= t) for v, t in zip(self.v, self.threshold, strict=True)]
        if self.spec.inhibition:
            margins = [v - t for v, t in zip(self.v, self.threshold, strict=True)]
            best = margins.index(max(margins))
            self.fired = [z if i == best else 0 for i, z in enumerate(self.fired)]
        return list(self.fired)

    def note(self) -> None:
        self.counts = [c + z for c, z in zip(self.counts, self.fired, strict=True)]
        self.window.values.append(list(self.v))

    def reading(self) -> list[int]:
        return self.counts if self.spec.reading == "counts" else self.window.read(self.spec.reading)


class SlowCells(SlowNeurons):
    spec: Cells

    def __init__(self, spec: Cells, tensors: Mapping[str, Any]) -> None:
        super().__init__(spec, tensors)
        self.carry, self.current, self.current_carry = [0] * self.n, [0] * self.n, [0] * self.n
        self.decay = each(self.part["decay"], self.n)
        self.alpha = each(self.part.get("alpha", [0]), self.n)

    def back(self, j: int, fired: Sequence[int]) -> int:
        match self.spec.recurrence:
            case "diagonal":
                return each(self.part["recurrent"], self.n)[j] * fired[j]
            case "dense":
                total = sum(row[j] * z for row, z in zip(self.part["recurrent"], fired, strict=True))
                return current(total, self.spec.recurrent_exponent, self.spec.fraction)
        return 0

    def step(self, x: Sequence[int]) -> list[int]:
        spec, before = self.spec, list(self.fired)
        above = [int(v >= t) for v, t in zip(self.v, self.threshold, strict=True)]
        for j, total in enumerate(x):
            drive = current(int(total), spec.weight_exponent, spec.fraction) + self.bias[j] + self.back(j, before)
            if spec.reset == "zero" and above[j]:
                self.v[j] = self.carry[j] = 0
            taken = above[j] * self.threshold[j] if spec.reset == "subtract" else 0
            if spec.synaptic:
                self.current[j], self.current_carry[j] = fine_leak(
                    self.current[j], self.current_carry[j], self.alpha[j], drive
                )
                whole, rest = divmod(self.current[j], 1 << 12)
                t = self.v[j] * self.decay[j] + self.carry[j] + 8 * rest
                self.v[j], self.carry[j] = sat16((t >> 15) + whole - taken), t & 0x7FFF
            else:
                self.v[j], self.carry[j] = leak(self.v[j], self.carry[j], self.decay[j], drive - taken)
            if spec.reset == "hold" and above[j]:
                self.v[j] = self.carry[j] = 0
        fired = self.fire()
        if not spec.reset_delay:
            for j in range(self.n):
                if spec.reset == "soft":
                    self.v[j] -= fired[j] * self.threshold[j]
                elif spec.reset == "subtract":
                    self.v[j] = sat16(self.v[j] - (fired[j] - above[j]) * self.threshold[j])
                elif spec.reset != "none" and fired[j]:
                    self.v[j] = self.carry[j] = 0
        self.note()
        return fired


class SlowAlphaCells(SlowNeurons):
    spec: AlphaCells

    def __init__(self, spec: AlphaCells, tensors: Mapping[str, Any]) -> None:
        super().__init__(spec, tensors)
        self.excitatory, self.excitatory_carry, self.inhibitory, self.inhibitory_carry = (
            [0] * self.n for _ in range(4)
        )
        self.alpha, self.beta, self.tau = (each(self.part[name], self.n) for name in ("alpha", "beta", "tau"))

    def step(self, x: Sequence[int]) -> list[int]:
        above = [v >= t for v, t in zip(self.v, self.threshold, strict=True)]
        for j, total in enumerate(x):
            drive = current(int(total), self.spec.weight_exponent, 24) + self.bias[j]
            old = self.inhibitory[j]
            e, ec = fine_leak(self.excitatory[j], self.excitatory_carry[j], self.alpha[j], drive)
            i, ic = fine_leak(old, self.inhibitory_carry[j], self.beta[j], -drive)
            v = sat16(half_up((e + i) * self.tau[j], 28))
            if above[j] and self.spec.reset == "hold":
                e = ec = i = ic = v = 0
            if above[j] and self.spec.reset == "subtract":
                e, i, ic = max(-(1 << 31), e - (self.threshold[j] << 12)), 0, 0
                v = sat16(v + (old >> 12))
            self.v[j] = v
            self.excitatory[j], self.excitatory_carry[j] = e, ec
            self.inhibitory[j], self.inhibitory_carry[j] = i, ic
        fired = self.fire()
        self.note()
        return fired


class SlowIntegrators(Slow):
    spec: Integrators

    def __init__(self, spec: Integrators, tensors: Mapping[str, Any]) -> None:
        super().__init__(spec, tensors)
        n = spec.outputs
        self.v, self.carry, self.current, self.current_carry = ([0] * n for _ in range(4))
        self.bias, self.decay = each(self.part["bias"], n), each(self.part["decay"], n)
        self.alpha = each(self.part.get("alpha", [0]), n)
        self.window = Window()

    def step(self, x: Sequence[int]) -> list[int]:
        for j, total in enumerate(x):
            drive = current(int(total), self.spec.weight_exponent, 24) + self.bias[j]
            if self.spec.synaptic:
                drive, self.current_carry[j] = fine_leak(self.current[j], self.current_carry[j], self.alpha[j], drive)
                self.current[j] = drive
            self.v[j], self.carry[j] = fine_leak(self.v[j], self.carry[j], self.decay[j], drive)
        self.window.values.append(list(self.v))
        return [int(total) for total in x]

    def reading(self) -> list[int]:
        return self.window.read(self.spec.reading)


class SlowSLstm(SlowLstm):
    """An LSTM whose fresh hidden values lose their reset, spike, and only then go back as int8."""

    def __init__(self, spec: SLstm, tensors: Mapping[str, Any]) -> None:
        super().__init__(spec.lstm, tensors)
        self.threshold, self.kind = tensors[f"{spec.name}.threshold"].tolist(), spec.reset
        self.fired, self.counts = [0] * spec.outputs, [0] * spec.outputs

    def advance(self, x: Sequence[int]) -> list[int]:
        membranes = []
        for u, due, threshold in zip(self.fresh(x), self.fired, self.threshold, strict=True):
            left = {"none": u, "subtract": u - threshold, "hold": 0}[self.kind] if due else u
            membranes.append(left)
        self.fired = [int(u >= threshold) for u, threshold in zip(membranes, self.threshold, strict=True)]
        self.counts = [count + z for count, z in zip(self.counts, self.fired, strict=True)]
        self.hidden = [self.int8(u) for u in membranes]
        return list(self.fired)

    def reading(self) -> list[int]:
        return self.counts
