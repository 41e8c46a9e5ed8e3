"""What tests with a real process and a real broker start from."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from node import EDGERUN, Listener

from deploy.broker import Broker, find_mosquitto, start_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if find_mosquitto() is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    with start_broker(tmp_path / "broker", kind="mosquitto") as running:
        yield running


@pytest.fixture
def stream(digits: Path, tmp_path: Path) -> Path:
    """Images of the factory's classes without labels, so that all teaching comes from outside."""
    field = np.load(digits / "field.npz")
    path = tmp_path / "stream.npz"
    np.savez(path, x=field["x"][field["y"] < 8])
    return path


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `edgerun run` in a process of its own; what is left of them is killed at the end."""
    running: list[subprocess.Popen[str]] = []

    def start(config: Path, *extra: str, **env: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", EDGERUN, "run", "--config", str(config), *extra]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("EDGERUN_")}
        pipe = subprocess.PIPE
        running.append(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env={**clean, **env}))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    ear = Listener(broker)
    yield ear
    ear.link.stop()
