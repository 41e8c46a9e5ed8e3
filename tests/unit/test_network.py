"""A running network is the page's arithmetic, in batches too; it stops and goes on anywhere, and allocates nothing."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import integers
from runs import peak_of

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import DataError, SpecError
from edgerun.kernels import head, spiking
from edgerun.network import Network
from edgerun.ops import DenseRun, LifRun, ReadoutRun
from edgerun.spec import ClassTable, Dense, Head, InputSpec, Lif, Manifest, PhaseRate, Readout

KINDS = {
    f"{reset}-{'late' if late else 'now'}-rest{rest}{'-rec' if rec else ''}{'-alif' if alif else ''}": {
        "reset": reset, "reset_delay": late, "refractory_steps": rest, "recurrent": rec, "adaptive": alif,
    }
    for reset, late, rest, rec, alif in itertools.product(
        ("subtract", "zero", "none"), (True, False), (0, 1, 4), (False, True), (False, True)
    )
}  # fmt: skip


def lif(rng: np.random.Generator, m: int, n: int, *, extreme: bool = False, **fields: Any) -> tuple[Lif, Tensors]:
    """A random layer; an extreme one has every number at the ends of its range."""
    fields = {"weight_exponent": 6, "recurrent": True} | fields
    spec = Lif(name="hidden", inputs=m, outputs=n, **fields)

    def numbers(low: int, high: int, shape: tuple[int, ...]) -> AnyArray:
        return rng.choice([low, high], shape) if extreme else rng.integers(low, high + 1, shape)

    rail = (1 << 24) if extreme else 2000
    tensors: Tensors = {
        "hidden.input": numbers(-127, 127, (m, n)).astype(np.int8),
        "hidden.bias": numbers(-rail, rail, (n,)).astype(np.int32),
        "hidden.decay": numbers(0, 1 << 15, (n,)).astype(np.uint16),
    }
    if spec.recurrent:
        tensors["hidden.recurrent"] = numbers(-127, 127, (n, n)).astype(np.int8)
    if spec.adaptive:
        tensors["hidden.rho"] = numbers(0, 1 << 15, (n,)).astype(np.uint16)
        tensors["hidden.beta"] = numbers(-32768, 32767, (n,)).astype(np.int16)
    return spec, tensors


def readout(rng: np.random.Generator, n: int, k: int, exponent: int = 7) -> tuple[Readout, Tensors]:
    return Readout(name="out", inputs=n, outputs=k, weight_exponent=exponent), {
        "out.input": rng.integers(-127, 128, (n, k)).astype(np.int8),
        "out.bias": rng.integers(-(1 << 22), 1 << 22, k).astype(np.int32),
        "out.kappa": rng.integers(0, (1 << 15) + 1, k).astype(np.uint16),
    }


def spiking_network(seed: int = 5, *, batch: tuple[int, ...] = (), **fields: Any) -> Network:
    rng = np.random.default_rng(seed)
    hidden, tensors = lif(rng, 9, 12, **fields)
    tensors["hidden.decay"][...] = 29000
    out, more = readout(rng, 12, 4)
    manifest = Manifest(
        name="net", input=InputSpec(shape=(9,), dtype="uint8"), encoder=PhaseRate(steps=20, full_scale=16),
        layers=(hidden, out), classes=ClassTable(names=("a", "b", "c", "d"), capacity=4),
    )  # fmt: skip
    return Network(manifest, tensors | more, batch)


def compare(spec: Lif, tensors: Tensors, trains: AnyArray) -> int:
    """Run (T, B, m) spikes batched, singly and slowly; all state must agree after each step. Returns all spikes."""
    steps, batch, _ = trains.shape
    together, alone = LifRun(spec, tensors, (batch,)), [LifRun(spec, tensors, ()) for _ in range(batch)]
    slow, psi = integers.SlowLif(spec, tensors), np.zeros(spec.outputs, np.uint8)
    for t in range(steps):
        together.step(trains[t].astype(np.float32))
        for b, run in enumerate(alone):
            run.step(trains[t, b].astype(np.float32))
            for name, array in run.state().items():
                assert (array == together.state()[name][b]).all(), (t, b, name)
        spikes, first = slow.step(trains[t, 0].tolist()), alone[0]
        assert first.fired.tolist() == [bool(z) for z in spikes], t
        assert first.out.tolist() == spikes
        assert first.v.tolist() == [n.v for n in slow.neurons], t
        assert first.carry.tolist() == [n.carry for n in slow.neurons]
        if spec.adaptive:
            assert first.adaptation.tolist() == [n.adaptation for n in slow.neurons]
            assert first.adaptation_carry.tolist() == [n.adaptation_carry for n in slow.neurons]
        spiking.surrogate(psi, first.margin, spec.threshold)
        assert psi.tolist() == [n.psi for n in slow.neurons]
    return int(together.counts.sum())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_neuron_equals_the_slow_one(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    spec, tensors = lif(rng, 5, 6, **KINDS[kind])
    assert compare(spec, tensors, rng.integers(0, 2, (25, 2, 5))) > 0


@settings(max_examples=40)
@given(data=st.data())
def test_any_neuron_equals_the_slow_one_on_extreme_numbers(data: st.DataObject) -> None:
    fields = data.draw(st.sampled_from(list(KINDS.values())))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    threshold, exponent = data.draw(st.integers(256, 32767)), data.draw(st.integers(0, 20))
    shift = data.draw(st.integers(0, 12)) if fields.get("recurrent", True) else 0
    spec, tensors = lif(
        rng, 4, 5, extreme=data.draw(st.booleans()), threshold=threshold, weight_exponent=exponent,
        recurrent_shift=shift, **fields,
    )  # fmt: skip
    currents = largest_currents(spec, tensors)
    beyond = [current for current in currents if current >= 1 << 30]
    if beyond:
        with pytest.raises(SpecError, match=f"largest input current {beyond[0]} is above {(1 << 30) - 1}"):
            spec.certify(tensors, (1,), frozenset())
        return
    assert spec.certify(tensors, (1,), frozenset()).bound == max(currents)
    compare(spec, tensors, rng.integers(0, 2, (12, 2, 4)))


def largest_currents(spec: Lif, tensors: Tensors) -> list[int]:
    """What drives each neuron where every spike comes that helps, whichever its sign."""
    inputs, bias = tensors["hidden.input"].tolist(), tensors["hidden.bias"].tolist()
    recurrent = tensors["hidden.recurrent"].tolist() if spec.recurrent else []
    totals = [
        sum(abs(row[j]) for row in inputs) + sum(abs(row[j]) << spec.recurrent_shift for row in recurrent)
        for j in range(spec.outputs)
    ]
    return [integers.current(total, spec.weight_exponent) + abs(b) for total, b in zip(totals, bias, strict=True)]


def test_membranes_at_the_rail_saturate_and_do_not_wrap() -> None:
    spec, tensors = lif(
        np.random.default_rng(0), 3, 2, recurrent=False, weight_exponent=0, threshold=32767, reset="none"
    )
    tensors["hidden.input"][...] = [[127, -127]] * 3
    tensors["hidden.decay"][...] = 1 << 15
    run = LifRun(spec, tensors, ())
    for _ in range(9):
        run.step(np.ones(3, np.float32))
        assert run.v.tolist() == [32767, -32768]


def test_a_membrane_at_its_threshold_fires_and_one_below_does_not() -> None:
    spec, tensors = lif(np.random.default_rng(0), 3, 2, recurrent=False, reset="zero", reset_delay=False)
    tensors["hidden.bias"][...] = [4096, 4095]
    tensors["hidden.decay"][...] = 0
    run = LifRun(spec, tensors, ())
    run.step(np.zeros(3, np.float32))
    assert (run.fired.tolist(), run.v.tolist()) == ([True, False], [0, 4095])


@pytest.mark.parametrize("exponent", [0, 7, 20])
def test_the_readout_equals_the_slow_one(exponent: int) -> None:
    rng = np.random.default_rng(exponent)
    spec, tensors = readout(rng, 6, 5, exponent)
    trains = rng.integers(0, 2, (60, 3, 6))
    together, alone, slow = (
        ReadoutRun(spec, tensors, (3,)),
        ReadoutRun(spec, tensors, ()),
        integers.SlowReadout(spec, tensors),
    )
    for step in trains:
        together.step(step.astype(np.float32))
        alone.step(step[0].astype(np.float32))
        assert slow.step(step[0].tolist()) == alone.y.tolist() == together.y[0].tolist()
        assert slow.carry == alone.carry.tolist()
    assert (exponent == 0) == bool((np.abs(together.y) >= (1 << 31) - 1).any())


def test_a_window_is_encode_then_each_layer_then_the_logits() -> None:
    network, q = spiking_network(), np.array([0, 3, 16, 8, 255, 1, 15, 9, 4], np.int16)
    hidden = integers.SlowLif(network.layers["hidden"].spec, network.tensors)  # type: ignore[attr-defined]
    out = integers.SlowReadout(network.layers["out"].spec, network.tensors)  # type: ignore[attr-defined]
    for x in zip(*(integers.phase_rate(int(u), 20, 16) for u in q), strict=True):
        logits = out.step(hidden.step(x))
    for _ in range(2):  # the second window starts from silence as well
        outcome = network.infer(q)
        assert outcome.scores.tolist() == logits
        assert outcome.label == logits.index(max(logits))


def test_a_batch_has_the_bits_of_its_samples() -> None:
    single, together = spiking_network(adaptive=True), spiking_network(adaptive=True).batched(7)
    q = np.random.default_rng(2).integers(0, 17, (7, 9)).astype(np.int16)
    assert together.scores(q).tolist() == [single.scores(row).tolist() for row in q]


def test_ties_go_to_the_lowest_class() -> None:
    network = spiking_network()
    for part in ("input", "bias"):
        network.tensors[f"out.{part}"][...] = 0
    network.load_weights("out.input")
    network = Network(network.manifest, network.tensors)
    assert network.infer(np.full(9, 16, np.int16)).label == 0


@pytest.mark.parametrize("kind", ["subtract-late-rest4-rec-alif", "zero-now-rest0-rec", "none-late-rest1"])
def test_a_snapshot_at_any_step_continues_bit_for_bit(kind: str) -> None:
    network, other = spiking_network(**KINDS[kind]), spiking_network(**KINDS[kind])
    train = np.random.default_rng(4).integers(0, 2, (24, 9)).astype(np.float32)
    whole = [(network.step(x), network.snapshot())[1] for x in train]
    for cut in range(len(train)):
        for x in train[::-1][:5]:
            other.step(x)  # leave it in any other state
        other.restore(whole[cut])
        for t in range(cut + 1, min(cut + 6, len(train))):
            other.step(train[t])
            now = other.snapshot()
            assert all((now[name] == array).all() for name, array in whole[t].items()), (cut, t)


def test_a_snapshot_is_a_copy_and_a_wrong_one_changes_nothing() -> None:
    network = spiking_network()
    network.step(np.ones(9, np.float32))
    before = network.snapshot()
    wrong = {name: array + 1 for name, array in before.items() if name != "out.y"}
    with pytest.raises(DataError, match=r"no out\.y of shape"):
        network.restore(wrong)
    with pytest.raises(DataError, match=r"no out\.carry of shape"):
        network.restore({name: array + 1 for name, array in before.items()} | {"out.carry": np.zeros(9)})
    assert all((array == before[name]).all() for name, array in network.snapshot().items())
    network.step(np.ones(9, np.float32))
    assert (before["hidden.v"] != network.snapshot()["hidden.v"]).any()


@pytest.mark.parametrize("shape", [(8,), (10,), (3, 9), ()])
def test_an_input_of_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"input has shape .* the network takes \(9,\)"):
        spiking_network().scores(np.zeros(shape, np.int16))


def test_a_tape_is_what_happened() -> None:
    network = spiking_network(refractory_steps=2, adaptive=True)
    q = np.array([0, 3, 16, 8, 25, 1, 15, 9, 4], np.int16)
    tape = network.record(q, "hidden")
    assert network.logits().tolist() == network.scores(q).tolist()
    slow = integers.SlowLif(network.layers["hidden"].spec, network.tensors)  # type: ignore[attr-defined]
    assert tape.pre.T.tolist() == [integers.phase_rate(int(u), 20, 16) for u in q]
    for t, x in enumerate(tape.pre.tolist()):
        assert tape.spikes[t].tolist() == slow.step(x)
        assert tape.psi[t].tolist() == [n.psi for n in slow.neurons]
    with pytest.raises(DataError, match="has no spikes"):
        network.record(q, "out")


def test_written_weights_arrive_row_by_row() -> None:
    network, q = spiking_network(), np.full(9, 7, np.int16)
    before = network.scores(q).tolist()
    network.tensors["hidden.recurrent"][3:5] *= -1
    assert network.scores(q).tolist() == before
    network.load_weights("hidden.recurrent", slice(3, 5))
    assert network.scores(q).tolist() == Network(network.manifest, network.tensors).scores(q).tolist() != before


# ------------------------------------------------------------------ the prototype head


def test_class_means_are_half_up_exact() -> None:
    rng = np.random.default_rng(0)
    sums, counts = rng.integers(-999, 1000, (40, 6)).astype(np.int32), rng.integers(0, 7, 40).astype(np.int32)
    means = np.zeros((40, 6), np.int64)
    head.class_means(means, sums, counts)
    for row, s, n in zip(means.tolist(), sums.tolist(), counts.tolist(), strict=True):
        assert row == [(2 * x + max(n, 1)) // (2 * max(n, 1)) for x in s]


@given(data=st.data())
def test_prototype_scores_order_classes_by_distance(data: st.DataObject) -> None:
    numbers = st.lists(st.integers(-128, 127), min_size=4, max_size=4)
    z, centres = data.draw(numbers), data.draw(st.lists(numbers, min_size=3, max_size=3))
    scores, wide = np.zeros(3, np.int32), np.array(centres, np.int64)
    known = np.array([True, data.draw(st.booleans()), True])
    head.prototype_scores(scores, np.array(z, np.int64), wide, np.zeros(3, np.int32), known)
    square = sum(x * x for x in z)
    distances = [sum((a - b) ** 2 for a, b in zip(z, c, strict=True)) for c in centres]
    assert scores.tolist() == [square - d if k else head.NEVER for d, k in zip(distances, known, strict=True)]


def test_scores_saturate_above_never() -> None:
    scores = np.zeros(2, np.int32)
    z, means = np.array([40000], np.int64), np.array([[40000], [-40000]], np.int64)
    head.prototype_scores(scores, z, means, np.array([2**31 - 1, -(2**31)], np.int32), np.array([True, True]))
    assert scores.tolist() == [2**31 - 1, head.NEVER + 1]


def prototype_network(whiten: bool) -> Network:
    rng = np.random.default_rng(8)
    hidden, tensors = lif(rng, 9, 12)
    tensors["hidden.decay"][...] = 29000
    layer = Dense(name="whiten", inputs=12, outputs=5, zero_point=3, input_bound=20) if whiten else None
    width = 5 if whiten else 12
    tensors |= {
        "whiten.weight": rng.integers(-127, 128, (5, 12)).astype(np.int8),
        "whiten.bias": rng.integers(-99, 99, 5).astype(np.int32),
        "whiten.multiplier": np.ones(5, np.int32),
        "whiten.shift": np.full(5, 6, np.uint8),
        "head.sum": rng.integers(-50, 50, (3, width)).astype(np.int32),
        "head.count": np.array([5, 0, 2], np.int32),
        "head.bias": np.array([0, 0, 11], np.int32),
    }
    manifest = Manifest(
        name="net", input=InputSpec(shape=(9,), dtype="uint8"), encoder=PhaseRate(steps=20, full_scale=16),
        layers=(hidden,), head=Head(kind="prototypes", features="hidden", whiten=layer),
        classes=ClassTable(names=("a", "b", "c"), capacity=5),
    )  # fmt: skip
    return Network(manifest, tensors)


@pytest.mark.parametrize("whiten", [False, True])
def test_prototypes_look_at_spike_counts_or_at_their_whitening(whiten: bool) -> None:
    network, q = prototype_network(whiten), np.arange(9, dtype=np.int16) * 2
    scores = network.scores(q)
    counts = network.record(q, "hidden").spikes.sum(axis=0, dtype=np.int64)
    z = counts
    if whiten:
        t = network.tensors
        parts = (t[f"whiten.{p}"].tolist() for p in ("weight", "bias", "multiplier", "shift"))
        z = np.array(integers.dense(counts.tolist(), *parts, 3, -128, 127))
    assert network.features().tolist() == z.tolist()
    want = np.zeros(3, np.int32)
    assert network.prototypes is not None
    head.prototype_scores(
        want, z, network.prototypes.means[:3], network.prototypes.bias[:3], np.array([True, False, True])
    )
    assert scores.tolist() == want.tolist()
    assert network.batched(3).scores(np.stack([q] * 3)).tolist() == [want.tolist()] * 3


# ------------------------------------------------------------------ memory on the hot path

NEURONS = 2048


def test_the_counter_sees_an_array_of_one_byte_a_neuron() -> None:
    fired = np.zeros(NEURONS, np.bool_)
    assert peak_of(lambda: ~fired) >= NEURONS
    spikes = np.zeros(NEURONS, np.int32)
    assert peak_of(lambda: np.add(spikes, fired, out=spikes)) >= NEURONS  # numpy's own buffer for a cast counts too


@pytest.mark.parametrize("kind", KINDS)
def test_a_spiking_step_allocates_no_array(kind: str) -> None:
    spec, tensors = lif(np.random.default_rng(1), 16, NEURONS, **(KINDS[kind] | {"recurrent": False}))
    run, x = LifRun(spec, tensors, ()), np.ones(16, np.float32)
    assert peak_of(lambda: run.step(x)) < NEURONS


def test_a_recurrent_step_and_a_readout_allocate_no_array() -> None:
    rng = np.random.default_rng(1)
    spec, tensors = lif(rng, 16, NEURONS, adaptive=True, refractory_steps=2)
    run, x = LifRun(spec, tensors, ()), np.ones(16, np.float32)
    assert peak_of(lambda: run.step(x)) < NEURONS
    out = ReadoutRun(*readout(rng, 16, NEURONS), ())
    assert peak_of(lambda: out.step(x)) < NEURONS


@pytest.mark.parametrize("scale", [(1, 12), (11_184_811, 33), (11_184_811, 46)], ids=["folded", "dot", "int64"])
def test_a_dense_step_allocates_no_array(scale: tuple[int, int]) -> None:
    zero_point = -128 if scale[1] == 46 else 0
    spec = Dense(name="fc", inputs=NEURONS, outputs=NEURONS, zero_point=zero_point, input_bound=1)
    run = DenseRun(spec, {
        "fc.weight": np.ones((NEURONS, NEURONS), np.int8), "fc.bias": np.zeros(NEURONS, np.int32),
        "fc.multiplier": np.full(NEURONS, scale[0], np.int32), "fc.shift": np.full(NEURONS, scale[1], np.uint8),
    }, ())  # fmt: skip
    x = np.ones(NEURONS, np.float32)
    assert peak_of(lambda: run.step(x)) < NEURONS


def test_a_whole_inference_allocates_its_answer_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    hidden, tensors = lif(rng, NEURONS, NEURONS, recurrent=False, adaptive=True, refractory_steps=1)
    out, more = readout(rng, NEURONS, 10)
    manifest = Manifest(
        name="net", input=InputSpec(shape=(NEURONS,), dtype="uint8"), encoder=PhaseRate(steps=8, full_scale=16),
        layers=(hidden, out), classes=ClassTable(names=tuple("abcdefghij"), capacity=10),
    )  # fmt: skip
    network, q = Network(manifest, tensors | more), rng.integers(0, 17, NEURONS).astype(np.int16)
    assert peak_of(lambda: network.infer(q)) < NEURONS
