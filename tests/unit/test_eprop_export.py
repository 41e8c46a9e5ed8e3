"""`--learn eprop-layers`: two spiking layers and a readout become a bundle whose layers all learn."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from edgerun import cli
from edgerun.bundle import open_bundle
from edgerun.errors import ModelError
from edgerun.lifetime import new_learner
from edgerun.spec import EProp

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
nir = pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from exporters import learning  # noqa: E402

GOLDEN = Path(__file__).parents[1] / "golden"


def lif(n: int, role: str = "") -> "nir.LIF":
    ones = np.ones(n, np.float32)
    node = nir.LIF(tau=5e-3 * ones, r=5 * ones, v_leak=0 * ones, v_threshold=ones, v_reset=0 * ones)
    if role:
        node.metadata = {"role": role}
    return node


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.nir, 64-40-30-10 and untrained, and the digits that it is calibrated on."""
    place, rng = tmp_path_factory.mktemp("layers"), np.random.default_rng(3)

    def weights(rows: int, columns: int, gain: float) -> "nir.Linear":
        return nir.Linear((gain * rng.normal(0.3, 1, (rows, columns)) / np.sqrt(columns)).astype(np.float32))

    nodes = {
        "input": nir.Input(np.array([64])), "fc1": weights(40, 64, 1.5), "low": lif(40), "fc2": weights(30, 40, 3.0),
        "high": lif(30), "fc3": weights(10, 30, 0.5), "out": lif(10, "readout"), "output": nir.Output(np.array([10])),
    }  # fmt: skip
    names = list(nodes)
    nir.write(place / "model.nir", nir.NIRGraph(nodes, list(pairwise(names))))
    digits = np.load(GOLDEN / "digits.npz")
    np.savez(place / "digits.npz", x=digits["x"][:300], y=digits["y"][:300])
    return place


def export(folder: Path, learn: str) -> Path:
    out = folder / f"{learn}.edgb"
    arguments = ["export", str(folder / "model.nir"), "--calibrate", str(folder / "digits.npz"), "-o", str(out)]
    arguments += ["--encoder", "phase-rate", "--steps", "16", "--full-scale", "16", "--learn", learn]
    assert cli.main([*arguments, "--capacity", "10", "--report", str(folder / "report.json")]) == 0
    return out


def test_all_layers_learn_from_the_first_lessons_on(folder: Path) -> None:
    bundle = open_bundle(export(folder, "eprop-layers"))
    rule = bundle.manifest.learning.rule
    assert isinstance(rule, EProp)
    assert (rule.hidden, rule.layer, rule.feedback) == (("low",), "high", "symmetric")
    matrix = bundle.tensors["low.feedback"].astype(int)
    assert matrix.shape == (40, 10)
    assert abs(matrix.mean()) < 8
    assert 45 < matrix.std() < 60
    assert (matrix == learning.feedback(bundle.manifest)["low.feedback"]).all()
    learner = new_learner(bundle)
    probe = bundle.probe.x.reshape(len(bundle.probe.x), -1).astype(np.int16)
    for x, label in zip(probe[:10], bundle.probe.label[:10], strict=True):
        learner.apply(learner.plan_lesson(x, int(label), "full"))
    for tensor in rule.tensors:
        assert (learner.arrays()[f"shadow.{tensor}"] != 256 * bundle.tensors[tensor].astype(int)).any(), tensor
    assert (learner.network.tensors["low.feedback"] == bundle.tensors["low.feedback"]).all()


def test_eprop_alone_teaches_the_last_layer_and_brings_no_matrix(folder: Path) -> None:
    bundle = open_bundle(export(folder, "eprop"))
    rule = bundle.manifest.learning.rule
    assert isinstance(rule, EProp)
    assert rule.layers == ("high",)
    assert not [name for name in bundle.tensors if name.endswith(".feedback")]


def test_one_spiking_layer_is_refused(digits_bundle: Path) -> None:
    with pytest.raises(ModelError, match="needs Lif layers under lif; there are none"):
        learning.learning_plan("eprop-layers", open_bundle(digits_bundle).manifest)
    with pytest.raises(ModelError, match="is none of none, prototypes, eprop, eprop-layers, inner-step"):
        learning.learning_plan("all", open_bundle(digits_bundle).manifest)
