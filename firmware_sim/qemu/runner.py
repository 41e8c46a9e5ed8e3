"""The runner of `edgerun infer --board` and `edgerun adapt --board`: a bundle's own firmware in QEMU."""

from __future__ import annotations

from typing import Final

import numpy as np

from edgerun.arrays import F64, I16, I32
from edgerun.bundle import Bundle
from edgerun.commands.neighbours import Ran, tool
from edgerun.errors import EdgeRunError
from firmware_sim.qemu import stream
from firmware_sim.qemu.machine import BOARDS, build, instructions, run


class Qemu:
    """Writes a bundle's C project, builds it and runs it on an emulated board."""

    boards: Final = tuple(BOARDS)

    def infer(self, bundle: Bundle, board: str, q: I16) -> Ran:
        """Answers to quantised samples q (n, size). Raises Refused and EdgeRunError as `build` and `run` do."""
        firmware = build(tool("firmware")(bundle, board, frozen=True))
        packed = q.astype(bundle.manifest.input.dtype)
        return answers(
            run(firmware, board, b"".join(stream.sample(x.tobytes()) for x in packed)).answers, board, len(q)
        )


def answers(text: str, board: str, count: int) -> Ran:
    """The answers in lines of telemetry. Raises EdgeRunError where there are not as many as samples."""
    found = [words for event, words in stream.lines(text) if event == "answer"]
    if len(found) != count:
        raise EdgeRunError(f"{board} answered {len(found)} of {count} samples")
    scores: I32 = np.array([words[3:] for words in found]).astype(np.int64).astype(np.int32)
    ticks: F64 = np.array([instructions(board, int(words[2])) for words in found])
    return Ran(scores, ticks)


QEMU: Final = Qemu()
