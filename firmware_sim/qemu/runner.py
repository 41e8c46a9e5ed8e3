"""The runner of `edgerun infer --board` and `edgerun adapt --board`: a bundle's own firmware in QEMU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I32, Tensors
from edgerun.bundle import Bundle
from edgerun.commands.neighbours import Ran, Schooled, Told, tool
from edgerun.errors import EdgeRunError, Refused
from edgerun.image import learns_in_c
from edgerun.learn.learner import learned_slots
from edgerun.learn.native import numpy_lessons
from firmware_sim.qemu import stream
from firmware_sim.qemu.machine import BOARDS, build, instructions, run

COUNTERS: Final = ("updates", "lessons", "deep_lessons", "recent_at", "threshold", "known")
"""The numbers of `er_counters`."""


class Qemu:
    """Writes a bundle's C project, builds it and runs it on an emulated board."""

    boards: Final = tuple(BOARDS)

    def infer(self, bundle: Bundle, board: str, q: I16) -> Ran:
        """Answers to quantised samples q (n, size). Raises Refused and EdgeRunError as `build` and `run` do."""
        firmware = build(tool("firmware")(bundle, board, frozen=True))
        return answers(run(firmware, board, b"".join(asking(bundle, q))).answers, board, len(q))[0]

    def teach(self, bundle: Bundle, board: str, asked: I16, lessons: Sequence[Told]) -> Schooled:
        """Answers, lessons, answers; see `Runner.teach`. Raises as `infer` does, Refused where C does not learn it."""
        if not learns_in_c(bundle.manifest):
            why = numpy_lessons(bundle.manifest)
            raise Refused(f"{bundle.manifest.name}: its firmware cannot learn, C has no form of its lessons; {why}")
        question = b"".join(asking(bundle, asked))
        script = [
            question,
            stream.frame(stream.GUARD, 0),
            *teaching(bundle, lessons),
            stream.frame(stream.SETTLE),
            stream.frame(stream.JUDGE),
            question,
            stream.frame(stream.PRINT),
        ]
        text = run(build(tool("firmware")(bundle, board)), board, b"".join(script)).answers
        before, after = answers(text, board, len(asked), len(asked))
        told = [words for event, words in stream.lines(text) if event == "lesson"]
        if len(told) != len(lessons):
            raise EdgeRunError(f"{board} took {len(told)} of {len(lessons)} lessons")
        verdicts = [words[0] for event, words in stream.lines(text) if event == "verdict"]
        arrays, counters = learned(bundle, text)
        spent = np.array([instructions(board, int(words[5])) for words in told])
        updates, good = tuple(int(words[3]) for words in told), verdicts == ["good"]
        return Schooled(before, after, updates, spent, arrays, counters, good)


def asking(bundle: Bundle, q: I16) -> Iterator[bytes]:
    """Samples (n, size) to answer."""
    return (stream.sample(x.tobytes()) for x in q.astype(bundle.manifest.input.dtype))


def teaching(bundle: Bundle, lessons: Sequence[Told]) -> Iterator[bytes]:
    """Lessons, and the classes that join with them."""
    for told in lessons:
        if told.joins:
            yield stream.frame(stream.NEW_CLASS)
        payload = told.q.astype(bundle.manifest.input.dtype).tobytes()
        if told.target is not None:
            yield stream.valued(payload, told.target.astype("<i2").tobytes(), told.level)
        elif told.sample:
            yield stream.feedback(payload, told.label, told.level)
        else:
            yield stream.sample(payload, told.label, told.level)


def answers(text: str, board: str, *counts: int) -> list[Ran]:
    """The answers in lines of telemetry, so many at a time. Raises EdgeRunError where there are not as many."""
    found = [words for event, words in stream.lines(text) if event == "answer"]
    if len(found) != sum(counts):
        raise EdgeRunError(f"{board} answered {len(found)} of {sum(counts)} samples")
    return [_ran(found[sum(counts[:k]) :][:count], board) for k, count in enumerate(counts)]


def _ran(found: Sequence[Sequence[str]], board: str) -> Ran:
    scores: I32 = np.array([[int(word) for word in words[3:]] for words in found], np.int32)
    spent: F64 = np.array([instructions(board, int(words[2])) for words in found])
    return Ran(scores, spent)


def learned(bundle: Bundle, text: str) -> tuple[Tensors, Mapping[str, int]]:
    """The learned state that was printed: arrays by name, and counters. Raises EdgeRunError where a part is missing."""
    kept = {words[0]: bytes.fromhex(words[1]) for event, words in stream.lines(text) if event == "kept"}
    slots = learned_slots(bundle.manifest, bundle.tensors)
    missing = slots.keys() - kept.keys()
    if missing or len(kept.get("counters", b"")) != stream.COUNTERS.size:
        raise EdgeRunError(f"the firmware printed no {min(missing, default='counters')}")
    arrays = {name: np.frombuffer(kept[name], slot.dtype).reshape(slot.shape) for name, slot in slots.items()}
    return arrays, dict(zip(COUNTERS, stream.COUNTERS.unpack(kept["counters"]), strict=True))


QEMU: Final = Qemu()
