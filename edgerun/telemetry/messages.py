"""Every payload that crosses the broker, typed. JSON on the wire; unknown fields are ignored, wrong ones refused.

Topics: `edgerun/v1/<group>/<node>/{state,birth,data,event,reported,desired,cmd/<verb>,res/<verb>,ack}`.
`seq` numbers every data, event and res message of a device for its whole life, whichever lane it took.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct, field

VERSION = 1
MAX_MESSAGE_BYTES = 65536


class Message(Struct, frozen=True, kw_only=True, omit_defaults=False):
    """The base: immutable, keyword-only, tolerant of fields that a newer runtime added."""


class State(Message, frozen=True, kw_only=True):
    """`state`, retained; also the will (`online` false, reason "lost")."""

    online: bool
    sid: int  # session number, +1 each connect: a death of an older session is ignored
    ts: int = 0  # wall ms
    mode: Literal["learning", "paused", "inference", "stopped"] = "inference"
    reason: str = ""  # "", "lost", "stopped"


class Metric(Message, frozen=True, kw_only=True):
    unit: str
    kind: Literal["gauge", "counter"] = "gauge"
    help: str = ""


class Birth(Message, frozen=True, kw_only=True):
    """`birth`, retained: who the device is and what it will send."""

    v: int = VERSION
    sid: int
    ts: int
    bundle: str  # SHA-256 of the bundle, hex
    bundle_name: str
    runtime: str
    board: str
    classes: list[str]
    capacity: int
    heartbeat_s: float
    metrics: dict[str, Metric]
    verbs: list[str]
    allow_unsigned: bool  # no key is configured: anybody on the broker may command this device
    delete_on: Literal["collector-ack", "puback"] = "collector-ack"
    oldest: int = 0  # lowest seq that it may still send; tells a new collector where to begin. 0 = not said


class Data(Message, frozen=True, kw_only=True):
    """`data`: a batch of samples, column-wise. `m[name][i]` belongs to wall time `t[i]`; null = not sampled then."""

    v: int = VERSION
    sid: int
    seq: int
    t: list[int]
    m: dict[str, list[float | None]]
    hist: bool = False  # drained from the outbox after an outage
    sample: int = 0  # number of the newest sensor sample in the batch


class Event(Message, frozen=True, kw_only=True):
    """`event`: something happened. `kind` is one of EVENT_KINDS."""

    v: int = VERSION
    sid: int
    seq: int
    t: int
    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    hist: bool = False
    sample: int = 0


EVENT_KINDS = (
    "started", "stopped", "lesson", "taught", "drift", "consolidated", "rolled-back", "level", "budget",
    "budget-refused", "checkpoint", "restored", "gap", "class-added", "paused", "resumed", "self-test", "thinned",
    "flood",
)  # fmt: skip


class Ack(Message, frozen=True, kw_only=True):
    """`ack`, retained, from the collector: everything up to `upto` is safe in the one shared store."""

    collector: str
    sid: int
    upto: int


class Result(Message, frozen=True, kw_only=True):
    """`res/<verb>`: the answer to a command."""

    v: int = VERSION
    id: str
    sid: int
    seq: int
    t: int
    verb: str
    status: Literal["accepted", "running", "done", "failed", "expired", "rejected"]
    detail: dict[str, Any] = field(default_factory=dict)


class Envelope(Message, frozen=True, kw_only=True):
    """`cmd/<verb>`: the exact bytes that were signed. `kid` and `sig` are absent on an unsigned command."""

    p: Annotated[str, Meta(max_length=MAX_MESSAGE_BYTES)]  # base64 of the inner JSON
    kid: str = ""
    sig: str = ""  # base64 Ed25519 over b"edgerun-cmd-v1" + topic + inner bytes


class Inner(Message, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=1, max_length=64)]
    ctr: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]  # strictly rising per key
    iat: int  # wall ms
    exp: int
    args: dict[str, Any] = field(default_factory=dict)
