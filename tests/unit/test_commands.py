"""The gate: an authentic, fresh, well-formed command passes once; everything else is refused with its reason."""

from __future__ import annotations

import base64
import builtins
import json
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import CommandError, DataError, StoreError
from edgerun.spec import Budget
from edgerun.telemetry import commands
from edgerun.telemetry.commands import VERBS, BudgetSet, Command, Example, Gate, Rejection, Repeat, Teach, seal
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES, Envelope, Inner, Result
from edgerun.telemetry.topics import Topics, broadcast

NOW = 1_800_000_000_000
NODE = Topics("farm", "pi-7")
OPERATOR = Ed25519PrivateKey.generate()
PRIVATE, PUBLIC = OPERATOR.private_bytes_raw(), OPERATOR.public_key().public_bytes_raw()
EXAMPLE = {"shape": [2, 2], "dtype": "int8", "scale": 0.5, "zp": 0, "data": base64.b64encode(bytes(4)).decode()}

GOOD_ARGS: dict[str, dict[str, Any]] = {
    "teach": {"label": "mug", "examples": [EXAMPLE]},
    "feedback": {"items": [{"sample": 7, "label": "mug"}]},
    "learn-pause": {"for_s": 60},
    "learn-resume": {},
    "rollback": {"to": "last-good"},
    "budget-set": {"power_mw": 120.0},
    "checkpoint": {},
    "consolidate": {},
    "probe": {},
    "forget-class": {"label": "mug"},
    "wipe-learned": {},
    "rebirth": {},
}


class Disk:
    """Counters as a device keeps them."""

    def __init__(self) -> None:
        self.counters: dict[str, int] = {}
        self.full = False

    def save(self, counters: dict[str, int]) -> None:
        if self.full:
            raise StoreError("no space left")
        self.counters = counters


def gate(disk: Disk | None = None, *, signed: bool = False, now: int = NOW) -> Gate:
    disk = disk or Disk()
    return Gate(NODE, {"op": PUBLIC} if signed else {}, disk.counters, disk.save, lambda: now)


def inner(
    ctr: int = 1, *, args: dict[str, Any] | None = None, id: str = "", iat: int = NOW, for_ms: int = 60_000
) -> Inner:
    return Inner(id=id or f"c{ctr}", ctr=ctr, iat=iat, exp=iat + for_ms, args=args or {})


def unsigned(**changes: Any) -> bytes:
    return seal(NODE.cmd("probe"), inner(**changes))


def reason(answer: object) -> str:
    assert isinstance(answer, Rejection), answer
    return answer.reason


def test_good_arguments_are_known_for_every_verb() -> None:
    assert GOOD_ARGS.keys() == VERBS.keys()


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_passes(verb: str, signed: bool) -> None:
    topic = NODE.cmd(verb)
    sealed = seal(topic, inner(args=GOOD_ARGS[verb]), PRIVATE if signed else None, "op" if signed else "")
    command = gate(signed=signed).admit(topic, sealed, retained=False)
    assert isinstance(command, Command), command
    assert (command.verb, command.id, command.kid) == (verb, "c1", "op" if signed else "")
    assert type(command.args) is VERBS[verb]


@pytest.mark.parametrize("verb", VERBS)
def test_only_harmless_verbs_may_be_broadcast(verb: str) -> None:
    topic = broadcast("farm", verb)
    answer = gate().admit(topic, seal(topic, inner(args=GOOD_ARGS[verb])), retained=False)
    if verb in ("learn-pause", "learn-resume", "budget-set"):
        assert isinstance(answer, Command)
    else:
        assert "may not be broadcast" in reason(answer)


BAD_ARGS = {
    "unknown field": ("probe", {"force": True}, "unknown field `force`"),
    "missing label": ("forget-class", {}, "missing required field `label`"),
    "empty label": ("forget-class", {"label": ""}, r"\$.label"),
    "label of 65": ("forget-class", {"label": "x" * 65}, r"\$.label"),
    "label with a bell": ("forget-class", {"label": "a\x07"}, "cannot be printed"),
    "no examples": ("teach", {"label": "mug", "examples": []}, r"\$.examples"),
    "17 examples": ("teach", {"label": "mug", "examples": [EXAMPLE] * 17}, r"\$.examples"),
    "short data": ("teach", {"label": "mug", "examples": [{**EXAMPLE, "shape": [2, 3]}]}, "holds 4 bytes.*needs 6"),
    "long data": ("teach", {"label": "mug", "examples": [{**EXAMPLE, "shape": [3]}]}, "holds 4 bytes.*needs 3"),
    "float data": ("teach", {"label": "mug", "examples": [{**EXAMPLE, "dtype": "float32"}]}, "needs 16"),
    "no base64": ("teach", {"label": "mug", "examples": [{**EXAMPLE, "data": "!!"}]}, "base64"),
    "nan": (
        "teach",
        {"label": "m", "examples": [{"shape": [1], "dtype": "float32", "data": "AADAfw=="}]},
        "not finite.*examples",
    ),
    "negative shape": (
        "teach",
        {"label": "mug", "examples": [{**EXAMPLE, "shape": [-2, -2]}]},
        r"\$.examples\[0\].shape",
    ),
    "huge shape": ("teach", {"label": "m", "examples": [{**EXAMPLE, "shape": [65536] * 3}]}, "holds 4 bytes"),
    "dtype object": ("teach", {"label": "mug", "examples": [{**EXAMPLE, "dtype": "object"}]}, "dtype"),
    "257 corrections": ("feedback", {"items": [{"sample": 1, "label": "a"}] * 257}, r"\$.items"),
    "negative sample": ("feedback", {"items": [{"sample": -1, "label": "a"}]}, r"\$.items\[0\].sample"),
    "pause for ever": ("learn-pause", {"for_s": 1e9}, r"\$.for_s"),
    "pause for nothing": ("learn-pause", {"for_s": 0}, r"\$.for_s"),
    "rollback to nowhere": ("rollback", {"to": "yesterday"}, r"\$.to"),
    "rollback the bundle": ("rollback", {"to": 3, "what": "bundle"}, r"\$.what"),
    "no budget": ("budget-set", {}, "names no field"),
    "negative budget": ("budget-set", {"power_mw": -1}, r"\$.power_mw"),
    "budget as text": ("budget-set", {"power_mw": "1"}, r"\$.power_mw"),
    "unbounded power": ("budget-set", {"power_mw": None}, r"\$.power_mw"),
}


@pytest.mark.parametrize(("verb", "args", "want"), BAD_ARGS.values(), ids=BAD_ARGS)
def test_wrong_arguments_are_refused_by_path(verb: str, args: dict[str, Any], want: str) -> None:
    disk, topic = Disk(), NODE.cmd(verb)
    answer = gate(disk).admit(topic, seal(topic, inner(args=args)), retained=False)
    assert answer == Rejection("c1", verb, reason(answer))
    with pytest.raises(AssertionError, match=want):
        raise AssertionError(reason(answer))
    assert disk.counters == {}


GOOD = unsigned()
NESTED = b'{"id":"c1","ctr":1,"iat":0,"exp":0,"args":{"a":' + b"[" * 9 + b"]" * 9 + b"}}"
HOSTILE = {
    "empty": (b"", "envelope"),
    "not JSON": (b"\x00\xff", "envelope"),
    "cut": (GOOD[:-5], "envelope"),
    "another type": (b"[]", "envelope"),
    "null": (b"null", "envelope"),
    "p is no text": (b'{"p":1}', "envelope"),
    "p is no base64": (b'{"p":"%%"}', "base64"),
    "p is not ASCII": ('{"p":"é"}'.encode(), "base64"),
    "p is empty": (b'{"p":""}', "inner"),
    "inner is not JSON": (json.dumps({"p": base64.b64encode(b"\xff").decode()}).encode(), "inner"),
    "inner without id": (json.dumps({"p": base64.b64encode(b"{}").decode()}).encode(), "inner.*id"),
    "deep envelope": (b"[" * 60_000, "nests deeper"),
    "deep inner": (json.dumps({"p": base64.b64encode(NESTED).decode()}).encode(), "nests deeper"),
    "too long": (b" " * (MAX_MESSAGE_BYTES + 1), "at most 65536"),
    "id of 65": (seal(NODE.cmd("probe"), inner(id="x" * 65)), "inner.*id"),
    "negative counter": (seal(NODE.cmd("probe"), inner(-1)), "inner.*ctr"),
    "counter of 64 bits": (seal(NODE.cmd("probe"), inner(1 << 63)), "inner.*ctr"),
    "infinite number": (b'{"p":1e999}', "envelope"),
    "lone surrogate": (b'{"p":"\\ud800"}', "envelope"),
}


@pytest.mark.parametrize(("payload", "want"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_bytes_are_refused(payload: bytes, want: str) -> None:
    disk = Disk()
    with pytest.raises(AssertionError, match=want):
        raise AssertionError(reason(gate(disk).admit(NODE.cmd("probe"), payload, retained=False)))
    assert disk.counters == {}


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_make_the_gate_raise(noise: bytes, signed: bool) -> None:
    for payload in (noise, msgspec.json.encode({"p": base64.b64encode(noise).decode()}), GOOD[:40] + noise):
        assert isinstance(gate(signed=signed).admit(NODE.cmd("probe"), payload, retained=False), Rejection)


@given(st.text(max_size=60))
def test_no_topic_makes_the_gate_raise(topic: str) -> None:
    assert isinstance(gate().admit(topic, GOOD, retained=False), Rejection)


TOPICS = {
    "another node": ("edgerun/v1/farm/pi-8/cmd/probe", "for node pi-8"),
    "another group": ("edgerun/v1/mill/pi-7/cmd/probe", "of this group"),
    "unknown verb": ("edgerun/v1/farm/pi-7/cmd/explode", "'explode' is unknown"),
    "an answer": ("edgerun/v1/farm/pi-7/res/probe", "no command topic"),
}


@pytest.mark.parametrize(("topic", "want"), TOPICS.values(), ids=TOPICS)
def test_a_wrong_topic_is_refused(topic: str, want: str) -> None:
    assert want in reason(gate().admit(topic, GOOD, retained=False))


def test_a_retained_command_is_refused() -> None:
    assert "retained" in reason(gate().admit(NODE.cmd("probe"), GOOD, retained=True))


class TestTime:
    def test_an_expired_command_says_so(self) -> None:
        answer = gate(now=NOW + 60_001).admit(NODE.cmd("probe"), GOOD, retained=False)
        assert isinstance(answer, Rejection)
        assert (answer.status, answer.id) == ("expired", "c1")

    @pytest.mark.parametrize("for_ms", [-1, 300_001])
    def test_validity_is_bounded(self, for_ms: int) -> None:
        answer = gate().admit(NODE.cmd("probe"), unsigned(for_ms=for_ms), retained=False)
        assert "outside [0, 300000]" in reason(answer)

    def test_without_a_clock_the_counter_alone_judges(self) -> None:
        assert isinstance(gate(now=86_400_000).admit(NODE.cmd("probe"), unsigned(iat=0), retained=False), Command)


class TestCounter:
    def test_it_must_rise_and_survives_a_restart(self) -> None:
        disk = Disk()
        assert isinstance(gate(disk).admit(NODE.cmd("probe"), unsigned(ctr=5), retained=False), Command)
        assert disk.counters == {"": 5}
        for ctr in (4, 5):
            answer = gate(disk).admit(NODE.cmd("probe"), unsigned(ctr=ctr, id="new"), retained=False)
            assert f"ctr {ctr} is not above 5" in reason(answer)
        assert isinstance(gate(disk).admit(NODE.cmd("probe"), unsigned(ctr=6), retained=False), Command)

    def test_it_is_on_disk_before_the_command_is_handed_out(self) -> None:
        disk = Disk()
        disk.full = True
        one = gate(disk)
        assert "could not be stored: no space left" in reason(one.admit(NODE.cmd("probe"), GOOD, retained=False))
        disk.full = False
        assert isinstance(one.admit(NODE.cmd("probe"), GOOD, retained=False), Command)

    def test_keys_do_not_share_it(self) -> None:
        disk, topic = Disk(), NODE.cmd("probe")
        disk.counters = {"other": 99}
        answer = gate(disk, signed=True).admit(topic, seal(topic, inner(3), PRIVATE, "op"), retained=False)
        assert isinstance(answer, Command)
        assert disk.counters == {"other": 99, "op": 3}


class TestRepeats:
    def test_a_second_delivery_is_answered_alike_and_not_run(self) -> None:
        one = gate()
        assert isinstance(one.admit(NODE.cmd("probe"), GOOD, retained=False), Command)
        assert one.admit(NODE.cmd("probe"), GOOD, retained=False) == Repeat("c1", "probe", None)
        answer = Result(id="c1", sid=1, seq=1, t=NOW, verb="probe", status="accepted")
        one.finish(answer)
        assert one.admit(NODE.cmd("probe"), GOOD, retained=False) == Repeat("c1", "probe", None)
        final = msgspec.structs.replace(answer, status="done", detail={"accuracy": 0.9})
        one.finish(final)
        assert one.admit(NODE.cmd("probe"), GOOD, retained=False) == Repeat("c1", "probe", final)

    def test_an_id_is_not_another_commands(self) -> None:
        one = gate()
        one.admit(NODE.cmd("probe"), GOOD, retained=False)
        assert "was used by another" in reason(one.admit(NODE.cmd("probe"), unsigned(ctr=2, id="c1"), retained=False))

    def test_the_memory_is_bounded_and_the_counter_takes_over(self) -> None:
        one = gate()
        one.admit(NODE.cmd("probe"), GOOD, retained=False)
        for ctr in range(2, commands.REMEMBERED + 2):
            one.admit(NODE.cmd("probe"), unsigned(ctr=ctr), retained=False)
        assert "replayed" in reason(one.admit(NODE.cmd("probe"), GOOD, retained=False))


class TestSignatures:
    TOPIC = NODE.cmd("probe")

    def admit(self, payload: bytes, topic: str = TOPIC) -> Command | Repeat | Rejection:
        return gate(signed=True).admit(topic, payload, retained=False)

    def test_unsigned_is_refused_where_keys_are_configured(self) -> None:
        assert reason(self.admit(GOOD)).startswith("unsigned")

    def test_an_unknown_key_is_refused(self) -> None:
        assert "unknown key 'who'" in reason(self.admit(seal(self.TOPIC, inner(), PRIVATE, "who")))
        assert "unknown key" in reason(
            gate().admit(self.TOPIC, seal(self.TOPIC, inner(), PRIVATE, "op"), retained=False)
        )

    def test_another_private_key_is_refused(self) -> None:
        other = Ed25519PrivateKey.generate().private_bytes_raw()
        assert reason(self.admit(seal(self.TOPIC, inner(), other, "op"))) == "bad signature"

    def test_a_command_for_another_device_is_refused(self) -> None:
        moved = seal(Topics("farm", "pi-8").cmd("probe"), inner(), PRIVATE, "op")
        assert reason(self.admit(moved)) == "bad signature"
        other_verb = seal(NODE.cmd("checkpoint"), inner(), PRIVATE, "op")
        assert reason(self.admit(other_verb)) == "bad signature"

    def test_every_flipped_byte_is_refused(self) -> None:
        envelope = msgspec.json.decode(seal(self.TOPIC, inner(), PRIVATE, "op"), type=Envelope)
        raw = bytearray(base64.b64decode(envelope.p))
        for at in range(len(raw)):
            raw[at] ^= 1
            changed = msgspec.structs.replace(envelope, p=base64.b64encode(raw).decode())
            assert isinstance(self.admit(msgspec.json.encode(changed)), Rejection)
            raw[at] ^= 1

    @pytest.mark.parametrize("sig", ["", "AAAA", "%%", "é"])
    def test_a_signature_of_another_form_is_refused(self, sig: str) -> None:
        envelope = msgspec.json.decode(seal(self.TOPIC, inner(), PRIVATE, "op"), type=Envelope)
        answer = self.admit(msgspec.json.encode(msgspec.structs.replace(envelope, sig=sig)))
        assert reason(answer) == "bad signature"

    def test_a_refused_signature_does_not_use_up_the_counter(self) -> None:
        disk = Disk()
        one = gate(disk, signed=True)
        one.admit(self.TOPIC, seal(self.TOPIC, inner(9), Ed25519PrivateKey.generate().private_bytes_raw(), "op"), False)
        assert disk.counters == {}
        assert isinstance(one.admit(self.TOPIC, seal(self.TOPIC, inner(1), PRIVATE, "op"), False), Command)

    def test_without_the_library_the_answer_is_refusal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sealed, real = seal(self.TOPIC, inner(), PRIVATE, "op"), builtins.__import__

        def no_cryptography(name: str, *rest: Any) -> Any:
            if name.startswith("cryptography"):
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", no_cryptography)
        assert "edgerun[sign]" in reason(self.admit(sealed))

    def test_a_key_of_another_length_is_refused_at_once(self) -> None:
        with pytest.raises(CommandError, match="has 31 bytes"):
            Gate(NODE, {"op": PUBLIC[1:]}, {}, Disk().save, lambda: NOW)


class TestArguments:
    def test_budget_fields_are_those_of_the_budget(self) -> None:
        assert BudgetSet.__struct_fields__ == Budget.__struct_fields__

    def test_a_budget_changes_only_what_was_named(self) -> None:
        before = Budget(power_mw=100.0, peak_mw=300.0, deadline_ms=5.0)
        change = msgspec.convert({"power_mw": 40.0, "peak_mw": None}, BudgetSet)
        assert change.applied(before) == Budget(power_mw=40.0, peak_mw=None, deadline_ms=5.0)

    @pytest.mark.parametrize("dtype", ["int8", "uint8", "float32"])
    def test_an_example_comes_through_as_it_was(self, dtype: str) -> None:
        x = np.arange(12).reshape(3, 4)[:, ::2].astype(dtype)
        wire = msgspec.json.encode(Teach(label="mug", examples=(Example.of(x, scale=0.5, zp=3),)))
        back = msgspec.json.decode(wire, type=Teach).examples[0]
        assert (back.scale, back.zp) == (0.5, 3)
        assert back.array().dtype == x.dtype
        np.testing.assert_array_equal(back.array(), x)

    def test_an_example_of_another_dtype_is_refused(self) -> None:
        with pytest.raises(DataError, match="float64"):
            Example.of(np.zeros(3))

    def test_sixteen_examples_of_the_digits_fit_into_a_message(self) -> None:
        examples = tuple(Example.of(np.zeros((8, 8), np.float32)) for _ in range(16))
        args = msgspec.to_builtins(Teach(label="nine", examples=examples))
        assert len(seal(NODE.cmd("teach"), inner(args=args), PRIVATE, "op")) < MAX_MESSAGE_BYTES

    def test_a_command_that_does_not_fit_is_refused_before_it_is_sent(self) -> None:
        with pytest.raises(CommandError, match="at most 65536"):
            seal(NODE.cmd("teach"), inner(args={"data": "x" * 60_000}))


def test_nesting_is_counted_in_linear_time() -> None:
    for payload in (b'"' * 65_536, b'"\\' * 32_768, b'\\"' * 32_768, b'"' + b'\\"' * 32_767, b"[{" * 32_768):
        assert commands._depth(payload) in (0, 65_536)  # a quadratic scan would take minutes
