"""A lesson in plain Python integers, as docs/arithmetic.md says it: what rules of dense chains make of a sample, and
what factors of any rule make of weights, shadows, importance and normalisers. Slow, and shares no code with kernels.

Matrices are lists of rows. Factors of one tensor are (history (T, m), post (T, n)): G = history' post.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from reference.integers import clip, importance, pull, requantise, sat16, stochastic, word
from reference.rewiring import moved

from edgerun.arrays import AnyArray
from edgerun.rules import (
    Backprop,
    IlProx,
    MeanQuotient,
    PlasticRate,
    PredictiveCoding,
    RMaxProp,
    SequentialIl,
)
from edgerun.spec import LearningPlan, Manifest, Rewiring

Vector = list[int]
Matrix = list[list[int]]
Factors = tuple[Matrix, Matrix]
ONE, WIDE, TOP = 1 << 15, (1 << 23) - 1, 127 << 12
UPDATE, PULL, OMEGA, BOUNDARY, DECAY, NORMALISE, GROWTH = USES = (0, 1, 2, 3, 5, 7, 8)


def half(x: int, shift: int) -> int:
    """x / 2**shift, rounded half up; shift may be 0."""
    return x + (1 << shift >> 1) >> shift


def times(w: Matrix, x: Sequence[int], bias: Sequence[int] = ()) -> Vector:
    sums = [sum(a * b for a, b in zip(row, x, strict=True)) for row in w]
    return [s + b for s, b in zip(sums, bias, strict=True)] if bias else sums


def back(w: Matrix, e: Sequence[int]) -> Vector:
    """W' e."""
    return times([list(column) for column in zip(*w, strict=True)], e)


def softmax_error(logits: Sequence[int], shift: int, in_play: Sequence[bool], label: int) -> tuple[Vector, int]:
    """(p - onehot, p of the label), Q0.15; the rounding's rest goes to the label."""
    top = max(x for x, plays in zip(logits, in_play, strict=True) if plays)
    e = [
        round(ONE * math.exp(-min(255, top - x >> shift) / 32)) if plays else 0
        for x, plays in zip(logits, in_play, strict=True)
    ]
    p = [(2 * ONE * part + sum(e)) // (2 * sum(e)) for part in e]
    p[label] += ONE - sum(p)
    return [q - ONE * (k == label) for k, q in enumerate(p)], p[label]


# ------------------------------------------------------------------ dense chains


class Chain:
    """The layers of a bundle as they stand, and one sample's label."""

    def __init__(
        self, manifest: Manifest, tensors: Mapping[str, AnyArray], label: int, in_play: Sequence[bool]
    ) -> None:
        self.rule: Any = manifest.learning.rule
        names = self.rule.layers
        self.w, self.b = ([tensors[f"{name}.{part}"].tolist() for name in names] for part in ("weight", "bias"))
        self.scale = [tuple(int(tensors[f"{name}.{part}"][0]) for part in ("multiplier", "shift")) for name in names]
        fed = [f"{name}.feedback" for name in names[1:]]
        self.feedback = [tensors[name].tolist() for name in fed if name in tensors]
        self.label, self.in_play, self.last = label, in_play, len(self.w) - 1
        self.h: list[Vector] = []
        self.p: list[Vector] = []
        self.rates: list[Vector] = []

    def read(self, x: Vector) -> list[Vector]:
        """int8 that each layer reads."""
        found = [x]
        for w, b, (m, s) in [*zip(self.w, self.b, self.scale, strict=True)][:-1]:
            found.append([requantise(total, m, s, qmin=0) for total in times(w, found[-1], b)])
        return found

    def answer(self, x: Vector) -> tuple[Vector, int]:
        """The error of the answer, and p of the label."""
        logits = times(self.w[-1], self.read(x)[-1], self.b[-1])
        return softmax_error(logits, self.rule.temperature_shift, self.in_play, self.label)

    def factors(self, x: Vector) -> dict[str, Factors]:
        match self.rule:
            case Backprop():
                errors, rates = self.backprop(x), self.read(x)
            case IlProx():
                errors, rates = self.il_prox(x), self.rates
            case SequentialIl():
                errors, rates = self.sequential(x), self.rates
            case PredictiveCoding():
                errors, rates = self.predictive(x), self.rates
        found = dict(zip(self.rule.layers, zip(errors, rates, strict=True), strict=True))
        return {
            rate.tensor: ([list(e)], [list(r)])
            for rate in self.rule.rates
            for e, r in [found[rate.tensor.rpartition(".")[0]]]
        }

    def backprop(self, x: Vector) -> list[Vector]:
        reads, errors = self.read(x), [[sat16(e) for e in self.answer(x)[0]]]
        for layer in range(self.last, 0, -1):
            shift = self.rule.back_shifts[layer - 1]
            wide = [sat16(half(e, shift)) for e in back(self.w[layer], errors[0])]
            errors.insert(0, [e if y > 0 else 0 for e, y in zip(wide, reads[layer], strict=True)])
        return errors

    # -------------------------------------------------------------- activities that settle

    def start(self, x: Vector, *, most: int | None = None) -> None:
        self.rates, self.h, self.p = [[v << 8 for v in x]], [], []
        for layer in range(self.last):
            self.p.append(self.predicted(layer))
            self.h.append([v if most is None else clip(v, 0, most) for v in self.p[-1]])
            self.rates.append([])
            self.tell(layer)

    def tell(self, layer: int) -> None:
        """The rates of an activity, for the layer above to read."""
        self.rates[layer + 1] = [clip(v + 8 >> 4, 0, 127 << 8) for v in self.h[layer]]

    def predicted(self, layer: int) -> Vector:
        multiplier, shift = self.scale[layer]
        sums = times(self.w[layer], self.rates[layer], [b << 8 for b in self.b[layer]])
        drop = shift - 4
        return [half(s * multiplier, drop) if drop > 0 else s * multiplier << -drop for s in sums]

    def predict(self) -> None:
        """All but the first: its input stands still."""
        for layer in range(1, self.last):
            self.p[layer] = self.predicted(layer)

    def top(self) -> Vector:
        """onehot - softmax of the top as the activities stand."""
        sums = times(self.w[-1], self.rates[-1], [b << 8 for b in self.b[-1]])
        return [-e for e in softmax_error(sums, self.rule.temperature_shift + 8, self.in_play, self.label)[0]]

    def heard(self, layer: int, w: Matrix, e: Vector) -> Vector:
        gain = self.rule.backs[layer]
        return [half(v * gain.multiplier, gain.shift) for v in back(w, [clip(v, -WIDE, WIDE) for v in e])]

    def heard_live(self, layer: int, e: Vector) -> Vector:
        found = self.heard(layer, self.w[layer + 1], e)
        return [v if h > 0 else 0 for v, h in zip(found, self.h[layer], strict=True)]

    def il_prox(self, x: Vector) -> list[Vector]:
        rule = self.rule
        self.start(x)
        for _ in range(rule.steps):
            errors = self.prox_errors()
            moved = [
                [half(a * rule.up, 15) - half(e * rule.down, 15) for a, e in zip(heard, errors[layer], strict=True)]
                for layer in range(self.last)
                for heard in [self.heard_live(layer, errors[layer + 1])]
            ]
            for layer, change in enumerate(moved):
                self.h[layer] = [h + c for h, c in zip(self.h[layer], change, strict=True)]
                self.tell(layer)
            self.predict()
        found = []
        for layer, errors_of in enumerate(self.prox_errors()):
            norm = sum(r * r for r in self.rates[layer]) + rule.damping[layer]
            shift = rule.norm_shifts[layer] + 1
            found.append([sat16(((clip(-e, -WIDE, WIDE) << shift) + norm) // (2 * norm)) for e in errors_of])
        return found

    def prox_errors(self) -> list[Vector]:
        rule = self.rule
        square = sum(r * r for r in self.rates[-1]) + rule.damping[-1]
        a = (square >> 16) * rule.alpha.multiplier
        share = (a << 15) // (a + (1 << rule.alpha.shift))
        hidden = [[h - p for h, p in zip(*pair, strict=True)] for pair in zip(self.h, self.p, strict=True)]
        return [*hidden, [half(e * share, 15) for e in self.top()]]

    def sequential(self, x: Vector) -> list[Vector]:
        rule = self.rule
        self.start(x)
        for t in range(rule.steps):
            above = self.kept_top()
            for layer in range(self.last - 1, -1, -1):
                h, p = self.h[layer], self.p[layer]
                moved = [a - (y - q) for a, y, q in zip(self.heard_live(layer, above), h, p, strict=True)]
                self.h[layer] = [y + half(m * (rule.gain // (1 + t)), 15) for y, m in zip(h, moved, strict=True)]
                self.tell(layer)
                above = [y - q for y, q in zip(self.h[layer], p, strict=True)]
            self.predict()
        hidden = [[h - p for h, p in zip(*pair, strict=True)] for pair in zip(self.h, self.p, strict=True)]
        return self.histories([*hidden, self.kept_top()])

    def kept_top(self) -> Vector:
        return [half(e * (ONE - self.rule.kept), 15) for e in self.top()]

    def predictive(self, x: Vector) -> list[Vector]:
        rule = self.rule
        self.start(x, most=TOP)
        for _ in range(rule.steps):
            errors, deltas = self.rate_errors()
            for layer in range(self.last):
                heard = self.heard(layer, self.feedback[layer], deltas[layer + 1])
                self.h[layer] = [
                    clip(a + half(v * rule.up, 15) - half(e * rule.down, 15), 0, TOP)
                    for a, v, e in zip(self.h[layer], heard, errors[layer], strict=True)
                ]
            for layer in range(self.last):
                self.tell(layer)
            self.predict()
        return self.histories(self.rate_errors()[1])

    def rate_errors(self) -> tuple[list[Vector], list[Vector]]:
        errors = [[a - max(p, 0) for a, p in zip(*pair, strict=True)] for pair in zip(self.h, self.p, strict=True)]
        deltas = [[e if q > 0 else 0 for e, q in zip(*pair, strict=True)] for pair in zip(errors, self.p, strict=True)]
        return errors, [*deltas, self.top()]

    @staticmethod
    def histories(errors: list[Vector]) -> list[Vector]:
        return [*([sat16(half(-e, 2)) for e in hidden] for hidden in errors[:-1]), [sat16(-e) for e in errors[-1]]]


# ------------------------------------------------------------------ from factors to weights


class Widths(NamedTuple):
    """What a profile stores less of: bits of a trace and of a credit; what a shadow of weight 0 holds."""

    trace_drop: int
    credit_drop: int
    credit_bits: int
    middle: int

    def anchor(self, ref: int) -> int:
        """The shadow that an anchor stands for."""
        return (ref << 8) + self.middle if self.middle else ref

    def credited(self, omega: int) -> int:
        most = 1 << self.credit_bits - 1
        return clip(omega, -most, most - 1)


WIDTHS = {"standard": Widths(0, 8, 32, 0), "small": Widths(8, 18, 16, 128)}


def update(
    plan: LearningPlan, seed: int, number: int, index: int, factors: Factors, state: dict[str, AnyArray]
) -> None:
    """One update of the index-th plastic tensor, in place: `state` has arrays by the names of a checkpoint."""
    rule = plan.rule
    assert rule is not None
    rate, (history, post), drop = rule.rates[index], factors, WIDTHS[plan.profile].trace_drop
    shape = len(history[0]), len(post[0])
    pairs = [*zip(history, post, strict=True)]
    gradient = [[sum(h[i] * p[j] for h, p in pairs) for j in range(shape[1])] for i in range(shape[0])]
    shift = rate.shift + halvings(rate, squared_norm([[h << drop for h in row] for row in history], post)) - drop
    for at, place in enumerate(np.ndindex(*shape)):
        words = {use: word(seed, number, 16 * index + use, at) for use in USES}
        change(plan, rate, shift, gradient[place[0]][place[1]], state, place, words)
    if isinstance(plan.normaliser, MeanQuotient):
        follow(state[f"mean.{rate.tensor}"], gradient, number, plan.normaliser.memory)


def change(
    plan: LearningPlan, rate: PlasticRate, shift: int, gradient: int, state: dict[str, AnyArray],
    place: tuple[int, ...], words: Mapping[int, int],
) -> None:  # fmt: skip
    """One weight's share of an update, in place."""
    widths, shadow = WIDTHS[plan.profile], state[f"shadow.{rate.tensor}"]
    before = int(shadow[place])
    n = normalised(plan, rate, gradient, state, place, words[NORMALISE])
    d = stochastic(-n * rate.eta, shift, words[UPDATE])
    if rate.decay_shift:
        d -= stochastic(before - widths.middle, rate.decay_shift, words[DECAY])
    living = lives(plan, state, rate.tensor, place)
    if plan.intelligence:
        code, ref = int(state[f"importance.{rate.tensor}"][place]), int(state[f"ref.{rate.tensor}"][place])
        strength = own(plan, plan.intelligence.strength, rate.tensor)
        d += pull(code, widths.anchor(ref) - before, strength, words[PULL])
    if not living:
        d, growth = 0, state[f"growth.{rate.tensor}"]
        g = sat16(half(gradient, plan.rule.gradient_shift - widths.trace_drop)) if plan.rule else 0
        growth[place] = sat16(int(growth[place]) + stochastic(g, rewiring(plan).growth_shift, words[GROWTH]))
    most = widths.middle + 32512
    shadow[place] = clip(before + clip(d, -rate.max_step, rate.max_step), 2 * widths.middle - most, most)
    if plan.intelligence and plan.rule:
        g = sat16(half(gradient, plan.rule.gradient_shift - widths.trace_drop))
        omega, made = state[f"omega.{rate.tensor}"], int(shadow[place]) - before
        credit = stochastic(-g * made, widths.credit_drop, words[OMEGA])
        omega[place] = widths.credited(int(omega[place]) + credit)


def own(plan: LearningPlan, numbers: int | tuple[int, ...], tensor: str) -> int:
    """A tensor's own number of those that its rates are in the order of, or the one for all."""
    rates = plan.rule.rates if plan.rule else ()
    return numbers if isinstance(numbers, int) else dict(zip([r.tensor for r in rates], numbers, strict=True))[tensor]


def rewiring(plan: LearningPlan) -> Rewiring:
    """What moves synapses; nothing is asked of one where nothing does."""
    return plan.rewiring if isinstance(plan.rewiring, Rewiring) else Rewiring()


def lives(plan: LearningPlan, state: Mapping[str, AnyArray], tensor: str, place: tuple[int, ...]) -> bool:
    """Whether there is a synapse: bit j of row i, the first of a byte the highest."""
    if not isinstance(plan.rewiring, Rewiring):
        return True
    return bool(int(state[f"mask.{tensor}"][place[0], place[1] // 8]) >> 7 - place[1] % 8 & 1)


def move(plan: LearningPlan, tensor: str, state: dict[str, AnyArray]) -> None:
    """The weakest synapses go and as many grow, in place."""
    middle, shadow = WIDTHS[plan.profile].middle, state[f"shadow.{tensor}"]
    living = np.array([lives(plan, state, tensor, place) for place in np.ndindex(*shadow.shape)]).reshape(shadow.shape)
    codes = state.get(f"importance.{tensor}", np.zeros(shadow.shape, np.uint8))
    growth, share = state[f"growth.{tensor}"], rewiring(plan).share / ONE
    gone, grown = moved(shadow.astype(float) - middle, 8.0 + codes, living, growth.astype(float), share)
    shadow[gone] = middle
    for kind in ("importance", "omega", "ref"):
        if f"{kind}.{tensor}" in state:
            state[f"{kind}.{tensor}"][gone] = 0
    growth[...] = 0
    state[f"mask.{tensor}"][...] = np.packbits(living & ~gone | grown, axis=1)


def weights(plan: LearningPlan, shadow: AnyArray) -> AnyArray:
    """int8 weights of a shadow."""
    half_up = 128 - WIDTHS[plan.profile].middle
    rows = [[clip(int(s) + half_up >> 8, -127, 127) for s in row] for row in shadow]
    return np.array(rows, np.int8)


def squared_norm(history: Matrix, post: Matrix) -> int:
    """|G|**2 / 2**24, without G."""
    total = 0
    for h, p in zip(history, post, strict=True):
        for other_h, other_p in zip(history, post, strict=True):
            total += (sum(map(int.__mul__, h, other_h)) >> 12) * (sum(map(int.__mul__, p, other_p)) >> 12)
    return max(0, total)


def halvings(rate: PlasticRate, norm: int) -> int:
    """The fewest with |G| * eta <= max_norm * 2**(shift + e)."""
    e, size = 0, (norm << 24) * rate.eta**2
    while rate.max_norm and rate.shift + e < 30 and size > rate.max_norm**2 << 2 * (rate.shift + e):
        e += 1
    return e


def normalised(
    plan: LearningPlan,
    rate: PlasticRate,
    gradient: int,
    state: Mapping[str, AnyArray],
    at: tuple[int, ...],
    random: int,
) -> int:
    """What stands for G in the descent."""
    match plan.normaliser:
        case MeanQuotient():
            mean = int(state[f"mean.{rate.tensor}"][0])
            e = clip((mean + (mean >> 1)).bit_length() - 1 - 18, -30, 30)
            if not mean:
                return 0
            return stochastic(gradient, e, random) if e >= 0 else clip(gradient, -(1 << 28), 1 << 28) << -e
        case RMaxProp(fade=fade, floor=floor):
            codes = state[f"largest.{rate.tensor}"]
            size = min(abs(gradient), 15 << 30)
            c = max(ceiling(size), int(codes[at]) - stochastic(fade, 8, random), ceiling(1 << floor))
            codes[at] = c
            m, e = (c, 0) if c < 8 else (8 + (c & 7), (c >> 3) - 1)
            n = size * ((1 << 22) // m) >> e + 7
            return n if gradient > 0 else -n
    return gradient


def ceiling(size: int) -> int:
    """The least code of RMaxProp that stands for at least so much."""
    return next(c for c in range(256) if size <= (c if c < 8 else (8 + (c & 7)) << (c >> 3) - 1))


def follow(mean: AnyArray, gradients: Matrix, number: int, memory: int) -> None:
    """MQ's mean after an update."""
    sizes = [abs(g) for row in gradients for g in row]
    mean[0] = int(mean[0]) + ((sum(sizes) << 8) // len(sizes) - int(mean[0])) // min(number + 1, 1 << memory)


def boundary(plan: LearningPlan, seed: int, number: int, index: int, tensor: str, state: dict[str, AnyArray]) -> None:
    """Credit becomes importance and the anchor moves, in place."""
    widths, damping = WIDTHS[plan.profile], own(plan, plan.intelligence.damping, tensor) if plan.intelligence else 0
    code, ref, omega, shadow = (state[f"{part}.{tensor}"] for part in ("importance", "ref", "omega", "shadow"))
    for at, place in enumerate(np.ndindex(*shadow.shape)):
        moved = int(shadow[place]) - widths.anchor(int(ref[place]))
        random = word(seed, number, 16 * index + BOUNDARY, at)
        code[place] = importance(int(code[place]), int(omega[place]), moved, damping, random, widths.credit_drop)
        ref[place], omega[place] = int(shadow[place]) >> 8 if widths.middle else shadow[place], 0
