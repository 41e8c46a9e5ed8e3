"""What can go wrong on purpose, and how to ask for it: `power-cut@write=120`, `outage@t=60,for=40`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from edgerun.errors import Refused


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One row of the table: arguments with their defaults (None: must be given) and what happens."""

    arguments: Mapping[str, float | None]
    help: str


FAULTS: Final[Mapping[str, FaultKind]] = MappingProxyType(
    {
        "power-cut": FaultKind({"write": None}, "the power goes at the n-th write to the flash after the first start"),
        "outage": FaultKind({"t": None, "for": None}, "no network for so many seconds from device time t"),
        "clock-jump": FaultKind({"t": None, "by": None}, "the wall clock jumps by so many seconds, back if negative"),
        "stuck": FaultKind({"sample": None, "for": math.inf}, "the sensor repeats itself from that sample number on"),
        "nan": FaultKind(
            {"sample": None, "for": math.inf, "share": 1.0}, "that share of every reading's values is missing"
        ),
        "bit-flip": FaultKind({"write": None, "bits": 1.0}, "so many bits flip in what that write leaves on the flash"),
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that was asked for. `arguments` holds every argument of its kind."""

    kind: str
    arguments: Mapping[str, float]

    def __str__(self) -> str:
        return f"{self.kind}@" + ",".join(f"{name}={value:g}" for name, value in self.arguments.items())


def parse_fault(text: str) -> Fault:
    """`kind@name=number,...`. Raises Refused naming what is wrong and what would be right."""
    kind, _, rest = text.partition("@")
    if kind not in FAULTS:
        raise Refused(f"fault {kind!r} is unknown: expected one of {', '.join(FAULTS)}")
    known = FAULTS[kind].arguments
    given: dict[str, float] = {}
    for item in filter(None, rest.split(",")):
        name, _, number = item.partition("=")
        if name not in known:
            raise Refused(f"fault {kind} has no argument {name!r}: expected {', '.join(known)}")
        if name in given:
            raise Refused(f"fault {kind} argument {name} is given twice")
        given[name] = _number(kind, name, number)
    values = {name: given.get(name, default) for name, default in known.items()}
    missing = [name for name, value in values.items() if value is None]
    if missing:
        raise Refused(f"fault {kind} lacks {', '.join(missing)}: write {usage(kind)}")
    return Fault(kind, MappingProxyType({name: value for name, value in values.items() if value is not None}))


def _number(kind: str, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise Refused(f"fault {kind} {name} {text!r} is not a number") from None
    low = -math.inf if name == "by" else 1.0 if name in ("write", "bits") else 0.0
    high = 1.0 if name == "share" else math.inf
    if not low <= value <= high or (math.isinf(value) and name != "for"):
        raise Refused(f"fault {kind} {name} {text} is not in [{low:g}, {high:g}]")
    if name in ("write", "bits", "sample") and value != int(value):
        raise Refused(f"fault {kind} {name} {text} is not whole")
    return value


def usage(kind: str) -> str:
    """How to write a fault, optional arguments in brackets: `stuck@sample=N[,for=N]`."""
    parts = [f"{name}=N" if default is None else f"[{name}=N]" for name, default in FAULTS[kind].arguments.items()]
    return f"{kind}@" + ",".join(parts).replace(",[", "[,")


def list_faults() -> list[str]:
    """One line a fault, for `--list-faults`."""
    width = max(len(usage(kind)) for kind in FAULTS)
    return [f"{usage(kind):<{width}}  {row.help}" for kind, row in FAULTS.items()]
