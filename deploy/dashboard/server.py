"""The page and what it reads: a small Starlette application over the store, and `Dashboard`, which runs it all.

    GET /                     the page                    GET /static/...  its parts, all of them from here
    GET /api/nodes            every node as a card        GET /api/series?node&metrics[&from][&to][&points]
    GET /api/events[?node][&after][&limit]                GET /events      server-sent: who has news

`/events` names the nodes that changed, at most four times a second; its ids are commits of the store, so a browser that
comes back with Last-Event-ID hears what it missed, or "resync" where that is too long ago. Everything is read-only.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deploy.dashboard.collector import Broker, Collector, Feed
from deploy.dashboard.reading import MAX_POINTS, CollectorStats, Reader
from edgerun.errors import DataError, StoreError
from edgerun.spec import LEVELS
from edgerun.telemetry.metrics import METRICS

STATIC: Final = Path(__file__).parent / "static"
TICK_S: Final = 0.25
HEARTBEAT_S: Final = 15.0
START_S: Final = 10.0
DEFAULT_POINTS: Final = 300
MAX_SERIES: Final = 32
MAX_EVENTS: Final = 500
LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")

HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-cache"),
)


class Hardened:
    """Adds the security headers to every answer: the page may load from here and talk to here, nothing else."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self.app(scope, receive, sending)


def as_json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def number(request: Request, name: str, default: int | None, low: int, high: int) -> int | None:
    """A whole number of the query, held inside [low, high]. Raises DataError for anything else."""
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.lstrip("-").isdecimal() or len(text) > 16:
        raise DataError(f"{name} {text[:40]!r} is not a whole number")
    return min(max(int(text), low), high)


async def refused(request: Request, error: Exception) -> Response:
    return as_json({"error": str(error)}, 400)


class Pages:
    """The handlers. Plain functions run in Starlette's thread pool, so a slow disk does not hold the stream up."""

    def __init__(self, reader: Reader, collector: Collector, stopping: threading.Event) -> None:
        self._reader = reader
        self._collector = collector
        self._stopping = stopping

    def index(self, request: Request) -> Response:
        return FileResponse(STATIC / "index.html", media_type="text/html; charset=utf-8")

    def nodes(self, request: Request) -> Response:
        now_ms = int(time.time() * 1000)
        collector = {"problem": self._collector.problem, "ignored": dict(self._collector.ignored)}
        metrics = {name: {"unit": metric.unit, "help": metric.help} for name, metric in METRICS.items()}
        nodes = self._reader.nodes(now_ms)
        return as_json({"now_ms": now_ms, "levels": LEVELS, "metrics": metrics, "collector": collector, "nodes": nodes})

    def series(self, request: Request) -> Response:
        metrics = [name for name in request.query_params.get("metrics", "").split(",") if name][:MAX_SERIES]
        return as_json(
            self._reader.series(
                request.query_params.get("node", ""),
                metrics,
                number(request, "from", 0, 0, 2**53) or 0,
                number(request, "to", None, 0, 2**53),
                number(request, "points", DEFAULT_POINTS, 1, MAX_POINTS) or DEFAULT_POINTS,
            )
        )

    def events(self, request: Request) -> Response:
        after = number(request, "after", 0, 0, 2**53) or 0
        limit = number(request, "limit", 100, 1, MAX_EVENTS) or 100
        return as_json(self._reader.events(request.query_params.get("node"), after, limit))

    async def stream(self, request: Request) -> Response:
        last = request.headers.get("last-event-id", "")
        cursor = int(last) if last.isdecimal() and len(last) < 17 else None
        news = tell(self._collector.feed, cursor, self._stopping)
        return StreamingResponse(news, media_type="text/event-stream")


async def tell(feed: Feed, cursor: int | None, stopping: threading.Event) -> AsyncIterator[bytes]:
    """Server-sent events from `cursor` on: "change" with the nodes that have news, "resync" when we cannot know."""
    yield b"retry: 1000\n\n"
    if cursor is None:
        cursor = feed.cursor
        yield sse("resync", cursor, [])
    spoke = time.monotonic()
    while not stopping.is_set():
        newest, nodes = feed.cursor, feed.since(cursor)
        if nodes is None or newest != cursor:
            yield sse("resync" if nodes is None else "change", newest, sorted(nodes or ()))
            cursor, spoke = newest, time.monotonic()
        elif time.monotonic() - spoke >= HEARTBEAT_S:
            yield b": still here\n\n"
            spoke = time.monotonic()
        await asyncio.sleep(TICK_S)


def sse(event: str, cursor: int, nodes: list[str]) -> bytes:
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (cursor, event.encode(), msgspec.json.encode({"nodes": nodes}))


def make_app(reader: Reader, collector: Collector, stopping: threading.Event, host: str) -> Starlette:
    pages = Pages(reader, collector, stopping)
    hosts = [*LOOPBACK, host] if host in LOOPBACK else ["*"]  # on loopback no other site's name may lead here
    return Starlette(
        routes=[
            Route("/", pages.index),
            Route("/api/nodes", pages.nodes),
            Route("/api/series", pages.series),
            Route("/api/events", pages.events),
            Route("/events", pages.stream),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[Middleware(Hardened), Middleware(TrustedHostMiddleware, allowed_hosts=hosts)],
        exception_handlers={DataError: refused},
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on that port, or on a free one where it is taken. Raises OSError for a host not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as err:
        if port == 0 or isinstance(err, socket.gaierror):
            raise
    return socket.create_server((host, 0), family=family)


class Dashboard:
    """Collector, store and page in this process, in threads of their own.

    Raises StoreError for a file that is no history, OSError for a host that is not this machine's.
    Where the wanted `port` is taken a free one is used: `url` tells which.
    """

    def __init__(
        self,
        history_path: Path,
        broker_host: str,
        broker_port: int,
        username: str | None = None,
        password: str | None = None,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: bool = False,
        ca: Path | None = None,
    ) -> None:
        self._socket = listen(host, port)
        self._host = host
        self.port = int(self._socket.getsockname()[1])
        try:
            self.collector = Collector(history_path, Broker(broker_host, broker_port, username, password, tls, ca))
        except StoreError:
            self._socket.close()
            raise
        self._reader = Reader(history_path)
        self._stopping = threading.Event()
        app = make_app(self._reader, self.collector, self._stopping, host)
        config = uvicorn.Config(
            app, log_config=None, access_log=False, lifespan="off", ws="none", http="h11", loop="asyncio",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="dashboard", daemon=True
        )

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self._host in ("0.0.0.0", "::") else self._host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"

    def start(self) -> None:
        """Collect and serve in the background; returns once the page answers."""
        self.collector.start()
        self._thread.start()
        deadline = time.monotonic() + START_S
        while not self._server.started and self._thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """Close the streams, then the page, then the collector after its last commit."""
        self._stopping.set()
        self._server.should_exit = True
        self._thread.join()
        self.collector.stop()
        self._socket.close()

    def stats(self, node: str) -> CollectorStats:
        """How complete the record of `group/node` is. Raises DataError for a node never heard of."""
        return self._reader.stats(node)

    def events(self, node: str, limit: int = 100) -> list[dict[str, Any]]:
        """What `group/node` told, newest first."""
        return self._reader.events(node, 0, limit)
