"""`edgerun dashboard`: collect what a fleet says and show it."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import msgspec

from deploy.dashboard.server import Dashboard
from edgerun.errors import Refused

EXAMPLE: Final = """example:
  edgerun dashboard --credentials edgerun-broker/credentials.json --history fleet.db
  edgerun dashboard --broker mqtt.example.org:8883 --ca ca.pem --username collector --password-file secret.txt
"""
DEFAULT_PORT: Final = 8750


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--credentials", type=Path, metavar="FILE",
        help="what 'edgerun broker' wrote; instead of --broker, --username and --password-file",
    )  # fmt: skip
    parser.add_argument("--broker", default="127.0.0.1:1883", metavar="HOST[:PORT]", help="default: %(default)s")
    parser.add_argument("--username", help="who the collector is to the broker")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="its first line is the password")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="speak TLS and trust these certificates")
    parser.add_argument(
        "--history", type=Path, default=Path("edgerun-history.db"), metavar="FILE",
        help="where everything received is kept; default: %(default)s",
    )  # fmt: skip
    parser.add_argument("--host", default="127.0.0.1", help="address to serve on; default: this machine only")
    parser.add_argument(
        "--port", type=int, default=DEFAULT_PORT, help="a free one is used if it is taken; default: %(default)s"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises Refused for an address, port or credentials that cannot be such."""
    where = read_credentials(args.credentials) if args.credentials else credentials(args)
    if not 0 <= args.port <= 65535:
        raise Refused(f"port {args.port} is outside [0, 65535]")
    dashboard = Dashboard(
        args.history, where.host, where.port, where.username, where.password, port=args.port, host=args.host, ca=args.ca
    )
    if args.port not in (0, dashboard.port):
        print(f"port {args.port} is taken, using {dashboard.port}")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    dashboard.start()
    print(
        f"dashboard on {dashboard.url}  broker {where.host}:{where.port}  history {args.history}  (Ctrl-C ends it)",
        flush=True,
    )
    stop.wait()
    dashboard.stop()
    return 0


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Where a broker is and who we are to it, as `edgerun broker` writes it."""

    host: str
    port: Annotated[int, msgspec.Meta(gt=0, lt=65536)]
    username: str | None = None
    password: str | None = None


def credentials(args: argparse.Namespace) -> Credentials:
    host, port = broker_address(args.broker)
    password = first_line(args.password_file) if args.password_file else None
    return Credentials(host=host, port=port, username=args.username, password=password)


def read_credentials(path: Path) -> Credentials:
    """Raises Refused for a file that `edgerun broker` did not write."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise Refused(f"credentials {path}: {err}") from None


def broker_address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, "1883"
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refused(f"broker {text!r} is not HOST[:PORT]")
    return host.strip("[]"), int(port)


def first_line(path: Path) -> str:
    return path.read_text().partition("\n")[0].rstrip("\r")
