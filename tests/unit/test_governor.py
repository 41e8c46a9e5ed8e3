"""The governor's promises, each as a property against a meter that knows nothing of tokens."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgerun.errors import BudgetError, Refused
from edgerun.governor import (
    DWELL_S,
    LEARNING,
    WINDOW_S,
    Decision,
    Demand,
    GovernorState,
    capacity_uj,
    charge,
    check_budget,
    decide,
    floor_mw,
)
from edgerun.spec import LEVELS, Budget, Level, Prices, Reading, Readings

PRICES = Prices(
    sleep_mw=1.5,
    inference_uj=220.0,
    inference_us=2800.0,
    telemetry_uj=260.0,
    lesson_uj={"full": 7400.0, "light": 3700.0, "sparse": 3700.0, "head": 240.0},
    lesson_us={"full": 90e3, "light": 45e3, "sparse": 45e3, "head": 3e3},
    consolidate_uj=300.0,
    consolidate_us=4e3,
    checkpoint_uj=20e3,
)
RICH, POOR = Budget(power_mw=40.0), Budget(power_mw=7.0)
SAVE = (False, False, False, True)
ALL = {"lesson_pending": True, "telemetry_due": True, "consolidation_due": True, "checkpoint_due": True}


def demand(prices: Prices = PRICES, period_s: float = 1.0, **due: bool) -> Demand:
    return Demand(prices=prices, period_s=period_s, **due)


def cost_uj(prices: Prices, decision: Decision) -> float:
    """What a decision allows, from the price list and nothing else."""
    return (
        decision.infer * prices.inference_uj
        + decision.telemetry * prices.telemetry_uj
        + decision.checkpoint * prices.checkpoint_uj
        + decision.consolidate * prices.consolidate_uj
        + (prices.lesson_uj[decision.learn] if decision.learn else 0.0)
    )


def busy_us(prices: Prices, decision: Decision) -> float:
    return (
        decision.infer * prices.inference_us
        + decision.consolidate * prices.consolidate_us
        + (prices.lesson_us[decision.learn] if decision.learn else 0.0)
    )


@dataclass
class Meter:
    """Power as a step function of time; integrates it over windows. Shares no line with the governor."""

    steps: list[tuple[float, float, float]] = field(default_factory=list)  # from_s, to_s, mW

    def add(self, from_s: float, to_s: float, mw: float) -> None:
        if to_s > from_s and mw > 0:
            self.steps.append((from_s, to_s, mw))

    def worst_mj(self, from_s: float, to_s: float) -> float:
        """Over all windows in [from_s, to_s]: energy is piecewise linear, so one that meets an edge is the worst."""
        begin, end, mw = np.array(self.steps).T
        edges = np.unique(np.clip(np.concatenate([begin, end]), from_s, to_s))
        starts = np.clip(np.concatenate([edges, edges - WINDOW_S]), from_s, max(from_s, to_s - WINDOW_S))[:, None]
        overlap = np.minimum(end, np.minimum(starts + WINDOW_S, to_s)) - np.maximum(begin, starts)
        return float(np.max(np.maximum(overlap, 0.0) @ mw))


spells = st.tuples(
    st.integers(1, 12),  # cycles
    st.floats(0.2, 3.0),  # how long each lasts, in periods
    st.one_of(st.just((True,) * 4), st.tuples(*[st.booleans()] * 4)),  # what is due
    st.one_of(st.just(0.0), st.just(1.0), st.floats(0.0, 1.0)),  # when in the cycle its acts begin
    st.one_of(st.just(0.01), st.floats(0.01, 1.0)),  # how much of what is left they take
    st.sampled_from((None, None, None, 0.3, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0, 8.0, 30.0)),  # new budget, in dearest cycles
)
price_lists = st.builds(
    lambda sleep, infer, lesson, message, consolidate, checkpoint, kinds: Prices(
        sleep_mw=sleep,
        inference_uj=infer,
        inference_us=1000.0,
        telemetry_uj=message,
        lesson_uj=dict(zip(LEARNING, (lesson, lesson / 2, lesson / 2, lesson / 20), strict=True)) if kinds else {},
        lesson_us=dict(zip(LEARNING, (40e3, 20e3, 20e3, 1e3), strict=True)) if kinds else {},
        consolidate_uj=consolidate,
        consolidate_us=2e3,
        checkpoint_uj=checkpoint,
    ),
    st.floats(0.1, 2000),
    st.floats(1, 5000),
    st.floats(10, 2e5),
    st.floats(1, 5000),
    st.floats(0, 1e4),
    st.floats(0, 1e5),
    st.booleans(),
)


def dearest_uj(prices: Prices) -> float:
    lesson = max(prices.lesson_uj.values(), default=0.0) + prices.consolidate_uj
    return 2 * prices.inference_uj + max(prices.checkpoint_uj, prices.telemetry_uj + lesson)


@given(
    prices=price_lists,
    period_s=st.sampled_from((0.1, 1.0, 7.0, 15.0, 36.0, 59.0, 100.0)),
    run=st.lists(spells, min_size=1, max_size=12),
    fresh=st.booleans(),
)
@example(  # an act at the end of a long cycle, one at the beginning of the next, a third when the bucket holds it again
    prices=replace(PRICES, lesson_uj={}, lesson_us={}, checkpoint_uj=1e5, inference_uj=1.0),
    period_s=36.0,
    run=[(1, 1.0, SAVE, 1.0, 0.01, 2.5), (1, 1.0, SAVE, 0.0, 0.01, None), (3, 0.36, SAVE, 0.0, 0.01, None)],
    fresh=True,
)
@example(  # a full bucket when the budget falls to less than one act
    prices=replace(PRICES, checkpoint_uj=1e5),
    period_s=1.0,
    run=[(3, 1.0, (False,) * 4, 0.0, 0.01, 30.0), (80, 1.0, SAVE, 0.0, 0.01, 0.3)],
    fresh=True,
)
def test_no_window_inside_a_phase_exceeds_its_budget(
    prices: Prices,
    period_s: float,
    run: list[tuple[int, float, tuple[bool, ...], float, float, float | None]],
    fresh: bool,
) -> None:
    floor = floor_mw(prices, period_s)

    def budget_of(cycles: float) -> Budget:
        return Budget(power_mw=1.01 * floor + cycles * dearest_uj(prices) / 1e3 / WINDOW_S, deadline_ms=1e6)

    meter, budget, now_s = Meter(), budget_of(2.0), 5.0
    phases = [(now_s, budget)]
    state = GovernorState.first_boot() if fresh else GovernorState()
    for count, length, due, begin, spread, change in run:
        if change is not None:
            budget = budget_of(change)
            phases.append((now_s, budget))
        for _ in range(count):
            asked = demand(prices, period_s, **dict(zip(ALL, due, strict=True)))
            decision, state = decide(budget, Readings(now_s=now_s), asked, state)
            end_s = now_s + length * period_s
            start_s = now_s + begin * (end_s - now_s) * 0.999
            stop_s = start_s + spread * (end_s - start_s)
            energy = cost_uj(prices, decision)
            meter.add(now_s, end_s, prices.sleep_mw)
            meter.add(start_s, stop_s, energy / 1e3 / (stop_s - start_s))
            state = charge(state, energy)
            now_s = end_s
    for (from_s, phase), (to_s, _) in itertools.pairwise([*phases, (now_s, budget)]):
        if from_s < to_s:
            assert meter.worst_mj(from_s, to_s) <= phase.power_mw * WINDOW_S * (1 + 1e-9) + 1e-6


def test_the_bucket_is_not_wasteful() -> None:
    """The bound must not be kept by doing nothing: a hungry learner uses most of what is there."""
    budget, state, spent = Budget(power_mw=7.0), GovernorState(), 0.0
    for second in range(1200):
        asked = demand(lesson_pending=True, telemetry_due=True)
        decision, state = decide(budget, Readings(now_s=float(second)), asked, state)
        energy = cost_uj(PRICES, decision)
        spent += energy
        state = charge(state, energy)
    assert spent / 1e3 / 1200 + PRICES.sleep_mw > 0.6 * budget.power_mw


def test_a_bucket_holds_a_third_of_a_window_or_what_the_dearest_cycle_needs() -> None:
    dearest = dearest_uj(PRICES)
    for window, held in ((9 * dearest, 3 * dearest), (2 * dearest, dearest + 480), (dearest, 0.75 * dearest)):
        budget = Budget(power_mw=PRICES.sleep_mw + PRICES.inference_uj / 1e3 + window / WINDOW_S / 1e3)
        assert capacity_uj(budget, PRICES, 1.0) == pytest.approx(held)


readings_at = st.builds(
    lambda heat, ram, cpu, battery, flash, joule: dict(
        temperature_c=heat and Reading(value=heat, source="measured"),
        ram_kb=ram and Reading(value=ram, source="measured"),
        cpu_share=cpu and Reading(value=cpu, source="measured"),
        battery_share=battery and Reading(value=battery, source="estimated"),
        flash_mb_today=flash,
        energy_j_today=joule,
    ),
    st.none() | st.floats(20, 100),
    st.none() | st.floats(100, 600),
    st.none() | st.floats(0.01, 1.0),
    st.none() | st.floats(0.01, 1.0),
    st.sampled_from((0.0, 10.0, 199.0, 250.0)),
    st.sampled_from((0.0, 100.0, 300.0, 430.0, 1000.0)),
)
BOUNDED = Budget(power_mw=9.0, ram_kb=400, cpu_share=0.5, energy_j_per_day=450.0, peak_mw=120.0)


@given(
    run=st.lists(
        st.tuples(st.floats(0.05, 20.0), st.tuples(*[st.booleans()] * 4), readings_at), min_size=2, max_size=60
    )
)
def test_ladder_dwell_ram_and_deadline(run: list[tuple[float, tuple[bool, ...], dict[str, object]]]) -> None:
    state, now_s, level, changed_s = GovernorState.first_boot(), 0.0, None, -math.inf
    for wait_s, due, figures in run:
        now_s += wait_s
        readings = msgspec.convert({"now_s": now_s, **figures}, Readings, from_attributes=True)
        decision, state = decide(BOUNDED, readings, demand(**dict(zip(ALL, due, strict=True))), state)
        state = charge(state, cost_uj(PRICES, decision))
        assert decision.level in LEVELS
        rank = LEVELS.index(decision.level)
        if level is not None and rank < LEVELS.index(level):
            assert now_s - changed_s >= DWELL_S, "climbed before the dwell was over"
        if decision.level != level:
            level, changed_s = decision.level, now_s
        if decision.learn:
            assert decision.level in LEARNING
            assert LEVELS.index(decision.learn) >= rank
            assert decision.infer, "a lesson ran before its inference"
            assert due[2] <= decision.consolidate, "a lesson overtook a consolidation that was due"
            assert readings.ram_kb is None or readings.ram_kb.value <= 400
            assert readings.flash_mb_today < 200
        assert not (decision.checkpoint and readings.flash_mb_today >= 200)
        assert busy_us(PRICES, decision) <= 0.5e6
        assert decision.sleep == (decision.level == "sleep")
        if decision.sleep:
            assert cost_uj(PRICES, decision) == 0


@given(
    run=st.lists(st.tuples(st.floats(0.2, 15.0), st.tuples(*[st.booleans()] * 4)), min_size=1, max_size=25),
    low=st.floats(3.0, 60.0),
    more=st.floats(1.0, 5.0),
    past=st.floats(3.0, 60.0),
    stay=st.booleans(),
    figures=readings_at,
)
def test_more_budget_never_allows_less(
    run: list[tuple[float, tuple[bool, ...]]],
    low: float,
    more: float,
    past: float,
    stay: bool,
    figures: dict[str, object],
) -> None:
    """Equal state and readings: every grant of the smaller budget is a grant of the larger, at no worse a level."""
    state, now_s = GovernorState(), 0.0
    before = Budget(power_mw=low if stay else past)
    for wait_s, due in run:
        now_s += wait_s
        asked = demand(**dict(zip(ALL, due, strict=True)))
        decision, state = decide(before, Readings(now_s=now_s), asked, state)
        state = charge(state, cost_uj(PRICES, decision))
    readings = msgspec.convert({"now_s": now_s + 1, **figures}, Readings, from_attributes=True)
    less, _ = decide(Budget(power_mw=low), readings, asked, state)
    rich, _ = decide(Budget(power_mw=low * more), readings, asked, state)
    assert LEVELS.index(rich.level) <= LEVELS.index(less.level)
    for act in ("infer", "telemetry", "checkpoint", "consolidate"):
        assert getattr(less, act) <= getattr(rich, act), act
    order = [*LEARNING, None]
    assert order.index(rich.learn) <= order.index(less.learn)
    assert rich.tokens_uj >= less.tokens_uj


@given(scale=st.floats(1.0001, 100))
def test_any_budget_over_the_floor_infers_every_period(scale: float) -> None:
    budget = Budget(power_mw=floor_mw(PRICES, 1.0) * scale)
    state = GovernorState()
    for second in range(150):
        decision, state = decide(budget, Readings(now_s=float(second)), demand(**ALL), state)
        state = charge(state, cost_uj(PRICES, decision))
        assert decision.infer or second == 0


def test_a_budget_at_the_floor_is_refused_naming_both() -> None:
    floor = floor_mw(PRICES, 1.0)
    assert floor > PRICES.sleep_mw + PRICES.inference_uj / 1e3
    with pytest.raises(BudgetError, match=f"power_mw {floor:g} .* floor {floor:.6g}"):
        decide(Budget(power_mw=floor), Readings(now_s=0.0), demand(), GovernorState())


@pytest.mark.parametrize(
    ("budget", "field"),
    [
        (Budget(power_mw=40, peak_mw=80.0), "peak_mw"),
        (Budget(power_mw=40, energy_j_per_day=140.0), "energy_j_per_day"),
        (Budget(power_mw=40, deadline_ms=2.8), "deadline_ms"),
        (Budget(power_mw=40, cpu_share=0.0028), "cpu_share"),
    ],
)
def test_other_bounds_that_even_inference_breaks_are_refused(budget: Budget, field: str) -> None:
    with pytest.raises(BudgetError, match=f"budget {field} "):
        check_budget(budget, demand())


def test_a_cut_sheds_at_once_and_recovery_dwells() -> None:
    """The demo's story: a rich phase learns in full, a cut sheds in the same cycle, the way back dwells."""
    state, visited = GovernorState.first_boot(), []
    for second in range(240):
        budget = POOR if 60 <= second < 120 else RICH
        decision, state = decide(budget, Readings(now_s=float(second)), demand(lesson_pending=True), state)
        state = charge(state, cost_uj(PRICES, decision))
        visited.append(decision.level)
    assert set(visited[:60]) == {"full"}
    assert LEVELS.index(visited[90]) > LEVELS.index("full")
    assert visited[-1] == "full"
    climbs = [i for i in range(1, 240) if LEVELS.index(visited[i]) < LEVELS.index(visited[i - 1])]
    changes = [i for i in range(1, 240) if visited[i] != visited[i - 1]]
    assert all(i - max(c for c in [0, *changes] if c < i) >= DWELL_S for i in climbs)


@pytest.mark.parametrize(
    ("figures", "level"),
    [
        ({"temperature_c": Reading(value=79.0, source="measured")}, "full"),
        ({"temperature_c": Reading(value=80.5, source="measured")}, "infer"),
        ({"temperature_c": Reading(value=85.5, source="measured")}, "slow"),
        ({"temperature_c": Reading(value=91.0, source="measured")}, "sleep"),
        ({"battery_share": Reading(value=0.29, source="measured")}, "infer"),
        ({"battery_share": Reading(value=0.14, source="measured")}, "quiet"),
        ({"battery_share": Reading(value=0.07, source="measured")}, "slow"),
        ({"battery_share": Reading(value=0.02, source="measured")}, "sleep"),
        ({"flash_mb_today": 200.0}, "infer"),
        ({"ram_kb": Reading(value=401.0, source="measured")}, "infer"),
        ({"cpu_share": Reading(value=0.9, source="measured")}, "infer"),
        ({"energy_j_today": 3000.0}, "full"),
        ({"energy_j_today": 3430.0}, "slow"),
        ({"energy_j_today": 3500.0}, "sleep"),
    ],
)
def test_each_bound_drives_its_own_level(figures: dict[str, object], level: Level) -> None:
    budget = Budget(power_mw=40.0, ram_kb=400, cpu_share=0.8, energy_j_per_day=3500.0)
    readings = msgspec.convert({"now_s": 0.5 * 86400, **figures}, Readings, from_attributes=True)
    decision, _ = decide(budget, readings, demand(**ALL), GovernorState.first_boot())
    assert decision.level == level
    if level != "full":
        assert decision.learn is None
        assert decision.reason != "nothing to shed"


def test_the_ladder_sheds_plasticity_then_telemetry_and_never_inference() -> None:
    """One rung after the other as tokens run down: 1.25 times 8.4, 4.7, 1.24 and 0.7 mJ; at the end one inference."""
    seen: list[Level] = []
    for mj in (60.0, 10.6, 10.4, 5.9, 5.8, 1.6, 1.5, 0.9, 0.8, 0.3):
        decision, _ = decide(RICH, Readings(now_s=0.0), demand(), GovernorState(tokens_uj=mj * 1e3))
        seen.append(decision.level)
        assert decision.infer
    assert seen == ["full", "full", "light", "light", "head", "head", "infer", "infer", "quiet", "quiet"]


def test_a_tight_budget_climbs_back_to_its_best_level() -> None:
    """Half a milliwatt over sleep and inference: a full lesson is rare, but never out of reach."""
    state, lessons = GovernorState(), []
    for second in range(900):
        asked = demand(lesson_pending=second > 300, telemetry_due=second % 10 == 0)
        decision, state = decide(Budget(power_mw=2.2), Readings(now_s=float(second)), asked, state)
        state = charge(state, cost_uj(PRICES, decision))
        lessons.append(decision.learn)
    assert "full" in lessons
    assert lessons[-1] is not None


def test_sparse_lessons_are_every_fourth_with_heads_between() -> None:
    prices = replace(
        PRICES,
        lesson_uj={"sparse": 3700.0, "head": 240.0},
        lesson_us={"sparse": 45e3, "head": 3e3},
    )
    state, lessons = GovernorState.first_boot(), []
    for second in range(8):
        decision, state = decide(RICH, Readings(now_s=float(second)), demand(prices, lesson_pending=True), state)
        lessons.append(decision.learn)
    assert lessons == ["sparse", "head", "head", "head"] * 2


def test_quiet_keeps_every_fourth_message_and_slow_every_fourth_inference() -> None:
    low = {"battery_share": Reading(value=0.1, source="measured")}
    hot = {"temperature_c": Reading(value=86.0, source="measured")}
    for figures, act in ((low, "telemetry"), (hot, "infer")):
        state, done = GovernorState.first_boot(), []
        for second in range(8):
            readings = msgspec.convert({"now_s": float(second), **figures}, Readings, from_attributes=True)
            decision, state = decide(RICH, readings, demand(telemetry_due=True), state)
            done.append(getattr(decision, act))
        assert done == [True, False, False, False] * 2


def test_what_is_due_holds_back_the_lesson_and_says_so() -> None:
    state = GovernorState(tokens_uj=15e3)
    decision, _ = decide(RICH, Readings(now_s=0.0), demand(**ALL), state)
    assert decision.telemetry
    assert not decision.checkpoint
    assert decision.learn is None
    assert decision.reason == "checkpoint first: tokens 15.0 mJ under 20.7 mJ"


def test_a_lesson_never_overtakes_a_consolidation() -> None:
    """Tokens for a head lesson, not for a consolidation that is due beside it: nothing is learned until it is paid."""
    prices = replace(PRICES, consolidate_uj=5e3)
    asked = demand(prices, lesson_pending=True, consolidation_due=True)
    learning = GovernorState(tokens_uj=4e3, level="head", power_mw=40.0, capacity_uj=1e5, now_s=0.0)
    for tokens_uj, consolidated in ((4e3, False), (30e3, True)):
        decision, _ = decide(RICH, Readings(now_s=0.0), asked, replace(learning, tokens_uj=tokens_uj))
        assert decision.consolidate == consolidated
        assert (decision.learn is not None) == consolidated


def test_a_lesson_leaves_the_price_of_a_consolidation() -> None:
    """Beside a message and a checkpoint 7.5 mJ are left: enough for a lesson's 7.4, not with its 0.3."""
    asked = demand(lesson_pending=True, telemetry_due=True, checkpoint_due=True)
    decision, _ = decide(RICH, Readings(now_s=0.0), asked, GovernorState(tokens_uj=28.2e3))
    assert (decision.level, decision.checkpoint, decision.learn) == ("full", True, "light")


def test_time_for_inference_is_set_aside_before_a_lesson() -> None:
    """A lesson that fits the period, but not beside an inference, does not run."""
    prices = replace(PRICES, lesson_us={**PRICES.lesson_us, "full": 98e3})
    asked = Demand(prices=prices, period_s=0.1, lesson_pending=True)
    assert decide(RICH, Readings(now_s=0.0), asked, GovernorState.first_boot())[0].learn == "light"
    late = Demand(prices=PRICES, period_s=0.1, late_s=0.008, lesson_pending=True)  # 92 ms left, 90 + 2.8 needed
    assert decide(RICH, Readings(now_s=0.0), late, GovernorState.first_boot())[0].learn == "light"


def test_a_late_cycle_learns_only_what_still_fits() -> None:
    on_time = Demand(prices=PRICES, period_s=0.1, lesson_pending=True)
    late = replace(on_time, late_s=0.04)
    assert decide(RICH, Readings(now_s=0.0), on_time, GovernorState.first_boot())[0].learn == "full"
    assert decide(RICH, Readings(now_s=0.0), late, GovernorState.first_boot())[0].learn == "light"


def test_a_lesson_that_would_break_the_peak_has_no_rung() -> None:
    hungry = replace(PRICES, lesson_us={**PRICES.lesson_us, "full": 20e3})  # 370 mW
    budget = Budget(power_mw=40.0, peak_mw=100.0)
    asked = demand(hungry, lesson_pending=True)
    assert decide(budget, Readings(now_s=0.0), asked, GovernorState.first_boot())[0].learn == "light"


def test_a_reboot_begins_with_an_empty_bucket_and_a_first_boot_with_a_full_one() -> None:
    reboot, _ = decide(RICH, Readings(now_s=0.0), demand(), GovernorState())
    first, _ = decide(RICH, Readings(now_s=0.0), demand(), GovernorState.first_boot())
    assert (reboot.tokens_uj, reboot.infer) == (0.0, False)
    assert first.tokens_uj == first.capacity_uj == capacity_uj(RICH, PRICES, 1.0)


@pytest.mark.parametrize("energy", [-1.0, math.nan, math.inf])
def test_an_impossible_charge_is_refused(energy: float) -> None:
    with pytest.raises(Refused, match="energy_uj"):
        charge(GovernorState(), energy)


def test_decide_is_pure() -> None:
    asked, readings = demand(**ALL), Readings(now_s=3.0)
    once = decide(RICH, readings, asked, GovernorState())
    assert decide(RICH, readings, asked, GovernorState()) == once
