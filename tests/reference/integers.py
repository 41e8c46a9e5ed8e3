"""`docs/arithmetic.md` once more, one number at a time, in Python integers that cannot wrap. Slow on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgerun.spec import Lif, Readout

MASK = 0xFFFFFFFF
GOLDEN = 0x9E3779B9


def clip(x: int, low: int, high: int) -> int:
    return min(max(x, low), high)


def sat16(x: int) -> int:
    return clip(x, -(1 << 15), (1 << 15) - 1)


def sat32(x: int) -> int:
    return clip(x, -(1 << 31), (1 << 31) - 1)


def half_up(x: int, shift: int) -> int:
    """x / 2**shift, rounded half up."""
    return (x + (1 << (shift - 1))) >> shift


def requantise(acc: int, multiplier: int, shift: int, zero_point: int = 0, qmin: int = -128, qmax: int = 127) -> int:
    return clip(half_up(acc * multiplier, shift) + zero_point, qmin, qmax)


def dense(
    x: Sequence[int],
    weight: Sequence[Sequence[int]],
    bias: Sequence[int],
    multiplier: Sequence[int],
    shift: Sequence[int],
    zero_point: int,
    qmin: int,
    qmax: int,
) -> list[int]:
    """One sample through one dense layer; weight (out, in)."""
    sums = [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]
    return [requantise(s, m, k, zero_point, qmin, qmax) for s, m, k in zip(sums, multiplier, shift, strict=True)]


def leak(x: int, carry: int, decay: int, drive: int) -> tuple[int, int]:
    """(x, carry) after one step of the leak that all int16 state shares."""
    t = x * decay + carry
    return sat16((t >> 15) + drive), t & 0x7FFF


def traces(pre: Sequence[Sequence[int]], decay: int, last: int, *, late: int = 0, drop: int = 0) -> list[list[int]]:
    """Traces of spikes (T, m) after each of the last steps; with `drop`, their high bits, what is left going along."""
    gain = max(0, (32767 * (32768 - decay) >> 15).bit_length() - 1)
    found: list[list[int]] = [[] for _ in range(last)]
    for unit in zip(*pre, strict=True):
        x, carry, rest = 0, 0, 1 << drop >> 1
        for t in range(len(pre)):
            x, carry = leak(x, carry, decay, unit[t - late] << gain if t >= late else 0)
            if t >= len(pre) - last:
                found[t - len(pre) + last].append(min(x + rest >> drop, 32767 >> drop))
                rest = x + rest & (1 << drop) - 1
    return found


def phase_rate(u: int, steps: int, full: int) -> list[int]:
    """phase <- phase + u; spike where phase >= full; phase <- phase - full * spike."""
    u, phase, spikes = clip(u, 0, full), full // 2, []
    for _ in range(steps):
        phase += u
        spikes.append(int(phase >= full))
        phase -= full * spikes[-1]
    return spikes


def current(total: int, exponent: int) -> int:
    """A weighted sum in Q3.12; a weight is w * 2**-exponent."""
    return total << (12 - exponent) if exponent <= 12 else half_up(total, exponent - 12)


@dataclass
class Neuron:
    """The whole state of one LIF or ALIF neuron."""

    v: int = 0
    carry: int = 0
    adaptation: int = 0
    adaptation_carry: int = 0
    resting: int = 0
    fired: int = 0
    psi: int = 0

    def clear_membrane(self) -> None:
        self.v = self.carry = 0


@dataclass
class SlowLif:
    """A Lif layer, neuron by neuron, in the order of a step that the page gives."""

    spec: Lif
    tensors: Mapping[str, Any]
    neurons: list[Neuron] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.neurons = [Neuron() for _ in range(self.spec.outputs)]

    def part(self, name: str) -> Any:
        return self.tensors[f"{self.spec.name}.{name}"].tolist()

    def step(self, x: Sequence[int]) -> list[int]:
        spec, before = self.spec, [neuron.fired for neuron in self.neurons]
        for j, neuron in enumerate(self.neurons):
            total = sum(row[j] * int(s) for row, s in zip(self.part("input"), x, strict=True))
            if spec.recurrent:
                back = sum(row[j] * z for row, z in zip(self.part("recurrent"), before, strict=True))
                total += back * 2**spec.recurrent_shift
            self._advance(neuron, j, current(total, spec.weight_exponent) + self.part("bias")[j])
        return [neuron.fired for neuron in self.neurons]

    def _advance(self, n: Neuron, j: int, drive: int) -> None:
        spec = self.spec
        if spec.reset_delay and n.fired:
            if spec.reset == "subtract":
                drive -= spec.threshold
            elif spec.reset == "zero":
                n.clear_membrane()
        if spec.adaptive:
            n.adaptation, n.adaptation_carry = leak(
                n.adaptation, n.adaptation_carry, self.part("rho")[j], self.part("beta")[j] * n.fired
            )
        n.v, n.carry = leak(n.v, n.carry, self.part("decay")[j], drive)
        if spec.reset == "hold" and spec.reset_delay and n.fired:
            n.clear_membrane()
        margin = n.v - (spec.threshold + n.adaptation)
        ready = n.resting == 0
        n.fired = int(margin >= 0 and ready)
        width = spec.threshold if spec.threshold >= 256 else 4096
        n.psi = min(255, max(0, width - abs(margin)) * 256 // width) if ready else 0
        n.resting = spec.refractory_steps if n.fired else max(0, n.resting - 1)
        if not spec.reset_delay and n.fired:
            if spec.reset == "subtract":
                n.v -= spec.threshold
            elif spec.reset in ("zero", "hold"):
                n.clear_membrane()


@dataclass
class SlowReadout:
    """Leaky integrators in Q7.24, one class at a time."""

    spec: Readout
    tensors: Mapping[str, Any]

    def __post_init__(self) -> None:
        self.y, self.carry = [0] * self.spec.outputs, [0] * self.spec.outputs

    def step(self, x: Sequence[int]) -> list[int]:
        weight, bias, kappa = (self.tensors[f"{self.spec.name}.{p}"].tolist() for p in ("input", "bias", "kappa"))
        for k in range(self.spec.outputs):
            total = sum(row[k] * int(s) for row, s in zip(weight, x, strict=True))
            t = self.y[k] * kappa[k] + self.carry[k]
            self.carry[k] = t & 0x7FFF
            self.y[k] = sat32((t >> 15) + (total << (24 - self.spec.weight_exponent)) + bias[k])
        return list(self.y)


# ------------------------------------------------------------------ noise and plasticity


def mix(x: int) -> int:
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x = x * 0x846CA68B & MASK
    return x ^ x >> 16


def word(seed: int, update: int, stream: int, i: int) -> int:
    k = 0
    for part in (seed & MASK, seed >> 32 & MASK, update & MASK, update >> 32 & MASK, stream):
        k = mix((k ^ part) + GOLDEN & MASK)
    x = i * 0x9E3779B1 + k & MASK
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK
    x ^= x >> 15
    x ^= mix(k + GOLDEN & MASK)
    x = x * 0x846CA68B & MASK
    return x ^ x >> 16


def stochastic(x: int, shift: int, random: int) -> int:
    """SR(x, k) with the word `random`."""
    return (x + (random & ((1 << shift) - 1))) >> shift


def decode(code: int) -> int:
    return code if code < 8 else (8 + (code & 7)) << ((code >> 3) - 1)


def encode(value: int, random: int) -> int:
    """The four leading bits, the others dropped by SR."""
    value = min(value, decode(231))
    drop = max(0, value.bit_length() - 4)
    mantissa = stochastic(value, drop, random)
    if mantissa == 16:
        mantissa, drop = 8, drop + 1
    return min(231, mantissa if mantissa < 8 else (drop + 1) * 8 + (mantissa & 7))


def pull(code: int, distance: int, strength: int, random: int) -> int:
    """The pull on a weight that is `distance` = ref - shadow away from its anchor."""
    mantissa, octave = (code, 0) if code < 8 else (8 + (code & 7), (code >> 3) - 1)
    shift = max(4, strength - octave)
    return 0 if shift > 30 else stochastic(mantissa * distance, shift, random)


def importance(code: int, omega: int, moved: int, damping: int, random: int, drop: int = 8) -> int:
    """The code of Omega after a boundary; a credit counts 2**drop."""
    den = (moved * moved >> 8) + damping
    return encode(decode(code) + (max(0, omega) << 8 + drop) // den, random)
