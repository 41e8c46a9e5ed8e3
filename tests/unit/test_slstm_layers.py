"""SLSTM and Lapicque: integers are the slow reference's, floats are snnTorch's, and one follows the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.spiking import SlowSLstm
from runs import buffered, step_peak

from edgerun.arrays import F32, AnyArray, Tensors
from edgerun.errors import ModelError, SpecError
from edgerun.layers import Layer, Lif, SLstm
from edgerun.layers.base import Field, Requant
from edgerun.layers.spiking import NEVER
from edgerun.network import Network
from edgerun.ops import OPS
from edgerun.spec import Frames
from exporters import measure, twin
from exporters.data import Samples
from exporters.float_net import FloatNet, forward
from exporters.nodes import Affine, FloatLif, FloatReadout, FloatSLstm, Quantised, Range, StatefulLayer

GOLDEN = Path(__file__).parents[1] / "golden" / "neurons.npz"
REACH = Range(0.0, 1.0)
STEPS = 12
RESETS = ("none", "subtract", "hold")
OURS = {"zero": "hold"}
"""snnTorch's resets by our names, where those are others."""


def drawn(rng: np.random.Generator, spec: SLstm) -> Tensors:
    """Gates over all of their functions, thresholds among them that anything, or nothing, meets."""
    n, found = 4 * spec.outputs, {}
    for weight, prefix, width in (("weight", "", spec.inputs), ("recurrent", "recurrent_", spec.outputs)):
        maps = [Requant.from_scale(0.3 * 2.0 ** rng.uniform(-3, 3)) for _ in range(n)]
        found |= {
            f"l.{weight}": rng.choice([-127, 0, 127, *rng.integers(-127, 128, 5)], (n, width)).astype(np.int8),
            f"l.{prefix}bias": rng.integers(-9999, 10000, n).astype(np.int32),
            f"l.{prefix}multiplier": np.array([m.multiplier for m in maps], np.int32),
            f"l.{prefix}shift": np.array([m.shift for m in maps], np.uint8),
        }
    threshold = rng.choice([1, NEVER, *rng.integers(1, NEVER, 4)], spec.outputs)
    return found | {"l.threshold": threshold.astype(np.uint16)}


specs = st.builds(
    lambda scale, zero_point, **fields: SLstm(
        name="l", hidden_map=msgspec.structs.replace(Requant.from_scale(scale), zero_point=zero_point), **fields
    ),
    st.floats(2.0**-10, 2.0**-7), st.integers(-60, 60), inputs=st.integers(1, 6), outputs=st.integers(1, 5),
    reset=st.sampled_from(RESETS), cell_exponent=st.integers(4, 15), cell_limit=st.sampled_from([32767, 4096, 1]),
)  # fmt: skip
cases = st.builds(
    lambda spec, seed: (
        spec, drawn(rng := np.random.default_rng(seed), spec), rng.integers(-128, 128, (STEPS, spec.inputs))
    ),
    specs, st.integers(0, 1 << 30),
)  # fmt: skip


@settings(max_examples=120, deadline=None)
@given(case=cases)
def test_an_slstm_gives_the_bits_of_the_slow_reference(case: tuple[SLstm, Tensors, AnyArray]) -> None:
    spec, tensors, xs = case
    spec.certify(tensors, (128,), frozenset())
    run, batch, want = OPS[SLstm](spec, tensors, ()), OPS[SLstm](spec, tensors, (2,)), SlowSLstm(spec, tensors)
    for x in xs:
        run.step(x.astype(np.float32))
        batch.step(np.stack([x, x]).astype(np.float32))
        assert run.out.tolist() == want.step(x.tolist())
        assert batch.out.tolist() == [run.out.tolist()] * 2
        for state in spec.state():
            array = run.state()[state.name]
            assert (array.shape, array.tolist()) == (state.shape, getattr(want, state.name)), state.name
    assert run.reading().tolist() == want.reading()
    assert batch.reading().tolist() == [want.reading()] * 2


@settings(max_examples=40, deadline=None)
@given(case=cases, cut=st.integers(1, STEPS - 1))
def test_it_stops_and_goes_on_anywhere(case: tuple[SLstm, Tensors, AnyArray], cut: int) -> None:
    spec, tensors, xs = case
    first, second = (OPS[SLstm](spec, tensors, ()) for _ in range(2))
    second.step(xs[0].astype(np.float32))  # something to forget
    seen = []
    for t, x in enumerate(xs.astype(np.float32)):
        if t == cut:
            second.reset()
            assert not second.out.any()
            for name, array in first.state().items():
                np.copyto(second.state()[name], array)
            second.resume()
            assert second.out.tolist() == first.out.tolist()
        first.step(x)
        seen.append(first.out.tolist())
        if t >= cut:
            second.step(x)
            for name, array in first.state().items():
                assert second.state()[name].tolist() == array.tolist(), name
    assert second.reading().tolist() == first.reading().tolist()
    first.reset()
    again = []
    for x in xs.astype(np.float32):
        first.step(x)
        again.append(first.out.tolist())
    assert again == seen


@pytest.mark.parametrize("reset", RESETS)
def test_a_step_allocates_no_array(reset: Any) -> None:
    spec = SLstm(name="l", inputs=16, outputs=1024, reset=reset)
    assert step_peak(spec, drawn(np.random.default_rng(1), spec), spec.widths) < 4 * 1024 + buffered(2 * 1024)


# ------------------------------------------------------------------ meanings and proofs


def saturated(reset: Any, threshold: int, steps: int) -> list[int]:
    """The spikes of one unit whose gates all stand open, so that its membrane goes to its end and stays there."""
    spec = SLstm(name="l", inputs=1, outputs=1, reset=reset)
    tensors = drawn(np.random.default_rng(2), spec)
    for name, array in tensors.items():
        array[...] = 8 if name.endswith("shift") else 1 if name.endswith("multiplier") else 0
    tensors["l.bias"][...], tensors["l.threshold"][...] = 1 << 24, threshold
    run = OPS[SLstm](spec, tensors, ())
    found = []
    for _ in range(steps):
        run.step(np.zeros(1, np.float32))
        found.append(int(run.out[0]))
    return found


def test_resets_act_in_the_step_after_the_spike_and_no_membrane_comes_to_one() -> None:
    high = 30000
    assert saturated("none", high, 6) == [0, 1, 1, 1, 1, 1]  # tanh of a cell of 1 is under it, of 2 above
    assert saturated("subtract", high, 6) == saturated("hold", high, 6) == [0, 1, 0, 1, 0, 1]
    low = 12000  # two of them fit under the membrane: subtracting one leaves a spike, holding none
    assert saturated("subtract", low, 6) == [1, 1, 1, 1, 1, 1]
    assert saturated("hold", low, 6) == [1, 0, 1, 0, 1, 0]
    assert saturated("none", NEVER - 1, 12)[-1] == 1
    assert saturated("none", NEVER, 40) == [0] * 40


def test_silence_is_no_spike_whatever_the_threshold() -> None:
    spec = SLstm(name="l", inputs=1, outputs=1)
    tensors = {name: np.zeros_like(array) for name, array in drawn(np.random.default_rng(2), spec).items()}
    for part, value in {"multiplier": 1, "shift": 1, "recurrent_multiplier": 1, "recurrent_shift": 1}.items():
        tensors[f"l.{part}"][...] = value
    tensors["l.threshold"][...] = 1
    run = OPS[SLstm](spec, tensors, ())
    run.step(np.zeros(1, np.float32))
    assert run.out.tolist() == [0]


def test_its_proof_is_that_of_its_gates() -> None:
    spec = SLstm(name="l", inputs=3, outputs=2, input_bound=1)
    tensors = drawn(np.random.default_rng(3), spec)
    assert spec.certify(tensors, (1,), frozenset()) == spec.lstm.proof(tensors)
    with pytest.raises(SpecError, match="layer l: input_bound 1 is under the 2 that reaches it"):
        spec.certify(tensors, (2,), frozenset())
    tensors["l.multiplier"][5], tensors["l.shift"][5], tensors["l.bias"][5] = 1 << 23, 20, 1 << 27
    with pytest.raises(SpecError, match="layer l channel 5: largest input of a gate"):
        spec.certify(tensors, (1,), frozenset())


def test_the_record_says_what_it_is() -> None:
    spec = SLstm(name="l", inputs=3, outputs=2, reset="hold", cell_exponent=12, cell_limit=99, input_bound=7)
    tensors = drawn(np.random.default_rng(3), spec)
    tensors["l.threshold"][:] = 1 << 13, 1 << 14
    assert (spec.widths, spec.shape, spec.reach((7,)), spec.sums) == ((3,), (2,), 1, 8)
    assert (spec.lstm.cell_exponent, spec.lstm.cell_limit, spec.lstm.input_bound) == (12, 99, 7)
    assert spec.describe(tensors) == "threshold 0.25 to 0.5, reset hold"
    assert spec.work().neurons == 2
    assert spec.fields()[-1] == Field("threshold", "uint16", (2,), 1, 1 << 15)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=Layer) == spec
    with pytest.raises(SpecError, match="reset 'zero' of an SLSTM acts behind the input"):
        SLstm(name="l", inputs=1, outputs=1, reset="zero")


# ------------------------------------------------------------------ snnTorch


def stored(case: str) -> dict[str, F32]:
    with np.load(GOLDEN, allow_pickle=False) as file:
        return {name.removeprefix(f"{case}."): file[name] for name in file.files if name.startswith(f"{case}.")}


def slstm_of(case: dict[str, F32], reset: str) -> FloatSLstm:
    n = case["recurrent"].shape[1]
    threshold = np.full(n, case["threshold"], np.float32)
    kind: Any = OURS.get(reset, reset)
    return FloatSLstm("l", case["weight"], case["recurrent"], case["bias"], threshold, kind)


def lapicque_of(case: dict[str, F32], reset: str) -> FloatLif:
    """U <- (1 - dt / RC) U + (dt / C) I: a leak and a gain, which is not the `beta` that snnTorch makes R and C of."""
    n, gain = len(case["bias"]), case["time_step"] / case["C"]
    beta = np.full(n, 1 - case["time_step"] / (case["R"] * case["C"]), np.float32)
    kind: Any = OURS.get(reset, reset)
    threshold = np.full(n, case["threshold"], np.float32)
    return FloatLif("l", case["weight"] * gain, None, case["bias"] * gain, beta, threshold, kind, reset_delay=True)


def integers(node: StatefulLayer, x: F32, x_map: Affine) -> tuple[Quantised, AnyArray]:
    """The quantised layer and its spikes, (steps, N, n), for inputs that the map can hold."""
    found = node.quantise((x_map,), REACH)[-1]
    found.layer.certify(found.tensors, (128,), frozenset())
    run = OPS[type(found.layer)](found.layer, found.tensors, (x.shape[1],))
    spikes = []
    for now in np.rint(x / x_map.scale).astype(np.float32):
        run.step(now)
        spikes.append(run.out.copy())
    return found, np.array(spikes)


@pytest.mark.parametrize("reset", ["none", "subtract", "zero"])
def test_a_float_slstm_is_snntorch_s_step_by_step(reset: str) -> None:
    case = stored(f"slstm.{reset}")
    node = slstm_of(case, reset)
    state = node.start(case["x"].shape[1])
    for t, x in enumerate(case["x"]):
        assert node.step(state, x).tolist() == case["spikes"][t].tolist(), t
        np.testing.assert_allclose(state["hidden"], case["mem"][t], atol=2e-6)
        np.testing.assert_allclose(state["cell"], case["syn"][t], atol=4e-6)
    assert node.reading(state, x).tolist() == case["spikes"].sum(axis=0).tolist()
    assert 0.1 < case["spikes"].mean() < 0.5


@pytest.mark.parametrize("reset", ["none", "subtract", "zero"])
def test_an_integer_slstm_follows_snntorch_s(reset: str) -> None:
    case = stored(f"slstm.{reset}")
    found, spikes = integers(slstm_of(case, reset), case["x"], Affine(1 / 32, 0))
    assert isinstance(found.layer, SLstm)
    assert found.output == Affine(1.0, 0)
    assert (spikes != case["spikes"]).mean() < 0.01


def test_the_stored_resets_differ() -> None:
    spikes = {reset: stored(f"slstm.{reset}")["spikes"] for reset in ("none", "subtract", "zero")}
    assert (spikes["none"] != spikes["zero"]).mean() > 0.02
    assert (spikes["none"] != spikes["subtract"]).mean() > 0.02


@pytest.mark.parametrize("case", ["none", "subtract", "zero", "beta"])
def test_lapicque_neurons_are_lif_neurons_spike_for_spike(case: str) -> None:
    arrays = stored(f"lapicque.{case}")
    node = lapicque_of(arrays, "subtract" if case == "beta" else case)
    state = node.start(arrays["x"].shape[1])
    floats = np.array([node.step(state, x) for x in arrays["x"]])
    assert floats.tolist() == arrays["spikes"].tolist()
    found, spikes = integers(node, arrays["x"], Affine(1.0, 0))
    assert isinstance(found.layer, Lif)
    assert spikes.tolist() == arrays["spikes"].tolist()
    assert 0.05 < arrays["spikes"].mean() < 0.5


# ------------------------------------------------------------------ exported


def random_net(reset: Any, rng: np.random.Generator) -> FloatNet:
    """Sixteen inputs, 48 SLSTM neurons, ten leaky integrators."""

    def normal(rows: int, columns: int, gain: float) -> F32:
        return rng.normal(0, gain * columns**-0.5, (rows, columns)).astype(np.float32)

    bias = rng.normal(0, 0.3, 192).astype(np.float32)
    threshold = rng.uniform(0.1, 0.3, 48).astype(np.float32)
    zeros, kappa = np.zeros(10, np.float32), np.full(10, 0.95, np.float32)
    hidden = FloatSLstm("hidden", normal(192, 16, 2.0), normal(192, 48, 1.0), bias, threshold, reset)
    return FloatNet("net", (60, 16), (hidden, FloatReadout("out", normal(10, 48, 1.0), zeros, kappa)), encoder=Frames())


@pytest.mark.parametrize("reset", RESETS)
def test_a_quantised_net_spikes_and_decides_as_the_float_one(reset: Any) -> None:
    rng = np.random.default_rng(7)
    net, x = random_net(reset, rng), rng.normal(0, 1, (96, 60, 16)).astype(np.float32)
    samples = Samples(x, np.zeros(len(x), np.int64))
    made = twin.quantise_net(net, samples)
    gap = measure.layer_gaps(made, samples)["hidden"]
    assert gap.rms < 0.03  # the share of spikes that differ over all steps
    network = Network(measure.bare_manifest(made), made.tensors, (len(x),))
    network.scores(made.inputs(samples))
    outcome = forward(net, made.moments(samples))
    want = outcome.readings["out"]
    assert (network.logits().argmax(axis=1) == want.argmax(axis=1)).mean() > 0.9
    rate = outcome.states["hidden"]["counts"].mean() / 60
    assert 0.1 < rate < 0.6


def test_a_subtracted_threshold_widens_the_map_of_what_goes_back() -> None:
    case = stored("slstm.none")
    plain, deep = (
        slstm_of(case, reset).quantise((Affine(1 / 32, 0),), REACH)[-1].layer for reset in ("zero", "subtract")
    )
    assert isinstance(plain, SLstm)
    assert isinstance(deep, SLstm)
    assert plain.hidden_map == Requant(multiplier=1, shift=8)
    assert deep.hidden_map.scale == pytest.approx(255 / 2.25 / NEVER)
    assert deep.hidden_map.zero_point == round(1.25 * 255 / 2.25) - 128


def test_thresholds_are_held_in_q15_and_the_default_of_snntorch_never_spikes() -> None:
    case = stored("slstm.none")
    node = slstm_of(case, "none")
    thresholds = np.array([0.0, 0.5, 0.75, 1.0, 7.0, *[1.0] * 7], np.float32)
    node = FloatSLstm("l", node.weight, node.recurrent, node.bias, thresholds)
    found, spikes = integers(node, case["x"], Affine(1 / 32, 0))
    assert found.tensors["l.threshold"].tolist() == [1, 16384, 24576, *[NEVER] * 9]
    assert spikes[..., 0].any()
    assert not spikes[..., 3:].any()
    with pytest.raises(ModelError, match=r"layer l: threshold -0.5 is below 0"):
        FloatSLstm("l", node.weight, node.recurrent, node.bias, thresholds - 0.5).quantise((Affine(1, 0),), REACH)


def test_weights_take_as_few_bits_as_they_are_told() -> None:
    case = stored("slstm.none")
    node = slstm_of(case, "none")
    small = FloatSLstm("l", node.weight, node.recurrent, node.bias, node.threshold, bits=4)
    (found,) = small.quantise((Affine(1 / 32, 0),), REACH)
    assert np.abs(found.tensors["l.weight"]).max() == np.abs(found.tensors["l.recurrent"]).max() == 7
