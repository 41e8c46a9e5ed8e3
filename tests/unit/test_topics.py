"""The topic tree: what is written is what is parsed, and nothing else is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun.errors import ConfigError
from edgerun.telemetry.messages import Metric
from edgerun.telemetry.metrics import METRICS
from edgerun.telemetry.topics import ALL, KINDS, Parsed, Topics, broadcast, parse

NODE = Topics("farm", "pi-7")


def test_every_topic_of_a_node() -> None:
    assert NODE.state == "edgerun/v1/farm/pi-7/state"
    assert NODE.cmd("teach") == "edgerun/v1/farm/pi-7/cmd/teach"
    assert NODE.inbox == ("edgerun/v1/farm/pi-7/cmd/#", "edgerun/v1/farm/_all/cmd/#", "edgerun/v1/farm/pi-7/ack")
    assert broadcast("farm", "learn-pause") == "edgerun/v1/farm/_all/cmd/learn-pause"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_parsed(kind: str) -> None:
    if kind in ("cmd", "res"):
        assert parse(getattr(NODE, kind)("probe")) == Parsed("farm", "pi-7", kind, "probe")
    else:
        assert parse(getattr(NODE, kind)) == Parsed("farm", "pi-7", kind)


def test_a_broadcast_is_parsed_as_a_command_to_all() -> None:
    assert parse(broadcast("farm", "learn-pause")) == Parsed("farm", ALL, "cmd", "learn-pause")


FOREIGN = {
    "empty": "",
    "another root": "edgerun/v2/farm/pi-7/state",
    "no kind": "edgerun/v1/farm/pi-7",
    "unknown kind": "edgerun/v1/farm/pi-7/secrets",
    "command without a verb": "edgerun/v1/farm/pi-7/cmd",
    "state with a verb": "edgerun/v1/farm/pi-7/state/now",
    "one level more": "edgerun/v1/farm/pi-7/cmd/teach/now",
    "empty node": "edgerun/v1/farm//state",
    "wildcard": "edgerun/v1/farm/+/state",
    "space": "edgerun/v1/farm/pi 7/state",
    "not ASCII": "edgerun/v1/farm/pï/state",
    "trailing newline": "edgerun/v1/farm/pi-7/cmd/teach\n",
    "name of 65": f"edgerun/v1/farm/{'n' * 65}/state",
    "state of everybody": "edgerun/v1/farm/_all/state",
    "leading slash": "/edgerun/v1/farm/pi-7/state",
}


@pytest.mark.parametrize("topic", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_topic_is_none(topic: str) -> None:
    assert parse(topic) is None


@given(st.text(max_size=80))
def test_parse_takes_any_text(text: str) -> None:
    parse(text)
    parse(f"edgerun/v1/{text}")
    parsed = parse(f"edgerun/v1/farm/{text}/cmd/{text}")
    assert parsed is None or parsed.node == parsed.verb == text


@pytest.mark.parametrize("name", ["", "a/b", "+", "#", "n" * 65, "pi\n", "ä"])
def test_a_name_that_is_no_level_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="group"):
        Topics(name, "pi-7")
    with pytest.raises(ConfigError, match="node"):
        Topics("farm", name)
    with pytest.raises(ConfigError, match="verb"):
        NODE.cmd(name)


def test_nobody_is_called_all() -> None:
    with pytest.raises(ConfigError, match="reserved"):
        Topics("farm", ALL)


def test_every_metric_says_what_it_is() -> None:
    assert all(isinstance(metric, Metric) and metric.unit and metric.help for metric in METRICS.values())
    assert {name for name, metric in METRICS.items() if metric.kind == "counter"} == {
        "energy_uj", "lessons", "updates", "inferences", "saturations", "doubted", "refused"
    }  # fmt: skip
