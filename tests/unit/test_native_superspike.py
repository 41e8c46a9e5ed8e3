"""SuperSpike in C: what is recorded, what comes of it and what is learned are numpy's, array by array."""

from __future__ import annotations

from typing import Any, Literal

import learners
import msgspec
import numpy as np
import pytest
import trajectories

from edgerun.kernels import superspike as kernel
from edgerun.kernels.native import library
from edgerun.learn import native
from edgerun.learn.learner import Learner
from edgerun.native import network_of
from edgerun.rules import SuperSpike
from edgerun.spec import Manifest

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


def changed(manifest: Manifest, **fields: Any) -> Manifest:
    """The manifest, its rule with other fields."""
    rule = msgspec.structs.replace(manifest.learning.rule, **fields)
    return msgspec.structs.replace(manifest, learning=msgspec.structs.replace(manifest.learning, rule=rule))


def pair(seed: int, feedback: Literal["symmetric", "random", "uniform"]) -> tuple[Learner, Learner]:
    """One learner in numpy and in C; synapses, thresholds and filters drawn."""
    rng = np.random.default_rng(seed)
    manifest, tensors = learners.superspike() if feedback == "random" else trajectories.populations()
    manifest = changed(
        manifest, feedback=feedback, width_shift=int(rng.integers(4, 13)), post_shift=int(rng.integers(1, 16)),
        signal_shift=int(rng.integers(1, 17)), error_threshold=32768,
    )  # fmt: skip
    for each in manifest.learning.rule.populations:  # type: ignore[union-attr]  # superspike's
        size = len(tensors[f"{each.neurons}.threshold"])
        tensors[f"{each.neurons}.threshold"] = rng.integers(1, 9000, size).astype(np.int16)
        tensors[f"{each.neurons}.bias"] = rng.choice([-(1 << 30), 0, 1 << 20, 1 << 30], size).astype(np.int32)
        for name in ("alpha", "decay"):
            tensors[f"{each.neurons}.{name}"] = np.full(size, rng.choice([0, 3000, 29649, 32767]), np.uint16)
    found = []
    for backend in ("numpy", "native"):
        own = {name: array.copy() for name, array in tensors.items()}
        found.append(Learner(network_of(manifest, own, backend), priors={}, backend=backend))
    return found[0], found[1]


RECORDED = ("pre", "psi", "history", "post", "spikes", "error")


@pytest.mark.parametrize("feedback", ["symmetric", "random", "uniform"])
def test_windows_leave_numpys_arrays(feedback: Literal["symmetric", "random", "uniform"]) -> None:
    spoken = updates = 0
    for seed in range(7):
        theirs, ours = pair(seed, feedback)
        rng = np.random.default_rng(seed)
        for number in range(6):
            q = trajectories.sample(theirs.manifest, rng)
            lesson = theirs.plan_lesson(q, number % 4, "full")
            assert theirs.apply(lesson) == ours.apply(lesson)
            for name, array in theirs._state.items():
                if name in theirs.arrays() or name.rpartition(".")[2] in RECORDED:
                    np.testing.assert_array_equal(ours._state[name], array, err_msg=f"{name} of seed {seed}")
            spoken += int(theirs._state["trace.hidden.post"].astype(bool).sum())
        updates += theirs.updates
    assert spoken
    assert updates > 10


def test_the_surrogate_is_its_table() -> None:
    steps = np.arange(256)
    d = (33 + 2 * steps) ** 2
    np.testing.assert_array_equal((32767 * 2048 + d) // (2 * d), kernel.TABLE[:256])


def test_targets_other_than_the_window_are_refused() -> None:
    manifest, tensors = learners.superspike()
    learner = Learner(network_of(manifest, tensors, "native"), priors={}, backend="native")
    records = learner.records()
    held, rule = native.required(), records.learner
    assert rule is not None
    net = held.Net(*records.network, False)
    first, last = rule.populations
    for wrong in (
        (first | {"neurons": 0}, last), (first | {"above": 0}, last), (first | {"decay": -1}, last),
        (first | {"feedback": None}, last), (first, last | {"spikes": None}),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="population"):
            held.Learner(net, *rule[:-1], wrong, False)
    for numbers in ({"width_shift": 3}, {"post_shift": 16}, {"silence": None}, {"populations": 1}):
        with pytest.raises(ValueError, match="rule"):
            held.Learner(net, rule.rule | numbers, *rule[1:], False)
    assert isinstance(manifest.learning.rule, SuperSpike)
