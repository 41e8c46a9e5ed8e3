"""Synapses move: the weakest go, the gradient's favourites come, and how many there are never changes."""

from typing import Any

import learners
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference.rewiring import moved

from edgerun.arrays import Bool, Tensors
from edgerun.errors import SpecError
from edgerun.kernels import rewire as kernel
from edgerun.learn.learner import Learner
from edgerun.learn.profiles import PROFILES
from edgerun.learn.records import Boundary
from edgerun.learn.rewire import Rewire
from edgerun.network import Network
from edgerun.spec import LearningPlan, Rewiring


def state_of(rng: np.random.Generator, shape: tuple[int, int], density: float, profile: str) -> Tensors:
    """One tensor in the midst of its life; few values, so that many are equal."""
    stage, middle = Rewire(Rewiring(), PROFILES[profile]), PROFILES[profile].middle
    state: Tensors = {name: np.zeros(slot.shape, slot.dtype) for name, slot in stage.slots("w", shape).items()}
    living = rng.random(shape) < density
    kernel.set_alive(state["mask.w"], living)
    state["shadow.w"] = np.where(living, rng.integers(-9, 10, shape) * 100, 0).astype(np.int16) + np.int16(middle)
    state["growth.w"][~living] = rng.integers(-6, 7, int((~living).sum()))
    state["importance.w"] = np.where(living, rng.integers(0, 5, shape), 0).astype(np.uint8)
    state["omega.w"] = np.where(living, 7, 0).astype(np.int32)
    state["ref.w"] = np.where(living, 3, 0).astype(np.int16)
    return state


def alive(state: Tensors) -> Bool:
    return kernel.alive(state["mask.w"], state["shadow.w"].shape[1])


@pytest.mark.parametrize("profile", PROFILES)
@given(
    seed=st.integers(0, 9999), rows=st.integers(1, 70), width=st.integers(1, 19), density=st.floats(0, 1),
    share=st.integers(1, 1 << 14),
)  # fmt: skip
def test_those_go_and_grow_that_sorting_says(
    profile: str, seed: int, rows: int, width: int, density: float, share: int
) -> None:
    state = state_of(np.random.default_rng(seed), (rows, width), density, profile)
    before, middle = {name: array.copy() for name, array in state.items()}, PROFILES[profile].middle
    living = alive(state)
    weights, code = before["shadow.w"].astype(float) - middle, before["importance.w"]
    gone, grown = moved(weights, 8.0 + code, living, before["growth.w"].astype(float), share / 32768)
    count = Rewire(Rewiring(share=share), PROFILES[profile]).move("w", state)
    after = alive(state)
    assert (after == (living & ~gone | grown)).all()
    assert count == gone.sum() == grown.sum()
    assert after.sum() == living.sum()
    assert (state["shadow.w"][~after | (gone & grown)] == middle).all()
    assert (state["shadow.w"][living & ~gone] == before["shadow.w"][living & ~gone]).all()
    for name in ("importance.w", "omega.w", "ref.w"):
        assert not state[name][gone].any()
        assert (state[name][~gone] == before[name][~gone]).all()
    assert not state["growth.w"].any()


# ------------------------------------------------------------------ in a learner


def learner_of(**rewiring: int) -> Learner:
    bundle = learners.bundle("rewired")
    plan = msgspec.structs.replace(bundle.manifest.learning, rewiring=Rewiring(**({"growth_shift": 0} | rewiring)))
    manifest = msgspec.structs.replace(bundle.manifest, learning=plan)
    tensors = {name: array.copy() for name, array in bundle.tensors.items()}
    return Learner(Network(manifest, tensors), priors=bundle.priors, exemplars=None)


def teach(learner: Learner, count: int) -> None:
    for number in range(count):
        label = number % 4
        learner.apply(learner.plan_lesson(learners.sample("rewired", label, number), label, "light"))


def masks(learner: Learner) -> dict[str, Bool]:
    found = {name.partition(".")[2]: array for name, array in learner.arrays().items() if name.startswith("mask.")}
    return {name: kernel.alive(mask, learner.network.tensors[name].shape[1]) for name, mask in found.items()}


def test_what_is_not_there_stays_zero_and_learns_where_it_would_grow() -> None:
    learner = learner_of(share=1)
    first = masks(learner)
    for name, mask in first.items():
        assert (mask == (learner.network.tensors[name] != 0)).all()
        assert 0.3 < mask.mean() < 0.7
    teach(learner, 6)
    learner.apply(Boundary(reason="command"))
    teach(learner, 6)
    for name, mask in masks(learner).items():  # a share too small to move anything: a fixed mask
        assert (mask == first[name]).all()
        assert not learner.network.tensors[name][~mask].any()
        growth = learner.arrays()[f"growth.{name}"]
        assert growth[~mask].any()
        assert not growth[mask].any()


def test_synapses_move_at_boundaries_and_by_count_and_run_at_once() -> None:
    learner, other = learner_of(share=6554), learner_of(share=6554, every=3)
    first = masks(learner)
    for each in (learner, other):
        teach(each, 8)
    assert all((masks(learner)[name] == first[name]).all() for name in first)
    assert any((masks(other)[name] != first[name]).any() for name in first)
    before = {name: array.copy() for name, array in learner.network.tensors.items()}
    learner.apply(Boundary(reason="command"))
    after = masks(learner)
    for name, mask in first.items():
        assert mask.sum() == after[name].sum() == masks(other)[name].sum()
        assert 0 < (mask & ~after[name]).sum() <= 0.2 * mask.sum()
    fresh = Network(learner.manifest, dict(learner.network.tensors), (), learner.network.prototypes)
    stale = Network(learner.manifest, before, (), learner.network.prototypes)
    q = np.stack([learners.sample("rewired", k % 4, 70 + k) for k in range(8)])
    found, now, then = ([each.outputs(row).tolist() for row in q] for each in (learner.network, fresh, stale))
    assert found == now != then  # it runs on what is there
    teach(learner, 8)
    grown = {name: after[name] & ~first[name] for name in first}
    assert any(learner.network.tensors[name][where].any() for name, where in grown.items())


def test_what_mattered_stays() -> None:
    rng = np.random.default_rng(2)
    state = state_of(rng, (20, 20), 0.5, "standard")
    living = alive(state)
    state["shadow.w"][living] = 500
    state["importance.w"][living] = np.where(rng.random(int(living.sum())) < 0.5, 200, 0)
    important = state["importance.w"] == 200
    Rewire(Rewiring(share=1 << 14)).move("w", state)
    kept = important & alive(state)
    assert kept.sum() >= important.sum() - 2


def test_a_plan_without_a_rule_has_nothing_to_rewire() -> None:
    with pytest.raises(SpecError, match="rewiring needs a rule, there is none"):
        LearningPlan(rewiring=Rewiring())


def test_old_manifests_have_no_such_field() -> None:
    plan: Any = msgspec.to_builtins(learners.bundle("eprop").manifest.learning)
    assert "rewiring" not in plan
    assert isinstance(learners.bundle("rewired").manifest.learning.rewiring, Rewiring)
    assert isinstance(msgspec.convert(plan, LearningPlan), LearningPlan)
