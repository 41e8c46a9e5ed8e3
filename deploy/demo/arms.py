"""The three arms, on the same stream: no adaptation, e-prop without protection, the full system.

    none    factory weights
    plain   e-prop as published: every correction is learned, the softmax error runs over all classes, and the readout
            that the rule trains decides. No replay, no consolidation, no error threshold.
    full    the bundle's own plan: consolidation, bounded replay, error over recently seen classes; prototypes decide

Every arm is also scored by both heads, so that the rule's part and the head's part in the result can be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias

import msgspec
import numpy as np

from deploy.demo import digits
from deploy.demo.digits import Digits, Split
from edgerun.arrays import I64, U8
from edgerun.bundle import Bundle
from edgerun.learn.learner import BATCH, Learner
from edgerun.learn.records import NewClass, Settle
from edgerun.lifetime import new_learner
from edgerun.spec import LearningPlan, Replay

Arm: TypeAlias = Literal["none", "plain", "full"]
HeadName: TypeAlias = Literal["prototypes", "readout"]
ARMS: Final[tuple[Arm, ...]] = ("none", "plain", "full")
DECIDES: Final[Mapping[Arm, HeadName]] = {"none": "prototypes", "plain": "readout", "full": "prototypes"}


def flat(x: U8) -> U8:
    return x.reshape(len(x), -1)


def answers(learner: Learner, x: U8, head: HeadName) -> I64:
    """The classes that a learner's network names for images x (n, 8, 8), by one of its heads."""
    if head == "prototypes":
        decided: I64 = learner.scores(flat(x)).argmax(axis=1)
        return decided
    network, known = learner.network.batched(BATCH), len(learner.classes)
    rows, found = flat(x), []
    for first in range(0, len(rows), BATCH):
        part = np.zeros((BATCH, rows.shape[1]), np.int16)
        count = len(rows[first : first + BATCH])
        part[:count] = rows[first : first + BATCH]
        network.scores(part)
        found.append(network.logits()[:count, :known].argmax(axis=1))
    return np.concatenate(found)


def accuracy(learner: Learner, data: Digits, head: HeadName, *, drifted: bool) -> float:
    x = digits.turned(data.x) if drifted else data.x
    return float((answers(learner, x, head) == data.y).mean())


def both(learner: Learner, data: Digits, head: HeadName) -> dict[str, float]:
    """Accuracy on the turned and on the straight sensor."""
    return {"drifted": accuracy(learner, data, head, drifted=True), "old": accuracy(learner, data, head, drifted=False)}


def by_head(learner: Learner, data: Digits) -> dict[str, dict[str, float]]:
    return {head: both(learner, data, head) for head in ("prototypes", "readout")}


def plain_plan(plan: LearningPlan) -> LearningPlan:
    """The same rule and rates without any protection."""
    if plan.rule is None:
        return plan
    bare = msgspec.structs.replace(plan.rule, error_threshold=32768, recent_labels=0)
    return msgspec.structs.replace(plan, rule=bare, intelligence=None, replay=Replay(capacity=0))


def arm_learner(bundle: Bundle, arm: Arm) -> Learner:
    if arm != "plain":
        return new_learner(bundle)
    manifest = msgspec.structs.replace(bundle.manifest, learning=plain_plan(bundle.manifest.learning))
    return new_learner(replace(bundle, manifest=manifest, priors={}, exemplars=None))


@dataclass(frozen=True)
class ArmResult:
    """How one arm did: after the stream by head, after each block by its deciding head."""

    by_head: dict[str, dict[str, float]]
    blocks: dict[str, list[float]]
    learner: Learner


def run_arm(bundle: Bundle, arm: Arm, data: Split, seen: Callable[[int], None] = lambda lesson: None) -> ArmResult:
    """Teach one arm the whole stream, every correction once, at full level."""
    learner = arm_learner(bundle, arm)
    x = np.concatenate([data.warm_up.x, digits.turned(data.stream.x)])
    y = np.concatenate([data.warm_up.y, data.stream.y])
    ends = [len(data.warm_up.x) + end for end in digits.block_ends(data.stream.y)]
    blocks: dict[str, list[float]] = {"drifted": [], "old": []}
    for i, (image, label) in enumerate(zip(flat(x), y, strict=True)):
        if arm != "none":
            learner.apply(learner.plan_lesson(image.astype(np.int16), int(label), "full"))
            seen(i)
        if i + 1 in ends:
            for kind, value in both(learner, data.test, DECIDES[arm]).items():
                blocks[kind].append(value)
    return ArmResult(by_head(learner, data.test), blocks, learner)


def teach_new(learner: Learner, data: Split, *, drifted: bool = False) -> dict[str, float]:
    """Teach 8 and 9 with ten examples each; accuracy of the new and of the old classes, on the same sensor."""
    x = digits.turned(data.shots.x) if drifted else data.shots.x
    for k in range(digits.FACTORY_CLASSES, 10):
        learner.apply(NewClass(label=digits.CLASSES[k]))
        for image in flat(x[data.shots.y == k]):
            learner.apply(learner.plan_lesson(image.astype(np.int16), k, "head"))
        learner.apply(Settle())
    return {
        "new_classes": accuracy(learner, data.new_test, "prototypes", drifted=drifted),
        "old_classes_after_teaching": accuracy(learner, data.test, "prototypes", drifted=drifted),
    }


def headline(results: Mapping[Arm, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The report's accuracy keys, each arm by the head that decides in it."""
    none, plain, full = (results[arm][DECIDES[arm]] for arm in ARMS)
    return {
        "drifted_no_adaptation": none["drifted"],
        "drifted_without_consolidation": plain["drifted"],
        "drifted_full": full["drifted"],
        "old_without_consolidation": plain["old"],
        "old_full": full["old"],
    }


def confusion(learner: Learner, data: Split) -> list[list[int]]:
    """Rows: what it was; columns: what the device said. Straight sensor, all ten classes, tested images only."""
    x, y = np.concatenate([data.test.x, data.new_test.x]), np.concatenate([data.test.y, data.new_test.y])
    table = np.zeros((10, 10), np.int64)
    np.add.at(table, (y, answers(learner, x, "prototypes")), 1)
    return [[int(cell) for cell in row] for row in table]
