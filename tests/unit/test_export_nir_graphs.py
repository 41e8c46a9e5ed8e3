"""Graphs of every imported node compute what NIR's equations say, told once more in slow loops, channels first."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

nir = pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.arrays import F32, F64  # noqa: E402
from edgerun.errors import ModelError  # noqa: E402
from edgerun.layers import Lif  # noqa: E402
from edgerun.network import Network  # noqa: E402
from exporters import measure, twin  # noqa: E402
from exporters.data import Samples  # noqa: E402
from exporters.float_net import FloatNet, forward  # noqa: E402
from exporters.nir_import import NirOptions, convert  # noqa: E402
from exporters.nodes import FloatLayer  # noqa: E402

STEPS, SAMPLES, DT = 12, 3, 1e-4
TIE = 1 / 32  # half a step of the weights: sums of them come near no threshold
RNG = np.random.default_rng(5)
IMAGE = (2, 6, 5)


def weights(*shape: int) -> F32:
    """Multiples of 1/16, so that sums are exact in any order."""
    return (np.rint(RNG.normal(0, 0.5, shape) * 16) / 16).astype(np.float32)


def same(value: float, *shape: int) -> F32:
    return np.full(shape, value, np.float32)


def lif(*shape: int, beta: float = 0.75, threshold: float = 1.0, gain: float = 1.0) -> Any:
    tau = DT / (1 - beta)
    return nir.LIF(
        tau=same(tau, *shape),
        r=same(gain * tau / DT, *shape),
        v_leak=same(0, *shape),
        v_threshold=same(threshold + TIE * (threshold > 0), *shape),
    )


def cuba(*shape: int, silent: bool = False) -> Any:
    fields = {"tau_syn": same(2 * DT, *shape), "tau_mem": same(4 * DT, *shape), "r": same(4, *shape)}
    fields |= {"v_leak": same(0, *shape), "w_in": same(2, *shape)}
    return nir.CubaLI(**fields) if silent else nir.CubaLIF(**fields, v_threshold=same(1 + TIE, *shape))


def conv(filters: int, channels: int, **changes: Any) -> Any:
    fields = {"input_shape": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1, "bias": weights(filters)}
    fields |= changes
    return nir.Conv2d(weight=weights(filters, channels // fields["groups"], 3, 2), **fields)


# ------------------------------------------------------------------ NIR's equations, slowly


def convolved(node: Any, x: F64, flat: bool) -> F64:
    """x (N, c, h, w)"""
    w = np.asarray(node.weight, np.float64)
    w = w[:, :, None] if flat else w
    stride, dilation = ((1, node.stride), (1, node.dilation)) if flat else (node.stride, node.dilation)
    down, across = (0, node.padding) if flat else node.padding
    x = np.pad(x, ((0, 0), (0, 0), (down, down), (across, across)))
    kh, kw = w.shape[2:]
    oh = (x.shape[2] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
    ow = (x.shape[3] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
    y = np.zeros((len(x), len(w), oh, ow))
    each = len(w) // node.groups
    for f, i, j in itertools.product(range(len(w)), range(oh), range(ow)):
        first = f // each * w.shape[1]
        for c, r, t in itertools.product(range(w.shape[1]), range(kh), range(kw)):
            y[:, f, i, j] += (
                w[f, c, r, t] * x[:, first + c, i * stride[0] + r * dilation[0], j * stride[1] + t * dilation[1]]
            )
        y[:, f, i, j] += node.bias[f]
    return y


def pooled(node: Any, x: F64) -> F64:
    (kh, kw), (sh, sw) = node.kernel_size, node.stride
    oh, ow = (x.shape[2] - kh) // sh + 1, (x.shape[3] - kw) // sw + 1
    y = np.zeros((*x.shape[:2], oh, ow))
    for i, j in itertools.product(range(oh), range(ow)):
        y[:, :, i, j] = x[:, :, i * sh : i * sh + kh, j * sw : j * sw + kw].sum(axis=(2, 3))
    return y / (kh * kw if isinstance(node, nir.AvgPool2d) else 1)


class Slow:
    """One graph: nodes in order, edges by name; an edge back to an earlier node is one step late."""

    def __init__(self, nodes: dict[str, Any], edges: list[tuple[str, str]]) -> None:
        self.nodes, self.edges = nodes, edges
        self.values: dict[str, F64] = {}
        self.v: dict[str, Any] = {name: 0.0 for name in nodes}
        self.i: dict[str, Any] = {name: 0.0 for name in nodes}
        self.membranes: list[F64] = []

    def step(self, x: F64) -> F64:
        order, before = list(self.nodes), dict(self.values)
        for name, node in self.nodes.items():
            total: Any = x if name == "input" else 0.0
            for a, b in self.edges:
                if b == name:
                    late = order.index(a) >= order.index(b)
                    total = total + (before.get(a, 0.0) if late else self.values[a])
            self.values[name] = self.node(name, node, total)
        return self.values["output"]

    def node(self, name: str, node: Any, x: Any) -> Any:
        match node:
            case nir.Affine() | nir.Linear():
                bias = node.bias if isinstance(node, nir.Affine) else 0
                return (x @ node.weight.T if np.ndim(x) else 0.0) + bias
            case nir.Conv2d():
                return convolved(node, x, False)
            case nir.Conv1d():
                return convolved(node, x[:, :, None], True)[:, :, 0]
            case nir.AvgPool2d() | nir.SumPool2d():
                return pooled(node, x)
            case nir.Scale():
                return x * node.scale
            case nir.Flatten():
                return x.reshape(len(x), -1)
            case nir.Input() | nir.Output() | nir.Delay():
                return x
        return self.neurons(name, node, x)

    def neurons(self, name: str, node: Any, x: Any) -> Any:
        match node:
            case nir.LIF() | nir.LI():
                self.v[name] = self.v[name] + DT / node.tau * (node.v_leak - self.v[name] + node.r * x)
            case nir.CubaLIF() | nir.CubaLI():
                self.i[name] = self.i[name] + DT / node.tau_syn * (node.w_in * x - self.i[name])
                self.v[name] = self.v[name] + DT / node.tau_mem * (node.v_leak - self.v[name] + node.r * self.i[name])
            case nir.IF() | nir.I():
                self.v[name] = self.v[name] + node.r * x
            case nir.Threshold():
                return (x > node.threshold).astype(float)
        if isinstance(node, (nir.LI, nir.CubaLI, nir.I)):
            return self.v[name]
        spikes = self.v[name] > node.v_threshold
        self.v[name] = np.where(spikes, 0, self.v[name])
        return spikes.astype(float)


# ------------------------------------------------------------------ graphs

Nodes = dict[str, Any]


def chain(*nodes: Any, shape: tuple[int, ...] = (8,)) -> tuple[Nodes, list[tuple[str, str]]]:
    named = {"input": nir.Input(np.array(shape))} | {f"n{k}": node for k, node in enumerate(nodes)}
    named |= {"output": nir.Output(np.array([1]))}
    return named, list(itertools.pairwise(named))


def wired(nodes: Nodes, *edges: str, shape: tuple[int, ...] = (8,)) -> tuple[Nodes, list[tuple[str, str]]]:
    named = {"input": nir.Input(np.array(shape))} | nodes | {"output": nir.Output(np.array([1]))}
    return named, [tuple(edge.split(" ")) for edge in edges]  # type: ignore[misc]  # pairs


def channelwise(*shape: int) -> F32:
    return np.broadcast_to(np.linspace(0.5, 1.5, shape[0])[:, None, None], shape).astype(np.float32)


def placewise(*shape: int) -> F32:
    return np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape).astype(np.float32)


def own_thresholds() -> Any:
    node = lif(3, 4, 4)
    node.v_threshold = placewise(3, 4, 4)
    return node


GRAPHS = {
    "two affine": lambda: chain(nir.Affine(weights(6, 8), weights(6)), nir.Affine(weights(5, 6), weights(5)), lif(5)),
    "gain and leak": lambda: chain(
        nir.Linear(weights(5, 8)),
        nir.LIF(tau=same(4 * DT, 5), r=placewise(5) * 4, v_leak=same(0.5, 5), v_threshold=same(1, 5)),
    ),
    "scale before": lambda: chain(nir.Scale(placewise(8)), nir.Affine(weights(5, 8), weights(5)), lif(5)),
    "scale behind": lambda: chain(nir.Affine(weights(5, 8), weights(5)), nir.Scale(placewise(5)), lif(5)),
    "scale alone": lambda: chain(nir.Scale(placewise(8)), lif(8), nir.Linear(weights(4, 8)), lif(4)),
    "no weights": lambda: chain(lif(8, threshold=1.5), nir.Linear(weights(4, 8)), lif(4)),
    "if": lambda: chain(nir.Linear(weights(5, 8)), nir.IF(r=same(1, 5), v_threshold=same(1.25 + TIE, 5))),
    "threshold": lambda: chain(
        nir.Linear(weights(5, 8)), nir.Threshold(same(0.5 + TIE, 5)), nir.Linear(weights(4, 5)), lif(4, threshold=0.25)
    ),
    "above zero": lambda: chain(nir.Affine(weights(5, 8), weights(5) - 0.5), lif(5, threshold=0.0)),
    "cuba": lambda: chain(nir.Affine(weights(5, 8), weights(5)), cuba(5)),
    "cuba li": lambda: chain(
        nir.Linear(weights(6, 8)), lif(6), nir.Affine(weights(4, 6), weights(4)), cuba(4, silent=True)
    ),
    "li": lambda: chain(
        nir.Linear(weights(6, 8)), lif(6), nir.Linear(weights(4, 6)), nir.LI(same(8 * DT, 4), same(8, 4), same(0, 4))
    ),
    "i": lambda: chain(nir.Linear(weights(6, 8)), lif(6), nir.Linear(weights(4, 6)), nir.I(same(0.5, 4))),
    "delay of nothing": lambda: chain(nir.Delay(same(0, 8)), nir.Linear(weights(5, 8)), lif(5)),
    "conv": lambda: chain(
        conv(3, 2, padding=(1, 0)), lif(3, 6, 4), nir.Flatten(None, 0, -1), nir.Affine(weights(4, 72), weights(4)),
        lif(4), shape=IMAGE,
    ),
    "strided, dilated, grouped": lambda: chain(
        conv(4, 2, stride=(2, 1), groups=2), lif(4, 2, 4), conv(3, 4, dilation=(1, 2), padding=(1, 0)), lif(3, 2, 2),
        shape=IMAGE,
    ),
    "sum pool of sums": lambda: chain(
        conv(3, 2), nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), lif(3, 2, 2, threshold=2.0),
        shape=IMAGE,
    ),
    "mean pool of three by three": lambda: chain(
        conv(3, 2, padding=(1, 1)), nir.AvgPool2d(np.array([3, 3]), np.array([3, 3]), np.array([0, 0])),
        lif(3, 2, 2, threshold=0.5), nir.Flatten(None, 0, -1), nir.Linear(weights(4, 12)), lif(4, threshold=0.25),
        shape=IMAGE,
    ),
    "pool of spikes": lambda: chain(
        conv(3, 2), lif(3, 4, 4), nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])),
        conv(2, 3, padding=1), lif(2, 2, 3), shape=IMAGE,
    ),
    "pool of the input": lambda: chain(
        nir.SumPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), conv(3, 2), lif(3, 1, 1), shape=IMAGE
    ),
    "image neurons without weights": lambda: chain(
        nir.AvgPool2d(np.array([2, 2]), np.array([2, 2]), np.array([0, 0])), lif(2, 3, 2), shape=IMAGE
    ),
    "image above zero": lambda: chain(conv(3, 2), lif(3, 4, 4, threshold=0.0), shape=IMAGE),
    "own thresholds": lambda: chain(conv(3, 2), own_thresholds(), shape=IMAGE),
    "channel gains": lambda: chain(conv(3, 2), nir.Scale(channelwise(3, 4, 4)), lif(3, 4, 4), shape=IMAGE),
    "conv1d": lambda: chain(
        nir.Conv1d(None, weights(3, 2, 3), 1, 1, 1, 1, weights(3)), lif(3, 9), nir.Flatten(None, 0, -1),
        nir.Linear(weights(4, 27)), lif(4), shape=(2, 9),
    ),
    "recurrent": lambda: wired(
        {"fc": nir.Linear(weights(5, 8)), "lif": lif(5), "back": nir.Affine(weights(5, 5), weights(5) / 4)},
        "input fc", "fc lif", "lif back", "back lif", "lif output",
    ),
    "residual spikes": lambda: wired(
        {"a": nir.Linear(weights(6, 8)), "x": lif(6), "b": nir.Linear(weights(6, 6)), "y": lif(6),
         "c": nir.Linear(weights(4, 6)), "z": lif(4)},
        "input a", "a x", "x b", "b y", "x c", "y c", "c z", "z output",
    ),
    "two maps": lambda: wired(
        {"a": nir.Linear(weights(6, 8)), "x": lif(6, threshold=0.5), "b": nir.Linear(weights(5, 6)),
         "y": lif(5, threshold=0.5), "c": nir.Linear(weights(4, 5)), "d": nir.Affine(weights(4, 6), weights(4)),
         "z": lif(4, threshold=0.25)},
        "input a", "a x", "x b", "b y", "y c", "x d", "c z", "d z", "z output",
    ),
}  # fmt: skip


def recurrent_image() -> tuple[Nodes, list[tuple[str, str]]]:
    return wired(
        {"conv": conv(3, 2), "lif": lif(3, 4, 4), "back": nir.Scale(placewise(3, 4, 4) / 2)},
        "input conv", "conv lif", "lif back", "back lif", "lif output", shape=IMAGE,
    )  # fmt: skip


GRAPHS["an image onto itself"] = recurrent_image


def imported(name: str) -> tuple[FloatNet, F32, list[F64], Slow]:
    global RNG
    RNG = np.random.default_rng(sum(map(ord, name)))
    nodes, edges = GRAPHS[name]()
    graph = nir.NIRGraph(nodes, edges, metadata={"encoder": "frames", "steps": STEPS}, type_check=False)
    net = convert("model.nir", graph, NirOptions(reset="zero", reset_delay=False))
    shape = tuple(int(n) for n in nodes["input"].input_type["input"])
    x = (RNG.random((STEPS, SAMPLES, *shape)) < 0.5).astype(np.float32)
    slow = Slow(nodes, edges)
    want = [np.asarray(slow.step(moment.astype(np.float64))) for moment in x]
    return net, x, want, slow


def lying(y: F64) -> F64:
    """(N, n) channels last."""
    axes = {4: (0, 2, 3, 1), 3: (0, 2, 1)}.get(y.ndim)
    return (y.transpose(axes) if axes else y).reshape(len(y), -1)


@pytest.mark.parametrize("name", GRAPHS)
def test_the_float_twin_follows_the_equations(name: str) -> None:
    net, x, want, _ = imported(name)
    seen: list[F32] = []

    def watch(layer: FloatLayer, out: F32) -> None:
        if layer is net.layers[-1]:
            seen.append(out)

    forward(net, x.reshape(STEPS, SAMPLES, -1), watch)
    right = np.stack([lying(y) for y in want])
    assert right.any()
    differ = np.abs(np.stack(seen) - right) > 1e-4
    assert differ.mean() < (0.02 if set(np.unique(right)) <= {0.0, 1.0} else 1e-9)  # ties of float32


@pytest.mark.parametrize("name", GRAPHS)
def test_integers_follow_the_float_twin(name: str) -> None:
    net, x, _, _ = imported(name)
    samples = Samples(np.moveaxis(x, 0, 1), np.zeros(SAMPLES, np.int64))
    made = twin.quantise_net(net, samples)
    network = Network(measure.bare_manifest(made), made.tensors, (SAMPLES,))
    network.scores(made.inputs(samples))
    want = forward(net, made.moments(samples)).readings[net.layers[-1].name]
    got = measure.real(network.logits(), made.parts[-1].output)
    assert np.abs(got - want).mean() < 0.2 * max(float(want.std()), 1.0)


def test_analog_input_and_recurrent_spikes_get_a_scale_each() -> None:
    """Values in steps of 1/255 would leave nothing of the input's weights in the exponent that recurrence needs."""
    net, _, _, _ = imported("recurrent")
    real = np.random.default_rng(2).random((40, STEPS, 8)).astype(np.float32)
    samples = Samples(real, np.zeros(len(real), np.int64))
    made = twin.quantise_net(net, samples)
    layer = made.parts[0].layer
    assert isinstance(layer, Lif)
    assert layer.recurrent_shift >= 4
    assert np.abs(made.tensors["lif.input"]).max() > 60
    network = Network(measure.bare_manifest(made), made.tensors, (len(real),))
    network.scores(made.inputs(samples))
    want = forward(net, made.moments(samples)).readings["lif"]
    assert want.std() > 0.5
    assert np.abs(network.logits() - want).mean() < 0.2 * want.std()


def test_exponential_decays_are_read_where_the_graph_says_so() -> None:
    nodes, edges = chain(nir.Linear(weights(5, 8)), lif(5))
    facts = {"encoder": "frames", "steps": STEPS, "decay": "exponential"}
    layer: Any = convert("m.nir", nir.NIRGraph(nodes, edges, metadata=facts, type_check=False), NirOptions()).layers[0]
    np.testing.assert_allclose(layer.beta, np.exp(-0.25), rtol=1e-6)
    np.testing.assert_allclose(layer.weight, nodes["n0"].weight * 4 * (1 - np.exp(-0.25)), rtol=1e-5)
    with pytest.raises(ModelError, match="decay 'half' is neither 'euler' nor 'exponential'"):
        convert("m.nir", nir.NIRGraph(nodes, edges, metadata=facts | {"decay": "half"}, type_check=False), NirOptions())


def loop() -> tuple[Nodes, list[tuple[str, str]]]:
    return wired(
        {"a": nir.Linear(weights(6, 8)), "x": lif(6), "b": nir.Linear(weights(6, 6)), "y": lif(6),
         "c": nir.Linear(weights(6, 6))},
        "input a", "a x", "x b", "b y", "y c", "c x", "y output",
    )  # fmt: skip


REFUSED = {
    "loop": (loop, r"x -> y -> x is a loop|y -> x -> y is a loop"),
    "conv recurrence": (
        lambda: wired({"a": conv(2, 2, padding=1), "x": lif(2, 6, 6), "b": conv(2, 2)}, "input a", "a x", "x b", "b x",
                      "x output", shape=IMAGE),
        "b: convolutional recurrence is not supported; use dense or one-to-one weights",
    ),
    "two convolutions": (
        lambda: chain(conv(3, 2), conv(3, 3), lif(3, 2, 3), shape=IMAGE),
        r"n0 \(Conv2d\) stands between two linear maps",
    ),
    "gain by place": (
        lambda: chain(conv(3, 2), nir.Scale(placewise(3, 4, 4)), lif(3, 4, 4), shape=IMAGE),
        "n1: neurons behind a convolution must have one gain for each channel",
    ),
    "stray": (
        lambda: wired({"a": nir.Linear(weights(6, 8)), "x": lif(6), "b": nir.Linear(weights(6, 8)), "y": lif(6)},
                      "input a", "a x", "input b", "b y", "y output"),
        "x does not lead from the input to the output",
    ),
    "shape": (lambda: chain(conv(3, 2), lif(3, 4, 4), shape=(4, 6, 5)), r"n0 has weights .* 4 channels arrive"),
    "too small": (lambda: chain(conv(3, 2), lif(3, 4, 4), shape=(2, 2, 2)), "n0: no window of its kernel fits"),
}  # fmt: skip


@pytest.mark.parametrize(("graph", "reason"), REFUSED.values(), ids=REFUSED)
def test_graphs_without_a_counterpart_are_refused(graph: Any, reason: str) -> None:
    nodes, edges = graph()
    facts = {"encoder": "frames", "steps": STEPS}
    with pytest.raises(ModelError, match=reason) as refusal:
        convert("model.nir", nir.NIRGraph(nodes, edges, metadata=facts, type_check=False), NirOptions())
    assert "\n" not in str(refusal.value)
