"""A pretend device on its bench: the real agent, the operator's wire to it, and all that it told."""

from __future__ import annotations

import itertools
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from pretend import sample, tiny_bundle

from edgerun.agent import Settings
from edgerun.arrays import AnyArray
from edgerun.boards import get_board
from edgerun.bundle import Bundle
from edgerun.commands.replay import replay
from edgerun.governor import DWELL_S
from edgerun.learn.records import Entry
from edgerun.ports import Sample
from edgerun.spec import Budget
from edgerun.store.checkpoints import Checkpoints
from edgerun.store.journal import JournalReader
from edgerun.telemetry.commands import Example, seal
from edgerun.telemetry.link import MemoryLink
from edgerun.telemetry.messages import Event, Inner, Result
from edgerun.telemetry.topics import Topics
from firmware_sim.device import PretendDevice

BUNDLE, BOARD = tiny_bundle(), get_board("pico2")
TOPICS = Topics("test", "tiny")
AMPLE_MW = 200.0
PERIOD_S = 0.5


class Feed:
    """`ports.Sensor` that delivers what was queued, then nothing; never the label."""

    def __init__(self) -> None:
        self.queue: deque[AnyArray] = deque()

    def read(self) -> Sample | None:
        return Sample(self.queue.popleft()) if self.queue else None


class Bench:
    """A pretend board, the operator's wire to it, and all that it told."""

    def __init__(self, folder: Path, power_mw: float = AMPLE_MW, *, seed: int = 1, bundle: Bundle = BUNDLE) -> None:
        self.folder, self.bundle, self.feed, self.entries = folder, bundle, Feed(), list[Entry]()
        settings = Settings(group="test", node="tiny", board=BOARD, budget=Budget(power_mw=power_mw), period_s=PERIOD_S)
        self.device = PretendDevice(bundle, settings, self.feed, None, folder, seed=seed, observe=self.entries.append)
        self._ids, self._old = itertools.count(1), list[tuple[str, bytes, bool]]()
        self.plug_in()

    def plug_in(self) -> None:
        """The broker takes the newest link."""
        link = self.device.link
        assert isinstance(link, MemoryLink)
        self.link = link
        link.welcome()
        for _ in range(3):
            self.agent.hear()
        assert self.agent.reporter.connected

    def reboot(self) -> None:
        """The power comes back; the governor's bucket, empty after a start, fills, and it climbs to where it was."""
        self._old += self.link.sent
        self.device.reboot("some")
        self.plug_in()
        for _ in range(round(DWELL_S / PERIOD_S) + 8):
            self.device.cycle()

    @property
    def agent(self) -> Any:
        return self.device.agent

    def send(self, verb: str, **args: Any) -> str:
        """A command on its way; its id."""
        number = next(self._ids)
        now = self.device.clock.wall_ms()
        inner = Inner(id=f"{verb}-{number}", ctr=now * 1000 + number, iat=now, exp=now + 60_000, args=args)
        self.link.deliver(TOPICS.cmd(verb), seal(TOPICS.cmd(verb), inner))
        return inner.id

    def hear(self) -> None:
        """Let the device hear and answer all that was sent, however many polls it takes."""
        self.agent.hear()
        while self.agent.reporter.waiting:
            self.agent.hear()
        self.agent.hear()

    def do(self, verb: str, **args: Any) -> Result:
        """Send a command and live until it is answered for good."""
        name = self.send(verb, **args)
        for _ in range(400):
            self.device.cycle()
            self.agent.hear()
            final = [each for each in self.results(name) if each.status not in ("accepted", "running")]
            if final:
                return final[0]
        raise AssertionError(f"{name} was not answered: {self.agent.energy.decision}")

    def results(self, name: str) -> list[Result]:
        found = {
            (result.seq, result.status): result
            for topic, payload, _ in self._old + self.link.sent
            if "/res/" in topic and (result := msgspec.json.decode(payload, type=Result)).id == name
        }
        return list(found.values())

    def events(self, kind: str) -> list[Event]:
        found = {
            event.seq: event
            for topic, payload, _ in self._old + self.link.sent
            if topic == TOPICS.event and (event := msgspec.json.decode(payload, type=Event)).kind == kind
        }
        return list(found.values())

    def show(self, *images: AnyArray) -> list[int]:
        """A cycle for each image; their sample numbers."""
        numbers = []
        for image in images:
            self.feed.queue.append(np.asarray(image, np.uint8))
            self.device.cycle()
            numbers.append(self.agent.senses.number)
        return numbers

    def correct(self, first: int, count: int, *, wrong: int = 0) -> Result:
        """Show samples of the factory's classes in turn, then say what they were."""
        labels = [(first + i) % 4 for i in range(count)]
        numbers = self.show(*(sample(label, 1000 + first + i) for i, label in enumerate(labels)))
        items = [
            {"sample": number, "label": "abcd"[(k + wrong) % 4]} for number, k in zip(numbers, labels, strict=True)
        ]
        return self.do("feedback", items=items)

    def replays(self) -> bool:
        """Whether the flash, as it lies there, replays to what the agent knows."""
        flash, name = self.device.flash, self.bundle.id
        done = replay(self.bundle, JournalReader(flash, name), Checkpoints(flash, name))
        return done.digest_equal and done.digest == self.agent.life.digest()

    def learned(self) -> tuple[Any, ...]:
        """Everything that a refusal must leave as it is."""
        files = {name: (self.folder / name).read_bytes() for name in files_under(self.folder, "journal", "learned")}
        agent = self.agent
        return agent.life.digest(), agent.learner.meta(), files, agent.energy.budget, agent.reporter._mode, agent.busy


def files_under(folder: Path, *parts: str) -> list[str]:
    paths = itertools.chain.from_iterable((folder / part).rglob("*") for part in parts)
    return sorted(path.relative_to(folder).as_posix() for path in paths if path.is_file())


def examples(label: int, count: int = 3, first: int = 0) -> list[dict[str, Any]]:
    return [msgspec.to_builtins(Example.of(sample(label, first + i).astype(np.uint8))) for i in range(count)]
