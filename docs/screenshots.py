"""Plays the demo and photographs what it shows: `docs/images/page.png` (live page), `report-top.png` (its report)
and `life-report.png` (what `edgerun report` makes of its device's journal).

Needs chromium. The demo prints the address of its page first and the place of `report.html` last, then stays up.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

IMAGES = Path(__file__).parent / "images"
WIDTH, HEIGHT = 1280, 900
CHROMIUM = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]


def main() -> int:
    browser = shutil.which("chromium")
    if browser is None:
        print("screenshots need chromium: make system-deps", file=sys.stderr)
        return 2
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, demo(Path(folder)) as (page, report), chromium(browser) as port:
        photograph(port, page, IMAGES / "page.png")
        photograph(port, report.as_uri(), IMAGES / "report-top.png", height=1500)
        photograph(port, life(report.parent).as_uri(), IMAGES / "life-report.png", height=1500, settle_s=1.0)
    return 0


def life(folder: Path) -> Path:
    """The page of the device's life in the folder of a demo."""
    page = folder / "life.html"
    command = [str(Path(sys.executable).with_name("edgerun")), "report", str(folder / "device"), "-o", str(page)]
    subprocess.run([*command, "--bundle", str(folder / "digits-snn.edgb"), "--board", "rpi-zero-2w"], check=True)
    return page


@contextmanager
def demo(folder: Path) -> Iterator[tuple[str, Path]]:
    """Play the demo in a folder until its report is written; yields the page's address and the report's path."""
    command = [str(Path(sys.executable).with_name("edgerun")), "demo"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        address = ""
        for line in process.stdout or ():
            print(line, end="", flush=True)
            if not address and (found := re.search(r"http://\S+", line)):
                address = found[0]
            if address and "report.html" in line:
                break
        yield address, next(folder.rglob("report.html"))
        process.send_signal(signal.SIGINT)


@contextmanager
def chromium(browser: str) -> Iterator[int]:
    """A headless browser with an empty profile; yields the port of its debugger."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *CHROMIUM, f"--user-data-dir={profile}"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            yield debugger_port(Path(profile) / "DevToolsActivePort")
            process.terminate()


def debugger_port(file: Path) -> int:
    """Wait for the file in which the browser says where it listens. Raises TimeoutError after 20 s."""
    for _ in range(200):
        if file.exists() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        time.sleep(0.1)
    raise TimeoutError("chromium did not open its debugger within 20 s")


def photograph(port: int, url: str, file: Path, height: int | None = None, settle_s: float = 4.0) -> None:
    """Open a page, let it draw, and write a picture of its whole height or of so much of it."""
    opened = urllib.request.Request(f"http://127.0.0.1:{port}/json/new?about:blank", method="PUT")
    with urllib.request.urlopen(opened) as answer:
        tab = json.load(answer)
    socket = websocket.create_connection(tab["webSocketDebuggerUrl"], suppress_origin=True)
    screen = {"width": WIDTH, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    ask(socket, "Emulation.setDeviceMetricsOverride", **screen)
    ask(socket, "Page.navigate", url=url)
    time.sleep(settle_s)
    size = ask(socket, "Page.getLayoutMetrics")["cssContentSize"]
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": height or size["height"], "scale": 1}
    picture = ask(socket, "Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
    file.write_bytes(base64.b64decode(picture["data"]))
    socket.close()
    print(f"{file} {file.stat().st_size} bytes")


def ask(socket: websocket.WebSocket, method: str, **params: Any) -> dict[str, Any]:
    """One command of the debugging protocol and its answer; events in between are dropped."""
    socket.send(json.dumps({"id": 1, "method": method, "params": params}))
    while True:
        message = json.loads(socket.recv())
        if message.get("id") == 1:
            result: dict[str, Any] = message["result"]
            return result


if __name__ == "__main__":
    sys.exit(main())
