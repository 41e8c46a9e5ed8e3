"""A pretend board that runs the real agent: virtual clock, energy, flash that tears, a network that can be cut.

    PretendDevice(bundle, ...) -> boot -> cycle ... -> PowerCut -> reboot -> cycle ... -> stop

Only the ports are pretend. Everything above them is what runs on a real device; MQTT goes through a real broker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from edgerun.agent import Agent, Ports, Settings
from edgerun.bundle import Bundle
from edgerun.learn.records import Entry
from edgerun.ports import Sensor
from edgerun.telemetry.link import Endpoint, MemoryLink, MqttLink
from firmware_sim.clock import VirtualClock
from firmware_sim.energy import SimPower
from firmware_sim.flash import Fate, Keep, SimFlash

BACKOFF_S = (0.05, 0.5)  # of the network's real seconds: a pretend day must not wait for a minute


class PretendDevice:
    """One board with one life: what it wrote to `folder` is what survives.

    endpoint  the broker; None = no network at all: what the device says stays in its outbox
    epoch_ms  wall time at device second 0
    observe   is told every entry that the agent journals
    """

    def __init__(
        self,
        bundle: Bundle,
        settings: Settings,
        sensor: Sensor,
        endpoint: Endpoint | None,
        folder: Path,
        *,
        seed: int = 1,
        epoch_ms: int = 1_780_000_000_000,
        observe: Callable[[Entry], None] | None = None,
    ) -> None:
        self.bundle, self.settings, self.sensor = bundle, settings, sensor
        self._endpoint, self._folder, self._observe = endpoint, folder, observe
        folder.mkdir(parents=True, exist_ok=True)
        self.flash, self._written_before = SimFlash(seed=seed, image=folder), 0
        self.clock = VirtualClock(epoch_ms=epoch_ms)
        self.power = SimPower(settings.board, self.clock, flash_bytes=lambda: self.bytes_written)
        self.boots = 0
        self.plugged = True
        self._cuts: Sequence[int] = ()
        self._flips: Mapping[int, int] = {}
        self._writes_before = 0
        self.boot()
        self._writes_before = -self.flash.writes

    def boot(self) -> None:
        """Start the agent on what the flash holds; raises PowerCut where the flash was told to."""
        self.link = MqttLink(self._endpoint, backoff_s=BACKOFF_S) if self._endpoint else MemoryLink()
        if not self.plugged:
            self.cut_network()
        self._arm()
        ports = Ports(
            clock=self.clock,
            sensor=self.sensor,
            power=self.power,
            disk=self.flash,
            link=self.link,
            outbox_path=self._folder / "outbox.db",
        )
        self.agent = Agent(self.bundle, ports, self.settings, self._observe)
        self.agent.start()
        self.boots += 1

    def cycle(self) -> None:
        """One sample period; raises PowerCut where the flash was told to."""
        self.agent.cycle()

    def cut_power_after(self, writes: int, fate: Fate | None = None) -> None:
        """Arm a power cut at the n-th flash write from now."""
        self.flash.cut_power_after(writes, fate)

    @property
    def writes(self) -> int:
        """Flash writes since the first start."""
        return self._writes_before + self.flash.writes

    @property
    def bytes_written(self) -> int:
        """Handed to the flash in all starts together."""
        return self._written_before + self.flash.bytes_written

    def schedule(self, cuts: Iterable[int], flips: Mapping[int, int]) -> None:
        """Power cuts at these writes since the first start, and bits that flip in what others leave, by write."""
        self._cuts, self._flips = sorted(cuts), flips
        self._arm()

    def _arm(self) -> None:
        done = self.writes
        for write in [write for write in self._cuts if write > done][:1]:
            self.flash.cut_power_after(write - done)
        for write, bits in self._flips.items():
            if write > done:
                self.flash.flip_bits_after(write - done, bits)

    def reboot(self, keep: Keep = "none") -> None:
        """The power comes back after a cut: memory and connection are gone, the flash kept what it kept."""
        if isinstance(self.link, MqttLink):
            self.link.cut()
        self.agent.abandon()
        self.link.stop(timeout=1.0)
        self._written_before += self.flash.bytes_written
        self._writes_before += self.flash.writes
        self.flash = self.flash.reboot(keep)
        self.boot()

    def cut_network(self) -> None:
        """Pull the cable; where there is no broker there is none."""
        self.plugged = False
        if isinstance(self.link, MqttLink):
            self.link.cut()

    def restore_network(self) -> None:
        self.plugged = True
        if isinstance(self.link, MqttLink):
            self.link.restore()

    def stop(self) -> None:
        self.agent.stop()

    def new_sensor(self, sensor: Sensor) -> None:
        """Point the board at another recording."""
        self.sensor = sensor
        self.agent.senses.watch(sensor)
