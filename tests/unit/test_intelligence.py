"""The chain from gradient to weight, with synaptic intelligence in it, against the paper in float."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from reference.intelligence import Path

from edgerun.arrays import Tensors
from edgerun.kernels import plasticity
from edgerun.learn import stages
from edgerun.learn.profiles import PROFILES, Profile
from edgerun.plan import carve, make_arena, make_plan
from edgerun.spec import Intelligence, PlasticRate

STANDARD = PROFILES["standard"]
SHAPE = (70, 11)
SHIFT = 12
SPEC = Intelligence(strength=12, damping=64)
RATE = PlasticRate(tensor="w", eta=300, shift=20, max_step=400)


class Chain:
    """One plastic tensor with its state, as a learner holds it."""

    def __init__(
        self, rate: PlasticRate = RATE, spec: Intelligence = SPEC, seed: int = 3, profile: Profile = STANDARD
    ) -> None:
        self.rate, self.stage, self.seed, self.profile = rate, stages.Consolidation(spec, profile), seed, profile
        scratch = stages.scratch_slots(SHAPE[1], profile)
        slots = {**stages.slots("w", SHAPE), **self.stage.slots("w", SHAPE), **scratch}
        layout = make_plan(slots)
        self.state: Tensors = carve(make_arena(layout), layout)
        self.weights = np.random.default_rng(0).integers(-120, 121, SHAPE).astype(np.int8)
        self.state["shadow.w"][...] = self.weights.astype(np.int16) * 256
        self.state["ref.w"][...] = self.state["shadow.w"]
        self.updates = 0

    def update(self, factors: stages.Factors) -> int:
        changed = stages.update(
            self.rate, 2, factors, self.weights, self.state, (self.stage,),
            gradient_shift=SHIFT, seed=self.seed, number=self.updates, profile=self.profile,
        )  # fmt: skip
        self.updates += 1
        return changed

    def boundary(self) -> None:
        self.stage.consolidate("w", 2, self.state, self.seed, self.updates)

    def learned(self) -> dict[str, list[Any]]:
        names = ("shadow.w", "ref.w", "omega.w", "importance.w")
        return {"weights": self.weights.tolist()} | {name: self.state[name].tolist() for name in names}


def factors(step: int, scale: int = 3000) -> stages.Factors:
    rng = np.random.default_rng(1000 + step)
    history = rng.integers(0, 4000, (12, SHAPE[0])).astype(np.int16)
    return stages.Factors(history, (rng.normal(0, scale, (12, SHAPE[1]))).astype(np.int16))


def gradient(found: stages.Factors) -> np.ndarray:
    return found.history.T.astype(np.float64) @ found.post.astype(np.float64)


def test_credit_and_importance_are_those_of_the_paper() -> None:
    chain = Chain()
    shadow = chain.state["shadow.w"]
    path = Path(shadow.astype(float), damping=SPEC.damping * 256.0)
    for task in range(2):
        for step in range(60):
            found, before = factors(100 * task + step), shadow.astype(float)
            chain.update(found)
            path.walk(gradient(found) / 2**SHIFT, shadow - before)
        omega = chain.state["omega.w"].astype(float)
        assert np.corrcoef(omega.ravel(), path.omega.ravel())[0, 1] > 0.999
        np.testing.assert_allclose(omega, path.omega / 256, rtol=0.01, atol=0.01 * np.abs(omega).max())
        chain.boundary()
        path.arrive(shadow.astype(float))
        decoded = plasticity.decode_importance(chain.state["importance.w"]).astype(float)
        assert np.corrcoef(decoded.ravel(), path.importance.ravel())[0, 1] > 0.99
        share = decoded.sum() / (path.importance.sum() * 2**16)  # (omega / 2**8 << 16) / (moved**2 / 2**8)
        assert abs(share - 1) < 0.02
        assert not chain.state["omega.w"].any()
        assert (chain.state["ref.w"] == shadow).all()


def test_credit_counts_the_change_that_was_made_and_not_the_one_that_was_wanted() -> None:
    chain = Chain()
    shadow, small = chain.state["shadow.w"], np.zeros(SHAPE, np.int32)
    shadow[0], shadow[1] = 32512, -32512  # at both rails: some changes cannot be made at all
    chain.state["ref.w"][...] = shadow
    found, before = factors(5, scale=20000), shadow.astype(np.int64)
    changed = chain.update(found)
    made = shadow - before
    assert changed == int((made**2).sum())
    assert (np.abs(made).max(), (made[:2] == 0).any()) == (RATE.max_step, True)
    plasticity.small_gradient(small, gradient(found).astype(np.int64), SHIFT)
    assert np.abs(chain.state["omega.w"] * 256 + small.astype(np.int64) * made).max() <= 256
    assert (chain.state["omega.w"][made == 0] == 0).all()


def test_importance_holds_weights_where_they_are() -> None:
    """The same path with and without the first task's importance: important weights end nearer to their anchor."""
    free, held = Chain(spec=Intelligence(strength=30, damping=64)), Chain(spec=Intelligence(strength=10, damping=64))
    code = np.where(np.arange(SHAPE[0])[:, None] % 2, 0, 120) * np.ones(SHAPE, int)
    distances = []
    for chain in (free, held):
        chain.state["importance.w"][...] = code
        anchor = chain.state["ref.w"].astype(float)
        for step in range(80):
            chain.update(factors(step, scale=800))
        distances.append(np.abs(chain.state["shadow.w"] - anchor))
    important = code > 0
    assert distances[1][important].mean() < 0.5 * distances[0][important].mean()
    assert (distances[1][~important] == distances[0][~important]).all()


def test_a_tensor_takes_its_own_of_many_numbers() -> None:
    """The tensor is the rule's third: the third of many numbers is what one number for all would be."""

    def path(spec: Intelligence) -> tuple[list[Any], list[Any]]:
        chain = Chain(spec=spec)
        for step in range(20):
            chain.update(factors(step, scale=800))
        chain.boundary()
        for step in range(20, 24):
            chain.update(factors(step, scale=800))
        return chain.state["importance.w"].tolist(), chain.state["shadow.w"].tolist()

    one, own = path(SPEC), path(Intelligence(strength=(30, 4, 12), damping=(1, 9, 64)))
    assert one == own
    weaker = path(Intelligence(strength=(12, 12, 30), damping=64))
    assert (weaker[0], weaker[1] == one[1]) == (one[0], False)
    assert path(Intelligence(strength=12, damping=(64, 64, 6400)))[0] != one[0]


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_row_blocks_of_any_size_give_the_same_bits(rows: int) -> None:
    def path(profile: Profile) -> tuple[dict[str, list[Any]], list[int]]:
        chain = Chain(rate=PlasticRate(tensor="w", eta=300, shift=20, max_norm=500), profile=profile)
        changed = [chain.update(factors(step)) for step in range(5)]
        chain.boundary()
        changed += [chain.update(factors(step)) for step in range(5, 9)]
        return chain.learned(), changed

    assert path(replace(STANDARD, block_rows=rows)) == path(STANDARD)


def test_the_norm_of_a_step_keeps_its_limit() -> None:
    for step in range(5):
        chain = Chain(rate=PlasticRate(tensor="w", eta=300, shift=14, max_norm=700))
        changed = chain.update(factors(step))
        assert 300**2 < changed <= (700 * 1.01 + np.sqrt(SHAPE[0] * SHAPE[1])) ** 2  # rounding moves each weight by < 1


def test_an_update_descends_on_average() -> None:
    chain = Chain(rate=PlasticRate(tensor="w", eta=300, shift=24, max_step=32512))
    before, found = chain.state["shadow.w"].astype(float), factors(1)
    chain.update(found)
    made = chain.state["shadow.w"] - before
    exact = -gradient(found) * 300 / 2**24
    inside = np.abs(before + exact) < 32000
    assert np.abs(made - exact)[inside].max() < 1
    assert abs((made - exact)[inside].mean()) < 0.05
    assert (chain.weights == np.clip((chain.state["shadow.w"].astype(int) + 128) >> 8, -127, 127)).all()


def test_the_seed_and_the_update_number_choose_the_noise() -> None:
    paths = []
    for seed, skipped in ((3, 0), (3, 0), (4, 0), (3, 1)):
        chain = Chain(seed=seed)
        chain.updates = skipped
        chain.update(factors(0, scale=30))
        paths.append(chain.state["shadow.w"].tolist())
    assert paths[0] == paths[1]
    assert paths[0] not in paths[2:]
