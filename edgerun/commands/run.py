"""`edgerun run`: the agent of one device, on this Linux machine, until it is told to end.

    everything that can be refused is refused -> state folder locked -> bundle installed, tried, chosen -> cycles

A bundle that the device does not hold yet is staged and tried: self-test and probe, then commit, or back to the one
before. A bundle that failed here once is not tried again, and an older one than the device holds is not installed.
"""

from __future__ import annotations

import argparse
import fcntl
import logging
import math
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgerun.agent import Agent, Ports, Settings
from edgerun.agent.energy import within
from edgerun.boards import get_board
from edgerun.bundle import MAX_FILE_BYTES, Bundle, read_bundle
from edgerun.config import Broker, Config, load_config
from edgerun.errors import BundleError, CheckFailed, ConfigError, DataError, Refused
from edgerun.governor import Demand, check_budget
from edgerun.kernels.native import chosen
from edgerun.keys import trusted_keys
from edgerun.lifetime import Lifetime
from edgerun.linux.disk import RealDisk
from edgerun.linux.power import LinuxPower
from edgerun.linux.recording import Recording
from edgerun.linux.systemd import Notifier, ServiceClock, watchdog_s
from edgerun.ports import Disk
from edgerun.price import prices, work
from edgerun.store.files import finish_wipe, replace
from edgerun.store.slots import Slots
from edgerun.telemetry.link import Endpoint, MqttLink
from edgerun.telemetry.reporter import Pace

log = logging.getLogger(__name__)

TELL_S: Final = 60.0
LINGER_S: Final = 60.0
READ_PER_S: Final = 250.0  # messages that a device reads from its broker


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a configuration asks for, every part of it checked."""

    state_dir: Path
    settings: Settings
    trust: Mapping[bytes, bytes] | None
    offered: Bundle
    data: bytes  # of the offered bundle
    sensor: Recording
    link: MqttLink


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", required=True, type=Path, metavar="FILE", help="the device's configuration, TOML")
    parser.add_argument("--verbose", action="store_true", help="print a line a minute")
    parser.set_defaults(notify_socket="", watchdog_usec="")
    parser.epilog = "example:\n  edgerun run --config device.toml --verbose"


def run(args: argparse.Namespace) -> int:
    """0 when told to end, or when a recording that is not looped has ended. Raises EdgeRunError where it cannot run."""
    notifier, watched_s = Notifier(args.notify_socket), watchdog_s(args.watchdog_usec)
    device = prepare(load_config(args.config))
    with locked(device.state_dir):
        disk = RealDisk(device.state_dir)
        bundle = choose(device, disk)
        check_fit(bundle, device.settings, device.sensor)
        clock = ServiceClock(notifier, watched_s)
        agent = Agent(bundle, ports(device, disk, clock), device.settings)
        serve(agent, clock, notifier, verbose=args.verbose)
    return 0


# ------------------------------------------------------------------ before anything is written


def prepare(config: Config) -> Device:
    """Check all that a configuration names; touches nothing. Raises Refused, or OSError for what cannot be opened."""
    board = get_board(config.device.board)
    chosen(config.device.backend)
    trust = trusted_keys(config.bundle.trust) or None
    data = read_bounded(config.bundle.path)
    try:
        offered = read_bundle(data, trust=trust, device_class=board.device_class)
    except BundleError as err:
        raise BundleError(f"{config.bundle.path}: {err}") from None
    settings = Settings(
        group=config.device.group,
        node=config.device.node,
        board=board,
        budget=config.budget,
        period_s=1 / config.sensor.rate_hz,
        keys={kid.hex(): key for kid, key in (trust or {}).items()},
        backend=config.device.backend,
        pace=Pace(heartbeat_s=config.telemetry.heartbeat_s, batch=config.telemetry.batch),
    )
    sensor = Recording(config.sensor.path, offered.manifest.classes.names, loop=config.sensor.loop)
    check_fit(offered, settings, sensor)
    return Device(
        state_dir=config.device.state_dir,
        settings=settings,
        trust=trust,
        offered=offered,
        data=data,
        sensor=sensor,
        link=link(config.broker, f"{settings.group}-{settings.node}"),
    )


def read_bounded(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise BundleError(f"{path} is over {MAX_FILE_BYTES} bytes")
    return data


def check_fit(bundle: Bundle, settings: Settings, sensor: Recording) -> None:
    """Raises BudgetError or DataError where this device cannot run this bundle on this sensor."""
    demand = Demand(prices=prices(settings.board, work(bundle)), period_s=settings.period_s)
    check_budget(within(settings.budget, bundle.manifest.budget), demand)
    if bundle.manifest.front is None and sensor.x[0].size != bundle.manifest.input.size:
        raise DataError(
            f"the sensor gives {sensor.x[0].size} values a sample, the bundle takes {bundle.manifest.input.size}"
        )


def link(broker: Broker, client_id: str) -> MqttLink:
    """A link that has not started yet. Raises ConfigError for certificates that are none."""
    password = broker.password_file.read_text(encoding="utf-8") if broker.password_file else ""
    endpoint = Endpoint(
        host=broker.host,
        port=broker.port,
        client_id=client_id,
        username=broker.username,
        password=password.partition("\n")[0].rstrip("\r"),
        tls=broker.tls,
        ca=str(broker.ca_file or ""),
        cert=str(broker.cert_file or ""),
        key=str(broker.key_file or ""),
    )
    try:
        return MqttLink(endpoint, read_per_s=READ_PER_S)
    except ssl.SSLError as err:
        raise ConfigError(f"broker ca_file, cert_file or key_file: {err.reason or err}") from None


# ------------------------------------------------------------------ the state folder


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only agent in a state folder. Raises Refused if another one is."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Refused(f"{folder} is in use by another agent") from None
        yield


def ports(device: Device, disk: Disk, clock: ServiceClock) -> Ports:
    return Ports(
        clock=clock,
        sensor=device.sensor,
        power=LinuxPower(device.settings.board, clock),
        disk=disk,
        link=device.link,
        outbox_path=device.state_dir / "outbox.db",
    )


def choose(device: Device, disk: Disk) -> Bundle:
    """The bundle to run now, installed, and on its first start tried out. Raises CheckFailed where none is sound."""
    finish_wipe(disk)
    slots, offered = Slots(disk), device.offered
    if slots.current == offered.id:
        slots.install(device.data, offered.id)  # also mends one that has rotted
        if slots.next not in (None, offered.id):
            slots.roll_back()
    elif wanted(device, slots, disk):
        slots.install(device.data, offered.id)
        if slots.next != offered.id:
            slots.stage(offered.id)
    staged = slots.next
    running, on_trial = slots.begin()
    if on_trial:
        return tried(device, slots, disk, running)
    if staged is not None:
        refuse(disk, staged, "it was started three times and never came up")
    return held(device, slots, running)


def wanted(device: Device, slots: Slots, disk: Disk) -> bool:
    """Whether the offered bundle, which does not run yet, should: not if it failed here or the device's is newer."""
    if slots.current is None:
        return True
    if disk.size(refusal(device.offered.id)) is not None:
        log.warning("this bundle failed here before and stays out", extra={"bundle": device.offered.id})
        return False
    try:
        newest = held(device, slots, slots.current).manifest.seq
    except BundleError as err:
        log.warning("the bundle that ran is damaged", extra={"bundle": slots.current, "reason": err})
        return True
    if device.offered.manifest.seq < newest:
        log.warning("the device holds a newer bundle", extra={"seq": newest, "offered": device.offered.manifest.seq})
        return False
    return True


def tried(device: Device, slots: Slots, disk: Disk, bundle_id: str) -> Bundle:
    """Commit a bundle on trial if its self-test and its probe are right, else go back to the one before."""
    bundle = held(device, slots, bundle_id)
    try:
        try_out(bundle, disk)
    except CheckFailed as err:
        if slots.current is None:
            raise
        refuse(disk, bundle_id, str(err))
        return held(device, slots, slots.roll_back())
    slots.commit()
    return bundle


def try_out(bundle: Bundle, disk: Disk) -> None:
    """Raises CheckFailed where a bundle does not compute what its maker saw, or is worse than chance."""
    share, chance = Lifetime(bundle, disk).probe_accuracy(), 1 / max(1, len(bundle.manifest.classes.names))
    if share < chance:
        raise CheckFailed(f"the probe is right in {share:.1%}, chance would be in {chance:.1%}")


def held(device: Device, slots: Slots, bundle_id: str) -> Bundle:
    """A bundle from its slot. Raises BundleError if it is damaged or not for this device."""
    if bundle_id == device.offered.id:
        return device.offered
    bundle = read_bundle(
        slots.read(bundle_id) or b"", trust=device.trust, device_class=device.settings.board.device_class
    )
    if bundle.id != bundle_id:
        raise BundleError(f"slot {bundle_id} holds bundle {bundle.id}")
    return bundle


def refuse(disk: Disk, bundle_id: str, reason: str) -> None:
    """Remember that a bundle failed here; goes with the bundle."""
    log.error("bundle rolled back", extra={"bundle": bundle_id, "reason": reason})
    replace(disk, refusal(bundle_id), f"{reason}\n".encode())


def refusal(bundle_id: str) -> str:
    return f"slots/{bundle_id}/refused"


# ------------------------------------------------------------------ at work


def serve(agent: Agent, clock: ServiceClock, notifier: Notifier, *, verbose: bool) -> None:
    """Cycle after cycle until a signal comes, or the recording has ended and its lessons are learned or LINGER_S over.

    The governor may allow none of them, ever; so nobody waits for the last one without a bound.
    """
    bundle = agent.life.bundle
    name = f"{bundle.manifest.name} seq {bundle.manifest.seq}"
    print(f"running {name} as {agent.settings.group}/{agent.settings.node}", flush=True)
    agent.start()
    notifier.tell("READY=1")
    due_s, last_s = clock.device_s() + TELL_S, math.inf
    while not clock.ending and (not agent.senses.exhausted or (agent.busy and clock.device_s() < last_s)):
        agent.cycle()
        if agent.senses.exhausted:
            last_s = min(last_s, clock.device_s() + LINGER_S)
        if clock.device_s() >= due_s:
            due_s += TELL_S
            notifier.tell(f"STATUS={progress(agent)}")
            if verbose:
                print(progress(agent), flush=True)
    notifier.tell("STOPPING=1")
    agent.stop()
    print(f"stopped: {progress(agent)}")


def progress(agent: Agent) -> str:
    """One line: what it did, how well, what it costs."""
    decision, probed = agent.energy.decision, agent.school.probe
    level = f"{decision.level} ({decision.reason})" if decision else "not decided"
    probe = "no probe" if math.isnan(probed) else f"probe {probed:.1%}"
    if agent.answer is not None and not agent.learner.classes:
        probe = f"newest answer {agent.answer[1]}"
    return (
        f"level {level}, {agent.senses.number} samples, {agent.inferences} inferences, "
        f"{agent.learner.lessons} lessons, {agent.learner.updates} updates, {probe}, "
        f"{agent.energy.total_uj / 1e6:.3g} J"
    )
