"""What the scenarios of dense chains share: a float net as integers that learn, its bundle, its costs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from reference import dense_rules as rules

from edgerun import price
from edgerun.arrays import F64, I16, I64
from edgerun.boards import get_board
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.spec import Guard, Intelligence, LearningPlan, MeanQuotient, Replay, Rule
from exporters import learning_dense
from exporters.learning_dense import Quantised
from exporters.nodes import Affine
from exporters.nodes.plastic import FloatPlastic

PIXEL = Affine(1 / 127, 0)
"""Images from 0 to 1."""
BOARD = "nucleo-f446"
NEVER = Guard(every=4096)

RuleOf = Callable[[Quantised], Rule]


def integers(net: rules.Net, reaches: Sequence[float], tops: Sequence[float]) -> Quantised:
    """A float net as a chain that can learn.    reaches, tops  a layer: what outputs and weights may come to"""
    last = net.depth - 1
    layers = [
        FloatPlastic(
            f"dense{k + 1}",
            weight,
            bias,
            -np.inf if k == last else 0.0,
            weight_room=top / (float(np.abs(weight).max()) or 1.0),
            output_room=1.0,
        )
        for k, (weight, bias, top) in enumerate(zip(net.weight, net.bias, tops, strict=True))
    ]
    return learning_dense.quantised("chain", layers, PIXEL, reaches, net.weight[-1].shape[0])


def bundle_of(
    chain: Quantised,
    rule: Rule,
    x: I16,
    label: I64,
    *,
    seed: int = 1,
    intelligence: Intelligence | None = None,
    replay: Replay | None = None,
    normaliser: MeanQuotient | None = None,
) -> Bundle:
    """A bundle that learns so.    x, label  a few samples for its self-test and probe"""
    plan = LearningPlan(rule=rule, intelligence=intelligence, replay=replay or Replay(capacity=0), guard=NEVER)
    plan = plan if normaliser is None else msgspec.structs.replace(plan, normaliser=normaliser)
    manifest = msgspec.structs.replace(chain.manifest, learning=plan, seed=seed)
    scores = np.array([Network(manifest, chain.tensors).infer(q).scores for q in x], np.int32)
    rows = x.astype(np.int8).reshape(len(x), *manifest.input.shape)
    selftest, probe = Selftest(rows, scores), Probe(rows, label.astype(np.int32))
    return read_bundle(pack(manifest, chain.tensors, selftest=selftest, probe=probe))


def quantised(x: F64) -> I16:
    """Images from 0 to 1 as the chains read them."""
    q: I16 = np.floor(x * 127 + 0.5).astype(np.int16)
    return q


def teach(learner: Learner, x: I16, label: I64, order: I64) -> None:
    """One lesson a sample."""
    for i in order:
        learner.apply(learner.plan_lesson(x[i], int(label[i]), "full"))


def accuracy(learner: Learner, x: I16, label: I64) -> float:
    return float((learner.scores(x).argmax(axis=1) == label).mean())


def float_accuracy(net: rules.Net, x: F64, label: I64) -> float:
    with np.errstate(all="ignore"):
        return float((rules.predict(net, x) == label).mean())


def costs(bundle: Bundle) -> dict[str, Any]:
    """Memory, and the energy of one answer and of what one lesson adds to it, on `BOARD`."""
    still = replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=LearningPlan()))
    board, work = get_board(BOARD), price.work(bundle)
    inference = price.memory_plan(still).total_bytes
    one, lesson = price.price(board, work.inference)[0], price.price(board, work.lesson["full"])[0]
    return {
        "memory_bytes": {"inference": inference, "learning": price.memory_plan(bundle).total_bytes - inference},
        "energy_uj": {"inference": one, "update": lesson - one},
    }


__all__ = [
    "Quantised",
    "RuleOf",
    "accuracy",
    "bundle_of",
    "costs",
    "float_accuracy",
    "integers",
    "new_learner",
    "quantised",
    "teach",
]
