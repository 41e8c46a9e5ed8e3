"""Random and adversarial lives have one digest in numpy and in C; `python tests/trajectories.py` is the long form."""

from __future__ import annotations

import numpy as np
import pytest
import trajectories

from edgerun.kernels.native import library
from edgerun.learn import native
from edgerun.learn.rules import RULES
from edgerun.rules import EPropValues

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


@pytest.mark.parametrize("kind", trajectories.KINDS)
def test_a_life_has_one_digest(kind: str) -> None:
    digests = [each for _, each in trajectories.lived(kind, 45, 15)]
    assert [len(set(each)) for each in digests] == [1, 1, 1, 1]
    assert len({each[0] for each in digests}) == 4


def test_every_rule_that_c_learns_by_has_a_life() -> None:
    rules = {type(trajectories.KINDS[kind]()[0].learning.rule) for kind in trajectories.KINDS}
    assert rules == set(RULES) - set(native.NUMPY_ONLY_RULES)
    assert EPropValues in rules


@pytest.mark.parametrize("kind", ["hot", "hot-small", "hot-backprop"])
def test_hot_lives_reach_the_ends(kind: str) -> None:
    learner, rng = trajectories.learner_of(kind, "native"), np.random.default_rng(1)
    reached: dict[str, int] = {}
    for _ in range(60):
        lesson = trajectories.told(learner, rng)
        learner.apply(learner.plan_lesson(lesson.q, lesson.label, lesson.level))
        for name, array in learner.arrays().items():
            kind_of = name.partition(".")[0]
            reached[kind_of] = max(reached.get(kind_of, 0), int(np.abs(array.astype(np.int64)).max(initial=0)))
    small = learner.arrays()["omega." + learner._rates[0].tensor].dtype == np.int16
    assert reached["shadow"] >= 32384
    assert reached["importance"] == 231
    assert reached["omega"] >= (32767 if small else 1 << 24)
