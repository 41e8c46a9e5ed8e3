"""The reporter against a link in memory and a real outbox: nothing is lost, nothing raises, everything in its order."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgerun.errors import DataError
from edgerun.store.outbox import Outbox
from edgerun.telemetry.bucket import Bucket
from edgerun.telemetry.commands import VERBS, Command, Gate, Rejection, seal
from edgerun.telemetry.flood import TURNS, WAITING, WAITING_BYTES
from edgerun.telemetry.link import MemoryLink
from edgerun.telemetry.messages import Ack, Birth, Data, Event, Inner, Result, State
from edgerun.telemetry.metrics import METRICS
from edgerun.telemetry.reporter import ANSWERS, FLOOD_S, Identity, Pace, Reporter, Status, gap_event
from edgerun.telemetry.topics import Topics, broadcast

NOW = 1_800_000_000_000
NODE = Topics("farm", "pi-7")
WHO = Identity(bundle="ab" * 32, bundle_name="digits", runtime="0.1.0", board="rpi-5", classes=("0", "1"), capacity=10)
TYPES: dict[str, Any] = {NODE.data: Data, NODE.event: Event, NODE.state: State, NODE.birth: Birth}


class Bench:
    """A device with its broker and collector played by the test; both clocks are turned by hand."""

    def __init__(self, outbox: Outbox, pace: Pace, *, sid: int = 0) -> None:
        self.link = MemoryLink()
        self.outbox = outbox
        self.now_s = 0.0
        self.sids: list[int] = []
        gate = Gate(NODE, {}, {}, lambda counters: None, lambda: NOW)
        self.reporter = Reporter(
            self.link,
            outbox,
            NODE,
            WHO,
            gate,
            sid=sid,
            save_sid=self.sids.append,
            wall_ms=lambda: NOW,
            pace=pace,
            network_s=lambda: self.now_s,
        )
        self.reporter.start()
        self._ctr = itertools.count(1)

    def poll(self, *, after_s: float = 0.0) -> list[Command | Rejection]:
        self.now_s += after_s
        return self.reporter.poll(self.now_s)

    def connect(self) -> None:
        self.link.welcome()
        self.poll()
        self.poll()

    def lose(self) -> None:
        self.link.lose()
        self.poll()

    def acknowledge(self, upto: int, *, sid: int = 0) -> None:
        ack = Ack(collector="c1", sid=sid, upto=upto)
        self.link.deliver(NODE.ack, msgspec.json.encode(ack), retain=True)
        self.poll()

    def order(self, verb: str, *, topic: str = "", retain: bool = False, **args: Any) -> bytes:
        ctr = next(self._ctr)
        topic = topic or NODE.cmd(verb)
        payload = seal(topic, Inner(id=f"c{ctr}", ctr=ctr, iat=NOW, exp=NOW + 1000, args=args))
        self.link.deliver(topic, payload, retain)
        return payload

    def sent(self) -> list[Any]:
        """What was published since the last call, decoded."""
        sent, self.link.sent = self.link.sent, []
        return [msgspec.json.decode(payload, type=TYPES.get(topic, Result)) for topic, payload, _ in sent]

    def seqs(self) -> list[int]:
        return [message.seq for message in self.sent() if hasattr(message, "seq")]


def floods(outbox: Outbox) -> list[dict[str, Any]]:
    rows = [row.payload for row in outbox.pending(0, 1000) if row.topic == NODE.event]
    return [event.detail for row in rows if (event := msgspec.json.decode(row, type=Event)).kind == "flood"]


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    box = Outbox(":memory:", gap_topic=NODE.event, make_gap=gap_event(lambda: NOW))
    yield box
    box.close()


@pytest.fixture
def bench(outbox: Outbox) -> Bench:
    return Bench(outbox, Pace(heartbeat_s=1000, batch=3, batch_s=5, window=4, resend_s=(10, 40)))


class TestConnection:
    def test_it_listens_is_born_and_is_online_before_it_tells_anything(self, bench: Bench) -> None:
        bench.reporter.event("started")
        bench.connect()
        assert bench.link.filters == list(NODE.inbox)
        topics = [topic for topic, _, _ in bench.link.sent]
        assert topics == [NODE.birth, NODE.state, NODE.event]
        assert [retain for _, _, retain in bench.link.sent] == [True, True, False]

    def test_nobody_sees_it_online_before_it_can_hear(self, bench: Bench) -> None:
        bench.reporter.event("started")
        bench.link.welcome()
        bench.poll()
        assert (bench.link.sent, bench.reporter.connected) == ([], False)
        bench.reporter.set_mode("paused")
        bench.poll()
        assert [type(message) for message in bench.sent()] == [Birth, State, Event]
        assert bench.reporter.connected

    def test_birth_says_who_it_is(self, bench: Bench) -> None:
        bench.connect()
        birth = bench.sent()[0]
        assert (birth.bundle, birth.board, birth.classes, birth.sid) == ("ab" * 32, "rpi-5", ["0", "1"], 1)
        assert birth.allow_unsigned
        assert birth.verbs == list(VERBS)
        assert birth.metrics == dict(METRICS)

    def test_the_will_carries_the_session_that_it_ends(self, bench: Bench) -> None:
        for session in (1, 2, 3):
            will = bench.link.welcome()
            assert will is not None
            assert will.topic == NODE.state
            assert msgspec.json.decode(will.payload, type=State) == State(online=False, sid=session, reason="lost")
            bench.poll()
            bench.poll()
            assert [message.sid for message in bench.sent()] == [session, session]
            bench.lose()

    def test_session_numbers_are_reserved_before_they_are_used(self, outbox: Outbox) -> None:
        bench = Bench(outbox, Pace(), sid=100)
        assert bench.sids == [164]
        for session in range(101, 180):
            bench.connect()
            assert bench.reporter.sid == session < bench.sids[-1]
            bench.lose()

    def test_a_clean_stop_says_so_and_gives_the_numbers_back(self, outbox: Outbox) -> None:
        bench = Bench(outbox, Pace(), sid=7)
        bench.connect()
        bench.sent()
        bench.reporter.sample({"loss": 0.5}, 3, 0.0)
        bench.reporter.stop()
        data, state = bench.sent()
        assert data.m == {"loss": [0.5]}
        assert (state.online, state.reason, state.mode, state.sid) == (False, "stopped", "stopped", 8)
        assert bench.sids[-1] == 8

    def test_stopping_without_a_broker_keeps_everything(self, bench: Bench, outbox: Outbox) -> None:
        bench.reporter.sample({"loss": 0.5}, 3, 0.0)
        bench.reporter.stop()
        assert [row.lane for row in outbox.pending(0, 9)] == ["data"]

    def test_mode_and_identity_are_published_when_they_change(self, bench: Bench) -> None:
        bench.connect()
        bench.sent()
        bench.reporter.set_mode("learning")
        bench.reporter.set_mode("learning")
        bench.reporter.set_identity(dataclasses.replace(WHO, classes=("0", "1", "nine")))
        state, birth = bench.sent()
        assert (state.mode, birth.classes) == ("learning", ["0", "1", "nine"])


class TestData:
    def test_samples_are_batched_by_column_with_null_where_not_sampled(self, bench: Bench) -> None:
        bench.connect()
        bench.sent()
        bench.reporter.sample({"loss": 0.5}, 1, 0.0)
        bench.reporter.sample({"loss": float("nan"), "drift": 2.0}, 2, 0.1)
        bench.poll()
        assert bench.sent() == []
        bench.reporter.sample({"drift": 3.0}, 3, 0.2)
        bench.poll()
        (data,) = bench.sent()
        assert data.m == {"loss": [0.5, None, None], "drift": [None, 2.0, 3.0]}
        assert (data.t, data.sample, data.hist) == ([NOW] * 3, 3, False)

    def test_a_batch_does_not_wait_for_ever(self, bench: Bench) -> None:
        bench.connect()
        bench.reporter.sample({"loss": 0.5}, 1, 0.0)
        bench.poll(after_s=4.9)
        bench.sent()
        bench.poll(after_s=0.2)
        assert [data.m for data in bench.sent()] == [{"loss": [0.5]}]

    def test_an_idle_device_gives_signs_of_life_while_connected(self, outbox: Outbox) -> None:
        bench = Bench(outbox, Pace(heartbeat_s=30, resend_s=(1000, 1000)))
        bench.poll()
        bench.poll(after_s=100)
        assert outbox.depth == 0
        bench.connect()
        assert [data.m for data in bench.sent()[2:]] == [{}]
        bench.poll(after_s=29)
        assert bench.sent() == []
        bench.poll(after_s=2)
        assert [(data.t, data.m) for data in bench.sent()] == [([NOW], {})]
        bench.reporter.sample({"loss": 1.0}, 5, bench.now_s)
        bench.poll(after_s=11)
        bench.poll(after_s=29)
        assert [data.m for data in bench.sent()] == [{"loss": [1.0]}]

    def test_numbers_of_numpy_are_plain_numbers(self, bench: Bench) -> None:
        bench.connect()
        bench.sent()
        bench.reporter.sample({"loss": np.float32(0.5)}, 1, 0.0)
        bench.reporter.event("drift", {"statistic": np.float32(0.25), "rows": np.arange(2)})
        bench.reporter.stop()
        event, data, _ = bench.sent()
        assert event.detail == {"statistic": 0.25, "rows": [0, 1]}
        assert data.m == {"loss": [0.5]}

    def test_what_has_no_name_is_refused(self, bench: Bench) -> None:
        with pytest.raises(DataError, match="metric 'vibes'"):
            bench.reporter.sample({"vibes": 1.0}, 1, 0.0)
        with pytest.raises(DataError, match="event kind 'party'"):
            bench.reporter.event("party")

    def test_a_detail_that_is_too_long_is_left_out_and_said_to_be(self, bench: Bench) -> None:
        bench.connect()
        bench.sent()
        bench.reporter.event("lesson", {"notes": "x" * 70_000})
        bench.poll()
        assert "over 65536" in bench.sent()[0].detail["omitted"]


class TestDelivery:
    def test_at_most_a_window_is_on_its_way(self, bench: Bench) -> None:
        bench.link.acknowledge = False
        bench.connect()
        for _ in range(10):
            bench.reporter.event("lesson")
        bench.poll()
        assert bench.seqs() == [1, 2, 3, 4]
        bench.poll()
        assert bench.seqs() == []

    def test_the_broker_may_ask_for_a_smaller_window(self, bench: Bench) -> None:
        bench.link.acknowledge = False
        for _ in range(10):
            bench.reporter.event("lesson")
        bench.link.welcome(receive_max=2)
        bench.poll()
        bench.poll()
        assert bench.seqs() == [1, 2]

    def test_what_was_on_its_way_when_the_connection_broke_does_not_fill_the_next_window(self, bench: Bench) -> None:
        bench.link.acknowledge = False
        bench.connect()
        for _ in range(4):
            bench.reporter.event("lesson")
        bench.poll()
        bench.lose()
        bench.sent()
        bench.connect()
        assert bench.seqs() == [1, 2, 3, 4]

    def test_only_the_collector_empties_the_outbox(self, bench: Bench, outbox: Outbox) -> None:
        bench.connect()
        for _ in range(5):
            bench.reporter.event("lesson")
            bench.poll()
        assert outbox.depth == 5
        bench.acknowledge(3)
        assert [row.seq for row in outbox.pending(0, 9)] == [4, 5]

    def test_after_an_outage_everything_unconfirmed_comes_again_as_history(self, bench: Bench) -> None:
        bench.connect()
        for _ in range(3):
            bench.reporter.event("lesson")
            bench.poll()
        bench.acknowledge(1)
        bench.lose()
        bench.reporter.event("drift")
        bench.reporter.sample({"loss": 1.0}, 9, bench.now_s)
        bench.sent()
        bench.connect()
        bench.poll(after_s=6)
        bench.reporter.event("checkpoint")
        bench.poll()
        told = [(message.seq, message.hist) for message in bench.sent()[2:]]
        assert told == [(2, True), (3, True), (4, True), (5, False), (6, False)]

    def test_what_an_earlier_process_left_comes_first_and_as_history(self, tmp_path: Path) -> None:
        path = tmp_path / "outbox.db"
        first = Outbox(path, gap_topic=NODE.event, make_gap=gap_event(lambda: NOW))
        Bench(first, Pace()).reporter.event("lesson", {"n": 1})
        first.abandon()
        second = Outbox(path, gap_topic=NODE.event, make_gap=gap_event(lambda: NOW))
        bench = Bench(second, Pace(heartbeat_s=1000), sid=64)
        bench.connect()
        bench.reporter.event("started")
        bench.poll()
        lesson, gap, started = [message for message in bench.sent() if isinstance(message, Event)]
        second.close()
        assert (lesson.seq, lesson.detail, lesson.hist) == (1, {"n": 1}, True)
        assert (gap.kind, gap.detail["from"], gap.detail["to"], gap.hist) == ("gap", 2, gap.seq - 1, True)
        assert (started.seq, started.hist) == (gap.seq + 1, False)

    def test_a_silent_collector_is_probed_and_then_told_everything(self, bench: Bench) -> None:
        bench.connect()
        for _ in range(10):
            bench.reporter.event("lesson")
        for _ in range(5):
            bench.poll()
        assert bench.seqs() == list(range(1, 11))
        bench.poll(after_s=9)
        assert bench.seqs() == []
        bench.poll(after_s=2)
        assert bench.seqs() == [1, 2, 3, 4]
        bench.acknowledge(4)  # it is back, and lacks the rest
        bench.poll()
        assert bench.seqs() == [5, 6, 7, 8, 9, 10]

    def test_silence_counts_from_when_there_was_something_to_say(self, bench: Bench) -> None:
        bench.connect()
        bench.poll(after_s=100)
        bench.reporter.event("lesson")
        bench.poll()
        bench.poll(after_s=9)
        assert bench.seqs() == [1]

    def test_probes_become_rarer(self, bench: Bench) -> None:
        bench.connect()
        bench.reporter.event("lesson")
        bench.poll()
        bench.sent()
        probes = [second for second in range(1, 130) if bench.poll(after_s=1) == [] and bench.seqs()]
        assert probes == [11, 32, 73, 114]

    def test_a_moving_collector_is_not_probed(self, bench: Bench) -> None:
        bench.connect()
        for upto in range(1, 30):
            bench.reporter.event("lesson")
            bench.poll(after_s=4)
            bench.acknowledge(upto)
            assert bench.seqs() == ([upto] if upto > 1 else [1])

    @pytest.mark.parametrize(
        ("upto", "sid"), [(0, 0), (-5, 0), (99, 0), (1 << 62, 0), (2, 50)], ids=["0", "-5", "99", "huge", "later life"]
    )
    def test_a_wrong_acknowledgement_deletes_nothing(self, bench: Bench, outbox: Outbox, upto: int, sid: int) -> None:
        bench.connect()
        for _ in range(3):
            bench.reporter.event("lesson")
        bench.acknowledge(upto, sid=sid)
        assert outbox.depth == 3

    @pytest.mark.parametrize(
        "payload",
        [b"", b"\xff", b"[]", b'{"upto":"all"}', b"[" * 60_000],
        ids=["empty", "binary", "array", "text", "deep"],
    )
    def test_a_malformed_acknowledgement_is_ignored(self, bench: Bench, outbox: Outbox, payload: bytes) -> None:
        bench.connect()
        bench.reporter.event("lesson")
        bench.link.deliver(NODE.ack, payload[:70_000])
        bench.poll()
        assert outbox.depth == 1


class TestCommands:
    @pytest.fixture(autouse=True)
    def _connected(self, bench: Bench) -> None:
        bench.connect()
        bench.sent()

    def test_a_command_is_handed_out_and_answered(self, bench: Bench) -> None:
        bench.order("rollback", to="last-good")
        (command,) = bench.poll()
        assert isinstance(command, Command)
        answers: tuple[Status, ...] = ("accepted", "running", "done")
        for status in answers:
            bench.reporter.result(command, status, {"generation": 4})
        bench.poll()
        told = bench.sent()
        assert [(res.id, res.verb, res.status, res.seq) for res in told] == [
            ("c1", "rollback", "accepted", 1),
            ("c1", "rollback", "running", 2),
            ("c1", "rollback", "done", 3),
        ]

    def test_a_second_delivery_gets_the_final_answer_again(self, bench: Bench) -> None:
        payload = bench.order("probe")
        (command,) = bench.poll()
        bench.link.deliver(NODE.cmd("probe"), payload)
        assert bench.poll() == []
        assert bench.sent() == []
        assert isinstance(command, Command)
        bench.reporter.result(command, "done", {"accuracy": 0.9})
        bench.link.deliver(NODE.cmd("probe"), payload)
        assert bench.poll() == []
        bench.poll()
        assert [(res.seq, res.status, res.detail) for res in bench.sent()] == [
            (1, "done", {"accuracy": 0.9}),
            (2, "done", {"accuracy": 0.9}),
        ]

    def test_a_refused_command_is_answered_with_its_reason(self, bench: Bench) -> None:
        bench.order("rollback", to="yesterday")
        (rejection,) = bench.poll()
        assert isinstance(rejection, Rejection)
        (res,) = bench.sent()
        assert (res.id, res.verb, res.status) == ("c1", "rollback", "rejected")
        assert "$.to" in res.detail["reason"]

    def test_a_retained_command_is_refused(self, bench: Bench) -> None:
        bench.order("probe", retain=True)
        assert [type(answer) for answer in bench.poll()] == [Rejection]
        assert "retained" in bench.sent()[0].detail["reason"]

    def test_a_broadcast_is_answered_by_this_node(self, bench: Bench) -> None:
        bench.order("learn-pause", topic=broadcast("farm", "learn-pause"))
        (command,) = bench.poll()
        assert isinstance(command, Command)
        bench.reporter.result(command, "done")
        bench.poll()
        assert [topic for topic, _, _ in bench.link.sent] == [NODE.res("learn-pause")]

    def test_rebirth_needs_no_agent(self, bench: Bench) -> None:
        bench.order("rebirth")
        assert bench.poll() == []
        assert [type(message) for message in bench.sent()] == [Birth, State, Result]

    def test_a_flood_is_counted_but_not_answered_for_ever(self, bench: Bench, outbox: Outbox) -> None:
        for _ in range(500):
            bench.link.deliver(NODE.cmd("probe"), b"{}")
        assert len(bench.poll()) == TURNS, "a poll stays short"
        for _ in range(WAITING // TURNS):
            bench.poll()
        assert bench.reporter.refused == 500
        assert bench.reporter.dropped == 500 - WAITING
        assert floods(outbox) == [{"dropped": 500 - WAITING, "unanswered": 0}]
        assert outbox.depth == ANSWERS + 1
        bench.link.deliver(NODE.cmd("probe"), b"{}")
        bench.poll(after_s=1)
        assert outbox.depth == ANSWERS + 2
        bench.poll(after_s=FLOOD_S)
        assert floods(outbox)[1:] == [{"dropped": 0, "unanswered": WAITING - ANSWERS}]

    def test_a_flood_of_large_messages_fills_no_memory(self, bench: Bench) -> None:
        for _ in range(100):
            bench.link.deliver(NODE.cmd("teach"), b"x" * 60_000)
        bench.poll()
        assert bench.reporter.dropped == 100 - WAITING_BYTES // 60_021

    def test_a_command_that_comes_again_and_again_is_not_answered_for_ever(self, bench: Bench, outbox: Outbox) -> None:
        command = bench.order("probe")
        (heard,) = bench.poll()
        assert isinstance(heard, Command)
        bench.reporter.result(heard, "done")
        before = outbox.depth
        for _ in range(100):
            bench.link.deliver(NODE.cmd("probe"), command)
        for _ in range(100 // TURNS + 1):
            assert bench.poll() == []
        assert outbox.depth == before + ANSWERS + 1, "and one event that says so"

    @pytest.mark.parametrize("topic", ["", "x", "edgerun/v1/farm/pi-7/cmd/", NODE.cmd("nonsense"), NODE.res("probe")])
    def test_no_message_raises(self, bench: Bench, topic: str) -> None:
        for payload in (b"", b"\x00\xff", b"[" * 65_000, b"9" * 65_000):
            bench.link.deliver(topic, payload)
        assert all(isinstance(answer, Rejection) for answer in bench.poll())


def test_a_bucket_holds_so_many_and_gains_so_many_a_second() -> None:
    now = [0.0]
    bucket = Bucket(3, 2.0, lambda: now[0])
    assert [bucket.take() for _ in range(5)] == [True] * 3 + [False] * 2
    now[0] = 1.0
    assert [bucket.take() for _ in range(4)] == [True] * 2 + [False] * 2
    now[0] = 1000.0
    assert sum(bucket.take() for _ in range(10)) == 3
