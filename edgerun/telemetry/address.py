"""Where a broker is and who we are to it, in one line: what every `--broker` and EDGERUN_BROKER say."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit

from edgerun.errors import ConfigError

FORM: Final = "mqtt://user:password@host:port"
WRONG: Final = f"--broker is not of the form {FORM} or mqtts://..., port in [1, 65535]"
PORTS: Final = {"mqtt": 1883, "mqtts": 8883}


class BrokerAddress(NamedTuple):
    """`tls` where the form begins with mqtts; user name and password are empty where it has none."""

    host: str
    port: int
    username: str
    password: str
    tls: bool


def parse_broker(url: str | None) -> BrokerAddress:
    """`mqtt://user:password@host:port`, `mqtts://` for TLS; user, password and port may be absent.

    Characters that a URL cannot hold are written %xx. Raises ConfigError, quoting no password.
    """
    if not url:
        raise ConfigError(f"no broker: give --broker {FORM}, or set EDGERUN_BROKER")
    try:
        parts = urlsplit(url)
        usual = PORTS[parts.scheme]
        host, port = parts.hostname or "", usual if parts.port is None else parts.port
    except (ValueError, KeyError):
        raise ConfigError(WRONG) from None
    if not host or port == 0 or parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(WRONG)
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    return BrokerAddress(host, port, username, password, tls=parts.scheme == "mqtts")
