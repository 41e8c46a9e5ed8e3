"""Every verb that a device announces is answered: by a handler of its own, or by the reporter."""

from __future__ import annotations

from edgerun.agent.orders import HANDLERS
from edgerun.telemetry.commands import VERBS, Rebirth


def test_every_verb_has_one_handler() -> None:
    assert {*HANDLERS, Rebirth} == set(VERBS.values())
    assert len(set(HANDLERS.values())) == len(HANDLERS)
