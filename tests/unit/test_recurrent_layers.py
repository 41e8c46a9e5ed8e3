"""RNN, GRU and LSTM: kernels are the page's integers, state neither drifts nor stalls, exported layers are nets'."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from reference.recurrent import SlowGru, SlowLstm, function, sigmoid_q12, slow, tanh_by_exp
from runs import step_peak

from edgerun.arrays import F32, AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.kernels import recurrent as kernels
from edgerun.layers import Gru, Lstm, LstmQ12, Rnn
from edgerun.layers.base import Requant
from edgerun.layers.recurrent import Recurrent, Twice
from edgerun.ops import OPS
from edgerun.ops.recurrent import RecurrentRun
from exporters.nodes import Affine, FloatGru, FloatLstm, FloatRnn, Quantised, Range
from exporters.nodes.recurrent import FloatRecurrent

REACH = Range(-1.0, 1.0)
TOP = (1 << 24) - 1


def run_of(spec: Recurrent, tensors: Tensors, batch: tuple[int, ...] = ()) -> RecurrentRun:
    run = OPS[type(spec)](spec, tensors, batch)
    assert isinstance(run, RecurrentRun)
    return run


def calls(run: RecurrentRun, xs: AnyArray) -> list[list[int]]:
    """What the layer gives at each call, (calls, outputs)."""
    found = []
    for x in xs:
        run.step(x.astype(np.float32))
        found.append(run.out.astype(np.int64).tolist())
    return found


def make(spec: Recurrent, seed: int, scales: tuple[float, float] = (0.3, 0.2)) -> Tensors:
    """Random tensors of a layer named l whose products are rescaled by about `scales`."""
    rng, n, found = np.random.default_rng(seed), spec.gates * spec.hidden, {}
    for weight, prefix, width, scale in (
        ("weight", "", spec.inputs, scales[0]),
        ("recurrent", "recurrent_", spec.hidden, scales[1]),
    ):
        kind = twice if isinstance(spec, LstmQ12) else Requant.from_scale
        maps = [kind(scale * 2.0 ** rng.uniform(-2, 2)) for _ in range(n)]
        found |= {
            f"l.{weight}": rng.integers(-127, 128, (n, width)).astype(np.int8),
            f"l.{prefix}bias": rng.integers(-9999, 10000, n).astype(np.int32),
            f"l.{prefix}multiplier": np.array([m.multiplier for m in maps], np.int32),
            f"l.{prefix}shift": np.array([m.shift for m in maps], np.uint8),
        }
    return found


def twice(scale: float) -> Twice:
    mantissa, exponent = math.frexp(scale)
    return Twice(multiplier=int(mantissa * 2**31), shift=31 - exponent)


def window(rng: np.random.Generator, spec: Recurrent, n: int = 3) -> AnyArray:
    """n calls of anything, then both ends."""
    width = spec.widths[0]
    return np.concatenate([rng.integers(-128, 128, (n, width)), np.full((1, width), -128), np.full((1, width), 127)])


maps = st.builds(
    lambda scale, zero_point, low, high: msgspec.structs.replace(
        Requant.from_scale(scale), zero_point=zero_point, qmin=min(low, high), qmax=max(low, high)
    ),
    st.floats(2.0**-12, 2.0**-6), st.integers(-128, 127), st.sampled_from([-128, -128, -50]),
    st.sampled_from([127, 127, 90]),
)  # fmt: skip
shapes = st.fixed_dictionaries(
    {"inputs": st.integers(1, 6), "hidden": st.integers(1, 5), "steps": st.integers(1, 4)},
    optional={"sequence": st.booleans(), "reverse": st.booleans(), "hidden_map": maps},
)
grus = st.builds(lambda shape, after: Gru(name="l", **shape, reset_after=after), shapes, st.booleans())
lstms = st.builds(
    lambda shape, e, limit: Lstm(name="l", **shape, cell_exponent=e, cell_limit=limit),
    shapes, st.integers(4, 15), st.one_of(st.just(32767), st.integers(1, 32767)),
)  # fmt: skip

rnns = st.builds(lambda shape, f: Rnn(name="l", **shape, function=f), shapes, st.sampled_from(["tanh", "relu"]))
exact = st.builds(
    lambda shape, m, zero_point, e, limit: LstmQ12(
        name="l", **(shape | {"hidden_map": Twice(multiplier=m, shift=54, zero_point=zero_point)}), start=zero_point,
        cell_exponent=e, cell_limit=limit,
    ),
    shapes, st.integers(1 << 30, (1 << 31) - 1), st.integers(-128, 127), st.integers(9, 15),
    st.one_of(st.just(0), st.integers(1, 32767)),
)  # fmt: skip

EVERY = {
    "rnn": Rnn(name="l", inputs=3, hidden=4, steps=5, sequence=True),
    "rnn-relu": Rnn(name="l", inputs=3, hidden=4, steps=5, sequence=True, function="relu"),
    "lstm-q12": LstmQ12(
        name="l", inputs=3, hidden=4, steps=5, sequence=True, hidden_map=Twice(multiplier=1 << 30, shift=53)
    ),
    "gru": Gru(name="l", inputs=3, hidden=4, steps=5, sequence=True),
    "gru-before": Gru(name="l", inputs=3, hidden=4, steps=5, sequence=True, reset_after=False),
    "lstm": Lstm(name="l", inputs=3, hidden=4, steps=5, sequence=True),
}


def changed(spec: Recurrent, **fields: Any) -> Gru | Lstm:
    return msgspec.structs.replace(spec, **fields)


# ------------------------------------------------------------------ functions by table


@pytest.mark.parametrize(("name", "bound"), [("sigmoid", 1.0), ("tanh", 1.5)])
def test_a_gate_s_function_is_the_reference_s_and_near_the_real_one(name: str, bound: float) -> None:
    p = np.arange(-(1 << 15), 1 << 15)
    table = {"sigmoid": kernels.sigmoid_table(), "tanh": kernels.tanh_table()}[name]
    assert table.tolist() == [function(name, int(q)) for q in p]
    real = {"sigmoid": 1 / (1 + np.exp(-p / 2048)), "tanh": np.tanh(p / 2048)}[name]
    error = np.abs(table - real * (1 << 15))
    assert 0.5 < error.max() < bound
    assert (np.diff(table) >= 0).all()
    assert (table[0], table[1 << 15], table[-1]) == {"sigmoid": (0, 1 << 14, 1 << 15), "tanh": (-32767, 0, 32767)}[name]


P = np.arange(-(1 << 15), 1 << 15)


def test_litert_s_sigmoid_is_the_reference_s_and_near_the_real_one() -> None:
    table = kernels.sigmoid_q12_table()
    assert table.tolist() == [sigmoid_q12(int(p)) for p in P]
    assert 6.3 < np.abs(table - (1 << 15) / (1 + np.exp(-P / 4096))).max() < 6.4


@pytest.mark.parametrize("fraction", range(9, 16))
def test_litert_s_tanh_is_the_reference_s_and_near_the_real_one(fraction: int) -> None:
    table = kernels.tanh_by_exp_table(fraction)
    some = np.concatenate([P[::37], P[:3], P[-3:], P[32700:32800]])
    assert table[some + (1 << 15)].tolist() == [tanh_by_exp(int(p), fraction) for p in some]
    assert 11 < np.abs(table - np.tanh(P * 2.0**-fraction) * (1 << 15)).max() < 12.1


def test_halves_go_away_from_zero_and_nothing_is_rounded_where_nothing_is_shifted() -> None:
    v, sign = np.array([-3, -2, -1, 0, 1, 2, 3]) * 2, np.zeros(7, np.int64)
    kernels.divide(v, 2, 2, sign)
    assert v.tolist() == [-2, -1, -1, 0, 1, 1, 2]
    v = np.array([-3, -1, 1, 3])
    numbers = (np.int64([m]) for m in (1 << 31, 1 << 30, 1, 1))
    kernels.rescale_twice(v, *numbers, np.zeros(4, np.int64))
    assert v.tolist() == [-3, -1, 1, 3]


def test_nobody_can_write_into_a_shared_table() -> None:
    for table in (kernels.sigmoid_table(), kernels.tanh_table(), kernels.relu_table(), kernels.sigmoid_q12_table()):
        with pytest.raises(ValueError, match="read-only"):
            table[0] = 1


# ------------------------------------------------------------------ kernels


@given(
    spec=st.one_of(rnns, grus, lstms, exact),
    seed=st.integers(0, 99),
    scales=st.sampled_from([(0.3, 0.2), (0.02, 0.9), (90.0, 2.0)]),
)
def test_a_layer_is_the_page_s(spec: Recurrent, seed: int, scales: tuple[float, float]) -> None:
    tensors, xs = make(spec, seed, scales), window(np.random.default_rng(seed), spec)
    spec.certify(tensors, (128,), frozenset())
    run, reference = run_of(spec, tensors), slow(spec, tensors)
    assert calls(run, xs) == [reference.step(x.tolist()) for x in xs]
    for name, array in run.state().items():
        assert array.tolist() == getattr(reference, name), name
    assert list(run.state()) == [state.name for state in spec.state()]


@given(spec=st.one_of(rnns, grus, lstms, exact), seed=st.integers(0, 99))
def test_a_batch_gives_the_bits_of_each_sample(spec: Recurrent, seed: int) -> None:
    tensors, rng = make(spec, seed), np.random.default_rng(seed)
    samples = [window(rng, spec) for _ in range(3)]
    batch = run_of(spec, tensors, (3,))
    alone = [calls(run_of(spec, tensors), xs) for xs in samples]
    assert calls(batch, np.stack(samples, axis=1)) == [list(rows) for rows in zip(*alone, strict=True)]


@pytest.mark.parametrize("kind", EVERY)
def test_a_window_is_a_stream_of_its_steps(kind: str) -> None:
    spec = EVERY[kind]
    tensors = make(spec, 7)
    xs = np.random.default_rng(7).integers(-128, 128, (6, spec.widths[0]))
    whole = calls(run_of(spec, tensors), xs)
    last = calls(run_of(changed(spec, sequence=False), tensors), xs)
    cell = calls(run_of(changed(spec, steps=1, sequence=False), tensors), xs.reshape(-1, spec.inputs))
    assert np.reshape(whole, (-1, spec.hidden)).tolist() == cell
    assert last == np.array(cell)[spec.steps - 1 :: spec.steps].tolist()
    assert np.unique(cell).size > 20


@pytest.mark.parametrize("kind", EVERY)
def test_a_reverse_layer_reads_from_the_end_and_starts_anew_in_every_call(kind: str) -> None:
    spec = EVERY[kind]
    tensors = make(spec, 8)
    xs = np.random.default_rng(8).integers(-128, 128, (4, spec.steps, spec.inputs))
    backwards = run_of(changed(spec, reverse=True), tensors)
    want = []
    for x in xs:
        (y,) = calls(run_of(spec, tensors), x[::-1].reshape(1, -1))
        want.append(np.reshape(y, (spec.steps, -1))[::-1].reshape(-1).tolist())
    assert calls(backwards, xs.reshape(4, -1)) == want
    assert backwards.state() == {}
    assert calls(run_of(changed(spec, reverse=True, sequence=False), tensors), xs.reshape(4, -1)) == [
        y[: spec.hidden] for y in want
    ]


@pytest.mark.parametrize("kind", EVERY)
def test_state_stops_and_goes_on_and_resets(kind: str) -> None:
    fields = {"hidden_map": Requant(multiplier=TOP, shift=32, zero_point=-7)} if kind != "lstm-q12" else {"start": -7}
    spec = changed(EVERY[kind], **fields)
    tensors, xs = make(spec, 9), window(np.random.default_rng(9), EVERY[kind])
    first = run_of(spec, tensors)
    want = calls(first, xs)
    first.reset()
    assert (first.out == -7).all()
    assert calls(first, xs[:2]) == want[:2]
    saved = {name: array.copy() for name, array in first.state().items()}
    second = run_of(spec, tensors)
    for name, array in second.state().items():
        array[...] = saved[name]
    second.resume()
    assert calls(second, xs[2:]) == want[2:]


@pytest.mark.parametrize("kind", EVERY)
def test_a_call_on_one_sample_allocates_no_array(kind: str) -> None:
    spec = changed(EVERY[kind], hidden=1024, inputs=16)
    assert step_peak(spec, make(spec, 1), spec.widths) < 4 * 1024


# ------------------------------------------------------------------ the proof


def steep(kind: type[Gru | Lstm], inputs: int) -> tuple[Recurrent, Tensors]:
    """One unit whose rows all weigh 127; the bias takes the largest sums back, so that their last bit decides."""
    spec = kind(name="l", inputs=inputs, hidden=1)
    tensors = make(spec, 3)
    tensors["l.weight"][...] = 127
    tensors["l.bias"][...] = 127 * 128 * inputs - 40
    tensors["l.multiplier"][...], tensors["l.shift"][...] = 1 << 23, 23
    return spec, tensors


def carries(run: RecurrentRun, reference: SlowGru | SlowLstm, inputs: int) -> tuple[list[int], list[int]]:
    """What rounding leaves in both after inputs at their lowest, the last a little above; half the sums are odd."""
    found: tuple[list[int], list[int]] = ([], [])
    for last in range(-127, -100):
        x = [-128] * (inputs - 1) + [last]
        run.step(np.array(x, np.float32))
        reference.step(x)
        found[0].extend(run.state()["carry"].tolist())
        found[1].extend(reference.carry)
    return found


@pytest.mark.parametrize("kind", [Gru, Lstm])
@pytest.mark.parametrize(("inputs", "carrier"), [(1032, "float32-dot"), (1033, "float64")])
def test_the_products_are_exact_on_both_sides_of_float32_s_bound(
    kind: type[Gru | Lstm], inputs: int, carrier: str
) -> None:
    spec, tensors = steep(kind, inputs)
    assert spec.certify(tensors, (128,), frozenset()).carrier == carrier
    got, want = carries(run_of(spec, tensors), slow(spec, tensors), inputs)
    assert got == want


def test_a_product_that_the_proof_sends_to_float64_would_be_wrong_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    spec, tensors = steep(Gru, 1033)
    monkeypatch.setattr("edgerun.layers.recurrent.F32_EXACT", 1 << 40)
    got, want = carries(run_of(spec, tensors), slow(spec, tensors), 1033)
    assert got != want


@pytest.mark.parametrize(("hidden", "carrier"), [(1032, "float32-dot"), (1033, "float64")])
def test_the_recurrent_product_has_a_bound_of_its_own(hidden: int, carrier: str) -> None:
    spec = Gru(name="l", inputs=1, hidden=hidden)
    tensors = make(spec, 1)
    tensors["l.recurrent"][7] = -127
    assert spec.proof(tensors).carrier == carrier


def test_a_gate_s_input_is_certified_to_stay_under_its_bound() -> None:
    spec = Gru(name="l", inputs=1, hidden=1)
    tensors = make(spec, 1)
    tensors["l.weight"][...], tensors["l.multiplier"][...], tensors["l.shift"][...] = 0, 1 << 23, 20  # times 8
    tensors["l.bias"][1] = (1 << 27) - 1
    spec.certify(tensors, (128,), frozenset())
    tensors["l.bias"][1] += 1
    with pytest.raises(SpecError, match=r"layer l channel 1: largest input of a gate 1073741824 is above 1073741823"):
        spec.certify(tensors, (128,), frozenset())
    tensors["l.bias"][1], tensors["l.recurrent_multiplier"][2] = 0, 3
    with pytest.raises(SpecError, match="layer l channel 2: multiplier 3 is neither 1 nor"):
        spec.certify(tensors, (128,), frozenset())


def test_litert_s_int32_is_certified_to_hold_every_sum() -> None:
    """Sums, sums shifted left, rescaled sums: each is refused beyond its bound, and right at it."""
    spec = changed(EVERY["lstm-q12"], inputs=1, hidden=1)
    tensors = make(spec, 1)
    tensors["l.weight"][...] = tensors["l.recurrent"][...] = 0
    top = (1 << 28) - 1
    for shift, bias, why in ((31, top, ""), (28, top, "largest input of a gate"), (27, top, "shifted left")):
        tensors["l.shift"][2], tensors["l.bias"][2] = shift, bias
        if not why:
            spec.certify(tensors, (128,), frozenset())
            continue
        with pytest.raises(SpecError, match=f"layer l channel 2: .*{why} .* is above"):
            spec.certify(tensors, (128,), frozenset())
    tensors["l.shift"][2] = 31
    tensors["l.recurrent_multiplier"][1] = (1 << 30) - 1
    with pytest.raises(SpecError, match=r"channel 1: multiplier 1073741823 is outside \[2\*\*30, 2\*\*31\)"):
        spec.certify(tensors, (128,), frozenset())


def test_the_largest_certified_sums_of_litert_s_arithmetic_are_exact() -> None:
    spec = changed(EVERY["lstm-q12"], inputs=1, hidden=1, steps=1)
    tensors = make(spec, 1)
    for prefix in ("", "recurrent_"):
        tensors[f"l.{prefix}multiplier"][...], tensors[f"l.{prefix}shift"][...] = (1 << 31) - 1, 30
        tensors[f"l.{prefix}bias"][...] = [(1 << 28) - 1, 1 - (1 << 28), (1 << 28) - 40_000, 5000]
    spec.certify(tensors, (128,), frozenset())
    xs = np.arange(-128, 128)[:, None]
    reference = slow(spec, tensors)
    assert calls(run_of(spec, tensors), xs) == [reference.step(x.tolist()) for x in xs]


def test_a_layer_says_what_it_takes_and_refuses_more() -> None:
    spec = Lstm(name="l", inputs=3, hidden=4, steps=5, sequence=True, input_bound=1)
    tensors = make(spec, 1)
    assert (spec.widths, spec.shape, spec.outputs, spec.reach((1,))) == ((15,), (5, 4), 20, 128)
    assert (spec.work().macs, spec.sums) == (5 * 16 * (3 + 4), 16)
    assert "5 steps of 3" in spec.describe(tensors)
    with pytest.raises(SpecError, match="input_bound 1 is under the 128 that reaches it"):
        spec.certify(tensors, (128,), frozenset())
    with pytest.raises(SpecError, match=r"steps of gates \(1048576, 64\) holds"):
        Lstm(name="l", inputs=3, hidden=16, steps=1 << 20)
    with pytest.raises(SpecError, match=r"steps of inputs \(1048576, 17\) holds"):
        Lstm(name="l", inputs=17, hidden=1, steps=1 << 20)


# ------------------------------------------------------------------ long windows


def affine(x: AnyArray, map_: Affine) -> AnyArray:
    return np.clip(np.rint(x / map_.scale) + map_.zero_point, -128, 127)


def gru(rng: np.random.Generator, steps: int, inputs: int, hidden: int, **options: Any) -> FloatGru:
    weight, recurrent = (rng.normal(0, n**-0.5, (3 * hidden, n)) for n in (inputs, hidden))
    biases = (rng.normal(0, 0.5, 3 * hidden) for _ in range(2))
    return FloatGru("l", steps, weight, recurrent, *biases, **options)


def lstm(rng: np.random.Generator, steps: int, inputs: int, hidden: int, **options: Any) -> FloatLstm:
    weight, recurrent = (rng.normal(0, n**-0.5, (4 * hidden, n)) for n in (inputs, hidden))
    return FloatLstm("l", steps, weight, recurrent, rng.normal(0, 0.5, 4 * hidden), **options)


def quantised(node: FloatRecurrent, x_map: Affine) -> Quantised:
    (found,) = node.quantise((x_map,), REACH)
    found.layer.certify(found.tensors, (128,), frozenset())
    return found


def error_over_time(node: FloatRecurrent, x: F32, x_map: Affine) -> AnyArray:
    """(n, steps, hidden): the integer layer's hidden vector less the float layer's, on inputs that int8 can hold."""
    found = quantised(node, x_map)
    q = affine(x.reshape(len(x), -1), x_map)
    run = run_of(found.layer, found.tensors, (len(x),))
    run.step(q.astype(np.float32))
    real = ((q - x_map.zero_point) * x_map.scale).astype(np.float32)
    got = (run.out - found.output.zero_point) * found.output.scale
    return np.asarray(got - node.forward(real)).reshape(len(x), node.steps, -1)


@pytest.mark.parametrize("kind", ["gru", "gru-before", "lstm"])
def test_the_error_of_a_random_net_does_not_grow_over_a_thousand_steps(kind: str) -> None:
    rng, steps = np.random.default_rng(4), 1000
    options = {"sequence": True} | ({"reset_after": False} if kind == "gru-before" else {})
    node = lstm(rng, steps, 6, 24, **options) if kind == "lstm" else gru(rng, steps, 6, 24, **options)
    x = rng.normal(0, 1, (8, steps, 6)).astype(np.float32)
    error = error_over_time(node, x, Affine(4 / 128, 0))
    rms = np.sqrt(np.square(error).mean(axis=(0, 2)))
    assert rms[900:].mean() < 1.2 * rms[20:120].mean()
    assert rms.max() < 0.02
    assert abs(error[:, 500:].mean()) < 0.002


def still(node: FloatRecurrent, x_map: Affine, drive: float) -> tuple[AnyArray, AnyArray]:
    """(steps,), (steps,): the hidden value of one unit under a constant input, in integers and in float."""
    found = quantised(node, x_map)
    run = run_of(found.layer, found.tensors)
    x = np.full((1, node.steps), drive, np.float32)
    run.step(affine(x[0], x_map).astype(np.float32))
    return (run.out - found.output.zero_point) * found.output.scale, node.forward(x)[0]


def test_a_slow_gru_unit_has_no_dead_zone() -> None:
    """z = 1 - 2**-11: each step moves the state by 1/2048 of what is left, in the end less than a step of int16."""
    slow_bias = float(np.log(2047))
    node = FloatGru(
        "l", 8000, np.array([[0.0], [0.0], [1.0]]), np.zeros((3, 1)), np.array([0, slow_bias, 0.0]), np.zeros(3),
        sequence=True,
    )  # fmt: skip
    got, want = still(node, Affine(1 / 128, 0), 0.5)
    assert want[-1] > 0.45
    assert np.abs(got - want).max() < 1 / 200
    got, want = still(dataclasses.replace(node, weight=-node.weight), Affine(1 / 128, 0), 0.5)
    assert np.abs(got - want).max() < 1 / 200


def test_an_open_forget_gate_keeps_a_cell_for_ever_and_adds_up_small_inputs() -> None:
    """f = 1 in Q0.15: the cell integrates i * g = 1/1000 a step, under one step of the cell itself."""
    bias = np.array([np.log(0.002 / 0.998), 30.0, 0.0, 30.0])
    node = FloatLstm("l", 1000, np.array([[0.0], [0.0], [1.1], [0.0]]), np.zeros((4, 1)), bias, sequence=True)
    got, want = still(node, Affine(1 / 128, 0), 0.5)
    assert want[-1] > 0.7
    assert np.abs(got - want).max() < 0.01
    found = quantised(node, Affine(1 / 128, 0))
    run = run_of(found.layer, found.tensors)
    run.step(np.full(1000, 64, np.float32))
    kept = run.state()["cell"].tolist()
    run.step(np.zeros(1000, np.float32))
    assert run.state()["cell"].tolist() == kept != [0]


# ------------------------------------------------------------------ float layers


def onnx_outputs(node: FloatGru | FloatLstm, x: F32) -> F32:
    """(n, steps, hidden) by ONNX's reference of GRU or LSTM, whose gates are ordered z, r, n and i, o, f, g."""
    order = (1, 0, 2) if isinstance(node, FloatGru) else (0, 3, 1, 2)

    def gates(part: AnyArray) -> F32:
        rows = part.reshape(len(order), node.hidden, -1)[list(order)]
        return rows.reshape(1, len(part), *part.shape[1:]).astype(np.float32)

    second = node.recurrent_bias if isinstance(node, FloatGru) else np.zeros_like(node.bias)
    parts = {
        "W": gates(node.weight), "R": gates(node.recurrent), "B": np.hstack([gates(node.bias), gates(second)]),
    }  # fmt: skip
    options: dict[str, Any] = {"hidden_size": node.hidden}
    if isinstance(node, FloatGru):
        options["linear_before_reset"] = int(node.reset_after)
    op = onnx.helper.make_node("GRU" if isinstance(node, FloatGru) else "LSTM", ["x", "W", "R", "B"], ["y"], **options)
    real = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [op],
        "cell",
        [onnx.helper.make_tensor_value_info("x", real, [None, None, None])],
        [onnx.helper.make_tensor_value_info("y", real, None)],
        [onnx.numpy_helper.from_array(array, name) for name, array in parts.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)])
    (y,) = ReferenceEvaluator(model).run(None, {"x": x.swapaxes(0, 1)})
    return np.asarray(y)[:, 0].swapaxes(0, 1)


def nodes() -> dict[str, FloatGru | FloatLstm]:
    rng = np.random.default_rng(5)
    return {
        "gru": gru(rng, 7, 3, 4, sequence=True),
        "gru-before": gru(rng, 7, 3, 4, sequence=True, reset_after=False),
        "lstm": lstm(rng, 7, 3, 4, sequence=True),
    }


@pytest.mark.parametrize("kind", nodes())
def test_a_float_layer_is_onnx_s(kind: str) -> None:
    node = nodes()[kind]
    x = np.random.default_rng(6).normal(0, 1, (5, 7, 3)).astype(np.float32)
    want = onnx_outputs(node, x)
    assert np.abs(node.forward(x.reshape(5, -1)).reshape(want.shape) - want).max() < 1e-6
    last = dataclasses.replace(node, sequence=False).forward(x.reshape(5, -1))
    assert np.abs(last - want[:, -1]).max() < 1e-6
    backwards = dataclasses.replace(node, reverse=True).forward(x[:, ::-1].reshape(5, -1))
    assert np.abs(backwards.reshape(want.shape)[:, ::-1] - want).max() < 1e-6


@pytest.mark.parametrize("kind", nodes())
def test_a_float_layer_goes_on_from_call_to_call_unless_it_runs_backwards(kind: str) -> None:
    node = dataclasses.replace(nodes()[kind], sequence=False)
    x = np.random.default_rng(6).normal(0, 1, (2, 2, 21)).astype(np.float32)
    whole = dataclasses.replace(node, steps=14).forward(np.hstack([x[0], x[1]]))
    state = node.start(2)
    node.step(state, x[0])
    assert np.abs(node.step(state, x[1]) - whole).max() < 1e-6
    backwards = dataclasses.replace(node, reverse=True)
    state = backwards.start(2)
    backwards.step(state, x[0])
    assert np.abs(backwards.step(state, x[1]) - backwards.forward(x[1])).max() < 1e-6


def test_a_float_lstm_clips_its_cell() -> None:
    node = lstm(np.random.default_rng(2), 9, 3, 4, cell_clip=0.25)
    state = node.start(3)
    node.step(state, np.random.default_rng(3).normal(0, 4, (3, 27)).astype(np.float32))
    assert np.abs(state["cell"]).max() == 0.25


def test_gates_far_beyond_float32_s_exponentials_raise_no_warning() -> None:
    node = dataclasses.replace(nodes()["gru"], bias=np.array([-1e4] * 4 + [1e4] * 4 + [0] * 4))
    assert np.isfinite(node.forward(np.ones((1, 21), np.float32))).all()


# ------------------------------------------------------------------ quantised


@given(
    kind=st.sampled_from(["gru", "gru-before", "lstm"]), seed=st.integers(0, 99), zero_point=st.integers(-128, 127),
    out=st.sampled_from([None, Affine(1 / 120, 3), Affine(2 / 255, -1)]), reverse=st.booleans(),
)  # fmt: skip
def test_an_exported_layer_is_near_the_float_one(
    kind: str, seed: int, zero_point: int, out: Affine | None, reverse: bool
) -> None:
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"sequence": True, "reverse": reverse, "output": out}
    if kind == "gru-before":
        options["reset_after"] = False
    node = lstm(rng, 12, 3, 5, **options) if kind == "lstm" else gru(rng, 12, 3, 5, **options)
    map_ = Affine(0.02, zero_point)
    x = rng.uniform(-128 - zero_point, 127 - zero_point, (4, 12, 3)) * 0.02
    error = error_over_time(node, x.astype(np.float32), map_)
    assert np.abs(error).max() < 0.06
    assert np.sqrt(np.square(error).mean()) < 0.02


@pytest.mark.parametrize(("function", "bound"), [("tanh", 0.01), ("relu", 0.005)])
@pytest.mark.parametrize("reverse", [False, True])
def test_an_exported_rnn_is_near_the_float_one(
    function: Literal["tanh", "relu"], bound: float, *, reverse: bool
) -> None:
    """Relu's hidden values reach far beyond 16, where Q4.11 ends."""
    rng = np.random.default_rng(1)
    weight, recurrent = rng.normal(0, 1, (5, 3)), rng.normal(0, 0.45, (5, 5))
    options: dict[str, Any] = {"sequence": True, "reverse": reverse}
    node = FloatRnn("l", 12, weight, recurrent, rng.normal(0, 0.5, 5), function, **options)
    map_ = Affine(0.08, -9)
    q = rng.integers(-128, 128, (40, 36))
    real = ((q + 9) * 0.08).astype(np.float32)
    want = node.forward(real)
    (found,) = node.quantise((map_,), Range(float(want.min()), float(want.max())))
    found.layer.certify(found.tensors, (128,), frozenset())
    run = run_of(found.layer, found.tensors, (40,))
    run.step(q.astype(np.float32))
    got = (run.out - found.output.zero_point) * found.output.scale
    assert want.max() > 20 if function == "relu" else want.max() > 0.99
    assert np.sqrt(np.square(got - want).mean()) < bound * want.max()


@pytest.mark.parametrize("kind", nodes())
def test_integers_of_a_file_come_back_and_other_rows_get_scales_of_their_own(kind: str) -> None:
    node = nodes()[kind]
    rng, n = np.random.default_rng(1), len(node.bias)
    integers = [rng.integers(-127, 128, (n, width)).astype(np.int8) for width in (3, 4)]
    scales = [rng.uniform(0.001, 0.02, n) for _ in range(2)]
    fixed = dataclasses.replace(
        node, weight=integers[0] * scales[0][:, None], recurrent=integers[1] * scales[1][:, None],
        weight_scale=scales[0], recurrent_scale=scales[1],
    )  # fmt: skip
    found = quantised(fixed, Affine(0.02, -5))
    assert found.tensors["l.weight"].tolist() == integers[0].tolist()
    assert found.tensors["l.recurrent"].tolist() == integers[1].tolist()
    free = quantised(node, Affine(0.02, -5))
    assert (np.abs(free.tensors["l.weight"]).max(axis=1) == 127).all()
    assert (np.abs(free.tensors["l.recurrent"]).max(axis=1) == 127).all()
    assert set(free.tensors) == {f"l.{field.part}" for field in free.layer.fields()}
    assert (free.layer.name, type(free.layer)) == ("l", node.makes[0])


@pytest.mark.parametrize(("bits", "most"), [(4, 7), (2, 1)])
def test_both_matrices_take_as_few_bits_as_they_are_told(bits: int, most: int) -> None:
    found = quantised(dataclasses.replace(nodes()["lstm"], bits=bits), Affine(0.02, -5))
    for part in ("weight", "recurrent"):
        assert (np.abs(found.tensors[f"l.{part}"]).max(axis=1) == most).all()


@pytest.mark.parametrize("kind", nodes())
def test_an_exported_layer_gives_the_whole_sequence_or_its_end_as_the_node_does(kind: str) -> None:
    node, map_ = nodes()[kind], Affine(0.02, 0)
    both = [quantised(dataclasses.replace(node, sequence=sequence), map_) for sequence in (True, False)]
    xs = np.random.default_rng(2).integers(-128, 128, (2, 21))
    whole, end = (calls(run_of(found.layer, found.tensors), xs) for found in both)
    assert [y[-4:] for y in whole] == end


def test_the_map_of_the_output_is_the_file_s_or_a_power_of_two() -> None:
    node = nodes()["gru"]
    free = quantised(node, Affine(0.02, 0))
    assert (free.output, free.layer.hidden_map) == (Affine(1 / 128, 0), Requant(multiplier=1, shift=8))
    fixed = quantised(dataclasses.replace(node, output=Affine(1 / 100, 9)), Affine(0.02, 0))
    assert (fixed.output, fixed.layer.hidden_map.zero_point) == (Affine(1 / 100, 9), 9)
    assert fixed.layer.hidden_map.scale == pytest.approx(100 / 32768)


@pytest.mark.parametrize(
    ("options", "exponent", "limit"),
    [
        ({}, 9, 32767),
        ({"cell_clip": 1.0}, 11, 2048),
        ({"cell_clip": 10.0}, 11, 20480),
        ({"cell_clip": 20.0}, 10, 20480),
        ({"state_scales": (Affine(1 / 120, 4), 2.0**-12)}, 12, 32767),
        ({"state_scales": (Affine(1 / 120, 4), 2.0**-15), "cell_clip": 0.5}, 15, 16384),
        ({"state_scales": (Affine(1 / 120, 4), 2.0**-11), "cell_clip": 100.0}, 11, 32767),
    ],
)
def test_the_cell_has_as_many_binary_places_as_its_reach_leaves(
    options: dict[str, Any], exponent: int, limit: int
) -> None:
    found = quantised(lstm(np.random.default_rng(1), 3, 2, 2, **options), Affine(0.02, 0))
    assert (found.layer.cell_exponent, found.layer.cell_limit) == (exponent, limit)
    assert found.output == (options["state_scales"][0] if "state_scales" in options else Affine(1 / 128, 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"state_scales": (Affine(1 / 128, 0), 0.001)}, "layer l: cell scale 0.001 is no power of two within"),
        ({"state_scales": (Affine(1 / 128, 0), 0.25)}, "layer l: cell scale 0.25 is no power of two within"),
        ({"state_scales": (Affine(1 / 128, 0), 2.0**-11), "output": Affine(0.1, 0)}, "has another quantisation than"),
        ({"cell_clip": 5000.0}, "layer l: cell clip 5000 is above 2047"),
        ({"output": Affine(1e-9, 0)}, "layer l channel 0: scale .* is outside"),
    ],
)
def test_what_the_integers_cannot_hold_is_refused_by_name(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        lstm(np.random.default_rng(1), 3, 2, 2, **options).quantise((Affine(0.02, 0),), REACH)


def test_rows_without_weights_cost_nothing() -> None:
    node = nodes()["gru"]
    node = dataclasses.replace(node, weight=np.zeros_like(node.weight), recurrent=np.zeros_like(node.recurrent))
    error = error_over_time(node, np.zeros((1, 7, 3), np.float32), Affine(0.02, -100))
    assert np.abs(error).max() < 1 / 128
