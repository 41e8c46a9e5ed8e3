"""The chain from a gradient to a written weight: normalise -> descend -> pull -> limit and write -> credit.

A stage holds numbers, never arrays; the arrays it needs are slots, so a rule is priced before it runs and its state is
checkpointed by name. Steps come in row blocks: no working array of a whole layer exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
from msgspec import UnsetType

from edgerun.arrays import F32, I8, I16, I32, U32, AnyArray, Bool, Places, Tensors
from edgerun.kernels import eprop, mq, plasticity, rmaxprop
from edgerun.kernels.noise import Use, fill_rows, fill_words, key, row_starts, stream
from edgerun.learn.profiles import PROFILES, Profile
from edgerun.plan import Slot
from edgerun.spec import Intelligence, MeanQuotient, PlasticRate, RMaxProp

NARROW: Final = 1 << 30
"""Under it no sum or rounding leads out of 32 bits."""
SCRATCH: Final = ("block.gradient", "block.small", "block.wanted", "block.made", "block.words")


@dataclass(frozen=True, slots=True)
class Factors:
    """The gradient of one tensor as it is stored: G = 2**drop * history.T @ post.

    history  (T, m)  int16, or int8 with a drop of 8     post, floats  (T, n)  int16, and the same where it is kept so
    """

    history: I8 | I16
    post: I16
    drop: int = 0
    floats: F32 | None = None

    def rows(self, rows: slice | Places) -> I8 | I16:
        """The history of some rows."""
        return self.history[:, rows] if isinstance(rows, slice) else self.history.take(rows, axis=1)


@dataclass(slots=True)
class Step:
    """One row block of one tensor's update, on its way along the chain.

    gradient  (rows, n)  int64 or int32  G / 2**drop, task only     wanted  (rows, n)  int32  what the stages agree on
    small     (rows, n)  int16  sat16(G >> sg)                      made    (rows, n)  int16  the change really made
    spare     the whole memory of the gradient, for products where it is not in use
    rows      a span of the tensor, or places     places  (rows,)  the same as places     starts  (rows, 1)  of words

    Arrays of a span are views; of places they are copies, which whoever writes has to put back.
    """

    tensor: str
    index: int  # position in the learning plan: names the noise streams
    rows: slice | Places
    places: Places
    starts: U32
    shadow: I16
    spare: F32
    gradient: AnyArray
    small: I16
    wanted: I32
    made: I16
    words: U32
    seed: int
    update: int

    def noise(self, use: Use) -> U32:
        """This block's words for one use; overwritten by the next call."""
        fill_rows(self.words, key(self.seed, self.update, stream(self.index, use)), self.starts)
        return self.words


class Stage(Protocol):
    """`apply` works before the write, `settle` after it, on rows that have a gradient and rows that `stirs` names."""

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]: ...
    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...
    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...
    def stirs(self, tensor: str, state: Mapping[str, AnyArray]) -> Bool: ...


class Before(Protocol):
    """What works on a gradient before the descent, on all rows."""

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]: ...
    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...
    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...


@dataclass(frozen=True, slots=True)
class Consolidation:
    """Synaptic intelligence: pull back weights that mattered, credit those that helped (Zenke et al. 2017)."""

    spec: Intelligence
    profile: Profile = PROFILES["standard"]

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
        return {
            f"ref.{tensor}": Slot(shape, self.profile.anchor, "si"),
            f"omega.{tensor}": Slot(shape, self.profile.credit, "si"),
            f"importance.{tensor}": Slot(shape, "uint8", "si"),
        }

    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        code, ref = state[f"importance.{step.tensor}"][step.rows], state[f"ref.{step.tensor}"][step.rows]
        strength = self.spec.strength_of(step.index)
        plasticity.pull(step.wanted, code, ref, step.shadow, strength, step.noise(Use.PULL))

    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        whole = state[f"omega.{step.tensor}"]
        omega = whole[step.rows]
        plasticity.credit(omega, step.small, step.made, step.noise(Use.OMEGA), self.profile.credit_drop)
        put(whole, step.rows, omega)

    def stirs(self, tensor: str, state: Mapping[str, AnyArray]) -> Bool:
        """Rows with a weight that mattered."""
        code = state[f"importance.{tensor}"]
        return np.not_equal(code.max(axis=1, initial=0), 0) if code.any() else np.zeros(len(code), np.bool_)

    def consolidate(self, tensor: str, index: int, state: Mapping[str, AnyArray], seed: int, update: int) -> None:
        """Turn credit into importance, block by block, and move the anchor here."""
        shadow, damping = state[f"shadow.{tensor}"], self.spec.damping_of(index)
        for rows in blocks(len(shadow), self.profile.block_rows):
            words = np.empty(shadow[rows].shape, np.uint32)
            fill_words(words, key(seed, update, stream(index, Use.IMPORTANCE)), rows.start * shadow.shape[1])
            code, ref, omega = (state[f"{kind}.{tensor}"][rows] for kind in ("importance", "ref", "omega"))
            plasticity.consolidate(code, ref, omega, shadow[rows], damping, words, self.profile.credit_drop)


@dataclass(frozen=True, slots=True)
class Normaliser:
    """RMaxProp: the gradient in units of the largest that each weight has met, in Q0.15 (Zenke and Ganguli 2018).

    It works before the descent, so that the rate's own step follows; `step.small` keeps the gradient as it came.
    """

    spec: RMaxProp

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
        return {f"largest.{tensor}": Slot(shape, "uint8", "state")}

    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        code = state[f"largest.{step.tensor}"][step.rows]
        rmaxprop.normalise(step.gradient, code, self.spec.fade, self.spec.floor, step.noise(Use.NORMALISE))

    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        """Nothing: the largest gradients are told from gradients alone."""


@dataclass(frozen=True, slots=True)
class Quotient:
    """MQ: the gradient over its tensor's own running mean size, by a shift (Alonso, Krichmar, Neftci 2024).

    It works before the descent, as `Normaliser` does. mean (2,): the running mean in Q8, and this update's sum so far.
    """

    spec: MeanQuotient

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
        return {f"mean.{tensor}": Slot((2,), "int64", "state")}

    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        mean = state[f"mean.{step.tensor}"]
        mean[1] += mq.size(step.gradient)
        mq.quotient(step.gradient, int(mean[0]), step.noise(Use.NORMALISE))

    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        """After the last rows, follow what this update measured."""
        mean, whole = state[f"mean.{step.tensor}"], state[f"shadow.{step.tensor}"]
        if step.places[-1] + 1 == len(whole):
            mean[0] = mq.follow(int(mean[0]), int(mean[1]), whole.size, step.update, self.spec.memory)
            mean[1] = 0


def normaliser_of(spec: RMaxProp | MeanQuotient | UnsetType) -> Before | None:
    """What a plan's normaliser does; None where the rates alone make a step of a gradient."""
    match spec:
        case RMaxProp():
            return Normaliser(spec)
        case MeanQuotient():
            return Quotient(spec)
    return None


def blocks(rows: int, block: int) -> Iterator[slice]:
    """Row blocks of a tensor, in order."""
    for first in range(0, rows, block):
        yield slice(first, min(first + block, rows))


def slots(tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
    """What any plastic tensor needs beside its int8 weights."""
    return {f"shadow.{tensor}": Slot(shape, "int16", "weights")}


def scratch_slots(width: int, profile: Profile = PROFILES["standard"]) -> Mapping[str, Slot]:
    """Working memory of `update`, shared by all tensors."""
    shape = (profile.block_rows, width)
    return {
        "block.gradient": Slot(shape, profile.gradient, "scratch"),
        "block.wanted": Slot(shape, "int32", "scratch"),
        "block.small": Slot(shape, "int16", "scratch"),
        "block.made": Slot(shape, "int16", "scratch"),
        "block.words": Slot(shape, "uint32", "scratch"),
    }


def update(
    rate: PlasticRate,
    index: int,
    factors: Factors,
    weights: I8 | None,
    state: Tensors,
    stages: tuple[Stage, ...],
    *,
    gradient_shift: int,
    seed: int,
    number: int,
    normaliser: Before | None = None,
    profile: Profile = PROFILES["standard"],
) -> int:
    """Apply one update to one tensor; returns the squared norm of the change made, in shadow LSB.

    d = SR(-G * eta, shift + e), of G normalised where there is a normaliser, less the decay, then each stage's pull,
    then clip and write, then each stage's credit.

    weights  the int8 copy that follows the shadow; None where the network reads the shadow itself
    """
    drop, middle, bounds = factors.drop, profile.middle, Bounds.of(factors)
    norm = eprop.squared_norm(factors.history, factors.post, drop) if rate.max_norm else 0
    shift = rate.shift + plasticity.limit_shift(norm, rate.eta, rate.shift, rate.max_norm) - drop
    stirred = [(stage, stage.stirs(rate.tensor, state)) for stage in stages]
    acting = [stage for stage, rows in stirred if rows.any()]
    elsewhere = normaliser is not None or rate.decay_shift > 0  # whether rows without a gradient change as well
    far = (bounds.reach * rate.eta >> shift) + 1  # no step of a gradient alone is longer
    whole, changed = state[f"shadow.{rate.tensor}"], 0
    room = plasticity.room_of(whole, middle)
    moving = None if elsewhere or room < 0 else _moving(bounds.peaks, [rows for _, rows in stirred])
    for rows, places in _parts(moving, len(whole), state["block.words"].size // whole.shape[1]):
        step = _new_step(rate.tensor, index, rows, places, whole, state, seed, number)
        if normaliser is None:
            _descend(step, factors, bounds, rate.eta, shift, gradient_shift - drop if stages else None)
        else:
            _descend_normalised(step, factors, bounds, rate.eta, shift, gradient_shift - drop, normaliser, state)
        if rate.decay_shift:
            plasticity.fade(step.wanted, step.shadow, rate.decay_shift, step.noise(Use.DECAY), middle)
        for stage in acting:
            stage.apply(step, state)
        if acting or elsewhere or far > rate.max_step:
            plasticity.write(step.made, step.shadow, step.wanted, rate.max_step, middle)
        elif far > room:
            plasticity.write_within(step.made, step.shadow, step.wanted, middle)
        else:
            plasticity.write_freely(step.made, step.shadow, step.wanted)
        put(whole, rows, step.shadow)
        if weights is not None:
            copy = weights[rows] if isinstance(rows, slice) else np.empty(step.shadow.shape, np.int8)
            plasticity.weights_within(copy, step.shadow)
            put(weights, rows, copy)
        if normaliser is not None:
            normaliser.settle(step, state)
        for stage in stages:
            stage.settle(step, state)
        changed += plasticity.squared(step.made)
    return changed


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no element of a gradient is above, each row's by `peaks`.

    peaks  (m,)  max_t|trace|     loads  a tile of steps  max_j sum_t|post_j|     reach  of all
    """

    peaks: I32
    loads: tuple[int, ...]
    reach: int

    @classmethod
    def of(cls, factors: Factors) -> Bounds:
        peaks, loads = eprop.peaks(factors.history), eprop.tile_loads(factors.post)
        return cls(peaks, loads, int(peaks.max(initial=0)) * sum(loads))


def _descend(step: Step, factors: Factors, bounds: Bounds, eta: int, shift: int, small_shift: int | None) -> None:
    """wanted <- SR(-G * eta, shift), small <- sat16(G >> small_shift) where that is asked for.

    Numbers that fit 32 bits stay there, in the memory of what is wanted.
    """
    history, reach = factors.rows(step.rows), bounds.reach
    once = len(history) == 1 and reach * max(1, eta) >= NARROW and step.gradient.itemsize == 8
    gradient = step.wanted if once or reach * max(1, eta) < NARROW else step.gradient
    if small_shift is not None or not once:
        top = int(bounds.peaks[step.rows].max(initial=0))
        spare = None if gradient is step.gradient else step.spare
        if factors.floats is None or spare is None:
            eprop.gradient(gradient, history, factors.post, top, bounds.loads)
        else:
            eprop.gradient_spans(gradient, history, factors.floats, top, bounds.loads, spare)
    if small_shift is not None:
        plasticity.small_gradient(step.small, gradient, small_shift, reach)
    words = step.noise(Use.UPDATE)
    if once:
        eprop.gradient(step.gradient, history.astype(np.int64) * -eta, factors.post)
        plasticity.descend(step.wanted, step.gradient, shift, words, reach * eta)
    else:
        plasticity.wanted_step(step.wanted, gradient, eta, shift, words, reach)


def _descend_normalised(
    step: Step,
    factors: Factors,
    bounds: Bounds,
    eta: int,
    shift: int,
    small_shift: int,
    normaliser: Before,
    state: Tensors,
) -> None:
    """The same of a gradient that is normalised first; `small` keeps it as it came."""
    top = int(bounds.peaks[step.rows].max(initial=0))
    eprop.gradient(step.gradient, factors.history[:, step.rows], factors.post, top, bounds.loads)
    plasticity.small_gradient(step.small, step.gradient, small_shift)
    normaliser.apply(step, state)
    plasticity.wanted_step(step.wanted, step.gradient, eta, shift, step.noise(Use.UPDATE))


def put(whole: AnyArray, rows: slice | Places, values: AnyArray) -> None:
    """whole[rows] <- values, where they are a copy and no view."""
    if not isinstance(rows, slice):
        whole[rows] = values


def _moving(peaks: I32, stirred: list[Bool]) -> Places:
    """Rows that an update can change: SR(0) is 0 under any word, so a row that nothing came in by stays as it is."""
    moving: Bool = peaks != 0
    for rows in stirred:
        moving |= rows
    return moving.nonzero()[0]


def _parts(moving: Places | None, rows: int, count: int) -> Iterator[tuple[slice | Places, Places]]:
    """So many rows at a time, as what indexes them and as places: spans where all move, else those that do."""
    if moving is None or len(moving) == rows:
        for span in blocks(rows, count):
            yield span, np.arange(span.start, span.stop)
    else:
        for span in blocks(len(moving), count):
            yield moving[span], moving[span]


def _new_step(
    tensor: str, index: int, rows: slice | Places, places: Places, whole: I16, state: Tensors, seed: int, number: int
) -> Step:
    """A step over the shared working memory, cut to this block's shape."""
    shadow = whole[rows] if isinstance(rows, slice) else whole.take(rows, axis=0)
    gradient, small, wanted, made, words = (_cut(state[name], shadow) for name in SCRATCH)
    starts, spare = row_starts(places, shadow.shape[1]), state["block.gradient"].reshape(-1).view(np.float32)
    return Step(tensor, index, rows, places, starts, shadow, spare, gradient, small, wanted, made, words, seed, number)


def _cut(scratch: AnyArray, like: AnyArray) -> AnyArray:
    """As much of it as `like` needs, in its shape."""
    return scratch.reshape(-1)[: like.size].reshape(like.shape)
