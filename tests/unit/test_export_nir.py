"""NIR import: the float twin equals snnTorch spike for spike, traps are handled, everything else is refused by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from floats import rate_coded, trace

from edgerun.errors import ModelError
from edgerun.spec import PhaseRate
from exporters.nodes import FloatLif, FloatReadout

nir = pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from exporters import nir_file  # noqa: E402
from exporters.nir_import import NirOptions, convert, load_nir  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"
RESETS = [
    (name, reset, delay)
    for name in ("exact_ff", "exact_rec")
    for reset in ("subtract", "zero", "none")
    for delay in (True, False)
    if (name, reset, delay) != ("exact_rec", "zero", True)
]
Graph = dict[str, Any]


@pytest.fixture(scope="module")
def golden() -> Any:
    return np.load(GOLDEN / "golden_spikes.npz")


@pytest.mark.parametrize(("name", "reset", "delay"), RESETS)
def test_the_float_twin_equals_snntorch(golden: Any, name: str, reset: Any, delay: bool) -> None:
    net = load_nir(GOLDEN / f"{name}.nir", NirOptions(reset=reset, reset_delay=delay))
    found = trace(net, rate_coded(golden["few"].astype(np.int16)))
    key = f"{name}.{reset}.{int(delay)}"
    assert 0.05 < golden[f"{key}.spikes"].mean() < 0.9
    np.testing.assert_array_equal(found.spikes[0], golden[f"{key}.spikes"])
    np.testing.assert_array_equal(found.answer, golden[f"{key}.readout"])


def test_each_reset_gives_other_spikes(golden: Any) -> None:
    """The golden arrays can tell the resets apart, so the test above can fail (when to zero is no matter)."""
    kinds = ("subtract.1", "subtract.0", "zero.1", "none.1")
    for one, other in itertools.combinations(kinds, 2):
        assert (golden[f"exact_ff.{one}.spikes"] != golden[f"exact_ff.{other}.spikes"]).any()


def test_a_trained_net_equals_snntorch(golden: Any) -> None:
    net = load_nir(GOLDEN / "digits_rsnn.nir", NirOptions())
    assert net.encoder == PhaseRate(steps=16, full_scale=16)
    assert not net.notes
    found = trace(net, rate_coded(golden["digits_rsnn.q"].astype(np.int16)))
    np.testing.assert_array_equal(found.spikes[0], golden["digits_rsnn.spikes"])
    np.testing.assert_allclose(found.answer, golden["digits_rsnn.readout"], atol=1e-4)


def test_layers_are_named_and_shaped_after_the_file() -> None:
    lif, readout = load_nir(GOLDEN / "digits_rsnn.nir", NirOptions()).layers
    assert isinstance(lif, FloatLif)
    assert isinstance(readout, FloatReadout)
    assert (lif.name, lif.weight.shape, lif.reset, lif.reset_delay) == ("lif", (48, 64), "subtract", True)
    assert lif.recurrent is not None
    assert lif.recurrent.shape == (48, 48)
    assert (readout.name, readout.weight.shape) == ("out", (10, 48))
    assert set(lif.beta.tolist()) == {0.875}
    assert set(readout.kappa.tolist()) == {0.9375}


# ------------------------------------------------------------------ graphs made here


@dataclass(eq=False)
class Novelty(nir.ir.node.NIRNode):
    """A node that nobody here knows."""

    def __post_init__(self) -> None:
        self.input_type, self.output_type = {"input": None}, {"output": None}


def lif(n: int = 3, **changes: Any) -> Any:
    ones = np.ones(n, np.float32)
    fields = {"tau": ones * 1e-3, "r": ones * 10, "v_leak": ones * 0, "v_threshold": ones, "v_reset": ones * 0}
    return nir.LIF(**(fields | changes))


def graph() -> Graph:
    """input -> fc1 -> lif -> fc2 -> out -> output, as nodes by name, in order."""
    out = lif(2)
    out.metadata = {"role": "readout"}
    return {
        "input": nir.Input(np.array([4])),
        "fc1": nir.Affine(np.full((3, 4), 0.5, np.float32), np.full(3, 0.25, np.float32)),
        "lif": lif(),
        "fc2": nir.Linear(np.ones((2, 3), np.float32)),
        "out": out,
        "output": nir.Output(np.array([2])),
    }


def built(nodes: Graph, *extra: tuple[str, str], beside: Graph | None = None, metadata: Any = None) -> Any:
    edges = [*itertools.pairwise(nodes), *extra]
    facts = {"encoder": "phase-rate", "steps": 8, "full_scale": 16} if metadata is None else metadata
    return nir.NIRGraph(nodes | (beside or {}), edges, metadata=facts, type_check=False)


def test_what_nir_cannot_say_is_assumed_and_noted() -> None:
    net = convert("model.nir", built(graph()), NirOptions())
    hidden = net.layers[0]
    assert isinstance(hidden, FloatLif)
    assert (hidden.reset, hidden.reset_delay) == ("zero", False)
    assert ["reset not stated" in note for note in net.notes] == [True, False]
    assert not convert("model.nir", built(graph()), NirOptions(reset="none", reset_delay=True)).notes


def test_metadata_beats_the_options() -> None:
    nodes = graph()
    nodes["lif"].metadata = {"reset": "subtract", "reset_delay": 1}
    hidden = convert("model.nir", built(nodes), NirOptions(reset="none", reset_delay=False)).layers[0]
    assert isinstance(hidden, FloatLif)
    assert (hidden.reset, hidden.reset_delay) == ("subtract", True)


@pytest.mark.parametrize(("said", "dt", "beta"), [(None, None, 0.9), (None, 2e-4, 0.8), (5e-4, 2e-4, 0.5)])
def test_a_time_step_is_what_the_graph_says_or_the_option(said: float | None, dt: float | None, beta: float) -> None:
    facts = {"encoder": "phase-rate", "steps": 8, "full_scale": 16} | ({} if said is None else {"dt": said})
    hidden = convert("model.nir", built(graph(), metadata=facts), NirOptions(dt=dt)).layers[0]
    assert isinstance(hidden, FloatLif)
    np.testing.assert_allclose(hidden.beta, beta, rtol=1e-6)


def test_a_time_constant_under_the_step_names_the_option() -> None:
    with pytest.raises(ModelError, match=r"tau 0.001 s is under the time step of 0.01 s \(--dt\)"):
        convert("model.nir", built(graph()), NirOptions(dt=0.01))


def test_gain_and_leak_potential_are_folded() -> None:
    nodes = graph()
    nodes["lif"] = lif(r=np.full(3, 20.0), v_leak=np.full(3, 0.5))
    layer = convert("model.nir", built(nodes), NirOptions()).layers[0]
    np.testing.assert_allclose(layer.weight, 1.0)  # 0.5 * r dt / tau = 0.5 * 2
    np.testing.assert_allclose(layer.bias, 0.25 * 2 + 0.1 * 0.5)  # gain * b + (1 - beta) * v_leak


@pytest.mark.parametrize(("r", "gain"), [(1.0, 1.0), (3.0, 3.0), (1e4, 1.0), (5e3, 5e3)])
def test_an_integrator_counts_steps_or_seconds(r: float, gain: float) -> None:
    """r as Norse and Sinabs write it, in steps; SpikingJelly's is one over the step of 1e-4 s."""
    nodes = graph()
    nodes["lif"] = nir.IF(r=np.full(3, r), v_threshold=np.ones(3), v_reset=np.zeros(3))
    np.testing.assert_allclose(convert("model.nir", built(nodes), NirOptions()).layers[0].weight, 0.5 * gain)


def test_a_cuba_lif_without_synaptic_memory_is_a_lif() -> None:
    nodes, ones = graph(), np.ones(3)
    nodes["lif"] = nir.CubaLIF(
        tau_syn=ones * 1e-4, tau_mem=ones * 1e-3, r=ones * 10, v_leak=ones * 0, v_threshold=ones, w_in=ones * 3
    )
    np.testing.assert_allclose(convert("model.nir", built(nodes), NirOptions()).layers[0].weight, 1.5)


def test_subgraphs_are_dissolved_and_pass_their_metadata_on() -> None:
    nodes = graph()
    inner = {"input": nir.Input(np.array([3])), "lif": lif(), "output": nir.Output(np.array([3]))}
    inner_edges = [("input", "lif"), ("lif", "output"), ("lif", "w_rec"), ("w_rec", "lif")]
    nested = nir.NIRGraph(
        inner | {"w_rec": nir.Affine(np.eye(3) + 1, np.full(3, 0.5))}, inner_edges,
        metadata={"reset": "subtract", "reset_delay": 1}, type_check=False,
    )  # fmt: skip
    layer = convert("model.nir", built(nodes | {"lif": nested}), NirOptions()).layers[0]
    assert isinstance(layer, FloatLif)
    assert (layer.name, layer.reset) == ("lif", "subtract")
    np.testing.assert_array_equal(layer.recurrent, np.eye(3) + 1)
    np.testing.assert_allclose(layer.bias, 0.75)


def test_the_option_makes_the_last_lif_a_readout() -> None:
    nodes = graph()
    nodes["out"].metadata = {}
    assert isinstance(convert("model.nir", built(nodes), NirOptions(readout="last")).layers[-1], FloatReadout)
    assert isinstance(convert("model.nir", built(nodes), NirOptions()).layers[-1], FloatLif)


def replaced(**changes: Any) -> Callable[[], Graph]:
    return lambda: graph() | changes


REFUSED: dict[str, tuple[Callable[[], Graph], str]] = {
    "other nodes": (
        replaced(fc1=nir.Delay(np.ones(4)), fc2=Novelty()),
        r"2 nodes are not supported: fc1 \(Delay: train without delays of wires, .*\), fc2 \(Novelty\)",
    ),
    "fast synapse": (
        replaced(lif=nir.CubaLIF(*(np.full(3, v) for v in (1e-5, 1e-3, 10.0, 0.0, 1.0)))),
        "lif: tau_syn 1e-05 s is under the time step of 0.0001 s",
    ),
    "leak potential of a synapse": (
        replaced(lif=nir.CubaLIF(*(np.full(3, v) for v in (1e-3, 1e-3, 10.0, 0.5, 1.0)))),
        "lif: v_leak must be 0 where there is a synaptic current",
    ),
    "fast membrane": (replaced(lif=lif(tau=np.full(3, 1e-5))), "lif: tau 1e-05 s is under the time step of 0.0001 s"),
    "threshold": (replaced(lif=lif(v_threshold=np.arange(3.0))), "lif: v_threshold reaches down to 0, must be above 0"),
    "reset potential": (replaced(lif=lif(v_reset=np.ones(3))), "lif: v_reset must be 0"),
    "nan": (replaced(fc2=nir.Linear(np.full((2, 3), np.nan))), "layer out: weight has 6 values that are not finite"),
    "width": (replaced(fc2=nir.Linear(np.ones((2, 5)))), "fc2 takes 5 values, 3 arrive"),
    "neuron shape": (replaced(lif=lif(7)), r"lif: r has shape \(7,\), the layer has 3 units|lif: tau has shape"),
    "no neuron at the end": (replaced(out=nir.Linear(np.ones((2, 2)))), "is fed by fc2|must be one population|end in"),
}  # fmt: skip


@pytest.mark.parametrize(("nodes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(nodes: Callable[[], Graph], reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as refusal:
        convert("model.nir", built(nodes()), NirOptions())
    assert "\n" not in str(refusal.value)


METADATA: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({}, "the encoder is not stated; give --encoder phase-rate"),
    "unknown": ({"encoder": "latency", "steps": 8, "full_scale": 16}, "the encoder is not stated"),
    "steps": ({"encoder": "phase-rate", "steps": 4000, "full_scale": 16}, "steps"),
    "dt": ({"encoder": "phase-rate", "steps": 8, "full_scale": 16, "dt": -1.0}, "dt -1.0 is no positive number"),
    "scale": ({"encoder": "phase-rate", "steps": 8, "full_scale": 16, "input_scale": np.ones(3)}, "input_scale"),
}


@pytest.mark.parametrize(("metadata", "reason"), METADATA.values(), ids=METADATA)
def test_wrong_graph_metadata_is_refused(metadata: dict[str, Any], reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        convert("model.nir", built(graph(), metadata=metadata), NirOptions())


def test_options_name_the_encoder() -> None:
    options = NirOptions(encoder="phase-rate", steps=4, full_scale=8)
    assert convert("model.nir", built(graph(), metadata={}), options).encoder == PhaseRate(steps=4, full_scale=8)


@pytest.mark.parametrize("facts", [{"reset": "half"}, {"reset": 3}, {"reset_delay": 2}, {"role": "gate"}])
def test_wrong_node_metadata_is_refused(facts: dict[str, Any]) -> None:
    nodes = graph()
    nodes["lif"].metadata = facts
    with pytest.raises(ModelError, match="lif: "):
        convert("model.nir", built(nodes), NirOptions())


def test_more_than_one_way_in_is_refused() -> None:
    nodes = graph()
    with pytest.raises(ModelError, match=r"fc2 adds lif and input; only|fc2 adds input and lif; only"):
        convert("model.nir", built(nodes, ("input", "fc2")), NirOptions())
    wired = built(nodes, ("input", "fc3"), ("fc3", "lif"), beside={"fc3": nodes["fc1"]})
    with pytest.raises(ModelError, match="lif adds several maps, one of analog input; let spikes drive all of them"):
        convert("model.nir", wired, NirOptions(encoder="constant"))
    found = [layer.name for layer in convert("model.nir", wired, NirOptions()).layers]
    assert found == ["fc1", "fc3", "lif.total", "lif", "out"]


def test_a_written_file_reads_back_the_same(tmp_path: Path) -> None:
    nodes = graph()
    nodes["lif"].metadata = {"reset": "subtract", "reset_delay": 1}
    nir.write(tmp_path / "model.nir", built(nodes))
    net, same = load_nir(tmp_path / "model.nir", NirOptions()), convert("model.nir", built(nodes), NirOptions())
    assert (net.name, net.encoder, net.notes) == (same.name, same.encoder, same.notes)
    for one, other in zip(net.layers, same.layers, strict=True):
        assert one.name == other.name
        np.testing.assert_array_equal(one.weight, other.weight)


def damaged(path: Path, rng: np.random.Generator, k: int) -> bytes:
    """Every third one is cut, the others have bytes overwritten, half of them in the file's own structures only."""
    data = bytearray(path.read_bytes())
    if k % 3 == 0:
        return bytes(data[: rng.integers(0, len(data))])
    for at in rng.integers(8, len(data) if k % 2 else 9000, 12):
        data[at] = rng.integers(256)
    return bytes(data)


def test_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    path, rng, refusals = tmp_path / "bad.nir", np.random.default_rng(3), []
    for k in range(18):
        path.write_bytes(damaged(GOLDEN / "exact_rec.nir", rng, k))
        try:
            load_nir(path, NirOptions())
        except ModelError as err:
            refusals.append(str(err))
    assert len(refusals) > 9
    assert not any("\n" in refusal for refusal in refusals)


@pytest.mark.parametrize(
    ("child", "reason"),
    [("import time; time.sleep(60)", "does not end"), ("import os; os.abort()", "SIGABRT")],
    ids=["hangs", "crashes"],
)
def test_a_reader_that_hangs_or_crashes_does_not_take_us_along(
    monkeypatch: pytest.MonkeyPatch, child: str, reason: str
) -> None:
    monkeypatch.setattr(nir_file, "REHEARSAL", child)
    monkeypatch.setattr(nir_file, "READ_SECONDS", 1)
    with pytest.raises(ModelError, match=reason):
        load_nir(GOLDEN / "exact_ff.nir", NirOptions())


@pytest.mark.parametrize(
    "data", [b"", b"\x89HDF\r\n\x1a\n", b"GIF89a", bytes(5000)], ids=["empty", "head", "gif", "zeros"]
)
def test_foreign_files_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "foreign.nir").write_bytes(data)
    with pytest.raises(ModelError, match=r"foreign.nir: is no"):
        load_nir(tmp_path / "foreign.nir", NirOptions())


def test_frames_take_the_scale_that_is_said() -> None:
    """Events of 0 and 1 at scale 1 might be -128, which synapses that keep their current refuse."""
    from exporters.data import Samples
    from exporters.twin import quantise_net

    nodes, ones = graph(), np.ones(3, np.float32)
    nodes["lif"] = nir.CubaLIF(
        tau_syn=ones * 5e-4, tau_mem=ones * 1e-3, r=ones * 10, v_leak=ones * 0, v_threshold=ones, w_in=ones * 5
    )
    facts = {"encoder": "frames", "steps": 6}
    events = np.random.default_rng(2).integers(0, 2, (8, 6, 4)).astype(np.float32)
    samples = Samples(events, np.zeros(8, np.int64))
    for said, given, scale in ((None, events, 1 / 127), (1.0, events, 1.0), (None, 2 * events, 1.0)):
        net = convert("model.nir", built(nodes, metadata=facts), NirOptions(input_scale=said))
        twin = quantise_net(net, replace(samples, x=given))
        assert twin.input.scale == scale
        assert any("--input-scale" in note for note in twin.notes) is (scale != 1.0)
    nodes["lif"] = graph()["lif"]
    assert quantise_net(convert("model.nir", built(nodes, metadata=facts), NirOptions()), samples).input.scale == 1.0
