"""One online update, of a dense net and of a recurrent spiking one: ours beside torch, Avalanche and snnTorch.

Ours is `Learner`'s own update of one sample: run, record, error, factors, stochastic rounding, synaptic intelligence,
weights written. A `lesson` is the same with all that a device adds: a record for the journal, the answer before it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import spiking
import torch

sys.path.append(str(Path(__file__).parents[1] / "learning"))

from chains import bundle_of, integers, quantised, rules

from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.kernels.native import Backend
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner
from edgerun.network import Network
from edgerun.rules import ALL
from edgerun.spec import EProp, Guard, Intelligence, LearningPlan, PlasticRate
from exporters import learning_dense

SIZES: Final = (64, 128, 10)
RATE: Final = 0.02
SAMPLES: Final = 256
AVALANCHE_SAMPLES: Final = 200

Call = Callable[[], object]


def samples(inputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    return rng.random((SAMPLES, inputs)).astype(np.float32), rng.integers(0, 10, SAMPLES)


# ------------------------------------------------------------------ a dense net


def dense_bundle(*, si: bool) -> Bundle:
    """64-128-10 from random weights, by backpropagation."""
    layers = integers(rules.Net.he(SIZES, np.random.default_rng(1)), (4.0, 64.0), (2.0, 1.5))
    rule = learning_dense.backprop(*layers, RATE)
    notes = learning_dense.intelligence(rule, *layers, 1e-3, 1e-3) if si else None
    x, label = samples(SIZES[0])
    return bundle_of(layers, rule, quantised(x[:8]), label[:8], intelligence=notes)


def update(learner: Learner, x: np.ndarray, label: np.ndarray) -> Call:
    """One window learned from, one sample after the other."""
    at, labels = iter(range(1 << 60)), label.tolist()
    rows = list(x)

    def call() -> object:
        k = next(at) % len(rows)
        return learner._learn(rows[k], labels[k], ALL)

    return call


def lesson(learner: Learner, x: np.ndarray, label: np.ndarray) -> Call:
    at, labels, rows = iter(range(1 << 60)), label.tolist(), list(x)

    def call() -> object:
        k = next(at) % len(rows)
        return learner.apply(learner.plan_lesson(rows[k], labels[k], "full"))

    return call


def ours(backend: Backend, *, si: bool, kind: Callable[[Learner, Any, Any], Call] = update) -> Call:
    x, label = samples(SIZES[0])
    return kind(new_learner(dense_bundle(si=si), backend=backend), quantised(x), label)


class TorchSi:
    """Zenke's synaptic intelligence around torch's SGD, written with foreach operations where torch has them."""

    def __init__(self, *, si: bool) -> None:
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
        self.parameters, self.si = list(self.net.parameters()), si
        self.step = torch.optim.SGD(self.parameters, lr=RATE)
        self.omega, self.importance = ([torch.zeros_like(p) for p in self.parameters] for _ in range(2))
        self.anchor = [p.detach().clone() for p in self.parameters]
        x, label = samples(64)
        self.x, self.label = torch.from_numpy(x)[:, None], torch.from_numpy(label)[:, None]
        self.at = iter(range(1 << 60))

    def update(self) -> None:
        k = next(self.at) % SAMPLES
        self.step.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(self.net(self.x[k]), self.label[k]).backward()
        if not self.si:
            self.step.step()
            return
        with torch.no_grad():
            task = [p.grad.clone() for p in self.parameters]
            before = [p.clone() for p in self.parameters]
            for p, importance, anchor in zip(self.parameters, self.importance, self.anchor, strict=True):
                p.grad.add_(importance * (p - anchor), alpha=2e-3)
            self.step.step()
            for omega, g, p, old in zip(self.omega, task, self.parameters, before, strict=True):
                omega.sub_(g * (p - old))


def _load_torchvision() -> None:
    """Avalanche imports it. Where its own operators do not load (a torch without CUDA), nobody here misses them."""
    kept, torch.library.register_fake = torch.library.register_fake, lambda *_, **__: lambda function: function
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = kept


def avalanche(*, si: bool) -> Call:
    """A strategy's epoch of `AVALANCHE_SAMPLES` batches of one; the call is the epoch."""
    _load_torchvision()
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training.plugins import SynapticIntelligencePlugin
    from avalanche.training.supervised import Naive
    from torch.utils.data import TensorDataset

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
    x, label = samples(64)
    pairs = TensorDataset(torch.from_numpy(x[:AVALANCHE_SAMPLES]), torch.from_numpy(label[:AVALANCHE_SAMPLES]))
    pairs.targets = label[:AVALANCHE_SAMPLES].tolist()
    from avalanche.benchmarks import benchmark_from_datasets

    stream = benchmark_from_datasets(train=[as_classification_dataset(pairs)]).train_stream
    plugins = [SynapticIntelligencePlugin(si_lambda=1e-3)] if si else []
    strategy = Naive(
        model=net, optimizer=torch.optim.SGD(net.parameters(), lr=RATE), train_mb_size=1, train_epochs=1,
        plugins=plugins, evaluator=None,
    )  # fmt: skip
    return lambda: strategy.train(stream[0], num_workers=0)


def dense() -> Iterator[tuple[str, Call, int]]:
    """(name, call, updates of a call)"""
    for si in (False, True):
        notes = ", with synaptic intelligence" if si else ""
        yield f"edgerun, numpy{notes}", ours("numpy", si=si), 1
        yield f"edgerun, C{notes}", ours("native", si=si), 1
        yield f"edgerun, C, whole lesson{notes}", ours("native", si=si, kind=lesson), 1
        yield f"torch SGD{notes}", TorchSi(si=si).update, 1
        yield f"Avalanche{notes}", avalanche(si=si), AVALANCHE_SAMPLES


# ------------------------------------------------------------------ a recurrent spiking net


def eprop_bundle(*, si: bool) -> Bundle:
    """The net of `spiking`, every weight plastic, by e-prop over its window of 100 steps."""
    rates = tuple(
        PlasticRate(tensor=name, eta=1, shift=shift, max_step=4096)
        for name, shift in (("hidden.input", 20), ("hidden.recurrent", 20), ("out.input", 13))
    )
    rule = EProp(layer="hidden", readout="out", rates=rates, chunk_steps=spiking.STEPS, gradient_shift=8)
    plan = LearningPlan(rule=rule, guard=Guard(every=4096), intelligence=Intelligence(strength=20, damping=1024))
    manifest = spiking.manifest(learning=plan if si else msgspec.structs.replace(plan, intelligence=None))
    tensors = spiking.tensors()
    rng = np.random.default_rng(6)
    x = (rng.random((8, spiking.STEPS, spiking.INPUTS)) < spiking.RATE).astype(np.int8)
    network = Network(manifest, tensors)
    scores = np.stack([network.infer(row.reshape(-1).astype(np.int16)).scores for row in x])
    return read_bundle(
        pack(manifest, tensors, selftest=Selftest(x, scores), probe=Probe(x, np.arange(8, dtype=np.int32)))
    )


def eprop(backend: Backend, *, si: bool) -> Call:
    rng = np.random.default_rng(7)
    shape = (16, spiking.STEPS * spiking.INPUTS)
    x = (rng.random(shape) < spiking.RATE).astype(np.int16)
    return update(new_learner(eprop_bundle(si=si), backend=backend), x, rng.integers(0, spiking.OUTPUTS, 16))


def torch_eprop() -> Call:
    """e-prop in torch, in floats, as its authors write it: a filtered trace a synapse, a step of SGD a window."""
    torch.manual_seed(0)
    n, m, k, decay = spiking.HIDDEN, spiking.INPUTS, spiking.OUTPUTS, float(np.exp(-1 / 20))
    w_in, w_rec, w_out = torch.randn(m, n) * 0.1, torch.randn(n, n) * 0.02, torch.randn(n, k) * 0.1
    x, label = torch.from_numpy(spiking.spikes()), 3

    def window() -> None:
        v, z, y = torch.zeros(n), torch.zeros(n), torch.zeros(k)
        trace_in, trace_rec = torch.zeros(m), torch.zeros(n)
        e_in, e_rec, bar = torch.zeros(m, n), torch.zeros(n, n), torch.zeros(n)
        g_in, g_rec, g_out = torch.zeros(m, n), torch.zeros(n, n), torch.zeros(n, k)
        for t in range(spiking.STEPS):
            trace_rec = decay * trace_rec + z
            v = decay * v + x[t] @ w_in + z @ w_rec - z
            psi = 0.3 * torch.clamp(1 - (v - 1).abs(), min=0)
            z = (v >= 1).float()
            y = decay * y + z @ w_out
            trace_in = decay * trace_in + x[t]
            bar = decay * bar + z
            e_in = decay * e_in + torch.outer(trace_in, psi)
            e_rec = decay * e_rec + torch.outer(trace_rec, psi)
            error = torch.softmax(y, 0)
            error[label] -= 1
            signal = w_out @ error
            g_in += signal * e_in
            g_rec += signal * e_rec
            g_out += torch.outer(bar, error)
        w_in.sub_(1e-5 * g_in)
        w_rec.sub_(1e-5 * g_rec)
        w_out.sub_(1e-5 * g_out)

    def call() -> None:
        with torch.inference_mode():
            window()

    return call


def snntorch_bptt() -> Call:
    """snnTorch through time: forward over the window, backward, a step of SGD."""
    import snntorch as snn

    torch.manual_seed(0)
    x, label = torch.from_numpy(spiking.spikes())[:, None], torch.tensor([3])
    into, mix = torch.nn.Linear(spiking.INPUTS, spiking.HIDDEN), torch.nn.Linear(spiking.HIDDEN, spiking.OUTPUTS)
    hidden = snn.RLeaky(beta=0.95, linear_features=spiking.HIDDEN)
    out = snn.Leaky(beta=0.95, reset_mechanism="none")
    parameters = [p for part in (into, mix, hidden) for p in part.parameters()]
    step = torch.optim.SGD(parameters, lr=1e-3)

    def call() -> None:
        spk, mem = hidden.init_rleaky()
        level = out.init_leaky()
        for moment in x:
            spk, mem = hidden(into(moment), spk, mem)
            _, level = out(mix(spk), level)
        step.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(level.reshape(1, -1), label).backward()
        step.step()

    return call


def recurrent() -> Iterator[tuple[str, Call, int]]:
    """(name, call, steps of a call)"""
    for si in (False, True):
        notes = ", with synaptic intelligence" if si else ""
        for name, backend in (("numpy", "numpy"), ("C", "native")):
            yield f"edgerun, {name}, e-prop{notes}", eprop(backend, si=si), spiking.STEPS  # type: ignore[arg-type]  # a literal
    yield "torch, e-prop", torch_eprop(), spiking.STEPS
    yield "snnTorch, through time", snntorch_bptt(), spiking.STEPS
