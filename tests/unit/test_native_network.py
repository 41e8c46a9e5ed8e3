"""The C network beside numpy's: the same bits on the committed example and on nets made for it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from edgerun import encode
from edgerun.bundle import Bundle, read_bundle
from edgerun.errors import ConfigError, DataError, SpecError
from edgerun.kernels.native import VARIABLE, chosen, library
from edgerun.native import NativeNetwork, network_of
from edgerun.network import Network
from edgerun.spec import ClassTable, InputSpec, Lif, Manifest, Readout

EXAMPLE = Path(__file__).parents[2] / "examples/spoken_digits/model.edgb"

pytestmark = pytest.mark.skipif(library() is None, reason="the C kernels are not built here")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return read_bundle(EXAMPLE.read_bytes())


def windows(bundle: Bundle, count: int) -> list[np.ndarray]:
    spec = bundle.manifest.input
    rng, (low, high) = np.random.default_rng(0), (0, 255) if spec.dtype == "uint8" else (-128, 127)
    held = [encode.sense(bundle.manifest.front, spec, x) for x in bundle.selftest.x]
    return held + [rng.integers(low, high + 1, spec.size).astype(np.int16) for _ in range(count)]


def test_windows_give_the_same_scores_state_and_features(bundle: Bundle) -> None:
    ours, theirs = NativeNetwork(bundle.manifest, bundle.tensors), Network(bundle.manifest, bundle.tensors)
    for q in windows(bundle, 12):
        found, wanted = ours.infer(q), theirs.infer(q)
        assert found.label == wanted.label
        np.testing.assert_array_equal(found.scores, wanted.scores)
        np.testing.assert_array_equal(ours.features(), theirs.features())
        np.testing.assert_array_equal(ours.logits(), theirs.logits())
        mine, numpys = ours.snapshot(), theirs.snapshot()
        assert mine.keys() == numpys.keys()
        for name, array in numpys.items():
            np.testing.assert_array_equal(mine[name], array, err_msg=name)


def test_a_stream_goes_on_from_a_snapshot_of_the_other_backend(bundle: Bundle) -> None:
    ours, theirs = NativeNetwork(bundle.manifest, bundle.tensors), Network(bundle.manifest, bundle.tensors)
    moments = theirs.moments(windows(bundle, 0)[0])
    for x in moments[:9]:
        theirs.step(x)
    ours.restore(theirs.snapshot())
    for x in moments[9:]:
        ours.step(x)
        theirs.step(x)
        np.testing.assert_array_equal(ours.logits(), theirs.logits())
    np.testing.assert_array_equal(ours.decide(), theirs.decide())


def test_a_batch_gives_what_single_windows_give(bundle: Bundle) -> None:
    ours, theirs = NativeNetwork(bundle.manifest, bundle.tensors), Network(bundle.manifest, bundle.tensors, (4,))
    q = np.stack(windows(bundle, 4)[:4])
    batch = ours.batched(4)
    np.testing.assert_array_equal(batch.scores(q), theirs.scores(q))
    np.testing.assert_array_equal(batch.features(), theirs.features())


def test_scoring_a_batch_leaves_the_newest_window_alone(bundle: Bundle) -> None:
    ours = NativeNetwork(bundle.manifest, bundle.tensors)
    first, *others = windows(bundle, 2)
    ours.infer(first)
    before = ours.snapshot()
    ours.batched(2).scores(np.stack(others[:2]))
    for name, array in ours.snapshot().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


@pytest.mark.parametrize("short", [0, 1])
def test_a_membrane_at_its_threshold_spikes_and_one_below_does_not(short: int) -> None:
    layers = (
        Lif(name="hidden", inputs=2, outputs=5, weight_exponent=6, recurrent=False),
        Readout(name="out", inputs=5, outputs=2, weight_exponent=6),
    )
    manifest = Manifest(
        name="edge", input=InputSpec(shape=(2,)), layers=layers, classes=ClassTable(names=("a", "b"), capacity=2)
    )
    tensors = {
        "hidden.input": np.zeros((2, 5), np.int8), "hidden.decay": np.zeros(5, np.uint16),
        "hidden.bias": np.full(5, layers[0].threshold - short, np.int32), "out.input": np.ones((5, 2), np.int8),
        "out.bias": np.zeros(2, np.int32), "out.kappa": np.zeros(2, np.uint16),
    }  # fmt: skip
    for kind in (NativeNetwork, Network):
        network = kind(manifest, tensors)
        network.infer(np.zeros(2, np.int16))
        assert network.snapshot()["hidden.fired"].tolist() == [1 - short] * 5


def test_a_window_of_another_length_is_refused(bundle: Bundle) -> None:
    ours = NativeNetwork(bundle.manifest, bundle.tensors)
    with pytest.raises(DataError, match="input has shape"):
        ours.infer(np.zeros(3, np.int16))


def test_arrays_of_another_type_or_length_are_refused_by_name(bundle: Bundle) -> None:
    name = next(name for name in bundle.tensors if name.endswith(".decay"))
    for wrong in (bundle.tensors[name].astype(np.int16), bundle.tensors[name][:-1]):
        with pytest.raises((TypeError, ValueError), match="decay"):
            NativeNetwork(bundle.manifest, {**bundle.tensors, name: wrong})


@pytest.mark.skipif("EDGERUN_TEST_NATIVE" not in os.environ, reason="no variant of the kernels is asked for")
def test_a_variant_that_is_asked_for_is_what_runs() -> None:
    assert Path(library().__spec__.origin or "") == Path(os.environ["EDGERUN_TEST_NATIVE"])


@pytest.mark.parametrize("layer", [["lif", {}], None, "lif"])
def test_a_layer_that_is_no_tuple_is_refused(layer: object) -> None:
    held = library()
    for call in (lambda: held.Net({}, (layer,), None, False), lambda: held.packed_size(layer)):
        with pytest.raises(TypeError, match="a layer is no tuple of its kind and fields"):
            call()


def test_arrays_off_their_places_are_refused(bundle: Bundle) -> None:
    name = next(name for name in bundle.tensors if name.endswith(".decay"))
    decay = bundle.tensors[name]
    shifted = np.frombuffer(b"\0" + decay.tobytes(), np.uint8)[1:].view(decay.dtype)
    assert not shifted.flags.aligned
    with pytest.raises(ValueError, match=f"{name.rpartition('.')[2]} is not aligned"):
        NativeNetwork(bundle.manifest, {**bundle.tensors, name: shifted})


def test_the_backend_is_who_is_asked_for(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert isinstance(network_of(bundle.manifest, bundle.tensors), NativeNetwork)
    assert not isinstance(network_of(bundle.manifest, bundle.tensors, "numpy"), NativeNetwork)
    monkeypatch.setenv(VARIABLE, "numpy")
    assert not isinstance(network_of(bundle.manifest, bundle.tensors), NativeNetwork)
    assert chosen("auto") == "numpy"
    assert chosen("native") == "native"
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ConfigError, match="EDGERUN_BACKEND is 'cuda', not one of auto, numpy, native"):
        chosen()


def test_native_is_refused_with_a_remedy_where_it_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgerun.kernels.native.library", lambda: None)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match="the C kernels are not built here; numpy computes the same bits"):
        chosen("native")
    assert chosen() == "auto"


def test_without_the_extension_numpy_runs_and_native_is_refused(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    for module in ("edgerun.native", "edgerun.kernels.native"):
        monkeypatch.setattr(f"{module}.library", lambda: None)
    assert not isinstance(network_of(bundle.manifest, bundle.tensors, "auto"), NativeNetwork)
    with pytest.raises(ConfigError, match="the C kernels are not built"):
        network_of(bundle.manifest, bundle.tensors, "native")
    with pytest.raises(SpecError, match="the C kernels are not built"):
        NativeNetwork(bundle.manifest, bundle.tensors)
