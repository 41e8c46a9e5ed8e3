"""What the device may do next: a pure function over frozen records, asked once a cycle.

**Energy.** A token bucket over what is spent above sleep power. With budget P (mW), sleep power s, window W = 60 s and
capacity C, tokens refill at P - s - C / W. While every act is paid from tokens that were there when it was allowed,
what is spent in any window inside one budget phase is at most C + (P - s - C / W) * W = (P - s) * W; with sleep, P * W.
Tokens of a cycle are counted as if all its acts came at its end, min(C, tokens + refill) - spent: the least that a
continuously clamped bucket can hold however the acts were spread, so the bound holds for real, slow acts too. When the
budget changes, tokens are clamped to the new capacity: the new phase keeps its bound from its first instant.

**Ladder.** `spec.LEVELS`. Falling is immediate; a climb needs `DWELL_S` since the last change and a quarter more tokens
than staying does. A learning level is priced with its replay and with a consolidation, and has room for both.

**Order.** Inference, telemetry, checkpoint, consolidation, and a lesson last: protection before plasticity. What is due
and cannot be paid holds back what comes after it, so a due consolidation waits for room and is never overtaken.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Annotated, Final, TypeAlias

import msgspec
from msgspec import Meta

from edgerun.errors import BudgetError, Refused
from edgerun.spec import LEVELS, Budget, Level, Prices, Reading, Readings, Record

Rungs: TypeAlias = tuple[Level, ...]

WINDOW_S: Final = 60.0
DWELL_S: Final = 30.0
DAY_S: Final = 86400.0
HYSTERESIS: Final = 1.25  # tokens that a climb needs, over those that staying needs
BURST: Final = 1 / 3  # of a window may be saved up: what refills while a climb dwells, so that none of it overflows
LEARNING: Final[Rungs] = ("full", "light", "sparse", "head")
SAVING: Final = 3 / 4  # of a window may be saved up at the cost of a slow refill, for an act that needs so much
EVERY: Final = 4  # sparse lessons, quiet telemetry and slow inference: one in so many

TEMPERATURE: Final[tuple[tuple[float, Level], ...]] = ((5.0, "sleep"), (0.0, "slow"), (-5.0, "infer"))
"""Degrees above the bound, and the best level allowed from there on."""
BATTERY: Final[tuple[tuple[float, Level], ...]] = ((0.03, "sleep"), (0.08, "slow"), (0.15, "quiet"), (0.30, "infer"))
"""Share of charge, and the best level allowed under it."""


class Demand(Record, frozen=True, kw_only=True):
    """What there is to do in this cycle, and what it costs."""

    prices: Prices
    period_s: Annotated[float, Meta(gt=0)]  # from one sample to the next
    late_s: Annotated[float, Meta(ge=0)] = 0.0  # how long ago this cycle's sample was taken
    lesson_pending: bool = False
    telemetry_due: bool = False
    consolidation_due: bool = False
    checkpoint_due: bool = False


class Decision(Record, frozen=True, kw_only=True):
    """What is allowed in this cycle. Everything not allowed waits; nothing is dropped."""

    level: Level
    infer: bool
    learn: Level | None  # the kind of lesson for the one that is pending: full, light, sparse or head
    telemetry: bool
    consolidate: bool
    checkpoint: bool
    sleep: bool  # nothing at all is allowed
    reason: str  # what holds the level where it is, for people
    tokens_uj: float
    capacity_uj: float


class GovernorState(Record, frozen=True, kw_only=True):
    """Between two decisions. The default is a reboot: what was spent before is unknown, so the bucket is empty."""

    tokens_uj: float = 0.0  # at the last decision
    spent_uj: float = 0.0  # since the last decision
    capacity_uj: float = 0.0  # of this budget phase
    power_mw: float | None = None  # the budget of this phase
    now_s: float | None = None  # device time of the last decision
    level: Level | None = None
    changed_s: float = 0.0  # device time of the last change of level
    cycles: int = 0
    telemetry_asked: int = 0
    lessons_asked: int = 0

    @classmethod
    def first_boot(cls) -> GovernorState:
        """A device that has spent nothing yet: the bucket is full."""
        return cls(tokens_uj=math.inf)


# ------------------------------------------------------------------ energy


def floor_mw(prices: Prices, period_s: float) -> float:
    """The power that a budget must exceed: sleep, an inference every period, and a bucket that holds two and a half."""
    return prices.sleep_mw + prices.inference_uj / 1e3 * (1 / period_s + 2 * HYSTERESIS / WINDOW_S)


def check_budget(budget: Budget, demand: Demand) -> None:
    """Raises BudgetError naming field, value and floor, when the board cannot keep the budget and still infer."""
    prices, period_s = demand.prices, demand.period_s
    floor = floor_mw(prices, period_s)
    draw = _draw_mw(prices, prices.inference_uj, prices.inference_us)
    for field, value, bound in (
        ("power_mw", budget.power_mw, floor),
        ("peak_mw", budget.peak_mw, draw),
        ("energy_j_per_day", budget.energy_j_per_day, floor * DAY_S / 1e3),
        ("deadline_ms", budget.deadline_ms, prices.inference_us / 1e3),
        ("cpu_share", budget.cpu_share, prices.inference_us / 1e6 / period_s),
    ):
        if value is not None and value <= bound:
            raise BudgetError(f"budget {field} {value:g} is not above its floor {bound:.6g}")


def capacity_uj(budget: Budget, prices: Prices, period_s: float) -> float:
    """C: a third of what a window has beyond sleep and inference; where more is needed, up to three quarters.

    Needed is what the dearest level asks of a climb, or a checkpoint, besides what the cycle before has just spent on
    service. C is never under two and a half inferences. It grows with the budget, but never faster: more budget is more
    refill too.
    """
    window_uj = (budget.power_mw - prices.sleep_mw) * WINDOW_S * 1e3 - prices.inference_uj * WINDOW_S / period_s
    climb = HYSTERESIS * max(_need_uj(prices, level) for level in (*_priced(prices), "infer"))
    save = 2 * prices.inference_uj + prices.checkpoint_uj
    needed = max(climb, save) + prices.inference_uj + prices.telemetry_uj
    return max(BURST * window_uj, min(needed, SAVING * window_uj), 2 * HYSTERESIS * prices.inference_uj)


def charge(state: GovernorState, energy_uj: float) -> GovernorState:
    """Tell the governor of an act that was done. Raises Refused for an energy that is negative or not finite."""
    if not (math.isfinite(energy_uj) and energy_uj >= 0):
        raise Refused(f"energy_uj {energy_uj} of an act is not in [0, inf)")
    return msgspec.structs.replace(state, spent_uj=state.spent_uj + energy_uj)


def _tokens_uj(prices: Prices, now_s: float, capacity: float, state: GovernorState) -> float:
    """Tokens now: the phase that ends here is settled by its own rate and capacity, then clamped to those of the next.

    tokens = min(C, min(C', tokens' + refill' * elapsed) - spent), primes marking the phase of the state.
    """
    if state.now_s is None or state.power_mw is None:
        return min(capacity, state.tokens_uj) - state.spent_uj
    rate_mw = state.power_mw - prices.sleep_mw - state.capacity_uj / (WINDOW_S * 1e3)
    refill_uj = rate_mw * max(0.0, now_s - state.now_s) * 1e3
    return min(capacity, min(state.capacity_uj, state.tokens_uj + refill_uj) - state.spent_uj)


def _need_uj(prices: Prices, level: Level) -> float:
    """Tokens without which a level is shed; a second inference stays in hand, so that an early sample finds one.

    Tokens never shed service: the floor pays for an inference every period. Below `quiet` only other bounds drive.
    """
    if level in LEARNING:
        return _need_uj(prices, "infer") + prices.lesson_uj[level] + prices.consolidate_uj
    if level == "infer":
        return 2 * prices.inference_uj + prices.telemetry_uj
    return -math.inf


def _draw_mw(prices: Prices, energy_uj: float, busy_us: float) -> float:
    """What the board draws during an act; an act without a duration says nothing about peaks."""
    return prices.sleep_mw + (energy_uj / busy_us * 1e3 if busy_us > 0 else 0.0)


# ------------------------------------------------------------------ ladder


def _priced(prices: Prices) -> Rungs:
    return tuple(level for level in LEARNING if level in prices.lesson_uj)


def _rungs(budget: Budget, demand: Demand) -> Rungs:
    """The levels that this model has on this board: a lesson must fit its period beside an inference, and the peak."""
    prices = demand.prices
    room_us = budget.cpu_share * demand.period_s * 1e6 - prices.inference_us
    peak_mw = math.inf if budget.peak_mw is None else budget.peak_mw
    consolidates = (
        prices.consolidate_us <= room_us and _draw_mw(prices, prices.consolidate_uj, prices.consolidate_us) <= peak_mw
    )
    learning = tuple(
        level
        for level in _priced(prices)
        if consolidates
        and prices.lesson_us[level] <= room_us
        and _draw_mw(prices, prices.lesson_uj[level], prices.lesson_us[level]) <= peak_mw
    )
    return (*learning, "infer", "quiet", "slow", "sleep")


def _left_today_uj(budget: Budget, readings: Readings, demand: Demand, *, inferring: bool) -> float:
    """What the day's energy leaves after sleep, and inference if it is to go on, until midnight of device time."""
    if budget.energy_j_per_day is None:
        return math.inf
    rest_s = DAY_S - readings.now_s % DAY_S
    kept_mw = demand.prices.sleep_mw + (demand.prices.inference_uj / 1e3 / demand.period_s if inferring else 0.0)
    return (budget.energy_j_per_day - readings.energy_j_today) * 1e6 - kept_mw * rest_s * 1e3


def _ceiling(budget: Budget, readings: Readings, demand: Demand) -> tuple[Level, str]:
    """The best level that everything but the tokens allows, and why it is no better."""
    limits: list[tuple[Level, str]] = [("full", "nothing to shed")]
    if (heat := readings.temperature_c) is not None:
        text = f"temperature {heat.value:.1f} C near or over {budget.max_temperature_c:.1f} C"
        limits += [(level, text) for over, level in TEMPERATURE if heat.value >= budget.max_temperature_c + over]
    if (battery := readings.battery_share) is not None:
        text = f"battery at {100 * battery.value:.0f} %"
        limits += [(level, text) for under, level in BATTERY if battery.value < under]
    if _over(readings.ram_kb, budget.ram_kb):
        limits.append(("infer", f"ram over {budget.ram_kb} kB"))
    if _over(readings.cpu_share, budget.cpu_share):
        limits.append(("infer", f"cpu over {100 * budget.cpu_share:.0f} %"))
    if readings.flash_mb_today >= budget.flash_mb_per_day:
        limits.append(("infer", f"flash {readings.flash_mb_today:.1f} MB at the day's {budget.flash_mb_per_day:g} MB"))
    if _left_today_uj(budget, readings, demand, inferring=False) < demand.prices.inference_uj:
        limits.append(("sleep", f"energy {readings.energy_j_today:.1f} J leaves only sleep for today"))
    elif _left_today_uj(budget, readings, demand, inferring=True) < 0:
        limits.append(("slow", f"energy {readings.energy_j_today:.1f} J leaves too little for today"))
    if demand.late_s * 1e6 + demand.prices.inference_us > budget.deadline_ms * 1e3:
        limits.append(("infer", f"late by {1e3 * demand.late_s:.0f} ms for the deadline of {budget.deadline_ms:g} ms"))
    return max(limits, key=lambda limit: LEVELS.index(limit[0]))


def _over(reading: Reading | None, bound: float | None) -> bool:
    return reading is not None and bound is not None and reading.value > bound


def _best(rungs: Rungs, prices: Prices, tokens: float, ceiling: Level, factor: float) -> Level:
    """The best rung at or under the ceiling whose need, times a factor, the tokens cover."""
    under = (rung for rung in rungs if LEVELS.index(rung) >= LEVELS.index(ceiling))
    return next(rung for rung in under if tokens >= factor * _need_uj(prices, rung))


def _step(
    rungs: Rungs,
    prices: Prices,
    tokens: float,
    limit: tuple[Level, str],
    now_s: float,
    state: GovernorState,
) -> tuple[Level, str]:
    """The level of this cycle and what holds it there."""
    ceiling, why = limit
    climb = _best(rungs, prices, tokens, ceiling, HYSTERESIS)
    if state.level is None:
        level = climb
    else:
        stay = _best(rungs, prices, tokens, max(ceiling, state.level, key=LEVELS.index), 1.0)
        rising = LEVELS.index(climb) < LEVELS.index(stay)
        rested_s = now_s - state.changed_s
        level = climb if rising and rested_s >= DWELL_S else stay
        if rising and level == stay:
            return level, f"{level} for {rested_s:.0f} s of {DWELL_S:.0f} s before {climb}"
    above = next((rung for rung, under in pairwise(rungs) if under == level), None)
    if above is None or LEVELS.index(above) < LEVELS.index(ceiling):
        return level, why
    factor = 1.0 if state.level is not None and LEVELS.index(state.level) <= LEVELS.index(above) else HYSTERESIS
    return level, f"tokens {tokens / 1e3:.1f} mJ under {above} {factor * _need_uj(prices, above) / 1e3:.1f} mJ"


# ------------------------------------------------------------------ decision


def decide(budget: Budget, readings: Readings, demand: Demand, state: GovernorState) -> tuple[Decision, GovernorState]:
    """What is allowed now. Acts that are then done are told with `charge`; sleep is charged here, by elapsed time.

    A new power budget begins a new phase at this call. Raises BudgetError for one under the floor, see `check_budget`.
    """
    check_budget(budget, demand)
    prices, now_s = demand.prices, readings.now_s
    same_phase = state.power_mw == budget.power_mw
    capacity = state.capacity_uj if same_phase else capacity_uj(budget, prices, demand.period_s)
    tokens = _tokens_uj(prices, now_s, capacity, state)
    pool = min(tokens, _left_today_uj(budget, readings, demand, inferring=True))
    rungs = _rungs(budget, demand)
    level, reason = _step(rungs, prices, pool, _ceiling(budget, readings, demand), now_s, state)
    infer = level != "sleep" and tokens >= prices.inference_uj and (level != "slow" or state.cycles % EVERY == 0)
    granted, spare_uj, spare_us, held = _protect(budget, readings, demand, level, pool, state)
    learn = None if held else _lesson(rungs, demand, level, spare_uj, spare_us, "consolidate" in granted, state)
    decision = Decision(
        level=level,
        infer=infer,
        learn=learn,
        telemetry="telemetry" in granted,
        consolidate="consolidate" in granted,
        checkpoint="checkpoint" in granted,
        sleep=level == "sleep",
        reason=held if held and demand.lesson_pending and level in LEARNING else reason,
        tokens_uj=tokens,
        capacity_uj=capacity,
    )
    return decision, msgspec.structs.replace(
        state,
        tokens_uj=tokens,
        spent_uj=0.0,
        capacity_uj=capacity,
        power_mw=budget.power_mw,
        now_s=now_s,
        level=level,
        changed_s=state.changed_s if level == state.level else now_s,
        cycles=state.cycles + 1,
        telemetry_asked=state.telemetry_asked + demand.telemetry_due,
        lessons_asked=state.lessons_asked + demand.lesson_pending,
    )


def _protect(
    budget: Budget, readings: Readings, demand: Demand, level: Level, pool: float, state: GovernorState
) -> tuple[frozenset[str], float, float, str]:
    """Pay what protects, in order: (granted, energy left, time left, what holds back the rest or "").

    This inference and the next are set aside first. Telemetry and checkpoints are sliced between samples, so only
    consolidation needs room in time.
    """
    prices, awake = demand.prices, level != "sleep"
    spare_uj = pool - 2 * prices.inference_uj
    spare_us = min(budget.cpu_share * demand.period_s, demand.period_s - demand.late_s) * 1e6 - prices.inference_us
    talks = level not in ("quiet", "slow") or state.telemetry_asked % EVERY == 0
    writes = readings.flash_mb_today < budget.flash_mb_per_day
    granted: set[str] = set()
    for name, due, cost_uj, cost_us in (
        ("telemetry", demand.telemetry_due and awake and talks, prices.telemetry_uj, 0.0),
        ("checkpoint", demand.checkpoint_due and awake and writes, prices.checkpoint_uj, 0.0),
        ("consolidate", demand.consolidation_due and awake, prices.consolidate_uj, prices.consolidate_us),
    ):
        if not due:
            continue
        if cost_uj > spare_uj:
            need_uj = pool - spare_uj + cost_uj
            why = f"{name} first: tokens {pool / 1e3:.1f} mJ under {need_uj / 1e3:.1f} mJ"
            return frozenset(granted), spare_uj, spare_us, why
        if cost_us > spare_us:
            why = f"{name} first: {cost_us:.0f} us, {spare_us:.0f} us left in the period"
            return frozenset(granted), spare_uj, spare_us, why
        granted.add(name)
        spare_uj -= cost_uj
        spare_us -= cost_us
    return frozenset(granted), spare_uj, spare_us, ""


def _lesson(
    rungs: Rungs,
    demand: Demand,
    level: Level,
    spare_uj: float,
    spare_us: float,
    consolidated: bool,
    state: GovernorState,
) -> Level | None:
    """The best lesson that the level, the energy and the time left allow; between two sparse ones, a head lesson."""
    if not demand.lesson_pending:
        return None
    prices = demand.prices
    reserve_uj = 0.0 if consolidated else prices.consolidate_uj
    for kind in rungs:
        if kind not in LEARNING or LEVELS.index(kind) < LEVELS.index(level):
            continue
        skipped = kind == "sparse" and state.lessons_asked % EVERY != 0
        if not skipped and prices.lesson_uj[kind] + reserve_uj <= spare_uj and prices.lesson_us[kind] <= spare_us:
            return kind
    return None
