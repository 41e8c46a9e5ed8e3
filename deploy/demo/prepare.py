"""From two committed model files to two bundles on disk, and what the float models could do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np

from deploy.demo import digits
from deploy.demo.digits import Digits
from edgerun.bundle import Bundle, read_bundle
from edgerun.encode import PhaseCoder
from edgerun.errors import Refused
from edgerun.spec import PhaseRate
from exporters.export import Exported, Options, export
from exporters.float_net import forward
from exporters.nir_import import NirOptions, load_nir

EXAMPLES: Final = Path(__file__).parents[2] / "examples" / "digits"
SPIKING, DENSE = EXAMPLES / "digits_snn.nir", EXAMPLES / "digits_mlp.onnx"


@dataclass(frozen=True)
class Bundles:
    """Both examples, exported; `exported` holds their reports."""

    spiking: Bundle
    dense: Bundle
    exported: dict[str, Exported]
    paths: dict[str, Path]


def make_bundles(folder: Path, factory: Digits) -> Bundles:
    """Export both examples into `folder`, calibrated on the factory's images."""
    calibration = folder / "calibration.npz"
    np.savez(calibration, x=factory.x, y=factory.y)
    exported, paths = {}, {}
    made: tuple[tuple[str, Path, Literal["eprop", "prototypes"]], ...] = (
        ("digits-snn", SPIKING, "eprop"),
        ("digits-mlp", DENSE, "prototypes"),
    )
    for name, model, learn in made:
        if not model.exists():
            raise Refused(f"{model} is not there: the demo runs from a clone of the project")
        options = Options(
            learn=learn, classes=digits.CLASSES[: digits.FACTORY_CLASSES], capacity=len(digits.CLASSES), name=name
        )
        exported[name] = export(model, calibration, options)
        paths[name] = folder / f"{name}.edgb"
        paths[name].write_bytes(exported[name].data)
    spiking, dense = (read_bundle(exported[name].data) for name in ("digits-snn", "digits-mlp"))
    return Bundles(spiking, dense, exported, paths)


def float_accuracy(data: Digits) -> float:
    """What the float spiking model itself gets right on straight images."""
    net = load_nir(SPIKING, NirOptions())
    if not isinstance(net.encoder, PhaseRate):
        raise Refused(f"{SPIKING.name} has no rate code")
    x = data.x.reshape(len(data.x), -1).astype(np.int16)
    spikes = PhaseCoder(net.encoder, (len(x),), net.step_size).encode(x)
    answers = forward(net, spikes).readings[net.layers[-1].name]
    return float((answers[:, : digits.FACTORY_CLASSES].argmax(axis=1) == data.y).mean())
