"""The label-free watch for drift on a board: Python's alarms on the same samples, through restarts and rollbacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import host_firmware
import msgspec
import numpy as np
import pytest
from host_firmware import Host
from pretend import sample, tiny_bundle

from edgerun.arrays import I16
from edgerun.bundle import Bundle
from edgerun.learn.learner import Learner
from edgerun.learn.watch import Watch
from edgerun.lifetime import new_learner
from edgerun.spec import Drift
from firmware_sim.qemu import stream

pytestmark = pytest.mark.skipif(host_firmware.COMPILER is None, reason="no C compiler here")

PLAN = Drift(samples=9, slack=1 << 11, threshold=6)


@pytest.fixture(scope="module")
def watched() -> Bundle:
    bundle = tiny_bundle()
    plan = msgspec.structs.replace(bundle.manifest.learning, drift=PLAN)
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan))


@pytest.fixture(scope="module")
def device(watched: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Host:
    return host_firmware.host(watched, tmp_path_factory.mktemp("firmware"))


def samples() -> list[I16]:
    """As usual, then shifted, then shifted otherwise, with the ends of the range among them. Many are the same, so that
    distances are."""
    found = [np.clip(sample(k % 4, 900 + k % 20) + shift, 0, 255) for shift in (0, 6, 90) for k in range(130)]
    found[40], found[41] = np.full_like(found[0], 255), np.zeros_like(found[0])
    return [q.astype(np.int16) for q in found]


def asked(q: I16) -> bytes:
    return stream.sample(q.astype(np.uint8).tobytes())


def alarms(bundle: Bundle) -> list[int]:
    """After which samples Python raises one."""
    learner, watch = new_learner(bundle, backend="numpy"), Watch(bundle.manifest)
    return [k for k, q in enumerate(samples()) if watch.meet(q, said(learner, q))]


def said(learner: Learner, q: I16) -> int:
    return int(learner.scores(q[None])[0, : len(learner.classes)].argmax())


def told(lines: list[list[str]], before: int = 0) -> list[int]:
    """Before which answers a board raises one."""
    found = []
    for words in lines:
        if words[0] == "answer":
            before += 1
        elif words[0] == "drift":
            found.append(before)
    return found


def test_alarms_are_pythons(watched: Bundle, device: Host, tmp_path: Path) -> None:
    wanted = alarms(watched)
    assert len(wanted) >= 2
    _, lines = device.run(tmp_path, b"".join(map(asked, samples())))
    assert told(lines) == wanted
    assert ["drift", "0"] in lines


def test_what_was_usual_outlives_a_restart(watched: Bundle, device: Host, tmp_path: Path) -> None:
    found, each = [], 23
    for first in range(0, len(samples()), each):
        frames = [*map(asked, samples()[first : first + each]), stream.frame(stream.SAVE)]
        found += told(device.run(tmp_path, b"".join(frames))[1], first)
    assert found == alarms(watched)


@pytest.mark.parametrize("found_good", [0, 1], ids=["factory", "checkpoint"])
def test_a_rollback_forgets_lessons_and_not_what_samples_are_like(
    found_good: int, watched: Bundle, device: Host, tmp_path: Path
) -> None:
    """Its lessons are undone to the bit, so answers are those of the factory again."""
    wrong = [stream.sample(sample(k % 4, 700 + k).astype(np.uint8).tobytes(), (k + 1) % 4) for k in range(4)]
    asking = list(map(asked, samples()))
    judge = stream.frame(stream.JUDGE)
    frames = [stream.frame(stream.GUARD, 0), *([judge] * found_good), *asking[:60], *wrong, judge, *asking[60:]]
    _, lines = device.run(tmp_path, b"".join(frames))
    assert [words[1] for words in lines if words[0] == "verdict"] == ["good"] * found_good + ["back"]
    assert told(lines) == alarms(watched)


def test_the_factory_knows_nothing_usual(watched: Bundle, device: Host, tmp_path: Path) -> None:
    asking = list(map(asked, samples()))
    _, lines = device.run(tmp_path, b"".join([*asking[:100], stream.frame(stream.FACTORY), *asking]))
    assert [before - 100 for before in told(lines)] == alarms(watched)


def test_learned_state_is_printed_without_it(watched: Bundle, device: Host, tmp_path: Path) -> None:
    _, lines = device.run(tmp_path, asked(samples()[0]) + stream.frame(stream.PRINT))
    names = [words[1] for words in lines if words[0] == "kept"]
    assert names[-1] == "counters"
    assert not any(name.startswith("watch.") for name in names)
