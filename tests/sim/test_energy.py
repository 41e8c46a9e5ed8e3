"""The pretend board's meter, battery, sun, heat and clock against sums done by hand or by brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.boards import get_board
from edgerun.errors import Refused
from edgerun.governor import Demand, GovernorState, charge, decide
from edgerun.ports import Clock, Power
from edgerun.spec import Budget, Prices
from firmware_sim.clock import VirtualClock
from firmware_sim.energy import Battery, SimPower, Solar

BOARD = get_board("pico2")


def make(**more: object) -> tuple[VirtualClock, SimPower]:
    clock = VirtualClock()
    return clock, SimPower(BOARD, clock, **more)  # type: ignore[arg-type]


def test_the_ports_are_kept() -> None:
    clock, power = make()
    ports: tuple[Clock, Power] = (clock, power)
    assert ports


def test_device_time_moves_only_by_rest_and_work() -> None:
    clock = VirtualClock(epoch_ms=1_000_000, start_s=5.0)
    clock.sleep_until(4.0)
    assert clock.device_s() == 5.0
    clock.sleep_until(7.5)
    clock.work(250_000)
    clock.jump_wall(-3600.0)
    assert clock.device_s() == 7.75
    assert clock.wall_ms() == 1_000_000 + 7750 - 3_600_000
    with pytest.raises(Refused, match="busy_us"):
        clock.work(-1.0)


def test_energy_is_sleep_over_all_time_and_the_acts() -> None:
    clock, power = make()
    clock.sleep_until(10.0)
    power.spend("infer", 220.0, 2800.0)
    power.spend("lesson", 7400.0, 90_000.0)
    clock.sleep_until(100.0)
    readings = power.readings()
    expected_j = (BOARD.sleep_mw * 100.0 + 0.22 + 7.4) / 1e3
    assert power.energy_j == pytest.approx(expected_j)
    assert readings.energy_j_today == pytest.approx(expected_j)
    assert readings.power_mw is not None
    assert readings.power_mw.source == "estimated"
    assert readings.power_mw.value == pytest.approx(expected_j * 10)
    assert power.spent_uj["lesson"] == 7400.0


acts = st.lists(
    st.tuples(st.floats(0, 40), st.floats(0, 5e5), st.one_of(st.just(0.0), st.floats(1e3, 2e7))),
    min_size=1,
    max_size=12,
)


@given(run=acts, share=st.tuples(st.floats(0, 0.4), st.floats(0.6, 1)))
def test_the_worst_window_is_not_beaten_by_any_of_a_fine_grid(
    run: list[tuple[float, float, float]], share: tuple[float, float]
) -> None:
    clock, power = make()
    log = []
    for rest_s, energy_uj, busy_us in run:
        clock.sleep_until(clock.device_s() + rest_s)
        begin_s = clock.device_s()
        power.spend("act", energy_uj, busy_us)
        log.append((begin_s, clock.device_s(), energy_uj))
    clock.sleep_until(clock.device_s() + 20)
    from_s, to_s = share[0] * clock.device_s(), share[1] * clock.device_s()

    def mean_mw(start_s: float) -> float:
        end_s = min(start_s + 60, to_s)
        total = BOARD.sleep_mw * (end_s - start_s)
        for a, b, uj in log:
            inside = start_s <= a < end_s if a == b else max(0.0, min(b, end_s) - max(a, start_s)) / (b - a)
            total += uj / 1e3 * inside
        return total / 60

    grid = np.linspace(from_s, max(from_s, to_s - 60), 400)
    worst = power.worst_window_mw(from_s, to_s)
    best_seen = max(mean_mw(start) for start in grid)
    assert worst >= best_seen * (1 - 1e-9)
    ceiling = math.fsum(uj / 1e3 for a, b, uj in log if b >= from_s and a <= to_s) / 60 + BOARD.sleep_mw
    assert worst <= ceiling * (1 + 1e-9)


def test_the_worst_window_is_exact_between_breakpoints() -> None:
    """Two 10 s acts of 600 mJ, 55 s apart: a window holds one and half of the other, wherever it begins."""
    clock, power = make()
    clock.sleep_until(100.0)
    power.spend("a", 6e5, 10e6)
    clock.sleep_until(155.0)
    power.spend("b", 6e5, 10e6)
    clock.sleep_until(300.0)
    assert power.worst_window_mw(0.0, 300.0) == pytest.approx(BOARD.sleep_mw + 15.0)
    assert power.worst_window_mw(0.0, 100.0) == pytest.approx(BOARD.sleep_mw)
    assert power.worst_window_mw(105.0, 125.0) == pytest.approx((BOARD.sleep_mw * 20 + 300) / 60)


def test_instant_acts_count_at_both_ends_but_not_past_the_phase() -> None:
    clock, power = make()
    for at_s in (10.0, 70.0):
        clock.sleep_until(at_s)
        power.spend("act", 6e5, 0.0)
    clock.sleep_until(200.0)
    assert power.worst_window_mw(0.0, 200.0) == pytest.approx(BOARD.sleep_mw + 20.0)
    assert power.worst_window_mw(0.0, 70.0) == pytest.approx(BOARD.sleep_mw + 10.0)


def test_a_governed_hour_keeps_its_budgets_by_this_meter() -> None:
    clock, power = make()
    prices = Prices(
        sleep_mw=BOARD.sleep_mw,
        inference_uj=220.0,
        inference_us=2800.0,
        telemetry_uj=260.0,
        lesson_uj={"full": 7400.0, "light": 3700.0, "head": 240.0},
        lesson_us={"full": 94e3, "light": 47e3, "head": 3e3},
        consolidate_uj=300.0,
        checkpoint_uj=20e3,
    )
    state, marks = GovernorState.first_boot(), []
    for budget in (Budget(power_mw=12.0), Budget(power_mw=4.0), Budget(power_mw=12.0)):
        marks.append((clock.device_s(), budget.power_mw))
        for second in range(1200):
            asked = Demand(
                prices=prices,
                period_s=0.5,
                lesson_pending=True,
                telemetry_due=second % 10 == 0,
                consolidation_due=second % 50 == 0,
                checkpoint_due=second % 100 == 0,
            )
            begin_s = clock.device_s()
            decision, state = decide(budget, power.readings(), asked, state)
            for act, allowed, uj, us in (
                ("infer", decision.infer, prices.inference_uj, prices.inference_us),
                ("telemetry", decision.telemetry, prices.telemetry_uj, 3300.0),
                ("checkpoint", decision.checkpoint, prices.checkpoint_uj, 50e3),
                ("consolidate", decision.consolidate, prices.consolidate_uj, 4e3),
                (
                    "lesson",
                    decision.learn,
                    *(map_of.get(decision.learn, 0.0) for map_of in (prices.lesson_uj, prices.lesson_us)),
                ),
            ):
                if allowed:
                    power.spend(act, uj, us)
                    state = charge(state, uj)
            clock.sleep_until(begin_s + 0.5)
    marks.append((clock.device_s(), 0.0))
    for (from_s, budget_mw), (to_s, _) in itertools.pairwise(marks):
        worst = power.worst_window_mw(from_s, to_s)
        assert 0.6 * budget_mw < worst <= budget_mw * (1 + 1e-9)
    assert {"lesson", "checkpoint", "consolidate", "telemetry"} <= power.spent_uj.keys()


def test_the_day_begins_again_at_midnight() -> None:
    written = [3_000_000]
    clock, power = make(flash_bytes=lambda: written[0])
    written[0] = 5_000_000
    clock.sleep_until(86_000.0)
    assert power.readings().flash_mb_today == 2.0
    clock.sleep_until(86_500.0)
    readings = power.readings()
    assert readings.energy_j_today == pytest.approx(BOARD.sleep_mw * 100 / 1e3)
    assert readings.flash_mb_today == 0.0
    written[0] = 5_500_000
    assert power.readings().flash_mb_today == 0.5


def test_a_battery_drains_and_the_sun_fills_it_to_the_brim() -> None:
    clock, power = make(
        battery=Battery(capacity_j=100.0, charge_j=100.0, solar=Solar((21600, 43200, 64800), (0, 20, 0)))
    )
    clock.sleep_until(21_600.0)
    share = power.readings().battery_share
    assert share is not None
    assert share.value == pytest.approx(1 - BOARD.sleep_mw * 21.6 / 100, rel=1e-6)
    clock.sleep_until(60_000.0)
    assert power.battery is not None
    assert power.battery.share == pytest.approx(1 - BOARD.sleep_mw * 21.6 / 100)  # not read yet
    assert power.readings().battery_share.value == 1.0  # type: ignore[union-attr]
    clock.sleep_until(86_400.0 * 2)
    assert 0 < power.readings().battery_share.value < 1  # type: ignore[union-attr]


def test_the_sun_of_a_day_is_the_area_of_its_trace() -> None:
    battery = Battery(capacity_j=1e6, charge_j=1000.0, solar=Solar((21600, 43200, 64800), (0, 20, 0)))
    clock, power = make(battery=battery)
    clock.sleep_until(86_400.0)
    power.readings()
    assert battery.charge_j == pytest.approx(1000 + 20 * 43.2 / 2 - BOARD.sleep_mw * 86.4, rel=1e-3)


def test_heat_follows_power_with_one_time_constant() -> None:
    clock, power = make(ambient_c=40.0)
    rest_c = power.temperature_c
    power.spend("burn", 80e3 * 40, 40e6)
    risen = BOARD.thermal_k_per_w * 0.080 * (1 - math.exp(-40 / BOARD.thermal_tau_s))
    assert power.temperature_c == pytest.approx(rest_c + risen)
    clock.sleep_until(clock.device_s() + 100 * BOARD.thermal_tau_s)
    assert power.readings().temperature_c.value == pytest.approx(rest_c)  # type: ignore[union-attr]


@pytest.mark.parametrize(("at", "mw"), [((), ()), ((5.0,), ()), ((9.0, 5.0), (1.0, 1.0)), ((0.0, 86400.0), (1.0, 1.0))])
def test_an_impossible_sun_is_refused(at: tuple[float, ...], mw: tuple[float, ...]) -> None:
    with pytest.raises(Refused, match="solar"):
        Solar(at, mw)


@pytest.mark.parametrize("energy", [-1.0, math.inf, math.nan])
def test_an_impossible_act_is_refused(energy: float) -> None:
    with pytest.raises(Refused, match="energy_uj"):
        make()[1].spend("act", energy, 0.0)
