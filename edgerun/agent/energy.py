"""The energy books: what each act costs on this board, what was spent, and what the governor allows next."""

from __future__ import annotations

from collections import deque

import msgspec
import numpy as np

from edgerun.boards import Board, Ops, price
from edgerun.bundle import Bundle
from edgerun.errors import Refused
from edgerun.governor import WINDOW_S, Decision, Demand, GovernorState, capacity_uj, charge, check_budget, decide
from edgerun.ports import Power
from edgerun.price import prices, refresh, work
from edgerun.spec import Budget, Readings


class Energy:
    """One board's energy under one budget. Raises BudgetError with the floor, where the board cannot keep the budget.

    work      operations of every act of the bundle
    settling  operations of recomputing all prototypes at once, when a class's last example is in
    verdict   operations of the lesson guard and of the checkpoint after it
    prices    what the governor reckons with
    spent_uj  since the start, by the name of the act
    """

    def __init__(
        self, bundle: Bundle, board: Board, power: Power, period_s: float, budget: Budget, *, first_boot: bool
    ) -> None:
        self.board, self._power, self._period_s = board, power, period_s
        self.work = work(bundle)
        share = refresh(bundle.manifest, self.work.inference)
        self.settling = share.times(bundle.manifest.learning.replay.refresh_every)
        self.verdict = Ops.total([self.work.guard, self.work.checkpoint])
        self.prices = prices(board, self.work)
        self.change(budget)
        self.decision: Decision | None = None
        self._state = GovernorState.first_boot() if first_boot else GovernorState()
        self._minute: deque[tuple[float, float]] = deque()  # (device seconds, mean mW until then since the one before)
        self.spent_uj: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def change(self, budget: Budget) -> None:
        """Keep this budget from the next decision on. Raises BudgetError, nothing changed, for one under the floor."""
        check_budget(budget, Demand(prices=self.prices, period_s=self._period_s))
        self.budget = budget

    # ------------------------------------------------------------------ before acts

    def look(self) -> None:
        """Read the board; keep a minute of its power."""
        self.readings: Readings = self._power.readings()
        now_s, power_mw = self.readings.now_s, self.readings.power_mw
        if power_mw is not None:
            self._minute.append((now_s, power_mw.value))
        while self._minute and self._minute[0][0] < now_s - WINDOW_S:
            self._minute.popleft()

    def decide(self, *, lesson: bool, telemetry: bool, consolidation: bool, checkpoint: bool) -> Decision:
        """What this cycle may do, given what waits to be done in it."""
        demand = Demand(
            prices=self.prices,
            period_s=self._period_s,
            lesson_pending=lesson,
            telemetry_due=telemetry,
            consolidation_due=consolidation,
            checkpoint_due=checkpoint,
        )
        self.decision, self._state = decide(self.budget, self.readings, demand, self._state)
        return self.decision

    @property
    def allowed(self) -> Decision:
        """The newest decision. Raises Refused before the first."""
        if self.decision is None:
            raise Refused("the governor has not decided yet")
        return self.decision

    # ------------------------------------------------------------------ acts

    def spend(self, act: str, ops: Ops) -> float:
        """Charge an act where it is paid: the board, the governor's bucket, the report. Returns its energy in uJ."""
        energy_uj, busy_us = price(self.board, ops)
        self._power.spend(act, energy_uj, busy_us)
        self._state = charge(self._state, energy_uj)
        self.spent_uj[act] = self.spent_uj.get(act, 0.0) + energy_uj
        self._counts[act] = self._counts.get(act, 0) + 1
        return energy_uj

    def need_uj(self, ops: Ops) -> float:
        """Tokens without which an act outside the ladder waits: the next two inferences are not touched."""
        return price(self.board, ops)[0] + 2 * self.prices.inference_uj

    def covers(self, ops: Ops) -> bool:
        """Whether the tokens that are left in this cycle pay for such an act, on a device that is not asleep."""
        return not self.allowed.sleep and self.allowed.tokens_uj - self._state.spent_uj >= self.need_uj(ops)

    def check_act(self, act: str, ops: Ops) -> None:
        """Raises Refused for an act for which this budget's bucket can never hold enough."""
        need, room = self.need_uj(ops), capacity_uj(self.budget, self.prices, self._period_s)
        if need > room:
            raise Refused(
                f"{act} takes {need / 1e3:.3g} mJ at once, a budget of {self.budget.power_mw:g} mW "
                f"saves {room / 1e3:.3g} mJ at most"
            )

    # ------------------------------------------------------------------ the report

    @property
    def total_uj(self) -> float:
        """All acts since the start."""
        return sum(self.spent_uj.values())

    def mean_uj(self, act: str) -> float:
        """Mean energy of the acts whose name begins so, nan before the first."""
        names = [name for name in self.spent_uj if name.startswith(act)]
        count = sum(self._counts[name] for name in names)
        return sum(self.spent_uj[name] for name in names) / count if count else float("nan")

    def mean_power_mw(self) -> float:
        """Mean power of the last minute, nan where the board does not say."""
        times = [self._minute[0][0] - self._period_s, *(t for t, _ in self._minute)] if self._minute else []
        spans = np.diff(times)
        return float(np.average([mw for _, mw in self._minute], weights=spans)) if spans.sum() > 0 else float("nan")


def within(budget: Budget, ceiling: Budget | None) -> Budget:
    """A budget clamped to what the bundle allows."""
    if ceiling is None:
        return budget
    changes: dict[str, float] = {}
    for name in ("power_mw", "peak_mw", "energy_j_per_day", "ram_kb", "flash_mb_per_day", "max_temperature_c"):
        mine, top = getattr(budget, name), getattr(ceiling, name)
        if top is not None and (mine is None or mine > top):
            changes[name] = top
    return msgspec.structs.replace(budget, **changes)
