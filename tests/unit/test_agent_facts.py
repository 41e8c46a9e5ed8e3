"""Small durable facts: what one start keeps, the next one finds; damage costs no more than the facts."""

from __future__ import annotations

from edgerun.agent.facts import SAMPLE_BLOCK, SETTINGS, Durable, Facts
from edgerun.spec import Budget
from firmware_sim.flash import SimFlash


def test_what_is_kept_outlives_a_power_cut() -> None:
    flash = SimFlash(seed=1)
    facts = Facts(flash)
    assert facts.held == Durable()
    facts.keep_sid(64)
    facts.keep_counters({"op": 7})
    facts.keep_budget(Budget(power_mw=5.0))
    facts.keep_paused(True)
    held = Facts(flash.reboot("none")).held
    assert held == Durable(sid=64, counters={"op": 7}, budget=Budget(power_mw=5.0), paused=True)


def test_a_sample_number_is_reserved_with_one_write_a_block() -> None:
    flash = SimFlash(seed=1)
    facts = Facts(flash)
    facts.reserve_sample(1)
    writes = flash.writes
    for number in range(2, 2 + SAMPLE_BLOCK):
        facts.reserve_sample(number)
    assert (flash.writes, Facts(flash.reboot("none")).held.samples) == (writes, 1 + SAMPLE_BLOCK)
    facts = Facts(flash := flash.reboot("none"))
    facts.reserve_sample(2 + SAMPLE_BLOCK)
    assert Facts(flash.reboot("none")).held.samples == 2 + 2 * SAMPLE_BLOCK


def test_facts_that_are_damaged_start_anew() -> None:
    flash = SimFlash(seed=1)
    flash.write(SETTINGS, b'{"sid": "many"}')
    assert Facts(flash).held == Durable()
