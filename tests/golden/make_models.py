"""Make the model files that the exporter's tests read, and what their own frameworks compute with them.

    python tests/golden/make_models.py          writes beside itself; seed 7; CPU only

Made with Python 3.11, torch 2.13.0, snntorch 1.0.0, nir 1.0.8, nirtorch 2.6, onnx 1.23.2, scikit-learn 1.9.1 and
numpy 2.4.6. The tests need none of torch, snntorch, nirtorch.

    digits.npz             scikit-learn's bundled digits, x (1797, 8, 8) from 0 to 16, y (1797,)
    digits_mlp.onnx        64-32-10 ReLU on scikit-learn's digits, trained on the even-numbered images
    digits_matmul.onnx     the same weights as MatMul + Add, with Reshape, Dropout and a final Softmax
    digits_rsnn.nir        64-48 recurrent, readout of 10, trained on the same images, metadata set
    exact_ff, exact_rec    untrained nets whose numbers are short binary fractions, so that sums are exact in any order
    golden_spikes.npz      snnTorch's spikes and membranes for all of them
"""

from __future__ import annotations

from pathlib import Path

import nir
import numpy as np
import onnx
import snntorch as snn
import torch
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from snntorch.export_nir import export_to_nir

HERE = Path(__file__).parent
SEED = 7
STEPS, FULL = 16, 16
HIDDEN = 48


def phase_rate(q: np.ndarray) -> np.ndarray:
    """(steps, N, in): phase starts at half of the full scale."""
    phase = np.full(q.shape, FULL // 2)
    train = np.zeros((STEPS, *q.shape), dtype=np.float32)
    for t in range(STEPS):
        phase = phase + q
        train[t] = phase >= FULL
        phase = phase - FULL * (phase >= FULL)
    return train


def train(forward, parameters, x, y, *, epochs: int, rate: float) -> None:
    adam = torch.optim.Adam(parameters, lr=rate)
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            adam.zero_grad()
            torch.nn.functional.cross_entropy(forward(x[rows]), y[rows]).backward()
            adam.step()


def dense_models(x: torch.Tensor, y: torch.Tensor) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), torch.nn.Linear(32, 10))
    train(net, net.parameters(), x, y, epochs=60, rate=3e-3)
    w1, b1, w2, b2 = (p.detach().numpy() for p in net.parameters())
    constants = {"fc1.weight": w1, "fc1.bias": b1, "fc2.weight": w2, "fc2.bias": b2}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "fc1.weight", "fc1.bias"], ["h"], name="fc1", transB=1),
        helper.make_node("Relu", ["h"], ["a"], name="relu"),
        helper.make_node("Gemm", ["a", "fc2.weight", "fc2.bias"], ["scores"], name="fc2", transB=1),
    ]
    save_onnx("digits_mlp", nodes, constants, (8, 8))
    constants = {"m1": w1.T.copy(), "b1": b1, "m2": w2.T.copy(), "b2": b2, "flat_shape": np.array([-1, 64])}
    nodes = [
        helper.make_node("Reshape", ["x", "flat_shape"], ["flat"], name="reshape"),
        helper.make_node("MatMul", ["flat", "m1"], ["h1"], name="matmul1"),
        helper.make_node("Add", ["b1", "h1"], ["h2"], name="add1"),
        helper.make_node("Relu", ["h2"], ["a1"], name="relu"),
        helper.make_node("Dropout", ["a1"], ["a2"], name="dropout"),
        helper.make_node("MatMul", ["a2", "m2"], ["l1"], name="matmul2"),
        helper.make_node("Add", ["l1", "b2"], ["l2"], name="add2"),
        helper.make_node("Softmax", ["l2"], ["scores"], name="softmax"),
    ]
    save_onnx("digits_matmul", nodes, constants, (1, 8, 8))


def save_onnx(name: str, nodes: list, constants: dict, shape: tuple[int, ...]) -> None:
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])],
        [numpy_helper.from_array(np.ascontiguousarray(array), key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    (HERE / f"{name}.onnx").write_bytes(model.SerializeToString())


class Spiking(torch.nn.Module):
    """fc1 -> rlif -> fc2 -> out; `out` is a readout unless it is given a reset."""

    def __init__(self, hidden: int, outputs: int, *, inputs: int, recurrent: bool, threshold: float, **lif) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(inputs, hidden)
        beta = torch.full((hidden,), 0.875)
        if recurrent:
            self.lif = snn.RLeaky(beta, linear_features=hidden, threshold=threshold, init_hidden=True, **lif)
        else:
            self.lif = snn.Leaky(beta, threshold=torch.full((hidden,), threshold), init_hidden=True, **lif)
        self.fc2 = torch.nn.Linear(hidden, outputs)
        self.out = snn.Leaky(
            torch.full((outputs,), 0.9375),
            threshold=torch.full((outputs,), 1.0),
            init_hidden=True,
            reset_mechanism="none",
        )

    def clear(self) -> None:
        for neuron in (self.lif, self.out):
            neuron.reset_mem()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.fc2(self.lif(self.fc1(x))))

    def run(self, spikes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden spikes (steps, N, hidden) and the readout after the last step (N, outputs)."""
        self.clear()
        hidden = []
        for x in spikes:
            hidden.append(self.lif(self.fc1(x)))
            self.out(self.fc2(hidden[-1]))
        return torch.stack(hidden), self.out.mem


def save_nir(name: str, net: Spiking, lif_metadata: dict) -> None:
    net.clear()
    graph = export_to_nir(net, torch.zeros(net.fc1.in_features))
    graph.metadata = {"encoder": "phase-rate", "steps": STEPS, "full_scale": FULL}
    neuron = "lif.lif" if "lif.lif" in graph.nodes else "lif"
    graph.nodes[neuron].metadata = lif_metadata
    graph.nodes["out"].metadata = {"role": "readout"}
    nir.write(HERE / f"{name}.nir", graph)


def shorten(net: Spiking) -> None:
    """Round every weight and bias to a multiple of 1/64."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.round(parameter * 64) / 64)


def every_reset(name: str, recurrent: bool, trains: torch.Tensor) -> dict[str, np.ndarray]:
    """One file without reset metadata, and what snnTorch does with its weights under each reset and delay."""
    golden = {}
    for reset in ("subtract", "zero", "none"):
        for delay in (True, False):
            torch.manual_seed(SEED)
            net = Spiking(
                16, 4, inputs=24, recurrent=recurrent, threshold=0.75, reset_mechanism=reset, reset_delay=delay
            )
            with torch.no_grad():
                net.fc1.weight *= 4
            shorten(net)
            with torch.no_grad():
                hidden, scores = net.run(trains)
            golden[f"{name}.{reset}.{int(delay)}.spikes"] = hidden.numpy().astype(np.uint8)
            golden[f"{name}.{reset}.{int(delay)}.readout"] = scores.numpy()
    save_nir(name, net, {})
    return golden


def main() -> None:
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    digits = load_digits()
    q, labels = digits.data.astype(np.int64), digits.target
    np.savez_compressed(HERE / "digits.npz", x=digits.images.astype(np.uint8), y=labels.astype(np.uint8))
    x, y = torch.tensor(q[::2], dtype=torch.float32), torch.tensor(labels[::2])
    dense_models(x, y)

    net = Spiking(HIDDEN, 10, inputs=64, recurrent=True, threshold=1.0, reset_mechanism="subtract", reset_delay=True)
    trains = torch.tensor(phase_rate(q))
    train(
        lambda rows: net.run(rows.transpose(0, 1))[1],
        net.parameters(),
        trains[:, ::2].transpose(0, 1),
        y,
        epochs=25,
        rate=4e-3,
    )
    save_nir("digits_rsnn", net, {"reset": "subtract", "reset_delay": 1})
    golden = {}
    with torch.no_grad():
        hidden, scores = net.run(trains[:, 1::18])
        golden |= {"digits_rsnn.q": q[1::18].astype(np.uint8), "digits_rsnn.spikes": hidden.numpy().astype(np.uint8),
                   "digits_rsnn.readout": scores.numpy()}  # fmt: skip

    few = np.random.default_rng(SEED).integers(0, FULL + 1, (12, 24))
    for recurrent in (False, True):
        name = "exact_rec" if recurrent else "exact_ff"
        golden |= every_reset(name, recurrent, torch.tensor(phase_rate(few)))
    np.savez_compressed(HERE / "golden_spikes.npz", few=few.astype(np.uint8), **golden)


if __name__ == "__main__":
    main()
