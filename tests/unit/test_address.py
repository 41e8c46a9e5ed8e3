"""One form for every broker: what it means, and that a wrong one never shows its password."""

from __future__ import annotations

import pytest

from edgerun.errors import ConfigError
from edgerun.telemetry.address import parse_broker

ADDRESSES = {
    "mqtt://me:p%40ss@farm.example:1884": ("farm.example", 1884, "me", "p@ss", False),
    "mqtt://farm.example": ("farm.example", 1883, "", "", False),
    "mqtt://127.0.0.1:1999/": ("127.0.0.1", 1999, "", "", False),
    "mqtt://[::1]:1884": ("::1", 1884, "", "", False),
    "mqtts://farm.example": ("farm.example", 8883, "", "", True),
    "mqtts://me@farm.example:1": ("farm.example", 1, "me", "", True),
}


@pytest.mark.parametrize(("url", "want"), ADDRESSES.items(), ids=ADDRESSES)
def test_addresses(url: str, want: tuple[str, int, str, str, bool]) -> None:
    assert parse_broker(url) == want


@pytest.mark.parametrize("url", ["", None])
def test_no_address_says_how_to_give_one(url: str | None) -> None:
    with pytest.raises(ConfigError, match="no broker: give --broker mqtt://user:password@host:port, or set EDGERUN_BR"):
        parse_broker(url)


@pytest.mark.parametrize(
    "url",
    [
        "farm", "farm:1883", "http://me:secret@farm", "mqtt://", "mqtt://:1883", "mqtt://me:secret@", "//farm:1883",
        "mqtt://farm:99999", "mqtt://farm:0", "mqtt://me:secret@farm:x", "mqtt://me:secret@[::1", "mqtt://farm/topic",
    ],
)  # fmt: skip
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="--broker is not of the form") as caught:
        parse_broker(url)
    assert "secret" not in str(caught.value)
