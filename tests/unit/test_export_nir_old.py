"""Files in the form in which NIR 0.1 and 0.2 wrote them, as the published examples lie: read, and right in every spike.

The trees below are built field by field: a LIF neuron as Norse gave it, one as Rockpool did, a Sinabs conv net and the
recurrent Braille nets of snnTorch, flat and with a subgraph. What they compute is told once more in float64, slowly.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from floats import last_outputs

pytest.importorskip("nir", reason="pip install 'edgerun[export]'")
h5py = pytest.importorskip("h5py", reason="pip install 'edgerun[export]'")

from edgerun.arrays import F32, F64  # noqa: E402
from edgerun.bundle import read_bundle  # noqa: E402
from edgerun.errors import ModelError  # noqa: E402
from edgerun.network import Network  # noqa: E402
from exporters import measure, twin  # noqa: E402
from exporters.data import Samples  # noqa: E402
from exporters.export import Options, export  # noqa: E402
from exporters.float_net import FloatNet  # noqa: E402
from exporters.nir_import import NirOptions, load_nir  # noqa: E402

DT = 1e-4
STEPS, SAMPLES = 24, 6
TIE = 1 / 64  # weights are multiples of 1/32, so no sum of them is a threshold
Tree = dict[str, Any]
Edges = list[tuple[str, str]]


def put(group: Any, tree: Tree) -> None:
    for name, value in tree.items():
        if isinstance(value, dict):
            put(group.create_group(name), value)
        elif isinstance(value, str):
            group.create_dataset(name, data=value, dtype=h5py.string_dtype())
        else:
            group.create_dataset(name, data=value)


def written(path: Path, made: tuple[Tree, Edges], version: str | None = "0.2.0") -> Path:
    nodes, edges = made
    with h5py.File(path, "w") as file:
        if version is not None:
            file.create_dataset("version", data=version)
        put(file.create_group("node"), {"type": "NIRGraph", "nodes": nodes, "edges": edges})
    return path


def in_a_row(nodes: Tree) -> tuple[Tree, Edges]:
    return nodes, list(pairwise(nodes))


def short(rng: np.random.Generator, *shape: int, size: float = 0.4) -> F32:
    return (np.rint(rng.normal(0, size, shape) * 32) / 32).astype(np.float32)


def port(kind: str, *shape: int) -> Tree:
    return {"type": kind, "shape": np.array(shape)}


# ------------------------------------------------------------------ the files


def norse_neuron() -> tuple[Tree, Edges]:
    one = np.ones(1, np.float32)
    lif = {"type": "LIF", "tau": 0.0025 * one, "r": one, "v_leak": 0 * one, "v_threshold": 0.1 * one}
    affine = {"type": "Affine", "weight": one[:, None], "bias": 0 * one}
    return in_a_row({"input": port("Input", 1), "0": affine, "1": lif, "output": port("Output", 1)})


def rockpool_neuron() -> tuple[Tree, Edges]:
    """Ports count batch and time; the map has no bias."""
    nodes, _ = norse_neuron()
    linear = {"type": "Linear", "weight": nodes["0"]["weight"]}
    return in_a_row(
        {
            "input": port("Input", 1, 1, 1), "0_LinearTorch": linear, "1_LIFNeuronTorch": nodes["1"],
            "output": port("Output", 1, 1, 1),
        }
    )  # fmt: skip


def sinabs_net(*, batch: bool = False, oldest: bool = False) -> tuple[Tree, Edges]:
    """Conv, IF, pool, conv, IF, flatten, dense, IF, dense, IF: each parameter in the layer's full shape.

    batch: with the axis that NIR does not count, as first exports had it     oldest: without shapes of inputs
    """
    rng, front = np.random.default_rng(7), (1,) * batch

    def conv(filters: int, channels: int, stride: int, shape: tuple[int, int]) -> Tree:
        said = {} if oldest else {"input_shape": np.array(shape)}
        weight = short(rng, filters, channels, 3, 3) + np.float32(1 / 16)
        places = {"stride": (stride, stride), "padding": (1, 1), "dilation": (1, 1), "groups": 1}
        return {"type": "Conv2d", "weight": weight, "bias": np.zeros(filters, np.float32), **places, **said}

    def spiking(*shape: int) -> Tree:
        ones = np.ones((*front, *shape), np.float32)
        return {"type": "IF", "r": ones, "v_threshold": ones * np.float32(1 + TIE)}

    def dense(n: int, inputs: int) -> Tree:
        return {"type": "Affine", "weight": short(rng, n, inputs, size=0.3), "bias": np.zeros(n, np.float32)}

    flatten: Tree = {"type": "Flatten", "start_dim": int(batch), "end_dim": -1}
    if not oldest:
        flatten["input_type"] = np.zeros(4, np.int64) if batch else np.array((6, 2, 2))
    pool = {"type": "SumPool2d", "kernel_size": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    layers = [
        conv(5, 2, 2, (8, 8)), spiking(5, 4, 4), pool, conv(6, 5, 1, (2, 2)), spiking(6, 2, 2), flatten,
        dense(12, 24), spiking(12), dense(4, 12), spiking(4),
    ]  # fmt: skip
    named = {str(k): layer for k, layer in enumerate(layers)}
    return in_a_row({"input": port("Input", *front, 2, 8, 8), **named, "output": port("Output", *front, 4)})


def braille_net(*, bias: bool, subgraph: bool = False, twice: bool = False) -> tuple[Tree, Edges]:
    """12 taxels, recurrent neurons with synaptic currents, 7 letters; float64 beside float32.

    subgraph: with the slip of the published ones, whose edges name "lif" where the node is "lif1"
    twice: with the recurrent edges two times in the file
    """
    rng, n = np.random.default_rng(11), 16

    def dense(rows: int, columns: int) -> Tree:
        tree: Tree = {"type": "Affine" if bias else "Linear", "weight": short(rng, rows, columns)}
        return tree | ({"bias": short(rng, rows, size=0.05)} if bias else {})

    def neurons(count: int, alpha: float, beta: float) -> Tree:
        ones = np.ones(count)
        tau_syn, tau_mem = ones * DT / (1 - alpha), ones * DT / (1 - beta)
        return {
            "type": "CubaLIF", "tau_mem": tau_mem, "tau_syn": tau_syn, "r": tau_mem / DT, "w_in": tau_syn / DT,
            "v_leak": 0 * ones, "v_threshold": ones + TIE,
        }  # fmt: skip

    maps = {"fc1": dense(n, 12), "fc2": dense(7, n)}
    ends = {"lif2": neurons(7, 0.5, 0.75), "input": port("Input", 12), "output": port("Output", 7)}
    cells, back = neurons(n, 0.75, 0.875), dense(n, n)
    if subgraph:
        inner = {"input": port("Input", n), "lif1": cells, "lin": back, "output": port("Output", n)}
        edges = [("input", "lif"), ("lif", "lin"), ("lin", "lif"), ("lif", "output")]
        whole = {"type": "NIRGraph", "nodes": inner, "edges": edges}
        return maps | ends | {"lif1": whole}, list(pairwise(["input", "fc1", "lif1", "fc2", "lif2", "output"]))
    loop = [("lif1.lif", "lif1.w_rec"), ("lif1.w_rec", "lif1.lif")]
    edges = [*pairwise(["input", "fc1", "lif1.lif", "fc2", "lif2", "output"]), *loop * (2 if twice else 1)]
    return maps | ends | {"lif1.lif": cells, "lif1.w_rec": back}, edges


# ------------------------------------------------------------------ what they compute


def after(v: F64, z: F64, threshold: Any, reset: str) -> F64:
    """The membrane behind its spikes."""
    return v * (1 - z) if reset == "zero" else v - z * threshold


def before(v: Any, threshold: Any, reset: str) -> Any:
    """What a step takes before it compares: snnTorch's "subtract" takes the threshold of what is still above it."""
    return (v > threshold) * threshold if reset == "subtract" and np.ndim(v) else 0.0


class SlowSinabs:
    """x (N, 2, 8, 8) a step; integrates, spikes above the threshold, resets in the same step."""

    def __init__(self, nodes: Tree, reset: str) -> None:
        self.layers = [node for name, node in nodes.items() if name.isdigit()]
        self.v: list[Any] = [0.0] * len(self.layers)
        self.reset = reset

    def step(self, x: F64) -> F64:
        for k, layer in enumerate(self.layers):
            match layer["type"]:
                case "Conv2d":
                    x = self.convolved(layer, x)
                case "SumPool2d":
                    x = sum(x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1))
                case "Flatten":
                    x = x.reshape(len(x), -1)
                case "Affine":
                    x = x @ layer["weight"].T.astype(np.float64)
                case "IF":
                    theta = float(layer["v_threshold"].reshape(-1)[0])
                    due = before(self.v[k], theta, self.reset)
                    v = self.v[k] + x - due
                    x = (v > theta).astype(np.float64)
                    self.v[k] = after(v, x - due / theta, theta, self.reset)
        return x

    @staticmethod
    def convolved(layer: Tree, x: F64) -> F64:
        padded, (stride, _) = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1))), layer["stride"]
        size = (x.shape[2] + 2 - 3) // stride + 1
        y = np.zeros((len(x), len(layer["weight"]), size, size))
        for i in range(size):
            for j in range(size):
                seen = padded[:, :, i * stride : i * stride + 3, j * stride : j * stride + 3]
                y[:, :, i, j] = np.einsum("nchw,fchw->nf", seen, layer["weight"].astype(np.float64))
        return y


class SlowBraille:
    """x (N, 12) a step; currents first, then membranes, the recurrence one step late."""

    def __init__(self, nodes: Tree, reset: str) -> None:
        self.fc1, self.fc2, self.back = nodes["fc1"], nodes["fc2"], nodes["lif1.w_rec"]
        self.nodes = (nodes["lif1.lif"], nodes["lif2"])
        self.i: list[Any] = [0.0, 0.0]
        self.v: list[Any] = [0.0, 0.0]
        self.spikes: Any = 0.0
        self.reset = reset

    def step(self, x: F64) -> F64:
        n = len(self.back["weight"])
        before = self.spikes if np.ndim(self.spikes) else np.zeros((len(x), n))
        self.spikes = self.neurons(0, self.mapped(self.fc1, x) + self.mapped(self.back, before))
        return self.neurons(1, self.mapped(self.fc2, self.spikes))

    @staticmethod
    def mapped(node: Tree, x: F64) -> F64:
        return np.asarray(x @ node["weight"].T.astype(np.float64) + node.get("bias", 0.0))

    def neurons(self, k: int, drive: F64) -> F64:
        node = self.nodes[k]
        self.i[k] = self.i[k] + DT / node["tau_syn"] * (node["w_in"] * drive - self.i[k])
        theta = node["v_threshold"]
        due = before(self.v[k], theta, self.reset)
        v = self.v[k] + DT / node["tau_mem"] * (node["v_leak"] - self.v[k] + node["r"] * self.i[k]) - due
        z = (v > theta).astype(np.float64)
        self.v[k] = after(v, z - due / theta, theta, self.reset)
        return z


def events(*shape: int, rate: float = 0.3) -> F32:
    """(steps, N, *shape) of 0 and 1."""
    return (np.random.default_rng(3).random((STEPS, SAMPLES, *shape)) < rate).astype(np.float32)


def counts_of_integers(net: FloatNet, x: F32) -> F64:
    samples = Samples(np.moveaxis(x, 0, 1), np.zeros(x.shape[1], np.int64))
    made = twin.quantise_net(net, samples)
    network = Network(measure.bare_manifest(made), made.tensors, (len(samples),))
    network.scores(made.inputs(samples))
    return np.asarray(measure.real(network.logits(), made.parts[-1].output), np.float64)


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("made", [norse_neuron, rockpool_neuron], ids=["norse", "rockpool"])
def test_one_neuron_spikes_when_the_equation_does(tmp_path: Path, made: Callable[[], tuple[Tree, Edges]]) -> None:
    """The experiment of the published neuron: pulses ever closer to each other, a step 0.1 ms, a pulse adds 0.04."""
    gaps = [6, 15, 4, 3, 0, 2, 1, 2, 0, 1] + [0] * 30
    x = np.concatenate([np.eye(1, 10 * (gap + 1), 10 * gap)[0] for gap in gaps]).astype(np.float32)
    net = load_nir(written(tmp_path / "lif.nir", made(), "0.1.1"), NirOptions(encoder="frames", steps=len(x)))
    assert net.input_shape == (len(x), 1)
    v, want = 0.0, []
    for pulse in x:
        v += 1e-4 / 0.0025 * (pulse - v)
        want.append(float(v > 0.1))
        v *= 1 - want[-1]
    found = last_outputs(net, x[:, None, None])[:, 0, 0]
    assert sum(want) > 5
    assert found.tolist() == want
    assert counts_of_integers(net, x[:, None, None])[0, 0] == sum(want)


@pytest.mark.parametrize("reset", ["zero", "soft", "subtract"])
@pytest.mark.parametrize("form", [{}, {"batch": True}, {"oldest": True}, {"batch": True, "oldest": True}], ids=str)
def test_a_sinabs_conv_net_spikes_as_its_equations(tmp_path: Path, form: dict[str, bool], reset: Any) -> None:
    made = sinabs_net(**form)
    options = NirOptions(encoder="frames", steps=STEPS, reset=reset)
    net = load_nir(written(tmp_path / "cnn.nir", made, None if form.get("oldest") else "0.2.0"), options)
    assert net.input_shape == (STEPS, 2, 8, 8)
    assert any("batch" in note for note in net.notes) is form.get("batch", False)
    x, slow = events(2, 8, 8, rate=0.4), SlowSinabs(made[0], reset)
    want = np.stack([slow.step(step.astype(np.float64)) for step in x])
    assert 0.005 < want.mean() < 0.5
    np.testing.assert_array_equal(last_outputs(net, x), want)
    assert np.abs(counts_of_integers(net, x) - want.sum(axis=0)).mean() < 0.5


@pytest.mark.parametrize("reset", ["zero", "soft", "subtract"])
@pytest.mark.parametrize(
    "form",
    [{"bias": True}, {"bias": False}, {"bias": True, "subgraph": True}, {"bias": False, "twice": True}],
    ids=["bias", "no-bias", "subgraph", "edges-twice"],
)
def test_a_recurrent_braille_net_spikes_as_its_equations(tmp_path: Path, form: dict[str, bool], reset: Any) -> None:
    flat = braille_net(bias=form["bias"])
    options = NirOptions(encoder="frames", steps=STEPS, reset=reset)
    net = load_nir(written(tmp_path / "braille.nir", braille_net(**form)), options)
    x, slow = events(12), SlowBraille(flat[0], reset)
    want = np.stack([slow.step(step.astype(np.float64)) for step in x])
    assert 0.02 < want.mean() < 0.6
    np.testing.assert_array_equal(last_outputs(net, x), want)
    assert np.abs(counts_of_integers(net, x) - want.sum(axis=0)).mean() < 0.5


def test_what_was_mended_is_noted(tmp_path: Path) -> None:
    options = NirOptions(encoder="frames", steps=STEPS, reset="zero", reset_delay=False)
    path = written(tmp_path / "sub.nir", braille_net(bias=True, subgraph=True))
    assert load_nir(path, options).notes == (
        "edges name lif1.lif, which is not there: taken for lif1.lif1, which has no edge",
    )
    path = written(tmp_path / "twice.nir", braille_net(bias=True, twice=True))
    assert load_nir(path, options).notes == ("2 edges are in the file more than once, and count once",)


def test_two_names_without_a_node_are_refused(tmp_path: Path) -> None:
    nodes, edges = norse_neuron()
    path = written(tmp_path / "lost.nir", (nodes, [("in", "0"), ("0", "lif"), ("1", "output")]))
    with pytest.raises(ModelError, match=r"^lost.nir: edge in -> 0: there is no node 'in'$"):
        load_nir(path, NirOptions(encoder="frames", steps=3))
    path = written(tmp_path / "lost.nir", (nodes, [*edges, ("1", "probe")]))
    with pytest.raises(ModelError, match=r"^lost.nir: edge 1 -> probe: there is no node 'probe'$"):
        load_nir(path, NirOptions(encoder="frames", steps=3))


def test_single_values_stand_for_all_neurons(tmp_path: Path) -> None:
    """snnTorch wrote scalars for decays and a vector for thresholds; NIR's own classes want one shape."""
    nodes, edges = braille_net(bias=True)
    options = NirOptions(encoder="frames", steps=STEPS, reset="zero")
    want = last_outputs(load_nir(written(tmp_path / "full.nir", (nodes, edges)), options), events(12))
    for name in ("lif1.lif", "lif2"):
        for part in ("tau_mem", "tau_syn", "r", "w_in", "v_leak"):
            nodes[name][part] = nodes[name][part][0]
    found = load_nir(written(tmp_path / "single.nir", (nodes, edges)), options)
    np.testing.assert_array_equal(last_outputs(found, events(12)), want)


def test_shapes_that_disagree_are_refused(tmp_path: Path) -> None:
    nodes, edges = braille_net(bias=True)
    nodes["lif2"]["r"] = np.ones(3)
    path = written(tmp_path / "bad.nir", (nodes, edges))
    with pytest.raises(ModelError, match=r"^bad.nir: is no sound NIR file \(All parameters must have the same shape"):
        load_nir(path, NirOptions(encoder="frames", steps=STEPS))


def test_a_flatten_of_some_axes_is_refused(tmp_path: Path) -> None:
    nodes, edges = sinabs_net()
    nodes["5"] |= {"start_dim": 0, "end_dim": 1}
    path = written(tmp_path / "bad.nir", (nodes, edges))
    with pytest.raises(ModelError, match=r"5 flattens axes 0 to 1 of \(6, 2, 2\); flatten all to one"):
        load_nir(path, NirOptions(encoder="frames", steps=STEPS))


def test_a_conv_net_of_frames_becomes_a_bundle(tmp_path: Path) -> None:
    """Samples of (steps, channels, height, width), 120 of them: the probe that goes along has five axes."""
    x = (np.random.default_rng(5).random((120, STEPS, 2, 8, 8)) < 0.3).astype(np.uint8)
    np.savez(tmp_path / "data.npz", x=x, y=np.arange(120) % 4)
    options = Options(encoder="frames", steps=STEPS, reset="soft")
    made = export(written(tmp_path / "cnn.nir", sinabs_net()), tmp_path / "data.npz", options)
    assert read_bundle(made.data).probe.x.shape[1:] == (STEPS, 2, 8, 8)
