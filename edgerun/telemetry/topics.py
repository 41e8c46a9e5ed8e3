"""The topic tree `edgerun/v1/<group>/<node>/<kind>[/<verb>]` and its one parser."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edgerun.errors import ConfigError

ROOT = "edgerun/v1"
ALL = "_all"  # the reserved node name of a broadcast
KINDS = ("state", "birth", "data", "event", "reported", "desired", "ack", "cmd", "res")
_WITH_VERB = ("cmd", "res")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


def check_name(field: str, value: str) -> str:
    """The value itself; raises ConfigError where it cannot be one level of a topic."""
    if not _NAME.fullmatch(value):
        raise ConfigError(f"{field} {value[:80]!r} is not 1 to 64 of A-Z a-z 0-9 _ -")
    return value


@dataclass(frozen=True, slots=True)
class Topics:
    """Every topic of one node. `_all` is nobody's name."""

    group: str
    node: str

    def __post_init__(self) -> None:
        check_name("group", self.group)
        check_name("node", self.node)
        if self.node == ALL:
            raise ConfigError(f"node {ALL!r} is reserved for broadcasts")

    @property
    def base(self) -> str:
        return f"{ROOT}/{self.group}/{self.node}"

    @property
    def state(self) -> str:
        return f"{self.base}/state"

    @property
    def birth(self) -> str:
        return f"{self.base}/birth"

    @property
    def data(self) -> str:
        return f"{self.base}/data"

    @property
    def event(self) -> str:
        return f"{self.base}/event"

    @property
    def reported(self) -> str:
        return f"{self.base}/reported"

    @property
    def desired(self) -> str:
        return f"{self.base}/desired"

    @property
    def ack(self) -> str:
        return f"{self.base}/ack"

    @property
    def inbox(self) -> tuple[str, ...]:
        """What a device subscribes to: its commands, the group's broadcasts, and the collector's acknowledgements."""
        return (f"{self.base}/cmd/#", f"{ROOT}/{self.group}/{ALL}/cmd/#", self.ack)

    def cmd(self, verb: str) -> str:
        return f"{self.base}/cmd/{check_name('verb', verb)}"

    def res(self, verb: str) -> str:
        return f"{self.base}/res/{check_name('verb', verb)}"


def broadcast(group: str, verb: str) -> str:
    """The command topic that every node of a group listens to."""
    return f"{ROOT}/{check_name('group', group)}/{ALL}/cmd/{check_name('verb', verb)}"


@dataclass(frozen=True, slots=True)
class Parsed:
    """One topic taken apart; `verb` is empty unless `kind` is cmd or res, `node` may be `_all` for cmd."""

    group: str
    node: str
    kind: str
    verb: str = ""


def parse(topic: str) -> Parsed | None:
    """None for anything that is not exactly one of our topics."""
    levels = topic.split("/")
    if len(levels) not in (5, 6) or "/".join(levels[:2]) != ROOT:
        return None
    group, node, kind, *verb = levels[2:]
    if kind not in KINDS or (kind in _WITH_VERB) != bool(verb) or (node == ALL and kind != "cmd"):
        return None
    if not all(_NAME.fullmatch(name) for name in (group, node, *verb)):
        return None
    return Parsed(group, node, kind, *verb)
