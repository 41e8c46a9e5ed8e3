"""What a device says of itself: who it is, for its birth message, and how its neurons spike, for telemetry."""

from __future__ import annotations

import numpy as np

from edgerun import __version__
from edgerun.boards import Board
from edgerun.layers.spiking import SPIKING
from edgerun.lifetime import Lifetime
from edgerun.network import Network
from edgerun.telemetry.reporter import Identity


def identity(life: Lifetime, board: Board) -> Identity:
    """Who the device is, with the classes that it knows by now."""
    manifest = life.bundle.manifest
    return Identity(
        bundle=life.bundle.id,
        bundle_name=manifest.name,
        runtime=__version__,
        board=board.name,
        classes=tuple(life.learner.classes),
        capacity=manifest.classes.capacity,
    )


def spike_rate(network: Network) -> float:
    """Share of neurons that spiked in a step of the newest window: the mean over layers that spike, nan without one."""
    layers = [layer.name for layer in network.manifest.layers if isinstance(layer, SPIKING)]
    counts = [network.layers[name].state()["counts"].mean() / network.steps for name in layers]
    return float(np.mean(counts)) if counts else float("nan")
