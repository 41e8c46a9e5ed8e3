"""The configuration file: what is accepted means what it says, what is wrong is named."""

from pathlib import Path

import msgspec
import pytest

from edgerun.config import SECTIONS, Config, load_config
from edgerun.errors import ConfigError

WHOLE = {
    "device": 'group = "plant"\nnode = "press-3"\nboard = "rpi-4b"\nstate_dir = "state"',
    "bundle": 'path = "model.edgb"\ntrust = ["release.pub"]',
    "budget": "power_mw = 1500",
    "sensor": 'path = "/data/x.npz"',
}


def write(folder: Path, sections: dict[str, str]) -> Path:
    path = folder / "device.toml"
    path.write_text("\n".join(f"[{name}]\n{body}\n" for name, body in sections.items()), encoding="utf-8")
    return path


def test_the_least_file_fills_in_the_defaults(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert (config.device.group, config.device.node) == ("plant", "press-3")
    assert config.budget.power_mw == 1500.0
    assert (config.broker.host, config.broker.port, config.broker.tls) == ("127.0.0.1", 1883, False)
    assert (config.telemetry.heartbeat_s, config.telemetry.batch) == (30.0, 10)
    assert (config.sensor.rate_hz, config.sensor.loop) == (1.0, True)


def test_relative_paths_start_at_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    config = load_config(write(tmp_path, WHOLE))
    assert config.device.state_dir == tmp_path / "state"
    assert config.bundle.trust == (tmp_path / "release.pub",)
    assert config.sensor.path == Path("/data/x.npz")


def test_the_example_that_we_ship_is_accepted() -> None:
    config = load_config(Path(__file__).parents[2] / "deploy" / "systemd" / "device.toml")
    assert config.broker.tls
    assert config.bundle.allow_unsigned is False


def test_a_config_cannot_change(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    with pytest.raises(AttributeError):
        config.device.node = "other"  # type: ignore[misc]  # frozen


WRONG = {
    "unknown key": ("device", 'grup = "x"', "device.grup: unknown key, the nearest is device.group"),
    "unknown budget key": ("budget", "peek_mw = 1", "budget.peek_mw: unknown key, the nearest is budget.peak_mw"),
    "unknown section": ("sensors", 'kind = "npz"', "sensors: unknown section, the nearest is sensor"),
    "wrong type": ("broker", 'port = "1883"', "broker.port: expected `int`, got `str`"),
    "under its bound": ("broker", "port = 0", "broker.port: expected `int` >= 1"),
    "over its bound": ("telemetry", "batch = 1001", "telemetry.batch: expected `int` <= 1000"),
    "not a word for a topic": ("device", 'node = "a/b"', "device.node: expected `str` matching regex"),
    "not finite": ("budget", "power_mw = nan", "budget.power_mw: nan is not finite"),
    "infinite": ("budget", "power_mw = inf", "budget.power_mw: inf is not finite"),
    "no power at all": ("budget", "power_mw = 0", "budget.power_mw: expected `float` > 0"),
    "empty path": ("sensor", 'path = ""', "sensor.path: expected a path, got ''"),
    "not a path": ("bundle", "path = 3", "bundle.path: expected a path, got 3"),
    "a key among keys": ("bundle", 'trust = ["k", 3]', "bundle.trust[1]: expected a path, got 3"),
    "unknown sensor": ("sensor", 'kind = "wav"', "sensor.kind: 'wav' is none of npz"),
    "unknown backend": ("device", 'backend = "fast"', "device.backend: 'fast' is none of auto, numpy, native"),
    "a number for a choice": ("device", "backend = 2", "device.backend: 2 is none of auto, numpy, native"),
    "nobody is trusted": ("bundle", "trust = []", "bundle: trust names no key"),
    "all and some are trusted": ("bundle", "allow_unsigned = true", "bundle: allow_unsigned = true contradicts"),
    "in clear": ("broker", 'host = "broker.plant.example"', "broker: host 'broker.plant.example' is another machine"),
    "certificate in clear": ("broker", 'ca_file = "ca.pem"', "broker: ca_file, cert_file and key_file need tls = true"),
    "half a certificate": ("broker", 'tls = true\ncert_file = "c.pem"', "broker: cert_file and key_file belong"),
    "password of nobody": ("broker", 'password_file = "p"', "broker: password_file needs a username"),
}  # fmt: skip


@pytest.mark.parametrize(("section", "line", "message"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named(tmp_path: Path, section: str, line: str, message: str) -> None:
    key = line.partition(" ")[0]
    kept = [old for old in WHOLE.get(section, "").splitlines() if not old.startswith(f"{key} ")]
    path = write(tmp_path, {**WHOLE, section: "\n".join([*kept, line])})
    with pytest.raises(ConfigError) as refused:
        load_config(path)
    assert str(refused.value).startswith(f"{path}: {message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("section", WHOLE)
def test_a_missing_section_is_named(tmp_path: Path, section: str) -> None:
    path = write(tmp_path, {name: body for name, body in WHOLE.items() if name != section})
    with pytest.raises(ConfigError, match=f"missing required field `{section}`"):
        load_config(path)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.1", "::1"])
def test_this_machine_may_be_in_clear(tmp_path: Path, host: str) -> None:
    assert load_config(write(tmp_path, {**WHOLE, "broker": f'host = "{host}"'})).broker.host == host


def test_another_machine_may_be_in_clear_only_when_somebody_says_so(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, {**WHOLE, "broker": 'host = "10.0.0.5"\ninsecure = true'}))
    assert config.broker.insecure


@pytest.mark.parametrize(
    "data", [b"[device\n", b"\xff\xfe", b"device = 3\n", b""], ids=["torn", "binary", "flat", "empty"]
)
def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "device.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=str(path)):
        load_config(path)


def test_a_file_that_is_not_there_stays_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_config(tmp_path / "device.toml")


def test_every_section_is_a_field_of_the_config() -> None:
    assert list(SECTIONS) == [field.name for field in msgspec.structs.fields(Config)]
