"""Learning in C: the same bits as the stages and rules of this folder, over the same arrays of the learner.

Windows of a rule without a C form are numpy's; `NUMPY_ONLY_RULES` says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple, cast

import numpy as np

from edgerun.arrays import I16, I64, AnyArray, Bool, Tensors
from edgerun.errors import SpecError
from edgerun.graph import layer_reaches
from edgerun.kernels.native import required
from edgerun.learn.profiles import profile_of
from edgerun.learn.stages import Factors
from edgerun.learn.superspike import SuperSpikeRule
from edgerun.native import LONG, NativeNetwork, Records, places, tape_fields
from edgerun.network import Tape
from edgerun.rules import ALL, RuleRecord
from edgerun.rules.dense import IlProx, PredictiveCoding, SequentialIl
from edgerun.rules.eprop import EPropOnline, EPropValues
from edgerun.rules.inner import InnerStep
from edgerun.rules.superspike import SuperSpike
from edgerun.spec import (
    Backprop,
    Doubt,
    EProp,
    LearningPlan,
    Level,
    Manifest,
    MeanQuotient,
    PlasticRate,
    Rewiring,
    RMaxProp,
)

Fields = dict[str, Any]
Pair = tuple[AnyArray, AnyArray]

EPROP, EPROP_VALUES, BACKPROP, EPROP_ONLINE, SUPERSPIKE, INNER = range(6)
"""`enum er_rule_kind`."""

NUMPY_ONLY_RULES: Final[Mapping[type[RuleRecord], str]] = MappingProxyType(
    {
        IlProx: "settles in 64-bit activities for many rounds a lesson: a yardstick of benchmarks, not of devices",
        SequentialIl: "settles, as il-prox does",
        PredictiveCoding: "settles, as il-prox does",
    }
)
"""Rules whose windows numpy records and makes factors of, and why; what they change weights by is in C nevertheless."""


def normaliser_fields(plan: LearningPlan, tensor: str, state: Tensors) -> Fields:
    """Of `er_plastic`, what makes a step of a gradient beside the rates."""
    found: Fields = {"fade": 0, "floor": 0, "memory": 0, "largest": None, "mean": None}
    match plan.normaliser:
        case RMaxProp(fade=fade, floor=floor):
            return found | {"fade": fade, "floor": floor, "largest": state[f"largest.{tensor}"]}
        case MeanQuotient(memory=memory):
            return found | {"memory": memory, "mean": state[f"mean.{tensor}"]}
    return found


def rewiring_fields(plan: LearningPlan, tensor: str, state: Tensors) -> Fields:
    """Of `er_plastic`, which synapses there are and how they move."""
    if not isinstance(plan.rewiring, Rewiring):
        return {"share": 0, "growth_shift": 0, "mask": None, "growth": None}
    found = {part: state[f"{part}.{tensor}"] for part in ("mask", "growth")}
    return found | {"share": plan.rewiring.share, "growth_shift": plan.rewiring.growth_shift}


def plastic_fields(
    plan: LearningPlan, rate: PlasticRate, index: int, weights: AnyArray, state: Tensors, factors: Pair | None = None
) -> Fields:
    """`er_plastic` of the index-th plastic tensor.

    weights  (m, n) follow the shadow     factors  history (T, m) and post (T, n), where they always lie in one place
    """
    profile = profile_of(plan)
    if plan.rule is None:
        raise SpecError("the bundle has no learning rule")
    notes, (rows, columns) = plan.intelligence, weights.shape
    history, post = factors or (np.zeros((0, rows), profile.trace), np.zeros((0, columns), np.int16))
    found: Fields = {
        f"{kind}{end}": None for kind, end in (("ref", ""), ("ref", "_high"), ("omega", ""), ("omega", "_narrow"))
    }
    if notes is not None:
        found["ref" if profile.copies else "ref_high"] = state[f"ref.{rate.tensor}"]
        found["omega" if profile.copies else "omega_narrow"] = state[f"omega.{rate.tensor}"]
    found |= normaliser_fields(plan, rate.tensor, state) | rewiring_fields(plan, rate.tensor, state)
    return found | {
        "rows": rows, "columns": columns, "steps": len(history), "index": index, "small": int(not profile.copies),
        "eta": rate.eta, "shift": rate.shift, "max_step": rate.max_step, "max_norm": rate.max_norm,
        "decay_shift": rate.decay_shift, "gradient_shift": plan.rule.gradient_shift,
        "strength": notes.strength_of(index) if notes else 0, "damping": notes.damping_of(index) if notes else 1,
        "history": history if profile.copies else None, "history_high": None if profile.copies else history,
        "post": post,
        "shadow": state[f"shadow.{rate.tensor}"], "weight": weights if profile.copies else None,
        "importance": state[f"importance.{rate.tensor}"] if notes else None,
    }  # fmt: skip


class Plastic:
    """A plastic tensor in C: `stages.update`, `stages.Consolidation.consolidate` and `rewire.Rewire.move`."""

    def __init__(self, fields: Fields, seed: int) -> None:
        native = required()
        self._held, self._seed = native.Plastic(fields), seed

    def update(self, factors: Factors, number: int) -> int:
        """One update; returns the squared norm of the change made, in shadow LSB."""
        return cast(int, self._held.update(factors.history, factors.post, self._seed, number))

    def consolidate(self, number: int) -> None:
        """A boundary."""
        self._held.consolidate(self._seed, number)

    def rewire(self) -> int:
        """Move synapses; returns how many."""
        return cast(int, self._held.rewire())


def plastics(manifest: Manifest, tensors: Tensors, state: Tensors) -> tuple[Plastic, ...]:
    """Every plastic tensor of a learner, in the order of the rule's rates."""
    rates = manifest.learning.rule.rates if manifest.learning.rule else ()
    return tuple(
        Plastic(plastic_fields(manifest.learning, rate, index, tensors[rate.tensor], state), manifest.seed)
        for index, rate in enumerate(rates)
    )


# ------------------------------------------------------------------ windows


class LearnerRecords(NamedTuple):
    """A learner as C takes it: the fields of `er_rule`, and of each record of its lists."""

    rule: Fields
    plastic: tuple[Fields, ...]
    tapes: tuple[Fields, ...] = ()
    taught: tuple[Fields, ...] = ()
    links: tuple[Fields, ...] = ()
    populations: tuple[Fields, ...] = ()


def has_window(manifest: Manifest) -> bool:
    """Whether C learns from a whole window of this bundle in one call."""
    plan = manifest.learning
    return plan.rule is not None and type(plan.rule) not in NUMPY_ONLY_RULES


def learner_records(manifest: Manifest, tensors: Mapping[str, AnyArray], state: Tensors) -> LearnerRecords:
    """Over a learner's own arrays, those of `learned_slots` and `working_slots`.

    Raises SpecError where `has_window` is false.
    """
    rule = manifest.learning.rule
    match rule:
        case Backprop():
            own, factors, lists = _backprop(manifest, rule, state)
        case EProp():
            own, factors, lists = _eprop(manifest, rule, tensors, state)
        case SuperSpike():
            own, factors, lists = _superspike(manifest, rule, tensors, state)
        case InnerStep():
            own, factors, lists = _inner(manifest, rule, tensors, state)
        case _:
            raise SpecError("the bundle's rule has no C form")
    plastic = tuple(
        plastic_fields(manifest.learning, rate, index, tensors[rate.tensor], state, factors[rate.tensor])
        for index, rate in enumerate(rule.rates)
    )
    seed = np.array([manifest.seed & 0xFFFFFFFF, manifest.seed >> 32], np.uint32)
    fields = dict.fromkeys(RULE_NUMBERS, 0) | dict.fromkeys(RULE_ARRAYS) | {"last": 1, "targets": 1} | own
    fields |= {"plastic": len(plastic), **{name: len(lists.get(name, ())) for name in RULE_LISTS}, "seed": seed}
    fields |= {"classes": manifest.layers[-1].outputs, "temperature_shift": rule.temperature_shift}
    return LearnerRecords(fields, plastic, **lists)


EPROP_KINDS: Final = ((EPropValues, EPROP_VALUES), (EPropOnline, EPROP_ONLINE))
RULE_LISTS: Final = ("taught", "links", "populations")
RULE_NUMBERS: Final = (
    "error_shift", "kappa", "signal_shift", "post_shift", "gamma", "spikes_target", "spikes_cost", "widest",
    "width_shift", "gate",
)  # fmt: skip
RULE_ARRAYS: Final = ("clipped", "logits", "target", "state", "silence")
"""Of `er_rule`, what one rule or the other does without."""
Parts = tuple[Fields, dict[str, Pair], dict[str, tuple[Fields, ...]]]
"""Of a rule: its own fields of `er_rule`, history and post of each tensor, and its lists of records."""


def _backprop(manifest: Manifest, rule: Backprop, state: Tensors) -> Parts:
    links, factors, where = [], {}, places(manifest)
    for name, shift in zip(rule.layers, (0, *rule.back_shifts), strict=True):
        layer, read, error = manifest.layer(name), state[f"tape.{name}.read"], state.get(f"tape.{name}.error")
        links.append({
            "layer": where[name], "inputs": layer.widths[0], "outputs": layer.outputs, "back_shift": shift,
            "read": read, "error": error,
        })  # fmt: skip
        if error is not None:
            factors[f"{name}.weight"] = (error, read)
    return {"kind": BACKPROP, "error": state["lesson.error"]}, factors, {"links": tuple(links)}


def _eprop(manifest: Manifest, rule: EProp, tensors: Mapping[str, AnyArray], state: Tensors) -> Parts:
    factors: dict[str, Pair] = {}
    for name in rule.layers:
        prefix = rule.prefix(name)
        for part in ("input", "recurrent"):
            if f"{name}.{part}" in rule.tensors:
                factors[f"{name}.{part}"] = (state[f"trace.{prefix}{part}"], state[f"trace.{prefix}post"])
        for tensor in rule.bars(name):
            factors[tensor] = (state[f"trace.{prefix}readout"], state["trace.clipped"])
    error, scratch = state["trace.error"], state.get("trace.state")
    fields = {
        "kind": next((kind for each, kind in EPROP_KINDS if isinstance(rule, each)), EPROP), "last": len(error),
        "error": error, "targets": rule.updates, "logits": state.get("tape.logits"), "target": state.get("tape.target"),
        "error_shift": rule.error_shift if isinstance(rule, EPropValues) else 1,
        "kappa": int(tensors[f"{rule.readout}.kappa"][0]), "signal_shift": rule.signal_shift,
        "post_shift": rule.post_shift, "gamma": rule.gamma, "spikes_target": rule.spikes_target,
        "spikes_cost": rule.spikes_cost, "clipped": state["trace.clipped"], "state": scratch,
        "widest": 0 if scratch is None else scratch.shape[1],
    }  # fmt: skip
    tapes = () if rule.online else tuple(_tape(manifest, rule, name, state) for name in rule.layers)
    taught = tuple(_taught(manifest, rule, name, tensors, state) for name in rule.layers)
    return fields, factors, {"tapes": tapes, "taught": taught}


def _tape(manifest: Manifest, rule: EProp, name: str, state: Tensors) -> Fields:
    pre, spikes, psi = (state[f"tape.{rule.prefix(name)}{part}"] for part in ("pre", "spikes", "psi"))
    return tape_fields(manifest, name, Tape(pre, spikes, psi))


def _taught(manifest: Manifest, rule: EProp, name: str, tensors: Mapping[str, AnyArray], state: Tensors) -> Fields:
    layer, prefix, narrow = manifest.layer(name), rule.prefix(name), not profile_of(manifest.learning).copies
    post, error = state[f"trace.{prefix}post"], state["trace.error"]
    source = f"{name}.feedback" if name in rule.fed else f"{rule.readout}.input"
    shadow = state.get(f"shadow.{source}") if narrow else None
    fields: Fields = {
        "inputs": layer.widths[0], "outputs": layer.outputs, "chunk": len(post), "last": len(error),
        "classes": error.shape[1], "decay": int(tensors[f"{name}.decay"][0]),
        "reach": layer_reaches(manifest)[name][0][0], "post": post, "adjoint": state.get(f"trace.{prefix}adjoint"),
        "feedback": tensors[source] if shadow is None else None, "feedback_shadow": shadow,
    }  # fmt: skip
    for part in ("input", "recurrent", "readout"):
        found = state.get(f"trace.{prefix}{part}")
        fields |= {part: None, f"{part}_high": found} if narrow else {part: found, f"{part}_high": None}
        fields[f"{part}_state"] = state.get(f"trace.{prefix}{part}_state")
    return fields | {"layer": places(manifest)[name], "psi": state[f"tape.{prefix}psi"] if rule.online else None}


def _superspike(manifest: Manifest, rule: SuperSpike, tensors: Mapping[str, AnyArray], state: Tensors) -> Parts:
    bound, where, last = (
        SuperSpikeRule(manifest, cast(Tensors, tensors), state),
        places(manifest),
        len(rule.populations) - 1,
    )
    factors, populations = {}, []
    for k, (plan, each) in enumerate(zip(rule.populations, bound.populations, strict=True)):
        pre, psi = (state[f"tape.{each.neurons}.{part}"] for part in ("pre", "psi"))
        factors[each.tensor] = (state[f"trace.{each.neurons}.history"], state[f"trace.{each.neurons}.post"])
        above = k + 1 if rule.feedback == "symmetric" else last
        populations.append({
            "synapses": where[plan.synapses], "neurons": where[plan.neurons], "inputs": pre.shape[1],
            "outputs": psi.shape[1], "steps": len(psi), "above": above if k < last else 0, "alpha": each.alpha,
            "decay": each.decay, "fed": 0 if each.feedback is None else each.feedback.shape[1], "pre": pre, "psi": psi,
            "history": factors[each.tensor][0], "post": factors[each.tensor][1],
            "spikes": state["tape.spikes"] if k == last else None, "feedback": each.feedback,
        })  # fmt: skip
    scratch = state["trace.state"]
    fields: Fields = {
        "kind": SUPERSPIKE, "error": state["lesson.error"], "signal_shift": rule.signal_shift,
        "post_shift": rule.post_shift, "width_shift": rule.width_shift, "state": scratch, "widest": scratch.shape[1],
        "silence": np.array(bound.silence, np.int64),
    }  # fmt: skip
    return fields, factors, {"populations": tuple(populations)}


def _inner(manifest: Manifest, rule: InnerStep, tensors: Mapping[str, AnyArray], state: Tensors) -> Parts:
    readout, trace, post = manifest.layer(rule.readout), state["trace.readout"], state["trace.clipped"]
    taught = dict.fromkeys(TAUGHT_ARRAYS) | {
        "layer": places(manifest)[rule.readout], "inputs": readout.widths[0], "outputs": readout.outputs, "chunk": 1,
        "last": 1, "classes": readout.outputs, "decay": int(tensors[f"{rule.readout}.kappa"][0]),
        "reach": layer_reaches(manifest)[rule.readout][0][0], "input": trace,
        "input_state": state["trace.readout_state"], "post": post,
    }  # fmt: skip
    fields: Fields = {"kind": INNER, "error": state["lesson.error"], "gate": rule.gate}
    return fields, {rule.tensor: (trace, post)}, {"taught": (taught,)}


TAUGHT_ARRAYS: Final = (
    "input", "input_high", "input_state", "recurrent", "recurrent_high", "recurrent_state", "readout", "readout_high",
    "readout_state", "post", "adjoint", "feedback", "feedback_shadow", "psi",
)  # fmt: skip
"""Of `er_taught`; a rule has those that it needs."""


class Windows:
    """A learner whose whole windows run in C: record, error, factors and update of its rule in one call."""

    def __init__(self, network: NativeNetwork, state: Tensors) -> None:
        native = required()
        manifest = network.manifest
        records = learner_records(manifest, network.tensors, state)
        self._target, self._targets = state.get("tape.target"), records.rule["targets"]
        weights = sum(each["rows"] * each["columns"] for each in records.plastic)
        self._held = native.Learner(network.net, *records, manifest.steps * weights > LONG)

    def learn(
        self, q: I16, label: int, threshold: int, in_play: Bool, number: int, target: I16 | None = None
    ) -> tuple[int, int]:
        """p in Q0.15 and the squared norm of the change in shadow LSB, -1 where p was at or over the threshold."""
        if target is not None and self._target is not None:
            np.copyto(self._target, target.reshape(self._target.shape))
        return cast("tuple[int, int]", self._held.learn(q, label, threshold, in_play, number))

    def learn_online(
        self, q: I16, label: int, threshold: int, in_play: Bool, number: int
    ) -> tuple[list[int], list[int]]:
        """The same of a rule that updates at each step that has a target: p, and the change or -1, of each."""
        p, changed = np.zeros(self._targets, np.int32), np.zeros(self._targets, np.int64)
        self._held.learn_online(q, label, threshold, in_play, number, p, changed)
        return p.tolist(), changed.tolist()

    def factors(self) -> None:
        """From tape and error as they lie in the learner's arrays to the factors of every gradient."""
        self._held.factors()


# ------------------------------------------------------------------ lessons


def numpy_lessons(manifest: Manifest) -> str:
    """Why C cannot give whole lessons of a bundle, as a controller does; empty where it can."""
    plan = manifest.learning
    if plan.rule is not None and not has_window(manifest):
        return f"learning.rule {plan.rule.__struct_config__.tag}: {NUMPY_ONLY_RULES[type(plan.rule)]}"
    return ""


def lesson_fields(manifest: Manifest, state: Tensors, factory_count: AnyArray | None) -> Fields:
    """`er_lessons` over a learner's arrays.

    factory_count  (classes of the factory,)  their samples, where prototypes decide
    """
    plan, rule, outputs = manifest.learning, manifest.learning.rule, manifest.layers[-1].outputs
    classes, replay, recent = manifest.classes, plan.replay, state["recent"]
    held = {part: state.get(f"replay.{part}") for part in ("x", "label", "field", "since", "seen")}
    x = held.pop("x")
    unsigned = manifest.input.dtype == "uint8"
    return held | {
        "size": manifest.input.size, "classes": classes.capacity, "factory": len(classes.names), "outputs": outputs,
        "capacity": replay.capacity, "passes": replay.passes, "refresh_every": replay.refresh_every,
        "every": plan.intelligence.every if plan.intelligence and rule else 0,
        "rewire_every": plan.rewiring.every if isinstance(plan.rewiring, Rewiring) and rule else 0,
        "recents": len(recent),
        "recent_labels": rule.recent_labels if rule else 0, "update_share": rule.update_share if rule else ALL,
        "error_threshold": rule.error_threshold if rule else ALL,
        "seed": np.array([manifest.seed & 0xFFFFFFFF, manifest.seed >> 32], np.uint32), "recent": recent,
        "factory_count": factory_count, "x": None if unsigned else x, "x_unsigned": x if unsigned else None,
        "in_play": state.get("lesson.in_play", np.zeros(outputs, np.bool_)),
        "sample": np.zeros(manifest.input.size, np.int16), "scores": np.zeros(max(classes.capacity, outputs), np.int32),
    } | doubt_fields(plan, state)  # fmt: skip


def doubt_fields(plan: LearningPlan, state: Tensors) -> Fields:
    """Of `er_lessons`, which labels are doubted."""
    if not isinstance(plan.doubt, Doubt):
        return {"margins": 0, "sure": 0, "votes": 0, "margin": None, "agreed": None, "told": None}
    found = {"margin": state["doubt.margin"], "agreed": state["doubt.seen"], "told": state["doubt.told"]}
    return found | {"margins": plan.doubt.margins, "sure": plan.doubt.share, "votes": plan.doubt.votes}


class PupilRecords(NamedTuple):
    """All that C needs to give lessons: `er_pupil`. counters (6,) int64: updates, lessons, deep lessons, the place of
    the next recent label, the threshold, classes known."""

    network: Records
    learner: LearnerRecords | None
    lessons: Fields
    counters: I64


LEVELS: Final[Mapping[Level, int]] = MappingProxyType({"full": 0, "light": 1, "sparse": 2, "head": 3})
"""`enum er_level`."""


class Pupil:
    """A learner that lives in C altogether, as on a controller: the bits of `Learner.apply`, over the same arrays."""

    def __init__(self, records: PupilRecords) -> None:
        native = required()
        self.counters = records.counters
        net = native.Net(*records.network, False)
        learner = None if records.learner is None else native.Learner(net, *records.learner, False)
        self._held = native.Pupil(net, learner, records.lessons, self.counters)

    def lesson(self, q: I16, label: int, level: Level) -> tuple[int, int, int, int]:
        """One lesson: the answer before it, p in Q0.15 or -1, updates, and their squared norms in shadow LSB."""
        return cast("tuple[int, int, int, int]", self._held.lesson(q, label, LEVELS[level]))

    def feedback(self, q: I16, label: int, level: Level) -> tuple[int, int, int, int, bool]:
        """The same of feedback on the stream, and whether its label was doubted and nothing learned."""
        *found, aside = self._held.feedback(q, label, LEVELS[level])
        return cast("tuple[int, int, int, int, bool]", (*found, bool(aside)))

    def settle(self) -> None:
        """Prototypes from the reservoir."""
        self._held.settle()

    def boundary(self) -> None:
        """Credit becomes importance."""
        self._held.boundary()

    def forget(self, label: int) -> None:
        """One class, without a trace."""
        self._held.forget(label)
