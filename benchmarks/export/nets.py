"""The networks of `benchmarks/export`, as their authors draw them: MLPerf Tiny's four, a picture, a motion and a speech
net, and two spiking ones. Float32, batch first; shapes beside each net.
"""

from __future__ import annotations

import itertools

import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

NEVER = 1e6  # a threshold that no membrane reaches: the readout


def mlp() -> nn.Module:
    """(n, 784) -> (n, 10)."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """Convolution that keeps the size up to its stride, batch norm, ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outputs), nn.ReLU()]


def fashion_cnn() -> nn.Module:
    """(n, 1, 28, 28) -> (n, 10)."""
    return nn.Sequential(
        *convolution(1, 16, 3),
        nn.MaxPool2d(2),
        *convolution(16, 32, 3),
        nn.MaxPool2d(2),
        *convolution(32, 64, 3),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 7 * 7, 10),
    )


def separable(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Depthwise 3 x 3, then pointwise, each with batch norm and ReLU."""
    return convolution(inputs, inputs, 3, stride=stride, groups=inputs) + convolution(inputs, outputs, 1)


def ds_cnn() -> nn.Module:
    """MLPerf Tiny keyword spotting, (n, 1, 49, 10) -> (n, 10)."""
    return nn.Sequential(
        nn.Conv2d(1, 64, (10, 4), stride=2, padding=(5, 1), bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Dropout(0.2),
        *(module for _ in range(4) for module in separable(64, 64)),
        nn.Dropout(0.4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


class Gated(nn.Module):
    """GRU or LSTM over a window, its last output classified: (n, T, 6) -> (n, 6)."""

    def __init__(self, cell: type[nn.GRU] | type[nn.LSTM], hidden: int) -> None:
        super().__init__()
        self.cell = cell(6, hidden, batch_first=True)
        self.classify = nn.Linear(hidden, 6)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.cell(x)
        return self.classify(outputs[:, -1])


class Residual(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, which is 1 x 1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(*convolution(inputs, outputs, 3, stride=stride))
        self.second = nn.Sequential(*convolution(outputs, outputs, 3)[:-1])
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(x)) + self.shortcut(x))


def resnet8() -> nn.Module:
    """MLPerf Tiny image classification, (n, 3, 32, 32) -> (n, 10)."""
    return nn.Sequential(
        *convolution(3, 16, 3),
        Residual(16, 16, 1),
        Residual(16, 32, 2),
        Residual(32, 64, 2),
        nn.AvgPool2d(8),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def mobilenet_v1() -> nn.Module:
    """MLPerf Tiny visual wake words, width 0.25, (n, 3, 96, 96) -> (n, 2)."""
    widths = [(8, 16, 1), (16, 32, 2), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2)]
    widths += [(128, 128, 1)] * 5 + [(128, 256, 2), (256, 256, 1)]
    return nn.Sequential(
        *convolution(3, 8, 3, stride=2),
        *(module for row in widths for module in separable(*row)),
        nn.AvgPool2d(3),
        nn.Flatten(),
        nn.Linear(256, 2),
    )


def autoencoder() -> nn.Module:
    """MLPerf Tiny anomaly detection, (n, 640) -> (n, 640)."""
    widths = (640, 128, 128, 128, 128, 8, 128, 128, 128, 128)
    hidden = [
        module
        for inputs, outputs in itertools.pairwise(widths)
        for module in (nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU())
    ]
    return nn.Sequential(*hidden, nn.Linear(128, 640))


class Residual1d(nn.Module):
    """Two convolutions in time, hard-swish between them, added to what came in, clipped to [0, 6]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv1d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm1d(channels),
            nn.Hardswish(),
            nn.Conv1d(channels, channels, 3, padding=2, dilation=2, bias=False),
            nn.BatchNorm1d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu6(x + self.inner(x))


def speech_conv1d() -> nn.Module:
    """(n, 40, 49) -> (n, 10): mel bands are channels, convolution runs in time."""
    return nn.Sequential(
        nn.Conv1d(40, 48, 5, padding=2, bias=False),
        nn.BatchNorm1d(48),
        nn.ReLU6(),
        Residual1d(48),
        nn.MaxPool1d(2),
        nn.Conv1d(48, 64, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm1d(64),
        nn.Hardswish(),
        Residual1d(64),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(64, 10),
    )


def leaky(shape: tuple[int, ...], beta: float, *, reset: str, delay: bool) -> snn.Leaky:
    """snnTorch's LIF; every parameter has the population's shape because NIR wants it so."""
    return snn.Leaky(
        beta=torch.full(shape, beta),
        threshold=torch.ones(shape),
        reset_mechanism=reset,
        reset_delay=delay,
        spike_grad=surrogate.fast_sigmoid(slope=5),
    )


def readout(classes: int, kappa: float) -> snn.Leaky:
    """Leaky integrators that never spike."""
    return snn.Leaky(
        beta=torch.full((classes,), kappa), threshold=torch.full((classes,), NEVER), reset_mechanism="none"
    )


class RecurrentSpiking(nn.Module):
    """Recurrent LIF on mel currents: (n, 40, 32) -> last membrane of the readout (n, 10), mean spikes (hidden)."""

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        self.dense = nn.Linear(32, hidden)
        self.lif = snn.RLeaky(
            beta=torch.full((hidden,), 0.9),
            linear_features=hidden,
            threshold=torch.ones(hidden),
            reset_mechanism="subtract",
            spike_grad=surrogate.fast_sigmoid(slope=5),
        )
        self.lif.recurrent = nn.Linear(hidden, hidden, bias=False)
        self.classify = nn.Linear(hidden, 10)
        self.readout = readout(10, 0.95)
        nn.init.normal_(self.lif.recurrent.weight, 0, 0.2 / hidden**0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        spikes, membrane = self.lif.init_rleaky()
        logit, total = self.readout.init_leaky(), torch.zeros(())
        for current in self.dense(x).unbind(1):
            spikes, membrane = self.lif(current, spikes, membrane)
            _, logit = self.readout(self.classify(spikes), logit)
            total = total + spikes
        return logit, total.mean(0)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One time step from rest, which is what NIR describes."""
        spikes, _ = self.lif(self.dense(x), *self.lif.init_rleaky())
        return self.readout(self.classify(spikes), self.readout.init_leaky())


class ConvSpiking(nn.Module):
    """Convolutional LIF on event frames: (n, T, 2, 34, 34) -> last membrane of the readout (n, 10), mean spikes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(2, 12, 5), nn.AvgPool2d(2)
        self.lif1 = leaky((12, 15, 15), 0.8, reset="zero", delay=False)
        self.conv2, self.pool2 = nn.Conv2d(12, 32, 5), nn.AvgPool2d(2)
        self.lif2 = leaky((32, 5, 5), 0.8, reset="zero", delay=False)
        self.flatten = nn.Flatten()
        self.classify = nn.Linear(800, 10)
        self.readout = readout(10, 0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps = x.shape[1]

        def over_frames(stage: nn.Module, frames: Tensor) -> Tensor:
            return stage(frames.flatten(0, 1)).unflatten(0, (-1, steps))

        first = spike(self.lif1, over_frames(nn.Sequential(self.conv1, self.pool1), x))
        second = spike(self.lif2, over_frames(nn.Sequential(self.conv2, self.pool2), first))
        logit = self.readout.init_leaky()
        for current in self.classify(second.flatten(2)).unbind(1):
            _, logit = self.readout(current, logit)
        return logit, torch.cat([first.sum(1).mean(0).flatten(), second.sum(1).mean(0).flatten()])

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One time step from rest, which is what NIR describes."""
        first, _ = self.lif1(self.pool1(self.conv1(x)), self.lif1.init_leaky())
        second, _ = self.lif2(self.pool2(self.conv2(first)), self.lif2.init_leaky())
        return self.readout(self.classify(self.flatten(second)), self.readout.init_leaky())


class ThreeConvSpiking(nn.Module):
    """Three convolutional LIF layers, pools 2-1-2: (n, T, 2, 34, 34) -> last membrane of the readout (n, 10), spikes.

    The net of the mixed-precision paper, narrower: as there, the last convolution holds two thirds of the weights.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool1 = nn.Conv2d(2, 16, 5), nn.AvgPool2d(2)
        self.lif1 = leaky((16, 15, 15), 0.8, reset="zero", delay=False)
        self.conv2 = nn.Conv2d(16, 32, 5)
        self.lif2 = leaky((32, 11, 11), 0.8, reset="zero", delay=False)
        self.conv3, self.pool3 = nn.Conv2d(32, 32, 5), nn.AvgPool2d(2)
        self.lif3 = leaky((32, 3, 3), 0.8, reset="zero", delay=False)
        self.flatten = nn.Flatten()
        self.classify = nn.Linear(288, 10)
        self.readout = readout(10, 0.95)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        steps, counts = x.shape[1], []
        for synapse, neurons in (
            (nn.Sequential(self.conv1, self.pool1), self.lif1),
            (self.conv2, self.lif2),
            (nn.Sequential(self.conv3, self.pool3), self.lif3),
        ):
            x = spike(neurons, synapse(x.flatten(0, 1)).unflatten(0, (-1, steps)))
            counts.append(x.sum(1).mean(0).flatten())
        logit = self.readout.init_leaky()
        for current in self.classify(x.flatten(2)).unbind(1):
            _, logit = self.readout(current, logit)
        return logit, torch.cat(counts)

    def step(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """One time step from rest, which is what NIR describes."""
        x, _ = self.lif1(self.pool1(self.conv1(x)), self.lif1.init_leaky())
        x, _ = self.lif2(self.conv2(x), self.lif2.init_leaky())
        x, _ = self.lif3(self.pool3(self.conv3(x)), self.lif3.init_leaky())
        return self.readout(self.classify(self.flatten(x)), self.readout.init_leaky())


def spike(neurons: snn.Leaky, currents: Tensor) -> Tensor:
    """Spikes (n, T, ...) of one population that starts at rest, for currents of the same shape."""
    membrane, train = neurons.init_leaky(), []
    for current in currents.unbind(1):
        spikes, membrane = neurons(current, membrane)
        train.append(spikes)
    return torch.stack(train, 1)
