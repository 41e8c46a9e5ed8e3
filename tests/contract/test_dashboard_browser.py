"""The page in a real browser, over a real broker: its charts move, an event appears, and it talks to nobody else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from modules import load

from deploy.broker import Broker, find_mosquitto, start_broker
from deploy.dashboard.server import Dashboard
from edgerun.telemetry.link import Endpoint, MqttLink, Will
from edgerun.telemetry.messages import Birth, Data, Event, State
from edgerun.telemetry.metrics import METRICS
from edgerun.telemetry.topics import Topics

pytest.importorskip("websocket", reason="driving a browser needs websocket-client: pip install --group dev")
devtools = load(Path(__file__).with_name("devtools.py"))

pytestmark = [
    pytest.mark.browser,
    pytest.mark.broker,
    pytest.mark.skipif(devtools.find_chromium() is None, reason="chromium is not installed: make system-deps"),
]

TOPICS = Topics("lab", "greenhouse")
ATTACK = '<img src="http://evil.example/x" onerror="document.title=1">'


class Speaker:
    """A device's voice: well-formed messages with rising numbers."""

    def __init__(self, broker: Broker) -> None:
        endpoint = Endpoint(
            host=broker.host, port=broker.port, client_id="greenhouse",
            username=broker.username, password=broker.password,
        )  # fmt: skip
        self.link = MqttLink(endpoint, backoff_s=(0.1, 0.5))
        self.seq = 0
        self.clock_ms = int(time.time() * 1000)

    def start(self) -> None:
        self.link.start(lambda sid: Will(TOPICS.state, msgspec.json.encode(State(online=False, sid=sid))))
        deadline = time.monotonic() + 10
        while not self.link.connected and time.monotonic() < deadline:
            self.link.drain()
            time.sleep(0.01)
        birth = Birth(
            sid=1, ts=0, bundle="5e" * 32, bundle_name=ATTACK[:60], runtime="0.1.0", board="rpi-zero-2w",
            classes=["<i>0</i>", "1"], capacity=4, heartbeat_s=10.0, metrics=dict(METRICS), verbs=[],
            allow_unsigned=True, oldest=1,
        )  # fmt: skip
        self._publish(TOPICS.birth, birth, retain=True)
        self._publish(TOPICS.state, State(online=True, sid=1, mode="learning"), retain=True)

    def data(self, seconds: int = 10) -> None:
        times = [self.clock_ms + 1000 * k for k in range(seconds)]
        self.clock_ms += 1000 * seconds
        self.seq += 1
        values = {"accuracy": 0.9, "power_mw": 300.0, "budget_mw": 400.0, "level": float(self.seq % 3), "drift": 1.0}
        columns: dict[str, list[float | None]] = {name: [value] * seconds for name, value in values.items()}
        self._publish(TOPICS.data, Data(sid=1, seq=self.seq, t=times, m=columns))

    def event(self, kind: str, **detail: Any) -> None:
        self.seq += 1
        self._publish(TOPICS.event, Event(sid=1, seq=self.seq, t=self.clock_ms - 3000, kind=kind, detail=detail))

    def _publish(self, topic: str, message: msgspec.Struct, retain: bool = False) -> None:
        assert self.link.publish(topic, msgspec.json.encode(message), retain) is not None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Any, Dashboard, Speaker]]:
    if find_mosquitto() is None:
        pytest.importorskip("amqtt", reason="neither mosquitto nor the extra 'demo' is installed")
    with start_broker(tmp_path / "broker") as broker:
        dashboard = Dashboard(tmp_path / "h.db", broker.host, broker.port, broker.username, broker.password, port=0)
        dashboard.start()
        speaker = Speaker(broker)
        with devtools.chromium(tmp_path) as page:
            yield page, dashboard, speaker
        speaker.link.stop()
        dashboard.stop()


def points(page: Any) -> int:
    return int(page.evaluate("document.querySelector('#charts').dataset.points ?? 0"))


INK = """(() => {
    const c = document.querySelector('#charts canvas');
    return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter((v, i) => i % 4 == 3 && v).length;
})()"""


def test_the_page_lives(scene: tuple[Any, Dashboard, Speaker], tmp_path: Path) -> None:
    page, dashboard, speaker = scene
    page.open(dashboard.url)
    page.until("!document.querySelector('#empty').hidden && document.querySelector('#link.live')")

    speaker.start()
    page.until("document.querySelector('.card.online')")
    speaker.data()
    page.until("document.querySelector('#charts').dataset.points >= 10")
    before = points(page)
    for _ in range(5):
        speaker.data()
    page.until(f"document.querySelector('#charts').dataset.points >= {before + 50}")
    assert page.evaluate(INK) > 1000

    speaker.event("taught", label=ATTACK[:60], examples=10)
    page.until("document.querySelector('#events li.good')")
    text = page.evaluate("document.querySelector('#events li.good .text').textContent")
    assert text == f"An operator taught “{ATTACK[:60]}” with 10 examples"

    assert page.evaluate("document.querySelector('.badge').textContent") == "unsigned commands allowed"
    assert page.evaluate("document.querySelector('.bundle').textContent").startswith(ATTACK[:60])
    assert page.evaluate("document.querySelectorAll('main img, nav img, .chip i').length") == 0
    assert page.evaluate("[...document.querySelectorAll('.levels .key')].map((k) => k.textContent).join()") == (
        "full,light,sparse"
    )
    picture = tmp_path / "page.png"
    page.screenshot(picture)
    assert picture.stat().st_size > 20_000

    ours = urlsplit(dashboard.url).netloc
    asked = page.requested()
    assert {urlsplit(url).netloc for url in asked} == {ours}
    assert any("/api/series" in url for url in asked)
    assert page.complaints() == []


def test_an_event_is_marked_on_the_time_axis_and_explains_itself(scene: tuple[Any, Dashboard, Speaker]) -> None:
    page, dashboard, speaker = scene
    speaker.start()
    speaker.data(60)
    speaker.event("drift", detector="activity", statistic=5.25)
    page.open(dashboard.url)
    page.until("document.querySelector('#charts').dataset.points >= 60 && state.marks.length")
    at = page.evaluate(
        "(() => { const { u } = state.plots[0], box = u.over.getBoundingClientRect();"
        " return [box.left + u.valToPos(state.marks[0].ts, 'x'), box.top + 40] })()"
    )
    for x in (at[0] - 30, at[0]):
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=at[1])
    page.until("!document.querySelector('#tip').hidden")
    assert page.evaluate("document.querySelector('#tip').textContent").endswith(
        "The input has drifted: activity at 5.25"
    )


def test_a_server_that_goes_and_comes_back_is_noticed(scene: tuple[Any, Dashboard, Speaker], tmp_path: Path) -> None:
    page, dashboard, speaker = scene
    speaker.start()
    speaker.data()
    page.open(dashboard.url)
    page.until("document.querySelector('#link.live')")
    dashboard.stop()
    page.until("document.querySelector('#link.lost')?.textContent.includes('reconnecting')")
    again = Dashboard(tmp_path / "h.db", "127.0.0.1", 1, port=dashboard.port)
    try:
        assert again.port == dashboard.port
        again.start()
        page.until("document.querySelector('#link').textContent.includes('no connection to 127.0.0.1:1')")
    finally:
        again.stop()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_the_page_fits_its_window(scene: tuple[Any, Dashboard, Speaker], width: int, height: int) -> None:
    page, dashboard, speaker = scene
    speaker.start()
    speaker.data()
    speaker.event("level", **{"from": "full", "to": "head"})
    page.open(dashboard.url, width, height)
    page.until("document.querySelectorAll('.chart canvas').length == 5 && document.querySelector('#events li')")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    edges = page.evaluate("[...document.querySelectorAll('.u-over')].map((o) => o.getBoundingClientRect().left)")
    assert len(set(edges)) == 1, "the charts' times line up"
