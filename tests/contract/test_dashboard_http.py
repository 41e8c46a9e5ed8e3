"""The page's server: what it answers, what it refuses, how its stream resumes."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.dashboard import server as serving
from deploy.dashboard.collector import Feed
from deploy.dashboard.history import Arrival, History
from deploy.dashboard.server import STATIC, Dashboard, tell
from edgerun.cli import main
from edgerun.errors import DataError, StoreError
from edgerun.spec import LEVELS
from edgerun.telemetry.messages import Birth, Data, Event, State

NODE = "lab/n1"
TEXTS = sorted(path.name for path in STATIC.iterdir() if path.suffix in (".html", ".js", ".css", ".svg"))


def fill(path: Path) -> None:
    """A history as a collector would have left it."""
    birth = Birth(
        sid=1, ts=1, bundle="ab" * 32, bundle_name="<b>digits</b>", runtime="0.1.0", board="pico2", classes=["0"],
        capacity=4, heartbeat_s=10.0, metrics={}, verbs=[], allow_unsigned=True, oldest=1,
    )  # fmt: skip
    messages = (
        birth,
        State(online=True, sid=1, mode="learning"),
        Data(sid=1, seq=1, t=[1000, 2000], m={"accuracy": [0.5, 0.75], "level": [0.0, 4.0]}),
        Event(sid=1, seq=2, t=1500, kind="taught", detail={"label": "<script>"}),
    )
    history = History(path)
    history.commit([Arrival(NODE, message, True) for message in messages], now_ms=1)
    history.close()


@pytest.fixture
def dashboard(tmp_path: Path) -> Iterator[Dashboard]:
    fill(tmp_path / "h.db")
    made = Dashboard(tmp_path / "h.db", "127.0.0.1", 1)  # nobody listens there: the page works all the same
    made.start()
    yield made
    made.stop()


def fetch(dashboard: Dashboard, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def ask(dashboard: Dashboard, path: str) -> Any:
    answer, body = fetch(dashboard, path)
    assert answer.status == 200, body
    return json.loads(body)


def test_the_page_and_its_parts_come_from_here_under_a_strict_policy(dashboard: Dashboard) -> None:
    for path in ("/", *(f"/static/{name}" for name in TEXTS)):
        answer, body = fetch(dashboard, path)
        assert answer.status == 200
        assert body
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert set(re.findall(r"'[a-z]+'|\S+:\S*", policy)) == {"'none'", "'self'"}
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", TEXTS)
def test_no_part_of_the_page_names_another_host(name: str) -> None:
    text = (STATIC / name).read_text()
    allowed = {"http://www.w3.org/2000/svg", "https://github.com/leeoniya/uPlot"}  # a namespace and a comment
    assert set(re.findall(r"https?://[^\s\"'<>)]+", text)) <= allowed
    assert "innerHTML" not in text.replace("uPlot", "") or name.startswith("uPlot")


def test_the_page_has_no_inline_script_or_style() -> None:
    text = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\bsrc=)", text)


def test_vendored_files_are_what_their_record_says() -> None:
    record = (STATIC / "VENDORED.md").read_text()
    digests = dict(re.findall(r"^\| `(\S+)` .* `([0-9a-f]{64})` \|$", record, re.MULTILINE))
    assert set(digests) == {path.name for path in STATIC.iterdir() if path.name.startswith("uPlot")}
    for name, digest in digests.items():
        assert hashlib.sha256((STATIC / name).read_bytes()).hexdigest() == digest


def test_nodes_come_with_everything_a_card_shows(dashboard: Dashboard) -> None:
    got = ask(dashboard, "/api/nodes")
    assert got["levels"] == list(LEVELS)
    assert "no connection" in got["collector"]["problem"] or "not connected" in got["collector"]["problem"]
    (node,) = got["nodes"]
    assert (node["node"], node["status"], node["mode"]) == (NODE, "stale", "learning")
    assert node["values"] == {"accuracy": 0.75, "level": 4.0}
    assert node["birth"]["allow_unsigned"] is True
    assert node["stats"] == {"received": 2, "duplicates": 0, "missing": 0, "upto": 2, "gaps": 0}
    assert len(node["spark"]) == 2


def test_series_and_events_are_answered(dashboard: Dashboard) -> None:
    got = ask(dashboard, f"/api/series?node={NODE}&metrics=accuracy,level&from=1500&points=10")
    assert got["series"]["accuracy"]["mean"] == [0.75]
    (event,) = ask(dashboard, f"/api/events?node={NODE}")
    assert event["text"] == "An operator taught “<script>”"
    assert ask(dashboard, f"/api/events?node={NODE}&after={event['id']}") == []


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/api/series?node=lab/nobody&metrics=a", "node 'lab/nobody' has never been heard of"),
        ("/api/series?metrics=a", "node '' has never been heard of"),
        (f"/api/series?node={NODE}&metrics=a&from=yesterday", "from 'yesterday' is not a whole number"),
        (f"/api/series?node={NODE}&metrics=a&points=1e9", "points '1e9' is not a whole number"),
        (f"/api/events?after={'9' * 400}", f"after '{'9' * 40}' is not a whole number"),
        ("/api/events?node=%27%3B--", """node "';--" has never been heard of"""),
    ],
)
def test_wrong_questions_are_refused_in_one_line(dashboard: Dashboard, path: str, reason: str) -> None:
    answer, body = fetch(dashboard, path)
    assert answer.status == 400
    assert json.loads(body) == {"error": reason}


@pytest.mark.parametrize("path", ["/static/../server.py", "/static/%2e%2e/server.py", "/nothing"])
def test_nothing_else_is_served(dashboard: Dashboard, path: str) -> None:
    assert fetch(dashboard, path)[0].status == 404


def test_another_name_for_this_machine_is_refused(dashboard: Dashboard) -> None:
    assert fetch(dashboard, "/api/nodes", Host="evil.example")[0].status == 400


def test_the_page_only_reads(dashboard: Dashboard) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10)
    connection.request("POST", "/api/nodes", body=b"{}")
    assert connection.getresponse().status == 405
    connection.close()


def test_a_taken_port_is_avoided(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        made = Dashboard(tmp_path / "h.db", "127.0.0.1", 1, port=taken)
        made.start()
        assert made.port != taken
        assert fetch(made, "/")[0].status == 200
        made.stop()


def test_stats_are_told_to_the_program_too(dashboard: Dashboard) -> None:
    assert dashboard.stats(NODE).upto == 2
    with pytest.raises(DataError, match="has never been heard of"):
        dashboard.stats("n1")


def test_a_history_that_is_none_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "h.db").write_bytes(b"x" * 4096)
    with pytest.raises(StoreError, match="file is not a database"):
        Dashboard(tmp_path / "h.db", "127.0.0.1", 1)


# ------------------------------------------------------------------ the command


def test_the_command_serves_until_it_is_told_to_end(tmp_path: Path) -> None:
    credentials = tmp_path / "credentials.json"
    credentials.write_text('{"host": "127.0.0.1", "port": 1, "username": "u", "password": "p", "url": "mqtt://"}')
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        command = [sys.executable, "-m", "edgerun.cli", "dashboard", "--credentials", str(credentials)]
        options = ["--history", str(tmp_path / "h.db"), "--port", taken]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline().startswith(f"port {taken} is taken, using ")
            url = re.findall(r"http://\S+", process.stdout.readline())[0]
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert b"<title>edgerun</title>" in answer.read()
            process.send_signal(signal.SIGTERM)
        assert process.returncode == 0


REFUSALS = {
    "no broker": ([], "no broker: give --broker mqtt://user:password@host:port"),
    "no URL": (["--broker", "host:1883"], "--broker is not of the form mqtt://user:password@host:port"),
    "authority without TLS": (["--broker", "mqtt://host", "--ca", "x.pem"], "--ca x.pem needs a broker of the form"),
    "port too high": (["--broker", "mqtt://host", "--port", "65536"], "port 65536 is outside [0, 65535]"),
    "no JSON": (["--credentials", "bad.json"], "credentials bad.json: "),
    "no such file": (["--credentials", "nowhere"], "nowhere: No such file or directory"),
}


@pytest.mark.parametrize(("options", "reason"), REFUSALS.values(), ids=REFUSALS)
def test_wrong_arguments_are_refused(
    options: list[str], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.json").write_text("{")
    assert main(["dashboard", *options]) == 2
    assert reason in capsys.readouterr().err


# ------------------------------------------------------------------ the stream


async def first(stream: AsyncIterator[bytes], count: int) -> list[str]:
    return [(await anext(stream)).decode() for _ in range(count)]


def listen(feed: Feed, cursor: int | None, count: int) -> list[str]:
    return asyncio.run(first(tell(feed, cursor, threading.Event()), count))


def busy_feed() -> Feed:
    feed = Feed(10)
    feed.add(11, frozenset({"lab/a"}))
    feed.add(12, frozenset({"lab/b", "lab/a"}))
    return feed


def test_a_new_listener_is_told_to_look_at_everything() -> None:
    assert listen(busy_feed(), None, 2) == ["retry: 1000\n\n", 'id: 12\nevent: resync\ndata: {"nodes":[]}\n\n']


def test_a_listener_that_comes_back_hears_what_it_missed_in_one_message() -> None:
    assert listen(busy_feed(), 10, 2)[1] == 'id: 12\nevent: change\ndata: {"nodes":["lab/a","lab/b"]}\n\n'


def test_a_listener_that_was_away_too_long_is_told_so() -> None:
    assert listen(busy_feed(), 3, 2)[1] == 'id: 12\nevent: resync\ndata: {"nodes":[]}\n\n'


def test_silence_is_broken_by_a_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEARTBEAT_S", 0.3)
    assert listen(busy_feed(), 12, 2)[1] == ": still here\n\n"


def test_the_stream_is_at_most_four_messages_a_second() -> None:
    feed = Feed(0)

    async def watch() -> float:
        loop = asyncio.get_running_loop()
        stream = tell(feed, 0, threading.Event())
        await anext(stream)
        begun = loop.time()
        for n in range(4):
            feed.add(2 * n + 1, frozenset({"a"}))
            feed.add(2 * n + 2, frozenset({"b"}))
            await anext(stream)
        return loop.time() - begun

    assert asyncio.run(watch()) >= 3 * serving.TICK_S


def test_the_stream_is_served_and_ends_with_the_server(tmp_path: Path) -> None:
    fill(tmp_path / "h.db")
    made = Dashboard(tmp_path / "h.db", "127.0.0.1", 1)
    made.start()
    connection = http.client.HTTPConnection("127.0.0.1", made.port, timeout=10)
    connection.request("GET", "/events", headers={"Last-Event-ID": "1"})
    answer = connection.getresponse()
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.readline() == b"retry: 1000\n"
    made.stop()
    assert b"resync" not in answer.read(), "commit 1 is the newest: nothing was missed"
    connection.close()
