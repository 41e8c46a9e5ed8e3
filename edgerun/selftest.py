"""Does this machine compute what the exporter saw? The bundle's own samples answer, at `verify` and at every start."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from edgerun import encode
from edgerun.bundle import Probe, Selftest
from edgerun.errors import CheckFailed
from edgerun.network import Network

BLOCK: Final = 64  # probe samples that run side by side


def check_selftest(network: Network, selftest: Selftest) -> None:
    """Run a network with factory weights; every score must be equal to the bit.

    Raises CheckFailed naming the first score that differs.
    """
    for row, (x, want) in enumerate(zip(selftest.x, selftest.y, strict=True)):
        got = network.infer(encode.sense(network.manifest.front, network.manifest.input, x)).scores
        if not np.array_equal(got, want):
            k = int(np.argmax(got != want))
            raise CheckFailed(f"self-test row {row}: score {k} is {got[k]}, its maker got {want[k]}")


def probe_accuracy(network: Network, probe: Probe) -> float:
    """The share of labelled samples that a network gets right, with whatever weights it has now; NaN of none."""
    if not len(probe.x):
        return math.nan
    right = 0
    for start in range(0, len(probe.x), BLOCK):
        block = probe.x[start : start + BLOCK]
        q = np.stack([encode.sense(network.manifest.front, network.manifest.input, x) for x in block])
        scores = network.batched(len(block)).scores(q)[:, : network.known]
        right += int((scores.argmax(axis=1) == probe.label[start : start + BLOCK]).sum())
    return right / len(probe.x)
