"""Operator commands: what each verb takes, and the gate that lets a message in or says why not.

A message is hostile until every check has passed. The checks run from cheap to dear, and the command counter is on disk
before the command is handed out: a power cut can lose a command, never run it twice.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET, Meta, Struct, UnsetType

from edgerun.arrays import AnyArray
from edgerun.errors import CommandError, DataError, MissingExtra, SpecError, StoreError
from edgerun.spec import Budget, Count, Label
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES, Envelope, Inner, Result
from edgerun.telemetry.topics import ALL, Parsed, Topics, parse

MAX_DEPTH = 8  # nested JSON containers
MAX_VALIDITY_MS = 5 * 60 * 1000  # from iat to exp
CLOCK_UNSET_MS = (
    1_700_000_000_000  # a wall clock under this was never set: time cannot be judged, the counter still can
)
REMEMBERED = 256  # command ids kept for repeated deliveries
_T = TypeVar("_T", Envelope, Inner)
_PREFIX = b"edgerun-cmd-v1"
TOO_MANY = "too many commands: send fewer, or several corrections and examples in one"
_FINAL = ("done", "failed", "expired", "rejected")

# ------------------------------------------------------------------ arguments


class Args(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every verb's arguments: an unknown field is an error, it may have been meant to limit something."""


Seconds: TypeAlias = Annotated[float, Meta(gt=0, le=604_800)]
Number: TypeAlias = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Positive: TypeAlias = Annotated[float, Meta(gt=0)]

WIRE_TYPES: Final = MappingProxyType({"int8": "i1", "uint8": "u1", "int16": "<i2", "float32": "<f4"})


class Example(Args, frozen=True, kw_only=True):
    """One sample, row-major and little-endian.

    Integers of the bundle's own dtype pass as they are and float32 is quantised by the bundle's input scale; `scale`
    and `zp` say how integers were made, for a device that checks.
    """

    shape: Annotated[tuple[Count, ...], Meta(min_length=1, max_length=3)]
    dtype: Literal["int8", "uint8", "int16", "float32"]
    scale: Positive = 1.0
    zp: Annotated[int, Meta(ge=-128, le=255)] = 0
    data: Annotated[str, Meta(max_length=MAX_MESSAGE_BYTES)]  # base64

    def __post_init__(self) -> None:
        want = math.prod(self.shape) * np.dtype(WIRE_TYPES[self.dtype]).itemsize
        got = len(_unbase64("data", self.data))
        if got != want:
            raise DataError(f"data holds {got} bytes, shape {self.shape} of {self.dtype} needs {want}")
        if self.dtype == "float32" and not np.isfinite(self.array()).all():
            raise DataError("data holds a value that is not finite")

    def array(self) -> AnyArray:
        """The sample, in `shape`, read-only."""
        flat = np.frombuffer(base64.b64decode(self.data), dtype=WIRE_TYPES[self.dtype])
        return flat.reshape(self.shape)

    @classmethod
    def of(cls, x: AnyArray, *, scale: float = 1.0, zp: int = 0) -> Example:
        """Raises DataError for a dtype that the wire does not carry."""
        if x.dtype.name not in WIRE_TYPES:
            raise DataError(f"an example of dtype {x.dtype.name} is none of {', '.join(WIRE_TYPES)}")
        data = np.ascontiguousarray(x, dtype=WIRE_TYPES[x.dtype.name]).tobytes()
        fields = {
            "shape": x.shape,
            "dtype": x.dtype.name,
            "scale": scale,
            "zp": zp,
            "data": base64.b64encode(data).decode(),
        }
        return msgspec.convert(fields, cls)


class Teach(Args, frozen=True, kw_only=True):
    """Learn from a few samples: `label`, new or known, or the values in `targets`, one for each sample in their order.

    `dry_run` reports what would change and undoes it.
    """

    label: Label | None = None
    examples: Annotated[tuple[Example, ...], Meta(min_length=1, max_length=16)]
    targets: Annotated[tuple[Example, ...], Meta(max_length=16)] = ()
    consolidate: bool = True
    dry_run: bool = False

    def __post_init__(self) -> None:
        _one_answer("teach", self.label, bool(self.targets))
        if self.targets and len(self.targets) != len(self.examples):
            raise DataError(f"teach has {len(self.targets)} targets for {len(self.examples)} examples")


class Correction(Args, frozen=True, kw_only=True):
    """What sample number `sample` really was: a class, or values."""

    sample: Number
    label: Label | None = None
    target: Example | None = None

    def __post_init__(self) -> None:
        _one_answer(f"sample {self.sample}", self.label, self.target is not None)


class Feedback(Args, frozen=True, kw_only=True):
    items: Annotated[tuple[Correction, ...], Meta(min_length=1, max_length=256)]


class LearnPause(Args, frozen=True, kw_only=True):
    """Stop learning, for so many seconds of device time or until resumed."""

    for_s: Seconds | None = None


class LearnResume(Args, frozen=True, kw_only=True):
    """Learn again, for so many seconds of device time or until paused."""

    for_s: Seconds | None = None


class Rollback(Args, frozen=True, kw_only=True):
    """Go back to an older learned state: a named one, or a checkpoint's generation number."""

    to: Literal["last-good", "previous", "factory"] | Number
    what: Literal["learned"] = "learned"


class BudgetSet(Args, frozen=True, kw_only=True):
    """Fields of `spec.Budget` to change; null lifts a bound that may be absent."""

    power_mw: Positive | UnsetType = UNSET
    peak_mw: Positive | UnsetType | None = UNSET
    energy_j_per_day: Positive | UnsetType | None = UNSET
    ram_kb: Annotated[int, Meta(gt=0)] | UnsetType | None = UNSET
    cpu_share: Annotated[float, Meta(gt=0, le=1)] | UnsetType = UNSET
    flash_mb_per_day: Positive | UnsetType = UNSET
    max_temperature_c: Annotated[float, Meta(ge=-40, le=150)] | UnsetType = UNSET
    deadline_ms: Positive | UnsetType = UNSET

    def __post_init__(self) -> None:
        if not self.changes():
            raise SpecError("budget-set names no field to change")

    def changes(self) -> dict[str, float | None]:
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not UNSET}

    def applied(self, budget: Budget) -> Budget:
        """The budget with these fields replaced, checked once more by `Budget` itself."""
        return msgspec.structs.replace(budget, **self.changes())


class Checkpoint(Args, frozen=True, kw_only=True):
    """Write the learned state now."""


class Consolidate(Args, frozen=True, kw_only=True):
    """Close a task: turn what the newest updates did into importance."""


class Probe(Args, frozen=True, kw_only=True):
    """Score the bundle's probe samples and answer with the accuracy."""


class ForgetClass(Args, frozen=True, kw_only=True):
    """Erase one class: its prototype, its stored samples, its journal records at the next seal."""

    label: Label

    def __post_init__(self) -> None:
        _printable(self.label)


class WipeLearned(Args, frozen=True, kw_only=True):
    """Erase everything learned, and every sample that was kept, and go on from the factory weights."""


class Rebirth(Args, frozen=True, kw_only=True):
    """Publish birth and state again."""


VERBS: Final[Mapping[str, type[Args]]] = MappingProxyType(
    {
        "teach": Teach,
        "feedback": Feedback,
        "learn-pause": LearnPause,
        "learn-resume": LearnResume,
        "rollback": Rollback,
        "budget-set": BudgetSet,
        "checkpoint": Checkpoint,
        "consolidate": Consolidate,
        "probe": Probe,
        "forget-class": ForgetClass,
        "wipe-learned": WipeLearned,
        "rebirth": Rebirth,
    }
)
BROADCAST: Final = frozenset({"learn-pause", "learn-resume", "budget-set"})


# ------------------------------------------------------------------ answers of the gate


@dataclass(frozen=True, slots=True)
class Command:
    """A command to carry out. `kid` is the key that signed it, "" where none is configured."""

    verb: str
    id: str
    args: Args
    kid: str = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A message that was refused; nothing was changed. `id` is what it claimed, "" where that could not be read."""

    id: str
    verb: str
    reason: str
    status: Literal["rejected", "expired"] = "rejected"


@dataclass(frozen=True, slots=True)
class Repeat:
    """A command that came a second time. `result` is its final answer, None while it still runs."""

    id: str
    verb: str
    result: Result | None


# ------------------------------------------------------------------ the gate


class _No(CommandError):
    """Ends the checks: becomes a Rejection, never leaves this module."""

    def __init__(self, reason: str, *, id: str = "", expired: bool = False) -> None:
        super().__init__(reason)
        self.id = id
        self.expired = expired


class Gate:
    """Lets an authentic, fresh, well-formed command in, once.

    keys      key id -> raw 32-byte Ed25519 public key; empty means that unsigned commands are taken
    counters  key id -> highest counter taken so far, as loaded from disk
    save      writes the counters durably; raises StoreError where it cannot, and the command is refused
    now_ms    wall clock
    room      whether one more command may be taken now; asked last, before anything is written
    """

    def __init__(
        self,
        topics: Topics,
        keys: Mapping[str, bytes],
        counters: Mapping[str, int],
        save: Callable[[dict[str, int]], None],
        now_ms: Callable[[], int],
        room: Callable[[], bool] = lambda: True,
    ) -> None:
        for kid, key in keys.items():
            if not kid or len(key) != 32:
                raise CommandError(
                    f"operator key {kid!r} has {len(key)} bytes, an Ed25519 public key has 32 and a name"
                )
        self._topics = topics
        self._keys = dict(keys)
        self._counters = dict(counters)
        self._save = save
        self._now_ms = now_ms
        self._room = room
        self._seen: OrderedDict[str, tuple[bytes, Result | None]] = OrderedDict()

    @property
    def allow_unsigned(self) -> bool:
        return not self._keys

    def admit(self, topic: str, payload: bytes, retained: bool) -> Command | Repeat | Rejection:
        """Never raises for anything that a stranger can send."""
        parsed = parse(topic)
        verb = parsed.verb if parsed else ""
        try:
            self._check_topic(parsed)
            envelope, inner, raw = _open(payload, retained)
            return self._judge(topic, verb, envelope, inner, raw)
        except _No as no:
            return Rejection(no.id, verb, str(no), "expired" if no.expired else "rejected")

    def finish(self, result: Result) -> None:
        """Remember a final answer, to be given again should the command be delivered again."""
        if result.status in _FINAL and result.id in self._seen:
            self._seen[result.id] = (self._seen[result.id][0], result)

    def _check_topic(self, parsed: Parsed | None) -> None:
        if parsed is None or parsed.kind != "cmd" or parsed.group != self._topics.group:
            raise _No("this is no command topic of this group")
        if parsed.node not in (self._topics.node, ALL):
            raise _No(f"this command is for node {parsed.node}")
        if parsed.verb not in VERBS:
            raise _No(f"verb {parsed.verb!r} is unknown")
        if parsed.node == ALL and parsed.verb not in BROADCAST:
            raise _No(f"verb {parsed.verb!r} may not be broadcast")

    def _judge(self, topic: str, verb: str, envelope: Envelope, inner: Inner, raw: bytes) -> Command | Repeat:
        reason = self._authenticate(topic, envelope, raw)
        if reason:
            raise _No(reason, id=inner.id)
        digest = hashlib.sha256(topic.encode() + b"\0" + raw).digest()
        if inner.id in self._seen:
            first, result = self._seen[inner.id]
            if first != digest:
                raise _No(f"id {inner.id!r} was used by another command", id=inner.id)
            return Repeat(inner.id, verb, result)
        self._check_time(inner)
        taken = self._counters.get(envelope.kid, -1)
        if inner.ctr <= taken:
            raise _No(f"ctr {inner.ctr} is not above {taken}: replayed or out of order", id=inner.id)
        try:
            args = msgspec.convert(inner.args, VERBS[verb])
        except msgspec.ValidationError as err:
            raise _No(f"args: {err}", id=inner.id) from None
        if not self._room():
            raise _No(TOO_MANY, id=inner.id)
        self._take(envelope.kid, inner)
        self._remember(inner.id, digest)
        return Command(verb, inner.id, args, envelope.kid)

    def _authenticate(self, topic: str, envelope: Envelope, raw: bytes) -> str:
        """The reason for refusal, or "" where the sender may command this device."""
        if not envelope.kid and not envelope.sig:
            return "unsigned: this device takes signed commands only" if self._keys else ""
        if envelope.kid not in self._keys:
            return f"signed by unknown key {envelope.kid[:64]!r}"
        return _verify(self._keys[envelope.kid], envelope.sig, _PREFIX + topic.encode() + raw)

    def _check_time(self, inner: Inner) -> None:
        if not 0 <= inner.exp - inner.iat <= MAX_VALIDITY_MS:
            raise _No(f"exp - iat is {inner.exp - inner.iat} ms, outside [0, {MAX_VALIDITY_MS}]", id=inner.id)
        now = self._now_ms()
        if now >= CLOCK_UNSET_MS and inner.exp < now:
            raise _No(f"expired {now - inner.exp} ms ago", id=inner.id, expired=True)

    def _take(self, kid: str, inner: Inner) -> None:
        counters = {**self._counters, kid: inner.ctr}
        try:
            self._save(counters)
        except StoreError as err:
            raise _No(f"ctr could not be stored: {err}", id=inner.id) from None
        self._counters = counters

    def _remember(self, id: str, digest: bytes) -> None:
        self._seen[id] = (digest, None)
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)


def _open(payload: bytes, retained: bool) -> tuple[Envelope, Inner, bytes]:
    """Size, retain flag, nesting and form. Returns the envelope, what is in it, and its exact bytes."""
    if len(payload) > MAX_MESSAGE_BYTES:
        raise _No(f"message has {len(payload)} bytes or more, at most {MAX_MESSAGE_BYTES} are taken")
    if retained:
        raise _No("retained: a command is an act, not a state")
    envelope = _decode("envelope", payload, Envelope)
    try:
        raw = _unbase64("p", envelope.p)
    except DataError as err:
        raise _No(f"envelope: {err}") from None
    return envelope, _decode("inner", raw, Inner), raw


def _decode(what: str, data: bytes, type: type[_T]) -> _T:
    if _depth(data) > MAX_DEPTH:
        raise _No(f"{what}: JSON nests deeper than {MAX_DEPTH}")
    try:
        return msgspec.json.decode(data, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise _No(f"{what}: {err}") from None


_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)  # an open string runs to the end: no second try, linear
_BRACKET = re.compile(rb"[\[\]{}]")


def _depth(data: bytes) -> int:
    """How deep JSON containers nest; strings do not count."""
    deepest = level = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        level += 1 if bracket in b"[{" else -1
        deepest = max(deepest, level)
    return deepest


def _unbase64(field: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as err:
        raise DataError(f"{field} is not base64: {err}") from None


def _one_answer(what: str, label: str | None, valued: bool) -> None:
    """Raises DataError unless there is a label that can be printed, or values, and not both."""
    if (label is None) != valued:
        raise DataError(f"{what} has {'both a label and' if valued else 'neither a label nor'} a target: give one")
    if label is not None:
        _printable(label)


def _printable(label: str) -> None:
    if not label.isprintable():
        raise DataError(f"label {label!r} holds a character that cannot be printed")


# ------------------------------------------------------------------ signatures


def _verify(public_key: bytes, sig: str, message: bytes) -> str:
    """The reason for refusal, or "". A signature that cannot be checked is refused."""
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError:
        return "the signature cannot be checked here: pip install 'edgerun[sign]'"
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(_unbase64("sig", sig), message)
    except (InvalidSignature, ValueError):
        return "bad signature"
    return ""


def seal(topic: str, inner: Inner, private_key: bytes | None = None, kid: str = "") -> bytes:
    """The envelope of a command for exactly this topic, signed where a raw 32-byte Ed25519 private key is given."""
    raw = msgspec.json.encode(inner)
    sig = ""
    if private_key is not None:
        try:
            from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        except ImportError:
            raise MissingExtra("signing a command", "sign", "cryptography") from None
        signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(_PREFIX + topic.encode() + raw)
        sig = base64.b64encode(signature).decode()
    sealed = msgspec.json.encode(Envelope(p=base64.b64encode(raw).decode(), kid=kid, sig=sig))
    if len(sealed) > MAX_MESSAGE_BYTES:
        raise CommandError(f"command has {len(sealed)} bytes, at most {MAX_MESSAGE_BYTES} fit: send fewer examples")
    return sealed
