"""Synapses that move in C: numpy's bits, of random tensors and of such where most keys are equal or at their ends."""

from __future__ import annotations

import learners
import numpy as np
import pytest

from edgerun.arrays import Tensors
from edgerun.kernels import plasticity
from edgerun.kernels import rewire as kernel
from edgerun.kernels.native import library
from edgerun.learn import native, stages
from edgerun.learn.profiles import PROFILES
from edgerun.learn.rewire import Rewire
from edgerun.learn.stages import Consolidation, Factors
from edgerun.lifetime import new_learner
from edgerun.rules import EProp, PlasticRate
from edgerun.spec import Intelligence, LearningPlan, ProfileName, Rewiring

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")

SEED = (1 << 63) + 12345
SHAPES = ((1, 1), (1, 8), (3, 7), (5, 9), (33, 17), (70, 3), (40, 64), (9, 300))


class Case:
    """A sparse tensor in the midst of its life, alike or as far apart as can be, and one update of it."""

    def __init__(self, seed: int, name: ProfileName, notes: bool) -> None:
        rng, self.profile = np.random.default_rng(seed), PROFILES[name]
        shape, middle = SHAPES[seed % len(SHAPES)], self.profile.middle
        low = max(1, self.profile.trace_drop)
        self.rate = PlasticRate(
            tensor="t", eta=int(rng.choice([1, 500, 32767])), shift=int(rng.integers(low, 31)),
            max_step=int(rng.choice([1, 512, 32512])), decay_shift=int(rng.choice([0, 1, 12])),
        )  # fmt: skip
        self.spec = Rewiring(share=int(rng.choice([1, 3277, 1 << 14])), growth_shift=int(rng.choice([0, 1, 4, 15])))
        self.notes = Intelligence(strength=int(rng.choice([4, 16, 58])), damping=600) if notes else None
        shift = int(rng.integers(low, 31))
        rule = EProp(layer="l", readout="r", chunk_steps=1, rates=(self.rate,), gradient_shift=shift)
        self.plan = LearningPlan(rule=rule, intelligence=self.notes, profile=name, rewiring=self.spec)
        self.stages: tuple[stages.Stage, ...] = (Rewire(self.spec, self.profile),)
        if self.notes is not None:
            self.stages = (Consolidation(self.notes, self.profile), *self.stages)
        living = rng.random(shape) < rng.choice([0, 0.1, 0.5, 0.9, 1])
        wide = rng.integers(-32512, 32513, shape) if seed % 2 else rng.choice([-32512, 300, -1, 32512], shape)
        growth = rng.integers(-32768, 32768, shape) if seed % 3 else rng.choice([-32768, -1, 0, 32767], shape)
        self.state: Tensors = {
            "shadow.t": (np.where(living, wide, 0) + middle).astype(np.int16),
            "growth.t": np.where(living, 0, growth).astype(np.int16),
            "mask.t": np.packbits(living, axis=1), "weights": np.zeros(shape, np.int8),
        }  # fmt: skip
        plasticity.weights_from_shadow(self.state["weights"], self.state["shadow.t"])
        if notes:
            most = 232 if seed % 2 else 2
            self.state |= {
                "importance.t": rng.integers(0, most, shape).astype(np.uint8),
                "ref.t": rng.integers(-128, 128, shape).astype(self.profile.anchor),
                "omega.t": rng.integers(-9000, 9000, shape).astype(self.profile.credit),
            }
        steps = int(rng.integers(0, 6))
        history = rng.integers(-128, 128, (steps, shape[0])) * (rng.random((steps, shape[0])) < 0.6)
        post = rng.choice([-32768, 32767, 0, 77], (steps, shape[1]))
        self.factors = Factors(history.astype(self.profile.trace), post.astype(np.int16), self.profile.trace_drop)

    def copy(self) -> Tensors:
        return {name: array.copy() for name, array in self.state.items()}

    def plastic(self, state: Tensors) -> native.Plastic:
        return native.Plastic(native.plastic_fields(self.plan, self.rate, 3, state["weights"], state), SEED)

    def updated(self, number: int) -> tuple[int, Tensors]:
        """By numpy."""
        state, scratch = self.copy(), stages.scratch_slots(self.state["shadow.t"].shape[1], self.profile)
        working = state | {name: np.zeros(slot.shape, slot.dtype) for name, slot in scratch.items()}
        rule = self.plan.rule
        assert rule is not None
        changed = stages.update(
            self.rate, 3, self.factors, state["weights"] if self.profile.copies else None, working, self.stages,
            gradient_shift=rule.gradient_shift, seed=SEED, number=number, profile=self.profile,
        )  # fmt: skip
        return changed, state

    def moved(self) -> tuple[int, Tensors]:
        """By numpy."""
        state = self.copy()
        count = Rewire(self.spec, self.profile).move("t", state)
        if self.profile.copies:
            plasticity.weights_from_shadow(state["weights"], state["shadow.t"])
        return count, state


def same(ours: Tensors, theirs: Tensors) -> None:
    for name, array in theirs.items():
        np.testing.assert_array_equal(ours[name], array, err_msg=name)


@pytest.mark.parametrize("notes", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_an_update_of_a_sparse_tensor_gives_numpys_bits(profile: ProfileName, notes: bool) -> None:
    grown = 0
    for seed in range(80):
        case = Case(seed, profile, notes)
        ours, (wanted, theirs) = case.copy(), case.updated(seed << 33)
        assert case.plastic(ours).update(case.factors, seed << 33) == wanted, seed
        same(ours, theirs)
        grown += bool((ours["growth.t"] != case.state["growth.t"]).any())
    assert grown > 20


@pytest.mark.parametrize("notes", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_synapses_move_as_in_numpy(profile: ProfileName, notes: bool) -> None:
    moves = 0
    for seed in range(160):
        case = Case(seed, profile, notes)
        ours, (wanted, theirs) = case.copy(), case.moved()
        assert case.plastic(ours).rewire() == wanted, seed
        same(ours, theirs)
        moves += wanted > 0
    assert moves > 40


def test_what_cannot_move_says_so() -> None:
    learner = new_learner(learners.bundle("eprop"), backend="native")
    with pytest.raises(ValueError, match="no synapses that move"):
        learner._plastic[0].rewire()


def test_masks_have_rows_of_whole_bytes() -> None:
    state = {name: array.copy() for name, array in Case(4, "standard", False).state.items()}
    case = Case(4, "standard", False)
    fields = native.plastic_fields(case.plan, case.rate, 0, state["weights"], state)
    for wrong in ({"mask": None}, {"growth": None}, {"growth_shift": 16}, {"share": -1}):
        with pytest.raises(ValueError, match="plastic"):
            native.required().Plastic(fields | wrong)
    with pytest.raises(ValueError, match="mask"):
        native.required().Plastic(fields | {"mask": fields["mask"][:, :-1].copy()})
    assert kernel.alive(fields["mask"], 17).shape == (33, 17)
