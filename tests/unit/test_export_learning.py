"""What an exporter gives a learning plan: a temperature that follows the readout, and importance from its samples."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")
pytest.importorskip("nir", reason="pip install 'edgerun[export]'")

from edgerun.bundle import open_bundle, read_bundle
from edgerun.errors import ModelError
from edgerun.lifetime import new_learner
from edgerun.price import memory_plan
from edgerun.spec import Rewiring
from exporters import export as exporting
from exporters import learning
from exporters.calibrate import MINMAX
from exporters.nodes import Affine, FloatReadout, Range


@pytest.mark.parametrize(("size", "halvings"), [(0.1, 0), (0.1, 3), (4.0, 3)])
def test_the_temperature_follows_how_often_the_readout_was_halved(
    size: float, halvings: int, digits_bundle: Path
) -> None:
    layer = FloatReadout(
        "out", np.full((10, 128), size, np.float32), np.zeros(10, np.float32), np.full(10, 0.9, np.float32)
    )
    (part,) = layer.quantise((Affine(1.0, 0),), Range(0.0, 64.0 * 2**halvings))
    found = exporting.readout_halvings(SimpleNamespace(parts=(part,)))
    weight = part.tensors["out.input"][0, 0] * 2.0**-part.layer.weight_exponent
    assert found >= halvings
    assert np.isclose(weight * 2.0**found, size, rtol=0.02)  # the real weight, once the halvings are undone
    plan = learning.learning_plan("eprop", open_bundle(digits_bundle).manifest, found)
    assert plan.rule is not None
    assert plan.rule.temperature_shift == learning.TABLE_STEP - found


def test_priors_are_what_a_pass_over_the_factory_found_and_weights_stay_the_factorys(digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    plan = bundle.manifest.learning.rule
    assert plan is not None
    assert set(bundle.priors) == {rate.tensor for rate in plan.rates}
    learner = new_learner(bundle)
    for name, codes in bundle.priors.items():
        assert (codes > 0).mean() > 0.2
        assert len(np.unique(codes)) > 20
        np.testing.assert_array_equal(learner.arrays()[f"importance.{name}"], codes)
        np.testing.assert_array_equal(learner.arrays()[f"shadow.{name}"], bundle.tensors[name].astype(np.int16) * 256)


GOLDEN = Path(__file__).parents[1] / "golden"


def test_a_profile_is_the_plans_and_its_priors_are_its_own(tmp_path: Path) -> None:
    made = {}
    for profile in ("standard", "small"):
        options = exporting.Options(learn="eprop", profile=profile, capacity=12, calibration=MINMAX)
        made[profile] = read_bundle(exporting.export(GOLDEN / "digits_rsnn.nir", GOLDEN / "digits.npz", options).data)
        assert made[profile].manifest.learning.profile == profile
    priors = [made[profile].priors["lif.input"].astype(int) for profile in made]
    assert (priors[0] != priors[1]).any()
    assert np.corrcoef(*(each.ravel() for each in priors))[0, 1] > 0.9
    assert memory_plan(made["small"]).total_bytes < 0.6 * memory_plan(made["standard"]).total_bytes


def test_a_bundle_may_move_its_synapses_and_its_priors_are_those_of_weights_that_stay() -> None:
    options = exporting.Options(learn="eprop", rewire=True, capacity=12, calibration=MINMAX)
    data = exporting.export(GOLDEN / "digits_rsnn.nir", GOLDEN / "digits.npz", options).data
    bundle = read_bundle(data)
    assert bundle.manifest.learning.rewiring == Rewiring()
    learner = new_learner(bundle)
    for name, codes in bundle.priors.items():
        assert (learner.arrays()[f"importance.{name}"] == codes).all()
        mask = np.unpackbits(learner.arrays()[f"mask.{name}"], axis=1, count=codes.shape[1])
        assert (mask == (bundle.tensors[name] != 0)).all()
        assert codes[mask == 1].any()


@pytest.mark.parametrize("learn", ["none", "prototypes"])
def test_only_what_a_rule_teaches_is_rewired(learn: str) -> None:
    with pytest.raises(
        ModelError, match=f"--rewire moves the synapses that a rule teaches, --learn {learn} has no rule"
    ):
        exporting.Options(learn=learn, rewire=True)


@pytest.mark.parametrize("learn", ["none", "prototypes", "inner-step", "backprop"])
def test_profile_small_is_refused_where_nothing_is_stored_so(learn: str) -> None:
    with pytest.raises(ModelError, match=f"--profile small goes with --learn eprop or eprop-layers, not {learn}"):
        exporting.Options(learn=learn, profile="small")
