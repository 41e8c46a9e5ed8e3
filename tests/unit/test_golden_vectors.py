"""Stored vectors come out of the runtime bit for bit, and every operator has its vector, its page and its exporter."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import pytest
from golden import make_vectors
from runs import needs_wide_words

from edgerun.arrays import Tensors
from edgerun.encode import PhaseCoder
from edgerun.encode.sound import log_mel
from edgerun.kernels import eprop, head, noise, plasticity, softmax, sound, spiking
from edgerun.ops import OPS, LifRun, ReadoutRun
from edgerun.spec import Dense, Encoder, InputSpec, Layer, Lif, LogMel, PhaseRate
from exporters.nodes import NODES

ROOT = Path(__file__).parents[2]
with np.load(ROOT / "tests" / "golden" / "vectors.npz", allow_pickle=False) as file:
    VECTORS: Tensors = {name: file[name] for name in file.files}
ABOUT: dict[str, Any] = json.loads(str(VECTORS.pop("about")))
SPECS: dict[str, Layer] = {case: msgspec.json.decode(text, type=Layer) for case, text in ABOUT["layers"].items()}
ALL_SPECS = {
    f"{family}.{case}": msgspec.json.decode(text, type=Layer)
    for family in make_vectors.FAMILIES
    for case, text in make_vectors.family_vectors(family)[1].items()
} | SPECS
PAGE = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
SECTIONS = {
    name: text for name, text in re.findall(r"^## (\S+)[^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
}


def case_of(name: str) -> Tensors:
    """The arrays of one case by their short names."""
    return {key.removeprefix(f"{name}."): array for key, array in VECTORS.items() if key.startswith(f"{name}.")}


def tag(kind: type[Any]) -> str:
    return str(kind.__struct_config__.tag)


# ------------------------------------------------------------------ the bits


@needs_wide_words
def test_the_file_is_what_its_script_makes() -> None:
    arrays, specs = make_vectors.vectors()
    assert (ABOUT["layers"], ABOUT["seed"]) == (specs, make_vectors.SEED)
    assert set(ABOUT["versions"]) == {"python", "numpy", "msgspec"}
    assert (ROOT / ABOUT["script"]).exists()
    assert set(arrays) == set(VECTORS)
    for name, array in arrays.items():
        assert array.dtype == VECTORS[name].dtype, name
        assert array.tolist() == VECTORS[name].tolist(), name


@pytest.mark.parametrize("case", SPECS)
def test_a_layer_gives_the_stored_bits(case: str) -> None:
    spec, arrays = SPECS[case], case_of(case)
    run = OPS[type(spec)](spec, {f"{spec.name}.{part}": array for part, array in arrays.items()}, ())
    psi = np.zeros(spec.outputs, np.uint8)
    for t, x in enumerate(arrays["x"]):
        run.step(x.astype(np.float32))
        match run:
            case LifRun():
                spiking.surrogate(psi, run.margin, run.spec.threshold)
                got = {"fired": run.fired, "v": run.v, "carry": run.carry, "psi": psi}
                got |= {"adaptation": run.adaptation} if run.spec.adaptive else {}
            case ReadoutRun():
                got = {"y": run.y}
            case _:
                got = {"y": run.out}
        for name, array in got.items():
            assert array.astype(np.int64).tolist() == arrays[name][t].tolist(), (t, name)


def test_the_stored_layers_do_something() -> None:
    for case, spec in SPECS.items():
        arrays = case_of(case)
        if isinstance(spec, Lif):
            assert 0.05 < arrays["fired"].mean() < 0.95, case
            assert np.unique(arrays["psi"]).size > 5, case
        else:
            assert np.unique(arrays["y"]).size > 10, case
    assert (np.abs(case_of("readout.saturating")["y"].astype(np.int64)) >= (1 << 31) - 1).any()


def test_each_carrier_of_a_dense_layer_has_a_case() -> None:
    found = {}
    for case, spec in SPECS.items():
        if isinstance(spec, Dense):
            a = case_of(case)
            found[case] = spec.proof({f"{spec.name}.{part}": array for part, array in a.items()}).carrier
    assert found == {"dense.folded": "float32-folded", "dense.dot": "float32-dot", "dense.wide": "int64"}


def test_the_encoder_gives_the_stored_bits() -> None:
    arrays = case_of("phase-rate.rate")
    coder = PhaseCoder(PhaseRate(steps=20, full_scale=31), (), arrays["q"].size)
    assert coder.encode(arrays["q"]).tolist() == arrays["spikes"].tolist()


def test_the_front_gives_the_stored_bits() -> None:
    a, front = case_of("log-mel.tone"), LogMel(sample_rate=8000, window=64)
    assert sound.fourier(64).tolist() == a["fourier"].tolist()
    edges = sound.mel_edges(6, front.low_hz, front.high_hz)
    assert sound.triangles(edges, 64, 8000).tolist() == a["bank"].tolist()
    assert log_mel(front, InputSpec(shape=(5, 6)), a["wave"]).reshape(5, 6).tolist() == a["q"].tolist()
    assert np.unique(a["q"]).size > 8


def test_the_noise_gives_the_stored_bits() -> None:
    arrays = case_of("noise.words")
    for (seed, update, stream, first), want in zip(arrays["position"].tolist(), arrays["words"].tolist(), strict=True):
        words = np.zeros(4, np.uint32)
        noise.fill_words(words, noise.key(seed, update, stream), first)
        assert words.tolist() == want


def test_eprop_gives_the_stored_bits() -> None:
    a = case_of("eprop.window")
    trace, post, adaptive = (np.zeros_like(a[name]) for name in ("trace", "post", "post_adaptive"))
    filtered, gradient = np.zeros_like(a["filtered"]), np.zeros_like(a["gradient"])
    eprop.traces(trace, a["pre"], 31111)
    eprop.filter_backwards(filtered, a["signal"], 30303)
    eprop.post_factor(post, a["psi"], filtered, 6)
    eprop.post_factor_adaptive(adaptive, a["psi"], filtered, 6, 77, a["beta"], a["rho"])
    eprop.gradient(gradient, trace, post)
    for name, got in {"trace": trace, "filtered": filtered, "post": post, "post_adaptive": adaptive}.items():
        assert got.tolist() == a[name].tolist(), name
    assert gradient.tolist() == a["gradient"].tolist() == (trace.T.astype(int) @ post.astype(int)).tolist()
    assert eprop.squared_norm(trace, post) == int(a["squared_norm"]) > 0


def test_what_comes_before_the_factors_gives_the_stored_bits() -> None:
    a = case_of("eprop.signals")
    error, signal, pushed, faded = (np.zeros_like(a[name]) for name in ("error", "signal", "pushed", "faded"))
    assert eprop.value_error(error, a["outputs"], a["target"], 12) == int(a["near"]) > 0
    eprop.learning_signal(signal, a["error"], a["feedback"], 7)
    np.copyto(pushed, a["filtered"])
    eprop.regularise(pushed, a["spikes"], 1234, 20000)
    plasticity.fade(faded, a["shadow"], 10, a["words"])
    for name, got in {"error": error, "signal": signal, "pushed": pushed, "faded": faded}.items():
        assert got.tolist() == a[name].tolist(), name


def test_a_weight_update_gives_the_stored_bits() -> None:
    a = case_of("plasticity.update")
    shadow, ref, code, omega = (a[f"{name}_before"].copy() for name in ("shadow", "ref", "code", "omega"))
    small, made, wanted = (np.zeros_like(a[name]) for name in ("small", "made", "wanted"))
    weights, words = np.zeros_like(a["weights"]), np.zeros(shadow.shape, np.uint32)

    def random(use: noise.Use) -> np.ndarray:
        noise.fill_words(words, noise.key(ABOUT["seed"], 9, noise.stream(2, use)))
        return words

    plasticity.small_gradient(small, a["gradient"], 14)
    plasticity.wanted_step(wanted, a["gradient"], 321, 27, random(noise.Use.UPDATE))
    plasticity.pull(wanted, code, ref, shadow, 20, random(noise.Use.PULL))
    plasticity.write(made, shadow, wanted, 5000)
    plasticity.weights_from_shadow(weights, shadow)
    plasticity.credit(omega, small, made, random(noise.Use.OMEGA))
    for name, got in {
        "small": small,
        "wanted": wanted,
        "made": made,
        "weights": weights,
        "omega_credited": omega,
    }.items():
        assert got.tolist() == a[name].tolist(), name
    plasticity.consolidate(code, ref, omega, shadow, 50, random(noise.Use.IMPORTANCE))
    for name, got in {"shadow": shadow, "ref": ref, "code": code, "omega": omega}.items():
        assert got.tolist() == a[f"{name}_after"].tolist(), name
    assert (a["code_after"] != a["code_before"]).any()


def test_profile_small_gives_the_stored_bits() -> None:
    a = case_of("small.update")
    history, late, gradient = (np.zeros_like(a[name]) for name in ("history", "late", "gradient"))
    eprop.traces(history, a["pre"], 31111, drop=8)
    eprop.traces(late, a["pre"], 31111, late=1, drop=8)
    eprop.gradient(gradient, history, a["post"])
    shadow, ref, code, omega = (a[f"{name}_before"].copy() for name in ("shadow", "ref", "code", "omega"))
    small, made, wanted = (np.zeros_like(a[name]) for name in ("small", "made", "wanted"))
    words = np.zeros(shadow.shape, np.uint32)

    def random(use: noise.Use) -> np.ndarray:
        noise.fill_words(words, noise.key(ABOUT["seed"], 9, noise.stream(2, use)))
        return words

    plasticity.small_gradient(small, gradient, 6)
    plasticity.wanted_step(wanted, gradient, 321, 17, random(noise.Use.UPDATE))
    plasticity.fade(wanted, shadow, 10, random(noise.Use.DECAY), 128)
    plasticity.pull(wanted, code, ref, shadow, 20, random(noise.Use.PULL))
    moved = wanted.copy()
    plasticity.write(made, shadow, wanted, 5000, 128)
    plasticity.credit(omega, small, made, random(noise.Use.OMEGA), 18)
    found = {"history": history, "late": late, "gradient": gradient, "small": small, "wanted": moved, "made": made}
    for name, got in (found | {"omega_credited": omega}).items():
        assert got.tolist() == a[name].tolist(), name
    assert eprop.squared_norm(history, a["post"], 8) == int(a["squared_norm"]) > 0
    plasticity.consolidate(code, ref, omega, shadow, 50, random(noise.Use.IMPORTANCE), 18)
    for name, got in {"shadow": shadow, "ref": ref, "code": code, "omega": omega}.items():
        assert got.tolist() == a[f"{name}_after"].tolist(), name


def test_softmax_and_head_give_the_stored_bits() -> None:
    a = case_of("softmax.error")
    for k, want in enumerate(a["error"].tolist()):
        error = np.zeros(len(want), np.int32)
        softmax.softmax_error(error, a["logits"][k], 18, a["known"][k], int(a["label"][k]))
        assert error.tolist() == want
    a = case_of("head.prototypes")
    means, scores = np.zeros_like(a["means"]), np.zeros_like(a["scores"])
    head.class_means(means, a["sums"], a["counts"])
    head.prototype_scores(scores, a["z"], means, a["bias"], a["counts"] > 0)
    assert (means.tolist(), scores.tolist()) == (a["means"].tolist(), a["scores"].tolist())


# ------------------------------------------------------------------ each row of the table


def test_the_table_holds_every_layer_that_a_manifest_may_name() -> None:
    assert set(OPS) == set(get_args(Layer))


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_every_operator_has_a_vector_a_heading_and_an_exporter(op: type[Any]) -> None:
    assert [case for case, spec in ALL_SPECS.items() if type(spec) is op]
    section = SECTIONS[tag(op)]
    for name in ("Golden vectors", "Exported from"):
        assert f"**{name}.**" in section, name
    emitted = {kind for node in NODES for kind in node.makes}
    assert op in emitted or "No exporter emits" in section


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.__name__)
def test_every_tensor_of_every_operator_is_in_its_table(op: type[Any]) -> None:
    specs = [spec for spec in ALL_SPECS.values() if type(spec) is op]
    want = {(field.part, field.dtype, len(field.shape)) for spec in specs for field in spec.fields()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| \(([^)]*)\) \|", SECTIONS[tag(op)], re.MULTILINE)
    assert {(part, dtype, len(dims.split(","))) for part, dtype, dims in rows} == want


def test_every_field_of_every_operator_is_explained() -> None:
    common = {"name", "sources", "inputs", "outputs"}
    for kind in (*OPS, *get_args(Encoder)):
        for name in set(kind.__struct_fields__) - common:
            assert f"`{name}`" in SECTIONS[tag(kind)], (tag(kind), name)


def test_an_adaptive_layer_has_a_vector_and_a_reason_why_no_exporter_makes_it() -> None:
    adaptive = [case for case, spec in SPECS.items() if isinstance(spec, Lif) and spec.adaptive]
    assert adaptive
    assert "No exporter emits an adaptive layer: NIR has no node for it." in SECTIONS["lif"]
    assert "adaptive" not in (ROOT / "exporters" / "nodes" / "spiking.py").read_text(encoding="utf-8")
