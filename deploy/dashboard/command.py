"""`edgerun dashboard`: collect what a fleet says and show it."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import Annotated, Final

import msgspec

from deploy.dashboard.server import Dashboard
from edgerun.errors import ConfigError, Refused
from edgerun.telemetry.address import FORM, BrokerAddress, parse_broker

EXAMPLE: Final = """example:
  edgerun dashboard --credentials edgerun-broker/credentials.json --history fleet.db
  edgerun dashboard --broker mqtts://collector:secret@mqtt.example.org --ca ca.pem
"""
DEFAULT_PORT: Final = 8750


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EXAMPLE
    parser.add_argument(
        "--credentials", type=Path, metavar="FILE",
        help="what 'edgerun broker' wrote; instead of --broker",
    )  # fmt: skip
    parser.add_argument("--broker", metavar="URL", help=f"{FORM}; default: EDGERUN_BROKER")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="certificate authority of an mqtts:// broker")
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
    where = read_credentials(args.credentials) if args.credentials else parse_broker(args.broker)
    if args.ca and not where.tls:
        raise ConfigError(f"--ca {args.ca} needs a broker of the form mqtts://...")
    if not 0 <= args.port <= 65535:
        raise Refused(f"port {args.port} is outside [0, 65535]")
    dashboard = Dashboard(
        args.history, where.host, where.port, where.username or None, where.password or None,
        port=args.port, host=args.host, tls=where.tls, ca=args.ca,
    )  # fmt: skip
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
    username: str = ""
    password: str = ""


def read_credentials(path: Path) -> BrokerAddress:
    """Raises Refused for a file that `edgerun broker` did not write."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Credentials)
    except (msgspec.DecodeError, UnicodeDecodeError) as err:
        raise Refused(f"credentials {path}: {err}") from None
    return BrokerAddress(found.host, found.port, found.username, found.password, tls=False)
