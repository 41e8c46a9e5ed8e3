"""One TOML file describes one device. It decodes straight into frozen records, strictly.

An unknown key is an error that names the nearest valid one; a wrong value is an error that names field and bound.
Relative paths start at the file's own folder. The help of every field is data: `docs/configuration.md` is made of it.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from edgerun.errors import ConfigError
from edgerun.kernels.native import Backend
from edgerun.spec import Budget, Record

TopicName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Port: TypeAlias = Annotated[int, Meta(ge=1, le=65535)]


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its name tells."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Device(Record, frozen=True, kw_only=True):
    """Who this device is and where its memory lies."""

    group: Annotated[TopicName, Meta(description="Fleet that the device belongs to, second part of every topic.")]
    node: Annotated[TopicName, Meta(description="Name of the device, unique in its group.")]
    board: Annotated[str, Meta(min_length=1, description="Board whose prices apply: a name that `edgerun plan` knows.")]
    state_dir: Annotated[Path, Meta(description="Folder for bundles, checkpoints, journal and outbox.")]
    backend: Annotated[
        Backend, Meta(description="Who computes: `native`, `numpy`, or C where it was built (`auto`): the same bits.")
    ] = "auto"


class BundleSource(Record, frozen=True, kw_only=True):
    """Which model runs, and whose word counts."""

    path: Annotated[Path, Meta(description="Bundle to install at start-up unless the device holds a newer one.")]
    trust: Annotated[
        tuple[Path, ...],
        Meta(max_length=8, description="Public key files; bundles and commands must be signed by one of them."),
    ] = ()
    allow_unsigned: Annotated[
        bool, Meta(description="Without any key: obey everybody on the broker, and say so in the birth message.")
    ] = False

    def __post_init__(self) -> None:
        if not self.trust and not self.allow_unsigned:
            raise ConfigError("trust names no key: name one, or set allow_unsigned = true")
        if self.trust and self.allow_unsigned:
            raise ConfigError("allow_unsigned = true contradicts the keys in trust")


class Broker(Record, frozen=True, kw_only=True):
    """Where the MQTT broker is. In clear only on this machine, unless `insecure` says otherwise."""

    host: Annotated[str, Meta(min_length=1, description="Host name or address.")] = "127.0.0.1"
    port: Annotated[Port, Meta(description="TCP port; 8883 is usual with TLS.")] = 1883
    username: Annotated[str, Meta(description="User name; empty = none.")] = ""
    password_file: Annotated[Path, Meta(description="File whose first line is the password.")] | None = None
    tls: Annotated[bool, Meta(description="Encrypt the connection and check the broker's certificate.")] = False
    ca_file: Annotated[Path, Meta(description="Authority to trust instead of the system's (PEM).")] | None = None
    cert_file: Annotated[Path, Meta(description="This device's certificate (PEM).")] | None = None
    key_file: Annotated[Path, Meta(description="The key of cert_file (PEM).")] | None = None
    insecure: Annotated[bool, Meta(description="Allow a broker on another machine without TLS.")] = False

    def __post_init__(self) -> None:
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ConfigError("ca_file, cert_file and key_file need tls = true")
        if (self.cert_file is None) != (self.key_file is None):
            raise ConfigError("cert_file and key_file belong together, one is missing")
        if self.password_file is not None and not self.username:
            raise ConfigError("password_file needs a username")
        if not (self.tls or self.insecure or is_loopback(self.host)):
            raise ConfigError(f"host {self.host!r} is another machine: it needs tls = true, or insecure = true")


class SensorSource(Record, frozen=True, kw_only=True):
    """Where samples come from."""

    kind: Annotated[Literal["npz"], Meta(description="`npz` plays a recording.")] = "npz"
    path: Annotated[Path, Meta(description="The recording: `x` (N, ...); with `y` (N,) it teaches.")]
    rate_hz: Annotated[float, Meta(gt=0, le=100_000, description="Samples a second.")] = 1.0
    loop: Annotated[
        bool, Meta(description="Play it again from its start when it ends; false: the agent ends with it.")
    ] = True


class Telemetry(Record, frozen=True, kw_only=True):
    """What is told, how often."""

    heartbeat_s: Annotated[
        float, Meta(ge=1, le=3600, description="Longest silence; after three the device counts as stale.")
    ] = 30.0
    batch: Annotated[int, Meta(ge=1, le=1000, description="Samples in one data message.")] = 10


class Config(Record, frozen=True, kw_only=True):
    """The whole file, one record a section."""

    device: Device
    bundle: BundleSource
    budget: Budget
    sensor: SensorSource
    broker: Broker = Broker()
    telemetry: Telemetry = Telemetry()


SECTIONS: Mapping[str, type[Record]] = {field.name: field.type for field in msgspec.structs.fields(Config)}


def load_config(path: Path | str) -> Config:
    """Read a device's configuration. Raises ConfigError naming file and field, OSError where it cannot be read."""
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise ConfigError(f"{path}: {err}") from None
    try:
        return parse_config(table, path.parent)
    except ConfigError as err:
        raise ConfigError(f"{path}: {err}") from None


def parse_config(table: Mapping[str, Any], folder: Path) -> Config:
    """Decode a TOML table; relative paths start at `folder`. Raises ConfigError naming the field and the bound."""
    refuse_unknown("section", table, SECTIONS, "")
    for name, section in SECTIONS.items():
        entries = table.get(name, {})
        if isinstance(entries, Mapping):
            refuse_unknown("key", entries, section.__struct_fields__, f"{name}.")
            refuse_infinite(name, entries)
            refuse_other(name, entries, section)

    def place(kind: type, value: object) -> Path:
        if kind is Path and isinstance(value, str) and value:
            return folder / value
        raise ConfigError(f"Expected a path, got {value!r}")

    try:
        return msgspec.convert(table, Config, dec_hook=place)
    except msgspec.ValidationError as err:
        raise ConfigError(field_first(str(err))) from None


def refuse_unknown(what: str, given: Mapping[str, Any], known: Any, prefix: str) -> None:
    """Raises ConfigError for the first key that is not known, with the nearest one that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
            raise ConfigError(f"{prefix}{key}: unknown {what}, the nearest is {prefix}{near[0]}")


def refuse_infinite(section: str, entries: Mapping[str, Any]) -> None:
    """Raises ConfigError for `inf` and `nan`, which TOML can spell and no field can mean."""
    for key, value in entries.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{section}.{key}: {value} is not finite")


def refuse_other(name: str, entries: Mapping[str, Any], section: type[Record]) -> None:
    """Raises ConfigError for a word that is none of a field's choices, and lists them."""
    for key, hint in get_type_hints(section).items():
        if get_origin(hint) is Literal and key in entries and entries[key] not in get_args(hint):
            raise ConfigError(f"{name}.{key}: {entries[key]!r} is none of {', '.join(get_args(hint))}")


def field_first(message: str) -> str:
    """Turn "Expected `int` >= 1 - at `$.broker.port`" into "broker.port: expected `int` >= 1"."""
    text, _, path = message.partition(" - at `$")
    reason = text.removeprefix("Object ")
    reason = reason[0].lower() + reason[1:]
    return f"{path.strip('.`')}: {reason}" if path else reason
