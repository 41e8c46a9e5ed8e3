"""Graphs of every kind of layer as firmware: memory that layers share, and numpy's answers."""

from __future__ import annotations

from pathlib import Path

import host_firmware
import numpy as np
import pytest
from random_layers import graph, window_of

from edgerun.bundle import Bundle, Selftest, no_probe, pack, read_bundle
from edgerun.network import Network
from edgerun.ops import OPS
from firmware_sim.qemu import stream

WINDOWS = 8


def random_bundle(seed: int) -> Bundle:
    """A graph of all kinds, in any order, and windows that its self-test knows."""
    rng = np.random.default_rng(seed)
    kinds = list(OPS)
    manifest, tensors = graph(rng, [kinds[k] for k in rng.permutation(len(kinds))])
    q = np.stack([window_of(rng, manifest) for _ in range(WINDOWS)])
    y = Network(manifest, tensors, (WINDOWS,)).scores(q)
    selftest = Selftest(x=q.astype(manifest.input.dtype).reshape(WINDOWS, *manifest.input.shape), y=y)
    return read_bundle(pack(manifest, tensors, selftest=selftest, probe=no_probe(manifest)))


@pytest.mark.skipif(host_firmware.COMPILER is None, reason="no C compiler here")
@pytest.mark.parametrize("seed", [1, 2])
def test_a_graph_of_every_kind_answers_alike_as_firmware(seed: int, tmp_path: Path) -> None:
    bundle = random_bundle(seed)
    assert {type(layer) for layer in bundle.manifest.layers} == set(OPS)
    device = host_firmware.host(bundle, tmp_path, frozen=True)
    asked = [stream.sample(np.asarray(x).tobytes()) for x in bundle.selftest.x]
    _, lines = device.run(tmp_path, b"".join(asked * 2))
    answers = [[int(word) for word in words[4:]] for words in lines if words[0] == "answer"]
    assert answers == [y.tolist() for y in bundle.selftest.y] * 2
