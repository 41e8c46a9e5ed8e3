"""One protection at a time: the twin steps as the device does, arms differ in protection alone, the page adds up."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from deploy.demo import digits
from deploy.demo.prepare import make_bundles
from edgerun.bundle import Bundle
from edgerun.kernels.plasticity import decode_importance
from edgerun.learn.learner import Learner
from edgerun.lifetime import new_learner

FOLDER = Path(__file__).parents[2] / "benchmarks/learning"


@pytest.fixture(scope="module")
def consolidation() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("consolidation")
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    factory, _ = digits.load()
    return make_bundles(tmp_path_factory.mktemp("digits"), factory).spiking


@pytest.fixture(scope="module")
def data() -> digits.Split:
    return digits.split(digits.load()[1], 1)


def test_the_twins_first_step_is_the_devices(consolidation: ModuleType, bundle: Bundle, data: digits.Split) -> None:
    device = consolidation.armed(bundle, consolidation.ARMS["plain"])
    learner, twin = new_learner(device), consolidation.Twin(device)
    image, label = data.stream.x[42], (int(data.stream.y[42]) + 1) % 8
    before = {name: shadow.copy() for name, shadow in shadows(learner).items()}
    learner.apply(learner.plan_lesson(image.reshape(-1).astype(np.int16), label, "full"))
    twin.lesson(twin.encode(image), label)
    for name, shadow in shadows(learner).items():
        ours, exact = shadow.astype(np.float64) - before[name], twin.shadow[name] - before[name]
        assert np.abs(exact).max() > 20  # of a step: rounding by up to one hides nothing
        np.testing.assert_allclose(ours, exact, atol=1 + 0.02 * np.abs(exact).max())


def test_the_twin_is_pulled_back_by_what_mattered(
    consolidation: ModuleType, bundle: Bundle, data: digits.Split
) -> None:
    held, free = (
        consolidation.Twin(consolidation.armed(bundle, consolidation.ARMS[name])) for name in ("intelligence", "plain")
    )
    image, label = data.stream.x[42], (int(data.stream.y[42]) + 1) % 8
    for twin in (held, free):
        twin.shadow["lif.input"] += 100
        twin.lesson(twin.encode(image), label)
    share = np.minimum(held.importance["lif.input"] * 2.0**-held.spec.strength, 15 / 16)
    assert 0 < share.max() < 15 / 16
    np.testing.assert_allclose(held.shadow["lif.input"] - free.shadow["lif.input"], -100 * share, atol=1e-6)


def shadows(learner: Learner) -> dict[str, np.ndarray]:
    return {
        name.removeprefix("shadow."): array for name, array in learner.arrays().items() if name.startswith("shadow.")
    }


def test_importance_is_spread_or_measured_with_its_mean_kept(consolidation: ModuleType, bundle: Bundle) -> None:
    arms = {name: consolidation.armed(bundle, consolidation.ARMS[name]).priors for name in ("uniform", "ewc")}
    for name, code in bundle.priors.items():
        mean = decode_importance(code).mean()
        even, fisher = (decode_importance(arms[arm][name]) for arm in ("uniform", "ewc"))
        assert np.ptp(even) == 0
        assert np.ptp(fisher) > mean
        for found in (even, fisher):
            assert found.mean() == pytest.approx(mean, rel=0.15)  # a code has three bits of mantissa
    assert not consolidation.armed(bundle, consolidation.ARMS["plain"]).priors


def test_short_form(consolidation: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    monkeypatch.setattr(sys, "argv", ["consolidation.py", "--short", "-o", str(tmp_path), "--markdown", str(page)])
    assert consolidation.main() == 0
    rows = re.findall(r"^\| (none|plain|intelligence)( \(float\))? \| 1 \| ([\d.]+) ", page.read_text(), re.M)
    found = {name + twin: float(accuracy) for name, twin, accuracy in rows}
    assert found.keys() == {"none", "plain", "plain (float)", "intelligence", "intelligence (float)"}
    assert found["plain"] != found["none"]  # it has learned something, for better or worse
    assert all(12.5 < accuracy <= 100 for accuracy in found.values())
