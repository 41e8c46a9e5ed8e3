"""A broker for this machine: mosquitto where it is installed, else an embedded one for demonstrations and tests.

Both listen on the loopback only and want a user name and a password, drawn anew each time. The embedded broker speaks
MQTT 3.1.1, keeps nothing across a restart and sets no limit on messages: it is not for production, and says so.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import math
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

from edgerun.errors import EdgeRunError, MissingExtra, Refused
from edgerun.telemetry.messages import MAX_MESSAGE_BYTES

HOST = "127.0.0.1"
Kind: TypeAlias = Literal["mosquitto", "amqtt"]
_START_S = 15.0
_STOP_S = 5.0

MOSQUITTO = """\
listener {port} {host}
allow_anonymous false
password_file {passwords}
persistence true
persistence_location {folder}/
autosave_interval 1
max_inflight_messages 256
max_queued_messages 100000
max_packet_size {limit}
set_tcp_nodelay true
log_type error
log_type warning
"""


def find_mosquitto() -> str | None:
    """Where mosquitto is; Debian puts it into a folder that ordinary users do not search."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


@dataclass
class Broker:
    """A running broker, ended by `stop` or at the end of a `with` block. Everything that it writes is in `folder`."""

    folder: Path
    kind: Kind
    port: int
    username: str
    password: str = field(repr=False)
    host: str = HOST
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return f"mqtt://{self.username}:{self.password}@{self.host}:{self.port}"

    @property
    def credentials(self) -> Path:
        """A file, readable by its owner only, with everything that a client needs."""
        return self.folder / "credentials.json"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the broker takes connections.

        Raises Refused where the port is taken, EdgeRunError with the broker's last words if it does not start.
        """
        self._check_port()
        command = self._mosquitto() if self.kind == "mosquitto" else self._embedded()
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, we end the broker
            )
        self._await_listener()

    def stop(self) -> None:
        """A clean end: mosquitto saves its state."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """An end without warning."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop if it runs, then start on the same port with the same credentials and whatever state is on disk."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _mosquitto(self) -> list[str]:
        passwords, config = self.folder / "passwords", self.folder / "mosquitto.conf"
        _write_private(passwords, f"{self.username}:{self.password}\n")
        subprocess.run(["mosquitto_passwd", "-U", passwords], check=True, capture_output=True)
        text = MOSQUITTO.format(
            port=self.port, host=self.host, passwords=passwords, folder=self.folder, limit=2 * MAX_MESSAGE_BYTES
        )
        _write_private(config, text + _stay_ourselves())
        return [find_mosquitto() or "mosquitto", "-c", str(config)]

    def _embedded(self) -> list[str]:
        return [sys.executable, "-m", "deploy.broker", str(self.credentials)]

    def _check_port(self) -> None:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just given up is free
            try:
                probe.bind((self.host, self.port))
            except (OSError, OverflowError) as err:
                raise Refused(f"port {self.port} cannot be used: {getattr(err, 'strerror', err)}") from None

    def _await_listener(self) -> None:
        deadline = time.monotonic() + _START_S
        while self.running and time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1.0):
                return
            time.sleep(0.02)
        self.kill()
        words = (self.folder / "broker.log").read_text(errors="replace").strip().splitlines()
        raise EdgeRunError(
            f"{self.kind} did not start on port {self.port}: {words[-1] if words else 'it says nothing'}"
        )

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(how)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()


def start_broker(folder: Path, port: int = 0, kind: Kind | None = None) -> Broker:
    """A broker that is ready; `port` 0 takes a free one, `kind` None takes mosquitto if it is here.

    Raises MissingExtra where neither broker is installed, and what `Broker.start` raises.
    """
    chosen: Kind = kind or ("mosquitto" if find_mosquitto() else "amqtt")
    if chosen == "amqtt" and find_spec("amqtt") is None:
        raise MissingExtra("broker", "demo", "mosquitto or amqtt")
    folder = folder.resolve()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"edgerun-{secrets.token_hex(3)}"
    broker = Broker(folder, chosen, port or free_port(), name, secrets.token_urlsafe(18))
    fields = {"host": broker.host, "port": broker.port, "username": broker.username, "password": broker.password}
    _write_private(broker.credentials, json.dumps({**fields, "url": broker.url}, indent=1) + "\n")
    broker.start()
    return broker


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _stay_ourselves() -> str:
    """Started by root, mosquitto would become another user and lose sight of its own files."""
    return f"user {pwd.getpwuid(0).pw_name}\n" if os.geteuid() == 0 else ""


# ------------------------------------------------------------------ the embedded broker, in its own process


def _mended_broker(config: dict[str, Any]) -> Any:
    """An amqtt broker that keeps four promises of the standard which amqtt 0.12 does not.

    A client silent for 1.5 keepalives is gone, so its will is published. A message that waited for a session is
    delivered as what it was, not as a retained one. A session that comes back gets retained messages of its own
    subscriptions, not of everybody's. A client of MQTT 5 is refused at once, not left waiting because the properties in
    its CONNECT were taken for a very long name.
    """
    from amqtt.broker import Broker as Amqtt
    from amqtt.mqtt.connect import ConnectPayload
    from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler

    def drop_silent_client(handler: Any) -> None:
        waiter = handler._disconnect_waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    read_payload = ConnectPayload.from_stream

    async def read_known_payload(reader: Any, fixed: Any, header: Any) -> Any:
        if header.proto_level == 4:
            return await read_payload(reader, fixed, header)
        header.flags = 0
        return ConnectPayload(client_id="refused")

    meet = Amqtt._initialize_client_session

    async def meet_patiently(broker: Any, *args: Any) -> Any:
        handler, session = await meet(broker, *args)
        session.keep_alive = math.ceil(1.5 * session.keep_alive)
        return handler, session

    async def deliver_waiting(broker: Any, session: Any) -> None:
        handler = broker._get_handler(session)
        while not session.retained_messages.empty():
            message = await session.retained_messages.get()
            await handler.mqtt_publish(message.topic, message.data, message.qos, retain=False)

    show_retained = Amqtt._publish_retained_messages_for_subscription

    async def show_own_retained(broker: Any, subscription: tuple[str, int], session: Any) -> None:
        if any(subscriber is session for subscriber, _ in broker.subscriptions.get(subscription[0], ())):
            await show_retained(broker, subscription, session)

    BrokerProtocolHandler.handle_read_timeout = drop_silent_client
    Amqtt._initialize_client_session = meet_patiently
    Amqtt._publish_session_retained_messages = deliver_waiting
    Amqtt._publish_retained_messages_for_subscription = show_own_retained
    ConnectPayload.from_stream = read_known_payload
    return Amqtt(config)


async def _serve_embedded(credentials: Path) -> None:
    """Run until SIGTERM, or until the process that started us is gone and its end of our standard input with it."""
    from pwdlib import PasswordHash
    from pwdlib.hashers.argon2 import Argon2Hasher

    fields = json.loads(credentials.read_text())
    passwords = credentials.with_name("passwords")
    quick = Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1)  # the password is random: nothing to slow down
    _write_private(passwords, f"{fields['username']}:{PasswordHash((quick,)).hash(fields['password'])}\n")
    config = {
        "listeners": {"default": {"type": "tcp", "bind": f"{fields['host']}:{fields['port']}"}},
        "plugins": {"amqtt.plugins.authentication.FileAuthPlugin": {"password_file": str(passwords)}},
    }
    broker = _mended_broker(config)
    over = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, over.set)
    loop.add_reader(sys.stdin, over.set)
    await broker.start()
    await over.wait()
    await broker.shutdown()


# ------------------------------------------------------------------ edgerun broker


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, default=Path("edgerun-broker"), help="state, log and credentials")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--kind", choices=["mosquitto", "amqtt"], help="default: mosquitto if it is installed")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.epilog = "example: edgerun broker --port 1883"


def run(args: argparse.Namespace) -> int:
    """0 after Ctrl-C. Raises EdgeRunError if the broker ends by itself."""
    with start_broker(args.folder, args.port, args.kind) as broker, contextlib.suppress(KeyboardInterrupt):
        _introduce(broker, args.json)
        while broker.running:
            time.sleep(0.2)
        raise EdgeRunError(f"the broker ended by itself, see {broker.folder / 'broker.log'}")
    return 0


def _introduce(broker: Broker, as_json: bool) -> None:
    if as_json:
        fields = {"host": broker.host, "port": broker.port, "kind": broker.kind}
        print(json.dumps({**fields, "credentials": str(broker.credentials)}), flush=True)
        return
    print(f"{broker.kind} on {broker.host} port {broker.port}, credentials in {broker.credentials}")
    if broker.kind == "amqtt":
        print("the embedded demo broker, not for production: it forgets everything when it ends")
    print("Ctrl-C ends it", flush=True)


if __name__ == "__main__":
    asyncio.run(_serve_embedded(Path(sys.argv[1])))
