"""`edgerun infer`: the device's own bits for whole files, what they mean, and one line for what cannot be answered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pretend import samples, tiny_bundle, tiny_bundle_bytes

from edgerun import cli, encode
from edgerun.arrays import AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, no_probe, pack, read_bundle
from edgerun.commands import infer
from edgerun.commands.files import writing
from edgerun.network import UNDECIDED, Network
from edgerun.spec import ClassTable, Dense, Direct, Frames, Head, InputSpec, Manifest, OutputSpec

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(7)
WEIGHTS: Tensors = {
    "a.weight": RNG.integers(-127, 128, (5, 6)).astype(np.int8),
    "a.bias": RNG.integers(-900, 900, 5).astype(np.int32),
    "a.multiplier": np.full(5, 1 << 23, np.int32),
    "a.shift": np.full(5, 30, np.int8),
    "a.weight_zero": np.arange(5, dtype=np.int8),
}
OUTPUT = OutputSpec(shape=(5,), scale=0.25, zero_point=-3)
LOGITS = Manifest(
    name="plain",
    input=InputSpec(shape=(2, 3), scale=0.5, zero_point=10),
    layers=(Dense(name="a", inputs=6, outputs=5),),
    output=OUTPUT,
    classes=ClassTable(names=("cat", "dog", "owl"), capacity=5),
)


def made(manifest: Manifest) -> Bundle:
    from edgerun.graph import wanted_tensors

    tensors: Tensors = {w.spec.name: WEIGHTS[w.spec.name].astype(w.spec.dtype) for w in wanted_tensors(manifest)}
    low, high = (0, 255) if manifest.input.dtype == "uint8" else (-128, 127)
    x = RNG.integers(low, high, (8, *manifest.input.shape), manifest.input.dtype, endpoint=True)
    network = Network(manifest, tensors)
    scores = np.stack([network.infer(encode.quantise(manifest.input, row)).scores for row in x])
    return read_bundle(pack(manifest, tensors, selftest=Selftest(x, scores), probe=no_probe(manifest)))


def replaced(manifest: Manifest, **change: Any) -> Manifest:
    return Manifest(**{name: getattr(manifest, name) for name in manifest.__struct_fields__} | change)


VALUES = replaced(LOGITS, head=Head(kind="values"), classes=ClassTable())
SHAPED = replaced(VALUES, output=OutputSpec(shape=(5, 1), scale=2.0))
UNSIGNED = replaced(LOGITS, input=InputSpec(shape=(6,), dtype="uint8", scale=0.5), encoder=Direct(offset=128))
FRAMES = replaced(LOGITS, input=InputSpec(shape=(4, 6), scale=0.5, zero_point=10), encoder=Frames())


def saved(folder: Path, manifest: Manifest, **arrays: Any) -> list[str]:
    """The arguments of a run on these arrays."""
    bundle = made(manifest)
    weights = {name: bundle.tensors[name] for name in bundle.tensors}
    data = pack(manifest, weights, selftest=bundle.selftest, probe=bundle.probe)
    (folder / "model.edgb").write_bytes(data)
    np.savez(folder / "x.npz", **arrays)
    return ["infer", str(folder / "model.edgb"), str(folder / "x.npz"), "-o", str(folder / "out.npz")]


def answered(arguments: list[str]) -> dict[str, AnyArray]:
    assert cli.main(arguments) == 0
    with np.load(arguments[4]) as file:
        return dict(file)


def singly(manifest: Manifest, x: AnyArray) -> AnyArray:
    """The last layer's outputs, sample by sample, as a device runs."""
    bundle = made(manifest)
    network = Network(manifest, bundle.tensors)
    return np.stack([network.outputs(encode.quantise(manifest.input, row)) for row in x])


# ------------------------------------------------------------------ answers


@pytest.mark.parametrize("rows", [1, infer.BLOCK, infer.BLOCK + 1, 3 * infer.BLOCK - 1])
def test_blocks_give_the_bits_of_single_samples(tmp_path: Path, rows: int) -> None:
    x = RNG.normal(0, 30, (rows, 2, 3))
    got, want = answered(saved(tmp_path, LOGITS, x=x)), singly(LOGITS, x)
    np.testing.assert_array_equal(got["y"], want)
    np.testing.assert_array_equal(got["label"], want[:, :3].argmax(axis=1))
    assert got["class_names"].tolist() == ["cat", "dog", "owl"]
    assert (got["y"].dtype, got["label"].dtype) == (np.int32, np.int32)
    assert (got["y_scale"], got["y_zero_point"]) == (0.25, -3)


def test_integers_of_the_bundles_own_dtype_pass_and_all_others_are_real(tmp_path: Path) -> None:
    raw = RNG.integers(-128, 128, (40, 6))
    own = answered(saved(tmp_path, LOGITS, x=raw.astype(np.int8)))["y"]
    as_real = answered(saved(tmp_path, LOGITS, x=(raw - 10) * 0.5))["y"]
    np.testing.assert_array_equal(own, as_real)
    wide = answered(saved(tmp_path, LOGITS, x=raw.astype(np.int16)))["y"]
    np.testing.assert_array_equal(wide, answered(saved(tmp_path, LOGITS, x=raw.astype(np.float32)))["y"])
    assert (own != wide).any()


def test_uint8_inputs_are_rebased_by_the_encoder(tmp_path: Path) -> None:
    raw = RNG.integers(0, 256, (40, 6)).astype(np.uint8)
    got = answered(saved(tmp_path, UNSIGNED, x=raw))["y"]
    np.testing.assert_array_equal(got, singly(UNSIGNED, raw))
    tensors = made(UNSIGNED).tensors
    sums = (raw.astype(np.int64) - 128) @ tensors["a.weight"].astype(np.int64).T + tensors["a.bias"]
    np.testing.assert_array_equal(got, np.clip((sums + 64) >> 7, -128, 127))  # 2**23 / 2**30, half up
    np.testing.assert_array_equal(answered(saved(tmp_path, UNSIGNED, x=raw * 0.5))["y"], got)


def test_values_have_a_shape_and_no_label(tmp_path: Path) -> None:
    x = RNG.normal(0, 30, (9, 6))
    got = answered(saved(tmp_path, SHAPED, x=x, y=np.zeros((9, 2)) / 3))
    assert sorted(got) == ["y", "y_scale", "y_zero_point"]
    np.testing.assert_array_equal(got["y"][:, :, 0], singly(SHAPED, x))
    bundle = made(SHAPED)
    assert Network(SHAPED, bundle.tensors).infer(bundle.selftest.x[0].reshape(-1).astype(np.int16)).label == UNDECIDED


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_a_softmax_that_was_left_out_is_made_up_for(tmp_path: Path, capsys: Capture, beta: float) -> None:
    manifest = replaced(LOGITS, output=OutputSpec(shape=(5,), scale=0.25, zero_point=-3, softmax=beta))
    arguments = saved(tmp_path, manifest, x=RNG.normal(0, 30, (70, 6)))
    got = answered(arguments)
    assert "note  y are the scores before the model's softmax; probability is" in capsys.readouterr().out
    e = np.exp(beta * 0.25 * (got["y"] + 3.0))
    np.testing.assert_allclose(got["probability"], e / e.sum(axis=1, keepdims=True), rtol=1e-6)
    assert any("before the model's softmax" in note for note in told(arguments, capsys)["notes"])


UNITS = {
    "bytes instead of 0 to 1": (np.arange(256).reshape(-1, 1).repeat(6, 1), "from 0 to 255, the model's input from"),
    "beyond here and there": (np.r_[np.ones(90), 4 * np.ones(10)].reshape(-1, 1).repeat(6, 1), "10.0% of them are cut"),
    "all but nothing": (np.linspace(0, 0.02, 60).reshape(10, 6), "they fill 2.5 of its 256 steps"),
    "one outlier": (np.r_[np.linspace(-1, 1, 999), 90].reshape(-1, 1).repeat(6, 1), None),
    "silence": (np.zeros((9, 6)), None),
}


@pytest.mark.parametrize(("x", "reason"), UNITS.values(), ids=UNITS)
def test_another_unit_is_named(tmp_path: Path, capsys: Capture, x: AnyArray, reason: str | None) -> None:
    manifest = replaced(LOGITS, input=InputSpec(shape=(6,), scale=1 / 127))
    arguments = saved(tmp_path, manifest, x=x)
    assert cli.main(arguments) == (2 if x.max() == 255 else 0)
    page = capsys.readouterr()
    assert (page.err if x.max() == 255 else page.out).count("model's input") == (reason is not None)
    assert reason is None or reason in page.out + page.err
    own = saved(tmp_path, manifest, x=np.clip(x, -128, 127).astype(np.int8))
    assert cli.main(own) == 0
    assert "input" not in capsys.readouterr().out


def test_prototypes_answer_with_scores(tmp_path: Path) -> None:
    (tmp_path / "model.edgb").write_bytes(tiny_bundle_bytes())
    truth = np.arange(70) % 4
    np.savez(tmp_path / "x.npz", x=samples(truth, 900), y=truth)
    got = answered(["infer", str(tmp_path / "model.edgb"), str(tmp_path / "x.npz"), "-o", str(tmp_path / "out.npz")])
    bundle = tiny_bundle()
    network = Network(bundle.manifest, bundle.tensors)
    want = np.stack([network.infer(row.astype(np.int16)).scores for row in samples(truth, 900)])
    np.testing.assert_array_equal(got["y"], want)
    assert sorted(got) == ["class_names", "label", "y"]
    assert (got["label"] == truth).mean() > 0.9


def test_recordings_are_fitted_to_the_window_or_refused(tmp_path: Path, capsys: Capture) -> None:
    parts = [RNG.normal(0, 30, (n, 6)) for n in (4, 2, 7)]
    ragged = {"samples": np.concatenate(parts), "offsets": np.array([0, 4, 6, 13])}
    arguments = saved(tmp_path, FRAMES, **ragged, label=np.array([0, 1, 2]))
    whole = np.stack([parts[0], np.concatenate([parts[1], np.zeros((2, 6))]), parts[2][:4]])
    np.testing.assert_array_equal(answered(arguments)["y"], singly(FRAMES, whole))
    assert "recordings are 2 to 7 long, the window is 4: 1 of 3 are filled up" in capsys.readouterr().out
    assert cli.main([*arguments, "--window", "refuse"]) == 2
    assert "x.npz: recordings are 2 to 7 long, the window is 4; --window fit" in capsys.readouterr().err


# ------------------------------------------------------------------ accuracy


def told(arguments: list[str], capsys: Capture) -> dict[str, Any]:
    capsys.readouterr()
    assert cli.main([*arguments, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    found: dict[str, Any] = json.loads(captured.out)
    return found


def test_accuracy_is_of_labelled_samples_by_name(tmp_path: Path, capsys: Capture) -> None:
    x = RNG.normal(0, 30, (50, 6))
    label = singly(LOGITS, x)[:, :3].argmax(axis=1)
    wrong = np.where(np.arange(50) < 10, (label + 1) % 3, label)
    assert told(saved(tmp_path, LOGITS, x=x, y=wrong), capsys)["accuracy"] == 0.8
    names = np.array(["owl", "cat", "dog", "fox"])
    by_name = np.array([1, 2, 0])[wrong]
    assert told(saved(tmp_path, LOGITS, x=x, y=by_name, class_names=names), capsys)["accuracy"] == 0.8
    half = np.where(np.arange(50) % 2, -1, wrong)
    found = told(saved(tmp_path, LOGITS, x=x, y=half), capsys)
    assert (found["accuracy"], found["labelled"], found["samples"]) == (0.8, 25, 50)
    unknown = np.where(np.arange(50) < 20, 3, by_name)
    assert told(saved(tmp_path, LOGITS, x=x, y=unknown, class_names=names), capsys)["accuracy"] == 0.6
    found = told(saved(tmp_path, LOGITS, x=x), capsys)
    assert (found["accuracy"], found["labelled"], found["bundle"]) == (None, 0, made_id(tmp_path))


def test_labels_that_the_bundle_does_not_know_are_named(tmp_path: Path, capsys: Capture) -> None:
    names = np.array(["cat", *"fghijk", ""])
    found = told(saved(tmp_path, LOGITS, x=RNG.normal(0, 9, (8, 6)), y=names), capsys)
    words = "6 of the labels are no classes of the bundle, so no answer to them is right: 'f', 'g', 'h', 'i', 'j', …"
    assert (found["notes"], found["labelled"]) == ([words], 7)


def test_no_part_of_a_file_stays_where_writing_fails(tmp_path: Path) -> None:
    def cut(fault: BaseException | type[BaseException]) -> None:
        with writing(tmp_path / "out") as file:
            file.write(b"half")
            raise fault

    for fault in (KeyboardInterrupt, OSError(28, "No space left on device", "beside")):
        (tmp_path / "out").write_text("before")
        with pytest.raises((KeyboardInterrupt, OSError)) as raised:
            cut(fault)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        assert (tmp_path / "out").read_text() == "before"
    assert isinstance(raised.value, OSError)
    assert raised.value.filename == str(tmp_path / "out")
    (tmp_path / "link").symlink_to("out")
    with writing(tmp_path / "link") as file:
        file.write(b"after")
    assert ((tmp_path / "out").read_text(), (tmp_path / "link").is_symlink()) == ("after", True)
    with writing(Path(os.devnull)) as file:
        np.savez(file, x=np.zeros(3))
    assert not Path(os.devnull).is_file()


def made_id(folder: Path) -> str:
    return read_bundle((folder / "model.edgb").read_bytes()).id


def test_the_page_says_what_was_written(tmp_path: Path, capsys: Capture) -> None:
    x = RNG.normal(0, 30, (50, 6))
    assert cli.main(saved(tmp_path, LOGITS, x=x, y=np.zeros(50, int))) == 0
    out = capsys.readouterr().out
    assert "50 answers of plain" in out
    assert "labelled samples right" in out


def test_progress_is_told_on_one_line_and_ends_it(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.1, 0.6, 0.6, 0.7, 0.8, 0.8, 0.9])
    monkeypatch.setattr("edgerun.commands.infer.time.monotonic", lambda: next(clock))
    tell = infer.progress(True)
    for done in (64, 128, 192, 200):
        tell(done, 200)
    assert capsys.readouterr().err == "\r128 of 200 samples\r200 of 200 samples\n"
    infer.progress(False)(200, 200)
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ refusals


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "another size": ({"x": np.zeros((3, 7))}, r"x.npz: a sample has 7 values (shape (7,)), the model takes 6"),
    "text": ({"x": np.array([["a"]])}, "x.npz: 'x' is <U1"),
    "nothing": ({"z": np.zeros(3)}, "x.npz: has neither 'x' nor 'samples', only z"),
    "not finite": ({"x": np.where(np.arange(480).reshape(80, 6) == 423, np.nan, 0.0)}, "x.npz: sample 70: a sample"),
    "labels too few": ({"x": np.zeros((3, 6)), "y": np.zeros(2, int)}, "y has shape (2,), there are 3 samples"),
    "labels too high": ({"x": np.zeros((2, 6)), "y": np.array([0, 3])}, "y reaches from 0 to 3, there are 3 classes"),
    "names without a row": ({"x": np.zeros((2, 6)), "y": np.array([0, 0]), "class_names": np.array("a")}, "<U1 ()"),
    "pickles": ({"x": np.array([{}, []], dtype=object)}, "x.npz: is no .npz file, or no whole one"),
    "offsets": ({"samples": np.zeros((6, 6)), "offsets": np.array([0, 7])}, "'offsets' must rise from 0 to 6"),
}


@pytest.mark.parametrize(("arrays", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_cannot_be_answered_is_refused_in_one_line(
    tmp_path: Path, capsys: Capture, arrays: dict[str, Any], reason: str
) -> None:
    assert cli.main(saved(tmp_path, LOGITS, **arrays)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert reason in captured.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.edgb", "x.npz"]


def test_where_it_writes_is_checked_before_it_works(tmp_path: Path, capsys: Capture) -> None:
    arguments = saved(tmp_path, LOGITS, x=np.zeros((3, 6)))
    before = (tmp_path / "x.npz").read_bytes()
    assert cli.main([*arguments[:4], str(tmp_path / "x.npz")]) == 2
    assert "x.npz is a file to read, and would be lost" in capsys.readouterr().err
    assert (tmp_path / "x.npz").read_bytes() == before
    bundle = (tmp_path / "model.edgb").read_bytes()
    assert cli.main([*arguments[:4], str(tmp_path / "model.edgb")]) == 2
    assert "model.edgb is a file to read, and would be lost" in capsys.readouterr().err
    assert (tmp_path / "model.edgb").read_bytes() == bundle
    for end, reason in ((".", "is a folder, must be a file"), ("out.csv", "must end in .npz")):
        assert cli.main([*arguments[:4], str(tmp_path / end)]) == 2
        assert reason in capsys.readouterr().err
    assert cli.main([*arguments[:4], str(tmp_path / "no" / "out.npz")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert cli.main(["infer", arguments[1], str(tmp_path / "none.npz"), "-o", arguments[4]]) == 2
    assert "none.npz: No such file" in capsys.readouterr().err


# ------------------------------------------------------------------ what a bundle may say of its outputs


CONTRADICTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "another width": ({"output": OutputSpec(shape=(2, 3))}, r"output shape \(2, 3\) is not of 5 values"),
    "values without meaning": ({"head": Head(kind="values"), "classes": ClassTable(), "output": None}, "no output map"),
    "values with classes": ({"head": Head(kind="values")}, "a head of kind values has capacity 5 for classes"),
    "no class": ({"classes": ClassTable()}, "a head of kind logits needs at least one class name"),
    "prototypes": ({"head": Head(kind="prototypes", features="a")}, "output is given, but prototypes decide"),
}


@pytest.mark.parametrize(("change", "reason"), CONTRADICTIONS.values(), ids=CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        replaced(LOGITS, **change)


def test_a_bundle_without_labels_has_no_probe_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    for manifest in (LOGITS, VALUES):
        arguments = saved(tmp_path, manifest, x=np.zeros((3, 6)))
        assert cli.main(["verify", arguments[1]]) == 0
        assert "none: nobody has labelled a sample" in capsys.readouterr().out
        assert cli.main(["verify", arguments[1], "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["probe_accuracy"] is None
        assert cli.main(["inspect", arguments[1]]) == 0
        page = capsys.readouterr().out
        assert "scale 0.25, zero point -3" in page
        assert ("argmax" in page) == (manifest is LOGITS)
        assert cli.main(["plan", arguments[1], "--board", "pico2"]) == 0
        capsys.readouterr()


def test_a_bundle_that_learns_needs_a_probe() -> None:
    tiny = tiny_bundle()
    with pytest.raises(ValueError, match=r"array probe.x is missing"):
        pack(tiny.manifest, tiny.tensors, selftest=tiny.selftest, probe=no_probe(tiny.manifest))


def test_labels_without_classes_are_refused() -> None:
    bundle = made(VALUES)
    labelled = Probe(x=bundle.selftest.x, label=np.zeros(8, np.int32))
    with pytest.raises(ValueError, match=r"probe.label names classes, and the bundle has none"):
        pack(VALUES, bundle.tensors, selftest=bundle.selftest, probe=labelled)


# ------------------------------------------------------------------ agents


def emulated(tmp_path: Path, manifest: Manifest, *extra: str) -> int:
    arguments = saved(tmp_path, manifest, x=RNG.normal(0, 30, (20, 6)))
    return cli.main(["emulate", arguments[1], "--data", arguments[2], *extra])


def test_an_agent_refuses_what_decides_nothing(tmp_path: Path, capsys: Capture) -> None:
    assert emulated(tmp_path, VALUES) == 2
    err = capsys.readouterr().err
    assert "the bundle's head is 'values'" in err
    assert err.count("\n") == 1


def test_an_agent_lives_without_a_probe(tmp_path: Path, capsys: Capture) -> None:
    assert emulated(tmp_path, LOGITS, "--json") == 0
    life = json.loads(capsys.readouterr().out)
    assert life["inferences"] == 20
    assert (life["accuracy"]["probe_before"], life["accuracy"]["probe_after"]) == (None, None)
    assert emulated(tmp_path, LOGITS) == 0
    assert "- before, - after" in capsys.readouterr().out


# ------------------------------------------------------------------ beside it


def test_inspect_counts_weights_and_no_zero_points(tmp_path: Path, capsys: Capture) -> None:
    layer = Dense(name="a", inputs=6, outputs=5, asymmetric=True)
    saved(tmp_path, replaced(LOGITS, layers=(layer,)), x=np.ones((1, 6)))
    assert cli.main(["inspect", str(tmp_path / "model.edgb")]) == 0
    row = next(line.split() for line in capsys.readouterr().out.splitlines() if " dense " in line)
    assert row[1:6] == ["a", "dense", "6", "5", "30"]


@pytest.mark.parametrize("manifest", [LOGITS, VALUES, UNSIGNED, FRAMES])
def test_both_backends_write_the_same_file(tmp_path: Path, manifest: Manifest) -> None:
    pytest.importorskip("edgerun._native", reason="the C kernels are not built here")
    x = RNG.normal(0, 9, (70, *manifest.input.shape)).astype(np.float32)
    arguments, written = saved(tmp_path, manifest, x=x), []
    for backend in ("numpy", "native"):
        assert cli.main([*arguments, "--backend", backend]) == 0
        with np.load(tmp_path / "out.npz") as out:
            written.append({name: out[name] for name in out.files})
    assert written[0].keys() == written[1].keys()
    for name, array in written[0].items():
        np.testing.assert_array_equal(array, written[1][name])
