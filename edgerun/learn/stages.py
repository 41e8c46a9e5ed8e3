"""The chain from a gradient to a written weight: normalise -> descend -> pull -> limit and write -> credit.

A stage holds numbers, never arrays; the arrays it needs are slots, so a rule is priced before it runs and its state is
checkpointed by name. Steps come in row blocks: no working array of a whole layer exists.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from msgspec import UnsetType

from edgerun.arrays import I8, I16, I32, I64, U32, AnyArray, Tensors
from edgerun.kernels import eprop, mq, plasticity, rmaxprop
from edgerun.kernels.noise import Use, fill_words, key, stream
from edgerun.plan import Slot
from edgerun.spec import Intelligence, MeanQuotient, PlasticRate, RMaxProp

BLOCK_ROWS = 32


@dataclass(frozen=True, slots=True)
class Factors:
    """The gradient of one tensor as it is stored: G = history.T @ post.    history (T, m) int16, post (T, n) int16."""

    history: I16
    post: I16


@dataclass(slots=True)
class Step:
    """One row block of one tensor's update, on its way along the chain.

    gradient  (rows, n)  int64  G, task only         wanted  (rows, n)  int64  the change that the stages agree on
    small     (rows, n)  int32  sat16(G >> sg)       made    (rows, n)  int32  the change of the shadow really made
    """

    tensor: str
    index: int  # position in the learning plan: names the noise streams
    rows: slice
    shadow: I16
    weights: I8
    gradient: I64
    small: I32
    wanted: I64
    made: I32
    words: U32
    seed: int
    update: int

    def noise(self, use: Use) -> U32:
        """This block's words for one use; overwritten by the next call."""
        first = self.rows.start * self.shadow.shape[1]
        fill_words(self.words, key(self.seed, self.update, stream(self.index, use)), first)
        return self.words


class Stage(Protocol):
    """`apply` works before the write, `settle` after it."""

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]: ...
    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...
    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None: ...


@dataclass(frozen=True, slots=True)
class Consolidation:
    """Synaptic intelligence: pull back weights that mattered, credit those that helped (Zenke et al. 2017)."""

    spec: Intelligence

    def slots(self, tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
        return {
            f"ref.{tensor}": Slot(shape, "int16", "si"),
            f"omega.{tensor}": Slot(shape, "int32", "si"),
            f"importance.{tensor}": Slot(shape, "uint8", "si"),
        }

    def apply(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        code, ref = state[f"importance.{step.tensor}"][step.rows], state[f"ref.{step.tensor}"][step.rows]
        plasticity.pull(step.wanted, code, ref, step.shadow, self.spec.strength, step.noise(Use.PULL))

    def settle(self, step: Step, state: Mapping[str, AnyArray]) -> None:
        plasticity.credit(state[f"omega.{step.tensor}"][step.rows], step.small, step.made, step.noise(Use.OMEGA))

    def consolidate(self, tensor: str, index: int, state: Mapping[str, AnyArray], seed: int, update: int) -> None:
        """Turn credit into importance, block by block, and move the anchor here."""
        shadow = state[f"shadow.{tensor}"]
        for rows in blocks(len(shadow)):
            words = np.empty(shadow[rows].shape, np.uint32)
            fill_words(words, key(seed, update, stream(index, Use.IMPORTANCE)), rows.start * shadow.shape[1])
            code, ref, omega = (state[f"{kind}.{tensor}"][rows] for kind in ("importance", "ref", "omega"))
            plasticity.consolidate(code, ref, omega, shadow[rows], self.spec.damping, words)


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
        if step.rows.stop == len(whole):
            mean[0] = mq.follow(int(mean[0]), int(mean[1]), whole.size, step.update, self.spec.memory)
            mean[1] = 0


def normaliser_of(spec: RMaxProp | MeanQuotient | UnsetType) -> Stage | None:
    """What a plan's normaliser does; None where the rates alone make a step of a gradient."""
    match spec:
        case RMaxProp():
            return Normaliser(spec)
        case MeanQuotient():
            return Quotient(spec)
    return None


def blocks(rows: int) -> Iterator[slice]:
    """Row blocks of a tensor, in order."""
    for first in range(0, rows, BLOCK_ROWS):
        yield slice(first, min(first + BLOCK_ROWS, rows))


def slots(tensor: str, shape: tuple[int, ...]) -> Mapping[str, Slot]:
    """What any plastic tensor needs beside its int8 weights."""
    return {f"shadow.{tensor}": Slot(shape, "int16", "weights")}


def scratch_slots(width: int) -> Mapping[str, Slot]:
    """Working memory of `update`, shared by all tensors."""
    shape = (BLOCK_ROWS, width)
    return {
        "block.gradient": Slot(shape, "int64", "scratch"),
        "block.wanted": Slot(shape, "int64", "scratch"),
        "block.small": Slot(shape, "int32", "scratch"),
        "block.made": Slot(shape, "int32", "scratch"),
        "block.words": Slot(shape, "uint32", "scratch"),
    }


def update(
    rate: PlasticRate,
    index: int,
    factors: Factors,
    weights: I8,
    state: Tensors,
    stages: tuple[Stage, ...],
    *,
    gradient_shift: int,
    seed: int,
    number: int,
    normaliser: Stage | None = None,
) -> int:
    """Apply one update to one tensor; returns the squared norm of the change made, in shadow LSB.

    d = SR(-G * eta, shift + e), of G normalised where there is a normaliser, less the decay, then each stage's pull,
    then clip and write, then each stage's credit.
    """
    norm = eprop.squared_norm(factors.history, factors.post)
    shift = rate.shift + plasticity.limit_shift(norm, rate.eta, rate.shift, rate.max_norm)
    whole, changed = state[f"shadow.{rate.tensor}"], 0
    for rows in blocks(len(whole)):
        step = _new_step(rate.tensor, index, rows, whole[rows], weights[rows], state, seed, number)
        eprop.gradient(step.gradient, factors.history[:, rows], factors.post)
        plasticity.small_gradient(step.small, step.gradient, gradient_shift)
        if normaliser is not None:
            normaliser.apply(step, state)
        plasticity.wanted_step(step.wanted, step.gradient, rate.eta, shift, step.noise(Use.UPDATE))
        if rate.decay_shift:
            plasticity.fade(step.wanted, step.shadow, rate.decay_shift, step.noise(Use.DECAY))
        for stage in stages:
            stage.apply(step, state)
        plasticity.write(step.made, step.shadow, step.wanted, rate.max_step)
        plasticity.weights_from_shadow(step.weights, step.shadow)
        if normaliser is not None:
            normaliser.settle(step, state)
        for stage in stages:
            stage.settle(step, state)
        changed += int((step.made.astype(np.int64) ** 2).sum())
    return changed


def _new_step(
    tensor: str, index: int, rows: slice, shadow: I16, weights: I8, state: Tensors, seed: int, number: int
) -> Step:
    """A step over the shared working memory, cut to this block's shape."""
    count, width = shadow.shape
    gradient, small, wanted, made, words = (
        state[f"block.{name}"].reshape(-1)[: count * width].reshape(count, width)
        for name in ("gradient", "small", "wanted", "made", "words")
    )
    return Step(tensor, index, rows, shadow, weights, gradient, small, wanted, made, words, seed, number)
