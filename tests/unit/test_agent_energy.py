"""The energy books beside the pretend board's own meter; what waits for its energy."""

from __future__ import annotations

import math
from typing import Any

import pytest
from bench import AMPLE_MW, BOARD, BUNDLE, PERIOD_S

from edgerun.agent.chores import CHORES, Chore, Chores
from edgerun.agent.energy import Energy, within
from edgerun.boards import Ops, price
from edgerun.errors import BudgetError, Refused
from edgerun.spec import Budget
from edgerun.telemetry.commands import Command, Probe
from firmware_sim.clock import VirtualClock
from firmware_sim.energy import SimPower


class Board:
    """A pretend board and the books on it. `live` lets a time pass, then decides."""

    def __init__(self, power_mw: float = AMPLE_MW, *, first_boot: bool = True) -> None:
        self.clock = VirtualClock()
        self.power = SimPower(BOARD, self.clock)
        self.energy = Energy(BUNDLE, BOARD, self.power, PERIOD_S, Budget(power_mw=power_mw), first_boot=first_boot)

    def live(self, seconds: float = PERIOD_S) -> Energy:
        self.clock.sleep_until(self.clock.device_s() + seconds)
        self.energy.look()
        self.energy.decide(lesson=False, telemetry=False, consolidation=False, checkpoint=False)
        return self.energy


def test_the_books_agree_with_the_meter() -> None:
    board = Board()
    energy = board.live()
    for act, ops in (("inference", energy.work.inference), ("lesson-head", energy.work.lesson["head"])) * 3:
        assert energy.spend(act, ops) == price(BOARD, ops)[0]
    assert energy.spent_uj == {act: uj for act, uj in board.power.spent_uj.items() if act != "sleep"}
    assert energy.total_uj == pytest.approx(board.power.energy_j * 1e6 - board.power.spent_uj["sleep"])
    assert energy.mean_uj("lesson") == pytest.approx(price(BOARD, energy.work.lesson["head"])[0])
    assert math.isnan(energy.mean_uj("consolidate"))


def test_the_mean_power_is_that_of_the_last_minute_weighted_by_time() -> None:
    board = Board()
    assert math.isnan(board.energy.mean_power_mw())
    board.live(0.5)
    board.energy.spend("inference", board.energy.work.inference)
    busy_s = board.clock.device_s() - 0.5
    board.live(3.0 - busy_s)
    spent_mj = price(BOARD, board.energy.work.inference)[0] / 1e3
    assert board.energy.mean_power_mw() == pytest.approx(BOARD.sleep_mw + spent_mj / 3.5)
    board.live(61.0)
    assert board.energy.mean_power_mw() == pytest.approx(BOARD.sleep_mw)


def test_a_budget_under_the_floor_is_refused_and_the_old_one_stays() -> None:
    energy = Board().energy
    with pytest.raises(BudgetError, match=r"power_mw 0\.1 is not above its floor"):
        energy.change(Budget(power_mw=0.1))
    assert energy.budget.power_mw == AMPLE_MW
    with pytest.raises(BudgetError):
        Board(0.1)


def test_nothing_is_allowed_before_the_first_decision() -> None:
    with pytest.raises(Refused, match="not decided yet"):
        _ = Board().energy.allowed


def test_an_act_is_covered_by_what_this_cycle_has_not_spent() -> None:
    energy = Board().live()
    act = energy.work.inference.times(int(energy.allowed.tokens_uj / energy.prices.inference_uj / 2) + 1)
    assert energy.covers(act)
    energy.spend("inference", act)
    assert not energy.covers(act), "tokens of this cycle are gone"
    empty = Board(first_boot=False).live()
    assert not empty.covers(Ops()), "two inferences are not touched, and after a restart the bucket is empty"


def test_what_the_bucket_never_holds_is_refused_with_both_figures() -> None:
    energy = Board(3.0).energy
    energy.check_act("probe", Ops())
    huge = energy.work.guard.times(1000)
    with pytest.raises(Refused, match=r"^probe takes .* mJ at once, a budget of 3 mW saves .* mJ at most$"):
        energy.check_act("probe", huge)


def test_a_bundle_only_lowers_a_budget() -> None:
    asked, ceiling = Budget(power_mw=50, max_temperature_c=40), Budget(power_mw=20, peak_mw=90, max_temperature_c=70)
    assert within(asked, ceiling) == Budget(power_mw=20, peak_mw=90, max_temperature_c=40)
    assert within(asked, None) == asked


# ------------------------------------------------------------------ chores


def chore(name: str, ops: Ops, command: Command | None = None) -> Chore:
    return Chore(name, ops, dict[str, Any], command)


def test_the_oldest_chore_is_waited_for_however_cheap_the_next_one_is() -> None:
    board = Board(5.0, first_boot=False)
    energy, chores = board.energy, Chores(board.energy)
    chores.put_off(chore("dear", energy.work.guard))
    chores.put_off(chore("cheap", Ops()))
    taken = []
    while chores:
        board.live()
        if (found := chores.take()) is not None:
            assert energy.allowed.tokens_uj >= energy.need_uj(found.ops)
            taken.append(found.name)
    assert taken == ["dear", "cheap"]
    assert board.clock.device_s() > 2 * PERIOD_S
    assert chores.take() is None


def test_chores_are_bounded_but_never_the_devices_own() -> None:
    board = Board()
    chores, asked = Chores(board.energy), Command("probe", "p1", Probe())
    for _ in range(CHORES):
        chores.put_off(chore("probe", Ops(), asked))
    with pytest.raises(Refused, match=f"{CHORES} commands wait already"):
        chores.put_off(chore("probe", Ops(), asked))
    chores.add(chore("settle", board.energy.settling.times(10**6)))
    assert chores.clear() == [asked] * CHORES
    assert not chores
