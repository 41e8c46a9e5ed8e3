"""What holds for every test: one thread for numpy, no deadline on a busy machine, a profile that searches for hours
(`make fuzz-properties`), the slow references of `tests/reference` as the package `reference`, the example bundles."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from edgerun.cli import THREADS

os.environ |= {name: "1" for name in THREADS if name not in os.environ}  # before numpy is loaded

import numpy as np
import pytest
from hypothesis import settings

sys.path.append(str(Path(__file__).parent))

from modules import load, load_native

load_native()

settings.register_profile("everyday", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=100_000)
settings.load_profile("everyday")

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with factory.npz (digits 0 to 7, what the examples were trained on) and field.npz (all ten)."""
    pytest.importorskip("sklearn", reason="pip install 'edgerun[demo]'")
    dataset = load(DIGITS / "dataset.py", "digits_dataset")
    folder = tmp_path_factory.mktemp("digits")
    for name, part in zip(("factory", "field"), dataset.load(), strict=True):
        np.savez(folder / f"{name}.npz", x=part.x, y=part.y)
    return folder


def export_example(digits: Path, model: str, extra: str, **options: Any) -> Path:
    """An example network as a bundle beside the data."""
    pytest.importorskip(extra, reason="pip install 'edgerun[export]'")
    from exporters.export import Options, export

    path = (digits / model).with_suffix(".edgb")
    path.write_bytes(export(DIGITS / model, digits / "factory.npz", Options(**options)).data)
    return path


@pytest.fixture(scope="session")
def digits_bundle(digits: Path) -> Path:
    """The spiking example: digits 0 to 7, room for ten classes, learns by e-prop and prototypes."""
    return export_example(digits, "digits_snn.nir", "nir", learn="eprop", classes=tuple("01234567"), capacity=10)


@pytest.fixture(scope="session")
def mlp_bundle(digits: Path) -> Path:
    """The dense example: digits 0 to 7, room for ten classes, learns prototypes."""
    return export_example(digits, "digits_mlp.onnx", "onnxruntime", learn="prototypes", capacity=10)
