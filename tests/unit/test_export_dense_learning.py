"""`--learn` for chains of dense layers: what is exported answers as the float model does, and learns on the device."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="pip install 'edgerun[export]'")

from edgerun.arrays import AnyArray
from edgerun.bundle import Bundle, read_bundle
from edgerun.errors import ModelError
from edgerun.lifetime import new_learner
from edgerun.spec import MeanQuotient
from exporters import data
from exporters.export import Options, export
from exporters.float_net import FloatNet
from exporters.learning_dense import DENSE, plastic_net
from exporters.nodes import Affine, FloatDense, FloatUnary

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module", params=DENSE)
def bundle(request: pytest.FixtureRequest) -> Bundle:
    options = Options(learn=request.param, head="logits")
    return read_bundle(export(GOLDEN / "digits_mlp.onnx", GOLDEN / "digits.npz", options).data)


@pytest.fixture(scope="module")
def images() -> tuple[AnyArray, AnyArray]:
    with np.load(GOLDEN / "digits.npz") as file:
        return file["x"].astype(np.float64), file["y"].astype(np.int64)


def integers(bundle: Bundle, x: AnyArray) -> AnyArray:
    return np.clip(np.rint(x / bundle.manifest.input.scale), -128, 127).astype(np.int16).reshape(len(x), -1)


def test_it_answers_as_the_float_model_and_learns_a_moved_sensor(
    bundle: Bundle, images: tuple[AnyArray, AnyArray]
) -> None:
    provenance = bundle.manifest.provenance
    assert provenance.integer_accuracy is not None
    assert provenance.float_accuracy is not None
    assert provenance.integer_accuracy > provenance.float_accuracy - 0.02
    x, y = integers(bundle, np.roll(images[0], 1, axis=2)), images[1]
    clean = integers(bundle, images[0])
    learner = new_learner(bundle)
    before = (learner.scores(x[600:]).argmax(axis=1) == y[600:]).mean()
    for row, label in zip(x[:120], y[:120], strict=True):
        learner.apply(learner.plan_lesson(row, int(label), "full"))
    after = (learner.scores(x[600:]).argmax(axis=1) == y[600:]).mean()
    assert after > before + 0.03
    assert (learner.scores(clean[600:]).argmax(axis=1) == y[600:]).mean() > 0.85


def test_answers_have_room_to_grow(bundle: Bundle, images: tuple[AnyArray, AnyArray]) -> None:
    """Logits grow with every lesson, and two that both end at 127 tie."""
    scores = new_learner(bundle).scores(integers(bundle, images[0]))
    assert 127 / 6 < np.abs(scores).max() < 127 / 3


def test_rules_bring_what_they_need(bundle: Bundle) -> None:
    learning, tensors = bundle.manifest.learning, bundle.tensors
    assert learning.rule is not None
    match learning.rule.title:
        case "predictive":
            assert tensors["fc2.feedback"].tolist() == tensors["fc2.weight"].tolist()
        case "il-mq":
            assert isinstance(learning.normaliser, MeanQuotient)
        case "backprop":
            assert set(bundle.priors) == {"fc1.weight", "fc2.weight"}
    assert {layer.zero_point for layer in bundle.manifest.layers} == {0}


def dense(name: str, low: float = 0.0) -> FloatDense:
    return FloatDense(name, np.eye(4, dtype=np.float32), np.zeros(4, np.float32), low)


def test_what_is_no_chain_is_refused_by_name() -> None:
    samples = data.Samples(x=np.ones((3, 4), np.float32), y=np.zeros(3, np.int64))
    whole = FloatNet("net", (4,), (dense("a"), dense("b", -np.inf)))
    assert plastic_net(whole, samples, "backprop").input_scale == 1 / 127
    for layers, fault in (
        ((dense("a", -np.inf), dense("b")), "needs a ReLU behind every hidden layer; a has none"),
        ((dense("a"), FloatUnary("f", (4,), "sigmoid"), dense("b")), "needs dense layers in a row; f is none"),
        ((replace(dense("a"), output=Affine(0.1, 0)), dense("b")), "those of a are fixed by the file"),
    ):
        with pytest.raises(ModelError, match=fault):
            plastic_net(replace(whole, layers=layers), samples, "backprop")
    with pytest.raises(ModelError, match="needs an input of floats"):
        plastic_net(replace(whole, input=Affine(0.1, 0)), samples, "il-prox")
    with pytest.raises(ModelError, match="decides by its outputs: --head prototypes does not go with it"):
        export(GOLDEN / "digits_mlp.onnx", GOLDEN / "digits.npz", Options(learn="il-mq", head="prototypes"))
