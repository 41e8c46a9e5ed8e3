"""Neurons on raw sums and their synapses give the bits of the slow reference, in batches too, wherever they stop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import spiking as slow
from runs import peak_of, rows

from edgerun.arrays import AnyArray, Tensors
from edgerun.errors import SpecError
from edgerun.layers import AlphaCells, Cells, ConvSum, DenseSum, Integrators, Lif, SumPool, Total
from edgerun.layers.base import State
from edgerun.ops import OPS

STEPS = 12
RESETS = ("subtract", "zero", "hold", "none")
WIDE = 4096
BUFFER = (1 << 16) + 1024  # what numpy may take for itself over windows, and a view of them
CLAIMS = {"int16": (-(1 << 15), (1 << 15) - 1), "uint16": (0, (1 << 16) - 1), "int32": (-(1 << 31), (1 << 31) - 1)}


def drawn(rng: np.random.Generator, spec: Any) -> Tensors:
    """Any tensors that the record allows, extremes among them; an alpha neuron's and a drive's bounds kept."""
    found: Tensors = {}
    for field in spec.fields():
        low, high = max(field.low, -(1 << 29)), min(field.high, 1 << 29)
        values = rng.integers(low, high + 1, field.shape)
        extreme = rng.integers(0, 4, field.shape)
        values = np.where(extreme == 0, low, np.where(extreme == 1, high, values))
        if field.part in ("bias", "recurrent") and field.dtype == "int32" and rng.integers(2):
            values = rng.integers(-3000, 3001, field.shape) << (12 if spec.fraction == 24 else 0)
        found[f"l.{field.part}"] = values.astype(field.dtype)
    return found


@st.composite
def neurons(draw: st.DrawFn) -> tuple[Any, Tensors, AnyArray]:
    """A layer on sums, its tensors, and sums (steps, n) of up to 2**24 / 2**-exponent thresholds."""
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    kind = draw(st.sampled_from([Cells, Cells, AlphaCells, Integrators]))
    common = {
        "name": "l", "shape": draw(st.sampled_from([(1,), (5,), (2, 2, 3), (1, 4)])),
        "shared": draw(st.booleans()), "weight_exponent": draw(st.integers(0, 40)),
    }  # fmt: skip
    if kind is Integrators:
        spec: Any = Integrators(
            **common, synaptic=draw(st.booleans()), reading=draw(st.sampled_from(["last", "max", "mean"]))
        )
    else:
        common["reading"] = draw(st.sampled_from(["counts", "last", "max", "mean"]))
        common["inhibition"] = draw(st.booleans())
        reset = draw(st.sampled_from(RESETS if kind is AlphaCells or common["inhibition"] else (*RESETS, "soft")))
        if kind is AlphaCells:
            spec = AlphaCells(**common, reset="hold" if reset == "zero" else reset)
        else:
            clash = common["inhibition"] and reset in ("zero", "hold")
            delay = clash or (reset != "soft" and draw(st.booleans()))
            spec = Cells(
                **common, reset=reset, synaptic=draw(st.booleans()), reset_delay=delay,
                recurrence=draw(st.sampled_from(["none", "diagonal", "dense"])),
                recurrent_exponent=draw(st.integers(4, 30)),
            )  # fmt: skip
    most = min(1 << 24, 1 << max(0, 28 - spec.fraction + spec.weight_exponent))
    return spec, drawn(rng, spec), rng.integers(-most, most + 1, (STEPS, spec.outputs))


def slow_of(spec: Any, tensors: Tensors) -> Any:
    kinds = {Cells: slow.SlowCells, AlphaCells: slow.SlowAlphaCells, Integrators: slow.SlowIntegrators}
    return kinds[type(spec)](spec, tensors)


@settings(max_examples=150, deadline=None)
@given(case=neurons())
def test_neurons_give_the_bits_of_the_slow_reference(case: tuple[Any, Tensors, AnyArray]) -> None:
    spec, tensors, sums = case
    run, want = OPS[type(spec)](spec, tensors, ()), slow_of(spec, tensors)
    batch = OPS[type(spec)](spec, tensors, (2,))
    for x in sums:
        run.step(x.astype(np.float32))
        batch.step(np.stack([x, x]).astype(np.float32))
        assert run.out.tolist() == want.step(x.tolist())
        assert run.state()["v"].tolist() == want.v
        assert batch.out.tolist() == [run.out.tolist()] * 2
        for state in spec.state():
            claims(state, run.state()[state.name])
    assert run.reading().tolist() == want.reading()
    assert batch.reading().tolist() == [want.reading()] * 2


def claims(state: State, array: AnyArray) -> None:
    """Every value fits the integers that a controller would hold, and the array has the shape that is planned."""
    assert array.shape == state.shape
    if state.dtype in CLAIMS:
        low, high = CLAIMS[state.dtype]
        assert low <= array.min() <= array.max() <= high, state.name


@settings(max_examples=40, deadline=None)
@given(case=neurons(), cut=st.integers(1, STEPS - 1))
def test_neurons_stop_and_go_on_anywhere(case: tuple[Any, Tensors, AnyArray], cut: int) -> None:
    spec, tensors, sums = case
    first, second = (OPS[type(spec)](spec, tensors, ()) for _ in range(2))
    second.step(sums[0].astype(np.float32))  # something to forget
    for t, x in enumerate(sums.astype(np.float32)):
        if t == cut:
            second.reset()
            for name, array in first.state().items():
                np.copyto(second.state()[name], array)
            second.resume()
        first.step(x)
        if t >= cut:
            second.step(x)
            assert second.out.tolist() == first.out.tolist()
    assert second.reading().tolist() == first.reading().tolist()
    fresh = OPS[type(spec)](spec, tensors, ())
    first.reset()
    for x in sums.astype(np.float32):
        first.step(x)
        fresh.step(x)
    assert first.reading().tolist() == fresh.reading().tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_synapses_give_the_bits_of_the_slow_reference(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1 << 30)))
    h, w, c = (data.draw(st.integers(1, 5)) for _ in range(3))
    kernel = (data.draw(st.integers(1, h)), data.draw(st.integers(1, w)))
    sides = tuple(data.draw(st.integers(0, 2)) for _ in range(4))
    stride = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)))
    common: dict[str, Any] = {
        "name": "l",
        "input_shape": (h, w, c),
        "kernel": kernel,
        "stride": stride,
        "padding": sides,
    }
    zero = data.draw(st.integers(-128, 127))
    conv = ConvSum(**common, filters=data.draw(st.integers(1, 4)), zero_point=zero)
    weight = rng.choice([-127, -1, 0, 127], (conv.filters, *kernel, c)).astype(np.int8)
    x = rng.choice([-128, -1, 0, 127], (3, h * w * c))
    assert rows(conv, {"l.weight": weight}, x) == [slow.SlowConvSum(conv, {"l.weight": weight}).step(row) for row in x]
    pool, big = SumPool(**common), rng.integers(-(1 << 18), 1 << 18, x.shape)
    assert rows(pool, {}, big) == [slow.SlowSumPool(pool, {}).step(row) for row in big]
    dense = DenseSum(name="l", inputs=x.shape[1], outputs=3, zero_point=zero)
    matrix = rng.choice([-127, 0, 127], (x.shape[1], 3)).astype(np.int8)
    assert rows(dense, {"l.weight": matrix}, x) == [slow.SlowDenseSum(dense, {"l.weight": matrix}).step(r) for r in x]
    total = Total(name="l", outputs=x.shape[1], terms=3)
    assert rows(total, {}, x, big, x) == (2 * x + big).tolist()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_fan_out_of_a_convolution_is_what_an_impulse_reaches(data: st.DataObject) -> None:
    """With weights of 1 the sums of one spike add up to the number of weights that it meets."""
    h, w, c = (data.draw(st.integers(1, 5)) for _ in range(3))
    pairs = {name: (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))) for name in ("stride", "dilation")}
    kernel, filters = (data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))), data.draw(st.integers(1, 3))
    sides = tuple(data.draw(st.integers(0, 7)) for _ in range(4))
    assume(all(d * (k - 1) < size + sum(sides[axis::2]) for axis, (size, k, d) in enumerate(
        zip((h, w), kernel, pairs["dilation"], strict=True)
    )))  # fmt: skip
    conv = ConvSum(name="l", input_shape=(h, w, c), kernel=kernel, padding=sides, filters=filters, **pairs)
    weight = {"l.weight": np.ones((filters, *kernel, c), np.int8)}
    assert [
        sum(slow.SlowConvSum(conv, weight).step(x)) for x in np.eye(h * w * c, dtype=int)
    ] == conv.fan_out().tolist()


# ------------------------------------------------------------------ proofs


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_a_synapse_promises_no_more_than_it_can_prove(kind: str) -> None:
    """Weights of one sign and inputs at their end reach the bound exactly; one less is refused."""
    bound = 4 * 127 * (128 + 37)
    if kind == "dense":
        spec: Any = DenseSum(name="l", inputs=4, outputs=2, zero_point=37, output_bound=bound)
        weight = np.full((4, 2), 127, np.int8)
    else:
        spec = ConvSum(name="l", input_shape=(2, 2, 1), kernel=(2, 2), filters=2, zero_point=37, output_bound=bound)
        weight = np.full((2, 2, 2, 1), 127, np.int8)
    assert spec.certify({"l.weight": weight}, (128,), frozenset()).bound == bound
    run = OPS[type(spec)](spec, {"l.weight": weight}, ())
    run.step(np.full(4, -128, np.float32))
    assert np.abs(run.out).max() == bound
    less = type(spec)(**{name: getattr(spec, name) for name in spec.__struct_fields__} | {"output_bound": bound - 1})
    with pytest.raises(SpecError, match=f"layer l channel 0: sum.*max.* {bound} is above {bound - 1}"):
        less.certify({"l.weight": weight}, (128,), frozenset())


def test_sums_beyond_float32_are_refused() -> None:
    pool = SumPool(name="l", input_shape=(2, 2, 1), kernel=(2, 2))
    assert pool.certify({}, (1 << 22,), frozenset()).bound == 1 << 24
    with pytest.raises(SpecError, match="values of a window"):
        pool.certify({}, ((1 << 22) + 1,), frozenset())
    with pytest.raises(SpecError, match="sum of max"):
        Total(name="l", outputs=1, terms=2).certify({}, (1 << 24, 1), frozenset())


@pytest.mark.parametrize("synaptic", [False, True])
def test_what_drives_neurons_stays_under_2_to_30(synaptic: bool) -> None:
    spec = Cells(name="l", shape=(2,), weight_exponent=12, synaptic=synaptic, recurrence="diagonal")
    scale = 4096 if synaptic else 1
    tensors: Tensors = {f"l.{f.part}": np.zeros(f.shape, f.dtype) for f in spec.fields()}
    tensors["l.bias"][:] = (1 << 30) - 1 - 1000 * scale - 5
    tensors["l.recurrent"][1] = -5
    assert spec.certify(tensors, (1000,), frozenset()).bound == (1 << 30) - 1
    tensors["l.recurrent"][1] = -6
    with pytest.raises(SpecError, match="layer l channel 1: largest input current 1073741824 is above 1073741823"):
        spec.certify(tensors, (1000,), frozenset())


def test_dense_recurrence_counts_with_its_own_exponent() -> None:
    spec = Cells(name="l", shape=(3,), weight_exponent=12, recurrence="dense", recurrent_exponent=10)
    tensors: Tensors = {f"l.{f.part}": np.zeros(f.shape, f.dtype) for f in spec.fields()}
    tensors["l.recurrent"][:, 1] = 100
    assert spec.certify(tensors, (50,), frozenset()).bound == 50 + 300 * 4
    assert spec.certify(tensors, (50,), frozenset({"l.recurrent"})).bound == 50 + 3 * 127 * 4


def test_contradictions_are_refused() -> None:
    with pytest.raises(SpecError, match="inhibition with reset 'zero' needs reset_delay true"):
        Cells(name="l", shape=(2,), weight_exponent=1, inhibition=True, reset="zero", reset_delay=False)
    for fields in ({"reset_delay": True}, {"reset_delay": False, "inhibition": True}):
        with pytest.raises(SpecError, match="reset 'soft' acts in the spike's own step: reset_delay and inhibition"):
            Cells(name="l", shape=(2,), weight_exponent=1, reset="soft", **fields)
    with pytest.raises(SpecError, match="reset 'soft' acts in the spike's own step, that of alpha cells in the next"):
        AlphaCells(name="l", shape=(2,), weight_exponent=1, reset="soft")
    with pytest.raises(SpecError, match="reset 'zero' of alpha cells"):
        AlphaCells(name="l", shape=(2,), weight_exponent=1, reset="zero")


# ------------------------------------------------------------------ meanings


def test_hold_drops_what_arrives_in_the_step_after_a_spike_and_zero_keeps_it() -> None:
    seen = {}
    for reset in ("zero", "hold"):
        spec = Lif(name="l", inputs=1, outputs=1, weight_exponent=0, recurrent=False, reset=reset)
        tensors = {"l.input": np.ones((1, 1), np.int8), "l.bias": np.zeros(1, np.int32), "l.decay": np.full(1, 1 << 15)}
        run = OPS[Lif](spec, tensors, ())
        seen[reset] = []
        for _ in range(4):
            run.step(np.ones(1, np.float32))
            seen[reset].append(int(run.out[0]))
    assert seen == {"zero": [1, 1, 1, 1], "hold": [1, 0, 1, 0]}


def test_a_silenced_neuron_stays_at_its_rail() -> None:
    """What the step's beginning took is given back to it, but a membrane holds no more than int16."""
    spec = Cells(name="l", shape=(2,), weight_exponent=12, inhibition=True, reset_delay=False)
    tensors: Tensors = {f"l.{f.part}": np.zeros(f.shape, f.dtype) for f in spec.fields()}
    tensors["l.decay"][:], tensors["l.threshold"][:] = 1 << 15, 4096
    run, want = OPS[Cells](spec, tensors, ()), slow.SlowCells(spec, tensors)
    for _ in range(4):
        run.step(np.full(2, 60000, np.float32))
        want.step([60000, 60000])
        assert run.state()["v"].tolist() == want.v
    assert want.v[1] == 32767


def test_an_excitatory_current_stays_at_its_rail() -> None:
    """Both currents at their ends and the membrane above its threshold all the same: the reset takes no more."""
    spec = AlphaCells(name="l", shape=(1,), weight_exponent=12)
    tensors: Tensors = {f"l.{f.part}": np.zeros(f.shape, f.dtype) for f in spec.fields()}
    for part, value in {"alpha": 1 << 15, "beta": 1 << 15, "tau": 1 << 24, "threshold": 99}.items():
        tensors[f"l.{part}"][:] = value
    run = OPS[AlphaCells](spec, tensors, ())
    run.state()["excitatory"][:], run.state()["inhibitory"][:] = -(1 << 31) + (1 << 18), (1 << 31) - 1
    run.step(np.zeros(1, np.float32))
    assert run.out.tolist() == [1]
    run.step(np.zeros(1, np.float32))
    assert run.state()["excitatory"].tolist() == [-(1 << 31)]


def test_no_synaptic_current_is_too_small() -> None:
    """A drive of a 64th of a membrane's step, kept up, moves it all the same."""
    spec = Cells(name="l", shape=(1,), weight_exponent=18, synaptic=True, reset="none")
    tensors: Tensors = {f"l.{f.part}": np.zeros(f.shape, f.dtype) for f in spec.fields()}
    tensors["l.decay"][:], tensors["l.threshold"][:] = 1 << 15, 4096
    run = OPS[Cells](spec, tensors, ())
    for _ in range(640):
        run.step(np.ones(1, np.float32))
    assert run.state()["v"].tolist() == [10]


@pytest.mark.parametrize("reading", ["counts", "max", "mean"])
@pytest.mark.parametrize("kind", ["plain", "synaptic", "inhibited", "alpha", "integrators"])
def test_a_step_allocates_no_array(kind: str, reading: str) -> None:
    common: dict[str, Any] = {"name": "l", "shape": (WIDE,), "weight_exponent": 8, "reading": reading}
    made: dict[str, Any] = {
        "plain": lambda: Cells(**common, recurrence="diagonal", reset_delay=False),
        "synaptic": lambda: Cells(**common, synaptic=True),
        "inhibited": lambda: Cells(**common, inhibition=True, reset="hold"),
        "alpha": lambda: AlphaCells(**common),
        "integrators": lambda: Integrators(**common | {"reading": "last" if reading == "counts" else reading}),
    }
    spec = made[kind]()
    run = OPS[type(spec)](spec, drawn(np.random.default_rng(1), spec), ())
    x = np.ones(WIDE, np.float32)
    assert peak_of(lambda: run.step(x)) < WIDE


def test_synapses_allocate_no_array() -> None:
    conv = ConvSum(name="l", input_shape=(32, 32, 4), kernel=(3, 3), filters=4, zero_point=3)
    run = OPS[ConvSum](conv, {"l.weight": np.ones((4, 3, 3, 4), np.int8)}, ())
    x = np.ones(WIDE, np.float32)
    assert peak_of(lambda: run.step(x)) < WIDE
    total = OPS[Total](Total(name="l", outputs=WIDE, terms=2), {}, ())
    assert peak_of(lambda: total.step(x, x)) < WIDE
    pool = OPS[SumPool](SumPool(name="l", input_shape=(80, 80, 16), kernel=(2, 2)), {}, ())
    y = np.ones(80 * 80 * 16, np.float32)
    assert peak_of(lambda: pool.step(y)) < BUFFER < pool.out.size
