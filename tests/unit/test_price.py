"""A price counts what really happens: recounted here from recorded windows, real lessons and real checkpoints."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgerun import price
from edgerun.arrays import Tensors
from edgerun.boards import BOARDS, Board, Ops
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.graph import plastic_tensors, score_width, wanted_tensors
from edgerun.image import image_of
from edgerun.layers import Cells, ConvSum, DenseSum, SLstm, SumPool
from edgerun.learn.learner import Learner, learned_slots, working_slots
from edgerun.network import Network
from edgerun.ops import LifRun
from edgerun.plan import make_plan
from edgerun.spec import (
    LEVELS,
    ClassTable,
    Dense,
    EProp,
    Frames,
    Head,
    InputSpec,
    Intelligence,
    Layer,
    LearningPlan,
    Level,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)
from edgerun.store.checkpoints import pack_state

STEPS, INPUTS, NEURONS, OUTPUTS, CAPACITY, SAMPLES = 12, 10, 14, 6, 6, 20
SYNAPSES = INPUTS * NEURONS + NEURONS * NEURONS + NEURONS * OUTPUTS
PLAN = LearningPlan(
    rule=EProp(
        layer="hidden",
        readout="out",
        rates=tuple(
            PlasticRate(tensor=name, eta=16, shift=16) for name in ("hidden.input", "hidden.recurrent", "out.input")
        ),
        chunk_steps=8,
        error_threshold=16384,
    ),
    intelligence=Intelligence(strength=12, damping=16, every=5),
    replay=Replay(capacity=SAMPLES, passes=3, refresh_every=4),
)
SPIKING = Manifest(
    name="spiking",
    input=InputSpec(shape=(2, 5), dtype="uint8"),
    encoder=PhaseRate(steps=STEPS, full_scale=16),
    layers=(
        Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=5),
        Readout(name="out", inputs=NEURONS, outputs=OUTPUTS, weight_exponent=7),
    ),
    head=Head(kind="prototypes", features="hidden", whiten=Dense(name="white", inputs=NEURONS, outputs=5)),
    classes=ClassTable(names=("a", "b", "c"), capacity=CAPACITY),
    learning=PLAN,
)
DENSE = Manifest(
    name="dense",
    input=InputSpec(shape=(9,)),
    layers=(Dense(name="one", inputs=9, outputs=7, qmin=0), Dense(name="two", inputs=7, outputs=4, input_bound=127)),
    classes=ClassTable(names=("p", "q"), capacity=4),
)
TAUGHT = msgspec.structs.replace(
    DENSE, head=Head(kind="prototypes", features="one"), learning=LearningPlan(replay=Replay(capacity=30))
)


def tensors(manifest: Manifest) -> Tensors:
    """Random tensors with which the neurons do spike."""
    rng = np.random.default_rng(3)
    found: Tensors = {
        want.spec.name: rng.integers(
            max(want.low, -60), min(want.high, 90), want.spec.shape, dtype=want.spec.dtype, endpoint=True
        )
        for want in wanted_tensors(manifest)
    }
    for name, array in found.items():
        part = name.rpartition(".")[2]
        if part in ("decay", "kappa"):
            array[...] = 29000
        elif part.endswith("multiplier"):
            array[...] = 1 << 23
        elif part.endswith("shift"):
            array[...] = 29
        elif name == "head.count":
            array[...] = 40
        elif name == "head.sum":
            array[...] = rng.integers(0, 90, array.shape)
    return found


def built(manifest: Manifest) -> Bundle:
    rng = np.random.default_rng(4)
    shape, dtype = manifest.input.shape, manifest.input.dtype
    x, more, own = (rng.integers(0, 17, (rows, *shape)).astype(dtype) for rows in (8, 60, SAMPLES))
    label = (np.arange(60) % len(manifest.classes.names)).astype(np.int32)
    return read_bundle(
        pack(
            manifest,
            tensors(manifest),
            selftest=Selftest(x=x, y=np.zeros((8, score_width(manifest)), np.int32)),
            probe=Probe(x=more, label=label),
            exemplars=Probe(x=own, label=label[:SAMPLES]),
        )
    )


BUNDLES = {manifest.name + manifest.head.kind: built(manifest) for manifest in (SPIKING, DENSE, TAUGHT)}
BUNDLE = BUNDLES["spikingprototypes"]
WORK = price.work(BUNDLE)
every_bundle = pytest.mark.parametrize("bundle", BUNDLES.values(), ids=BUNDLES)
every_board = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
deep = pytest.mark.parametrize("level", ["full", "light", "sparse"])


def relearning(**changes: Any) -> Bundle:
    return replace(
        BUNDLE,
        manifest=msgspec.structs.replace(BUNDLE.manifest, learning=msgspec.structs.replace(PLAN, **changes)),
    )


def learner_of(bundle: Bundle) -> Learner:
    own = {n: a.copy() if n in plastic_tensors(bundle.manifest) else a for n, a in bundle.tensors.items()}
    assert bundle.exemplars is not None
    exemplars = (bundle.exemplars.x.reshape(SAMPLES, -1), bundle.exemplars.label)
    return Learner(Network(bundle.manifest, own), priors={}, exemplars=exemplars)


# ------------------------------------------------------------------ operations


def test_synaptic_operations_are_those_of_recorded_windows() -> None:
    network = Network(BUNDLE.manifest, BUNDLE.tensors)
    tapes = [network.record(x.reshape(-1).astype(np.int16), "hidden") for x in BUNDLE.selftest.x]
    into = sum(int(t.pre.sum()) + int(t.spikes[:-1].sum()) for t in tapes) * NEURONS
    out = sum(int(t.spikes.sum()) for t in tapes) * OUTPUTS
    assert out > 8 * OUTPUTS * NEURONS  # neurons spike more than once a window, so the test means something
    assert price.events(BUNDLE) == {"hidden": into, "out": out}
    assert WORK.inference.synaptic_ops == math.ceil(into / 8) + math.ceil(out / 8)
    assert WORK.inference.neuron_updates == STEPS * (NEURONS + OUTPUTS)
    assert WORK.inference.dense_macs == NEURONS * 5 + CAPACITY * 5


def test_a_dense_network_costs_its_products() -> None:
    inference = price.work(BUNDLES["denselogits"]).inference
    assert inference.dense_macs == 9 * 7 + 7 * 4
    assert (inference.synaptic_ops, inference.neuron_updates, inference.bytes_moved) == (0, 0, 0)


FEW = np.zeros((8, 3, 4), np.uint8)
"""Eight recordings of three steps of four values; in each, three spikes, two of the first value and one of the last."""
FEW[:, 0, 0] = FEW[:, 2, 0] = FEW[:, 2, 3] = 1


def of(x: Any, *layers: Layer, **big: int) -> tuple[dict[str, int], dict[str, Ops], Bundle]:
    """Additions by layer over all samples, operations by layer of the mean window, and the bundle of such a net.

    big  the value of every threshold or bias, where it is not drawn
    """
    manifest = Manifest(
        name="net", input=InputSpec(shape=x.shape[1:], dtype=x.dtype.name), encoder=Frames(), layers=layers,
        classes=ClassTable(names=("a",), capacity=max(1, layers[-1].outputs)),
    )  # fmt: skip
    own = tensors(manifest)
    for name in own:
        own[name][...] = big.get(name.rpartition(".")[2], own[name])
    y = np.zeros((len(x), score_width(manifest)), np.int32)
    bundle = read_bundle(
        pack(manifest, own, selftest=Selftest(x=x, y=y), probe=Probe(x=x, label=np.zeros(len(x), np.int32)))
    )
    return price.events(bundle), price.layer_ops(bundle), bundle


LOUD = {"bias": 1 << 24, "threshold": 1}
"""Every neuron of `Cells` spikes in every step."""


def test_a_spike_costs_the_filters_of_every_window_that_sees_it() -> None:
    conv = ConvSum(name="conv", input_shape=(1, 4, 1), kernel=(1, 2), padding=(0, 1, 0, 0), filters=5)
    cells = Cells(name="cells", shape=(1, 4, 5), weight_exponent=12)
    counts, ops, _ = of(FEW, conv, cells)
    a_window = 2 * 2 * 5 + 1 * 1 * 5  # windows (-1, 0), (0, 1), (1, 2), (2, 3)
    assert counts == {"conv": 8 * a_window, "cells": 0}
    assert (ops["conv"].synaptic_ops, ops["conv"].dense_macs) == (a_window, 0)
    counts, ops, _ = of(FEW * 2, conv, cells)  # the same places, but no spikes
    assert counts["conv"] == 0
    assert (ops["conv"].synaptic_ops, ops["conv"].dense_macs) == (0, 3 * 4 * 2 * 5)


def test_recurrent_cells_hear_their_spikes_of_the_step_before() -> None:
    dense = DenseSum(name="sum", inputs=4, outputs=6)
    for recurrence, width in {"none": 0, "diagonal": 1, "dense": 6}.items():
        cells = Cells(
            name="cells", shape=(6,), weight_exponent=12, recurrence=recurrence, recurrent_exponent=12, reset="none"
        )
        counts, ops, _ = of(FEW, dense, cells, **LOUD)
        assert counts == {"sum": 8 * 3 * 6, "cells": 8 * (3 - 1) * 6 * width}, recurrence
        assert (ops["cells"].neuron_updates, ops["cells"].dense_macs) == (3 * 6, 0)


def test_what_reads_sums_of_spikes_is_multiplied_whole() -> None:
    first, neurons = DenseSum(name="first", inputs=4, outputs=4), Cells(name="n", shape=(1, 4, 1), weight_exponent=12)
    pool = SumPool(name="pool", input_shape=(1, 4, 1), kernel=(1, 2), stride=(1, 2))
    dense, cells = DenseSum(name="sum", inputs=2, outputs=6), Cells(name="cells", shape=(6,), weight_exponent=12)
    counts, ops, _ = of(FEW, first, neurons, pool, dense, cells, **LOUD)
    assert counts == {"first": 8 * 3 * 4, "n": 0, "pool": 0, "sum": 0, "cells": 0}
    assert ops["sum"].dense_macs == 3 * 2 * 6


def test_lif_neurons_on_values_multiply_them_and_add_their_own_spikes() -> None:
    lif = Lif(name="lif", inputs=4, outputs=5, weight_exponent=6, reset="none")
    readout = Readout(name="out", inputs=5, outputs=2, weight_exponent=7)
    for x, into, products in ((FEW, 3 * 5, 0), (FEW * 3, 0, 3 * 4 * 5)):
        counts, ops, bundle = of(x, lif, readout, bias=1 << 20)
        assert counts == {"lif": 8 * (into + (3 - 1) * 5 * 5), "out": 8 * 3 * 5 * 2}
        assert (ops["lif"].dense_macs, ops["out"].dense_macs) == (products, 0)
        assert price.multiplied(bundle) == ({"lif"} if products else set())


def test_an_slstm_multiplies_its_membranes_and_adds_what_comes_in() -> None:
    slstm = SLstm(name="slstm", inputs=4, outputs=5)
    x = FEW.astype(np.int8)
    counts, ops, _ = of(x, slstm)
    assert counts == {"slstm": 8 * 3 * 4 * 5}
    assert (ops["slstm"].synaptic_ops, ops["slstm"].dense_macs) == (60, 3 * 4 * 5 * 5)
    _, ops, _ = of(-x, slstm)
    assert (ops["slstm"].synaptic_ops, ops["slstm"].dense_macs) == (0, 3 * 4 * 5 * (5 + 4))


def test_a_synapse_behind_the_last_neurons_adds_once_a_window() -> None:
    first, last = DenseSum(name="first", inputs=4, outputs=6), DenseSum(name="last", inputs=6, outputs=2)
    counts, ops, _ = of(
        FEW, first, Cells(name="cells", shape=(6,), weight_exponent=12, reset="none"), last, **LOUD
    )  # fmt: skip
    assert counts["last"] == 8 * 6 * 2
    assert ops["last"].synaptic_ops == 6 * 2


def test_an_update_writes_every_plastic_synapse_once_and_sums_its_chunk() -> None:
    bare = price.update(BUNDLE, Ops(), Ops())
    assert bare.plastic_updates == SYNAPSES
    gradients = 8 * (INPUTS * NEURONS + NEURONS * NEURONS) + NEURONS * OUTPUTS
    norms = 64 * (INPUTS + NEURONS) + 64 * 2 * NEURONS + NEURONS + OUTPUTS
    assert bare.outer_macs == gradients + norms


def test_consolidation_by_count_is_shared_among_updates() -> None:
    assert WORK.consolidate.plastic_updates == SYNAPSES
    assert WORK.update.plastic_updates == SYNAPSES + math.ceil(SYNAPSES / 5)
    calm = price.work(relearning(intelligence=Intelligence(strength=12, damping=16)))
    assert calm.update.plastic_updates == SYNAPSES
    assert price.work(relearning(intelligence=None)).consolidate == Ops()


def test_a_replayed_sample_costs_a_window_its_traces_and_an_update() -> None:
    one_more = Ops.total([WORK.inference, price.recorded(BUNDLE.manifest), WORK.update])
    assert WORK.lesson["full"] == Ops.total([WORK.lesson["light"], one_more.times(2)])
    assert WORK.lesson["light"] == WORK.lesson["sparse"]
    alone = price.work(relearning(replay=Replay(capacity=0, passes=3)))
    assert alone.lesson["full"] == alone.lesson["light"]
    assert alone.lesson["light"].plastic_updates == alone.update.plastic_updates


def test_lessons_share_the_refresh_of_the_prototypes() -> None:
    never, ever = (price.work(relearning(replay=Replay(capacity=SAMPLES, refresh_every=n))) for n in (4096, 1))
    gap = ever.lesson["light"].synaptic_ops - never.lesson["light"].synaptic_ops
    assert gap == pytest.approx(SAMPLES * WORK.inference.synaptic_ops, rel=0.01)
    assert ever.lesson["head"] == never.lesson["head"]


@every_bundle
def test_without_eprop_every_lesson_is_a_head_lesson(bundle: Bundle) -> None:
    work = price.work(bundle)
    same = len(set(map(msgspec.json.encode, work.lesson.values()))) == 1
    assert same == (bundle.manifest.learning.rule is None)
    if same:
        assert work.update == work.consolidate == Ops()


def test_a_head_lesson_adds_a_window_only_where_prototypes_decide() -> None:
    logits, taught = (price.work(BUNDLES[name]) for name in ("denselogits", "denseprototypes"))
    assert logits.lesson["head"].dense_macs == logits.inference.dense_macs
    assert taught.lesson["head"].dense_macs == 2 * taught.inference.dense_macs + 4 * 7


# ------------------------------------------------------------------ what a lesson really cost


@deep
@given(share=st.floats(0, 1))
def test_a_lesson_never_costs_more_than_its_price(level: Level, share: float) -> None:
    windows = price.windows(BUNDLE.manifest, level)
    cost = price.learn_cost(WORK, round(share * windows), level)
    assert all(getattr(cost, kind) <= getattr(WORK.lesson[level], kind) for kind in Ops.__struct_fields__)


@deep
def test_skipped_updates_cost_their_windows_but_no_write(level: Level) -> None:
    nothing = price.learn_cost(WORK, 0, level)
    windows = price.windows(BUNDLE.manifest, level)
    assert nothing.plastic_updates == 0
    assert nothing.synaptic_ops == WORK.lesson[level].synaptic_ops >= (1 + windows) * WORK.inference.synaptic_ops
    assert price.learn_cost(WORK, windows, level) == WORK.lesson[level]


def test_real_lessons_apply_no_more_updates_than_are_priced() -> None:
    learner, rng = learner_of(BUNDLE), np.random.default_rng(5)
    seen: dict[Level, set[int]] = {level: set() for level in price.LESSONS}
    for k in range(60):
        level, q = price.LESSONS[k % 4], rng.integers(0, 17, INPUTS).astype(np.int16)
        taught = learner.apply(learner.plan_lesson(q, k % 3, level))
        assert taught is not None
        seen[level].add(taught.updates)
    assert seen["head"] == {0}
    for level in ("full", "light", "sparse"):
        assert max(seen[level]) == price.windows(BUNDLE.manifest, level)
        assert min(seen[level]) < max(seen[level])  # some were skipped


# ------------------------------------------------------------------ prices


@every_board
@every_bundle
def test_every_board_has_finite_prices_that_fall_down_the_ladder(board: Board, bundle: Bundle) -> None:
    costs = price.prices(board, price.work(bundle))
    figures = [costs.inference_uj, costs.inference_us, costs.telemetry_uj, costs.checkpoint_uj]
    assert all(math.isfinite(figure) and figure > 0 for figure in figures)
    assert set(costs.lesson_uj) == set(costs.lesson_us) == set(LEVELS[:4])
    for kind in (costs.lesson_uj, costs.lesson_us):
        ladder = [kind[level] for level in LEVELS[:4]]
        assert ladder == sorted(ladder, reverse=True)
        assert ladder[-1] > 0
    assert costs.sleep_mw == board.sleep_mw


def test_numpy_calls_cost_only_where_numpy_runs() -> None:
    assert WORK.inference.array_calls > 0
    silent = replace(WORK, inference=msgspec.structs.replace(WORK.inference, array_calls=0))
    for board in BOARDS.values():
        with_calls, without = (price.prices(board, work).inference_us for work in (WORK, silent))
        assert (with_calls > without) == (board.device_class == "linux")


# ------------------------------------------------------------------ memory and flash


@every_bundle
def test_every_array_of_the_bundle_and_the_learner_is_planned(bundle: Bundle) -> None:
    plan = price.memory_plan(bundle)
    learners = learned_slots(bundle.manifest, bundle.tensors) | working_slots(bundle.manifest, bundle.tensors)
    for name, array in bundle.tensors.items():
        assert name in plan.slots
        if name not in learners:
            assert plan.slots[name].bytes == array.nbytes
    for name, slot in learners.items():
        assert plan.slots[name].slot == slot
    network = Network(bundle.manifest, bundle.tensors)
    for layer, run in network.layers.items():
        for name, array in run.state().items():
            assert plan.slots[f"{layer}.{name}"].slot.shape == array.shape
    assert sum(plan.bytes_by_part().values()) == plan.total_bytes


@every_bundle
def test_the_network_is_planned_as_c_has_it(bundle: Bundle) -> None:
    """Every array that C's records write, 16 bits between layers."""
    image, plan = image_of(bundle.manifest, bundle.tensors), price.memory_plan(bundle)
    learners = learned_slots(bundle.manifest, bundle.tensors)
    for name, held in image.held.items():
        assert plan.slots[name].slot == learners.get(name, held.slot)
    assert {plan.slots[name].slot.dtype for name in image.held if name.startswith(("out/", "encoder.x"))} == {"int16"}
    names = {name for name, placed in plan.slots.items() if placed.slot.part in ("state", "io", "head")}
    assert names <= image.held.keys() | learners.keys()


@every_bundle
def test_the_learner_holds_exactly_its_slots(bundle: Bundle) -> None:
    slots = learned_slots(bundle.manifest, bundle.tensors) | working_slots(bundle.manifest, bundle.tensors)
    learner = learner_of(bundle)
    assert learner.layout.total_bytes == make_plan(slots).total_bytes <= price.memory_plan(bundle).total_bytes
    assert {name: array.nbytes for name, array in learner.arrays().items()} == {
        name: slot.bytes for name, slot in learned_slots(bundle.manifest, bundle.tensors).items()
    }


def test_adaptive_and_resting_neurons_have_their_state_too() -> None:
    layer = Lif(name="hidden", inputs=INPUTS, outputs=NEURONS, weight_exponent=5, adaptive=True, refractory_steps=2)
    manifest = msgspec.structs.replace(SPIKING, layers=(layer, SPIKING.layers[1]))
    run = Network(manifest, tensors(manifest)).layers["hidden"]
    assert isinstance(run, LifRun)
    planned = price.memory_plan(built(manifest)).slots
    assert {f"hidden.{name}" for name in run.state()} <= set(planned)


def test_the_tape_is_one_window() -> None:
    network = Network(BUNDLE.manifest, BUNDLE.tensors)
    tape = network.record(np.zeros(INPUTS, np.int16), "hidden")
    slots = price.memory_plan(BUNDLE).slots
    for name in ("pre", "spikes"):
        assert slots[f"tape.{name}"].slot.shape == getattr(tape, name).shape
    assert slots["tape.psi"].slot.shape == (8, NEURONS)  # of the chunk only: credit reaches no further back
    assert "tape.pre" not in price.memory_plan(BUNDLES["denseprototypes"]).slots


def test_replay_costs_its_samples() -> None:
    small, large = (price.memory_plan(relearning(replay=Replay(capacity=n))) for n in (64, 1088))
    assert large.bytes_by_part()["replay"] - small.bytes_by_part()["replay"] == 1024 * (INPUTS + 2 + 1 + 4)


@every_bundle
def test_a_real_checkpoint_is_no_longer_than_planned(bundle: Bundle) -> None:
    learner = learner_of(bundle)
    meta = learner.meta() | {"classes": ["x" * 64 for _ in range(bundle.manifest.classes.capacity)]}
    real = 64 + len(pack_state(learner.arrays(), meta))
    assert real <= price.checkpoint_bytes(bundle) <= real + 4096
    parts = price.flash_parts(bundle)
    assert parts["bundle"] == bundle.size
    assert parts["checkpoints"] == 3 * price.checkpoint_bytes(bundle)
    assert parts["journal"] > 2 * price.checkpoint_bytes(bundle)
