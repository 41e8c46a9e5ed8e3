"""`edgerun inspect` and `edgerun verify` from the outside: what they print, and 0, 1 or 2."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from edgerun import encode
from edgerun.arrays import AnyArray, Tensors
from edgerun.bundle import Bundle, Probe, Selftest, pack, read_bundle
from edgerun.cli import main
from edgerun.errors import CheckFailed
from edgerun.graph import wanted_tensors
from edgerun.keys import key_id
from edgerun.network import Network
from edgerun.selftest import BLOCK, check_selftest, probe_accuracy
from edgerun.spec import (
    ClassTable,
    Dense,
    EProp,
    Head,
    InputSpec,
    Intelligence,
    LearningPlan,
    Lif,
    Manifest,
    PhaseRate,
    PlasticRate,
    Readout,
    Replay,
)

RATES = tuple(PlasticRate(tensor=f"hidden.{part}", eta=3, shift=8) for part in ("input", "recurrent"))
SPIKING = Manifest(
    name="spiking",
    input=InputSpec(shape=(2, 4), dtype="uint8"),
    encoder=PhaseRate(steps=20, full_scale=16),
    layers=(
        Lif(name="hidden", inputs=8, outputs=12, weight_exponent=6, adaptive=True),
        Readout(name="out", inputs=12, outputs=3, weight_exponent=8),
    ),
    classes=ClassTable(names=("no", "yes", "\x1b[31mred"), capacity=3),
    learning=LearningPlan(
        rule=EProp(
            layer="hidden",
            readout="out",
            rates=(PlasticRate(tensor="hidden.recurrent", eta=3, shift=8),),
            chunk_steps=20,
        ),
        intelligence=Intelligence(strength=12, damping=16),
        replay=Replay(capacity=100),
    ),
)
DENSE = Manifest(
    name="dense",
    input=InputSpec(shape=(9,)),
    layers=(Dense(name="a", inputs=9, outputs=7, qmin=0), Dense(name="b", inputs=7, outputs=4, input_bound=127)),
    head=Head(kind="prototypes", features="a"),
    classes=ClassTable(names=("p", "q"), capacity=9),
)


def random_tensors(manifest: Manifest) -> Tensors:
    """Random values well inside every tensor's range."""
    rng = np.random.default_rng(11)
    tensors: Tensors = {
        want.spec.name: rng.integers(
            max(want.low, -2000), min(want.high, 2000), want.spec.shape, dtype=want.spec.dtype, endpoint=True
        )
        for want in wanted_tensors(manifest)
    }
    for name in tensors:
        if name.endswith(".multiplier"):
            tensors[name][...] = 1 << 23
            tensors[name.replace("multiplier", "shift")][...] = 30
        if name.endswith((".decay", ".kappa", ".rho")):
            tensors[name][...] = 30000
    if manifest.head.kind == "prototypes":
        tensors["head.count"][...] = 5
        tensors["head.sum"] = rng.integers(0, 500, tensors["head.sum"].shape, dtype=np.int32)
    return tensors


def built(manifest: Manifest, probe_rows: int = 70) -> bytes:
    """A bundle whose self-test is what the network really computes; its probe labels are right in every second row."""
    tensors, network = random_tensors(manifest), Network(manifest, random_tensors(manifest))
    rng = np.random.default_rng(5)
    top = 16 if manifest.input.dtype == "uint8" else 127
    x = rng.integers(0, top, (8 + probe_rows, *manifest.input.shape), dtype=manifest.input.dtype, endpoint=True)
    outcomes = [network.infer(encode.quantise(manifest.input, row)) for row in x]
    labels = np.array([outcome.label for outcome in outcomes[8:]], dtype=np.int32)
    labels[1::2] = (labels[1::2] + 1) % len(manifest.classes.names)
    return pack(
        manifest,
        tensors,
        selftest=Selftest(x=x[:8], y=np.stack([outcome.scores for outcome in outcomes[:8]])),
        probe=Probe(x=x[8:], label=labels),
        licence="Nobody may\x1b[2J be harmed",
        sign=[lambda message: (KID, KEY.sign(message))],
    )


KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
KID = key_id(KEY.public_key().public_bytes_raw())
MODELS = {"spiking": built(SPIKING), "dense": built(DENSE)}
WRONG = {
    "bit flip": MODELS["dense"][:2000] + bytes([MODELS["dense"][2000] ^ 4]) + MODELS["dense"][2001:],
    "truncated": MODELS["dense"][:-90],
    "foreign": b"GIF89a" * 100,
    "empty": b"",
}


@pytest.fixture(params=MODELS.values(), ids=list(MODELS))
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    file = tmp_path / "model.edgb"
    file.write_bytes(request.param)
    return file


def pem(public: bytes) -> bytes:
    der = bytes.fromhex("302a300506032b6570032100") + public
    return b"-----BEGIN PUBLIC KEY-----\n" + b64encode(der) + b"\n-----END PUBLIC KEY-----\n"


# ------------------------------------------------------------------ verify


def test_a_good_bundle_verifies(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(path)]) == 0
    out = capsys.readouterr().out
    assert "whole and correct" in out
    assert "8 rows equal to the bit" in out
    assert "50.0% of 70 samples right" in out


def test_verify_speaks_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(path), "--json"]) == 0
    verdict = json.loads(capsys.readouterr().out)
    assert verdict["id"] == read_bundle(path.read_bytes()).id
    assert verdict["probe_accuracy"] == 0.5
    assert verdict["signed_by"] == []


def test_a_wrong_score_is_a_no(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = read_bundle(path.read_bytes())
    y = bundle.selftest.y.copy()
    y[6, 1] += 1
    path.write_bytes(repacked(bundle, y))
    assert main(["verify", str(path)]) == 1
    err = capsys.readouterr().err
    assert err == f"edgerun: self-test row 6: score 1 is {y[6, 1] - 1}, its maker got {y[6, 1]}\n"


def repacked(bundle: Bundle, y: AnyArray) -> bytes:
    selftest = replace(bundle.selftest, y=y)
    return pack(bundle.manifest, bundle.tensors, selftest=selftest, probe=bundle.probe)


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("command", ["verify", "inspect"])
def test_what_is_no_bundle_is_refused_in_one_line(
    tmp_path: Path, command: str, data: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "wrong.edgb"
    file.write_bytes(data)
    assert main([command, str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"edgerun: {file}: ")
    assert captured.err.count("\n") == 1


def test_trust_is_checked(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, other = tmp_path / "mine.pub", tmp_path / "other.pub"
    mine.write_bytes(pem(KEY.public_key().public_bytes_raw()))
    other.write_bytes(pem(Ed25519PrivateKey.generate().public_key().public_bytes_raw()))
    assert main(["verify", str(path), "--trust", str(other), "--trust", str(mine)]) == 0
    assert KID.hex() in capsys.readouterr().out
    assert main(["verify", str(path), "--trust", str(other)]) == 2
    assert "none of its 1 signatures is by one of the 1 trusted keys" in capsys.readouterr().err
    assert main(["verify", str(path), "--trust", str(path)]) == 2
    assert "holds no Ed25519 public key" in capsys.readouterr().err


def test_a_missing_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "none.edgb"]) == 2
    assert capsys.readouterr().err == "edgerun: none.edgb: No such file or directory\n"


# ------------------------------------------------------------------ self-test and probe


def test_one_changed_weight_fails_the_selftest() -> None:
    bundle = read_bundle(MODELS["spiking"])
    weight = bundle.tensors["out.input"].copy()
    check_selftest(Network(bundle.manifest, bundle.tensors), bundle.selftest)
    spikes = np.flatnonzero(weight[:, 0])
    weight[spikes, 0] -= 1
    with pytest.raises(CheckFailed, match="self-test row 0: score 0"):
        check_selftest(Network(bundle.manifest, bundle.tensors | {"out.input": weight}), bundle.selftest)


@pytest.mark.parametrize("rows", [1, BLOCK - 1, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("manifest", [SPIKING, DENSE], ids=["spiking", "dense"])
def test_blocks_of_the_probe_do_not_change_its_accuracy(manifest: Manifest, rows: int) -> None:
    bundle = read_bundle(built(manifest, rows))
    network = Network(bundle.manifest, bundle.tensors)
    assert probe_accuracy(network, bundle.probe) == (rows + 1) // 2 / rows


# ------------------------------------------------------------------ inspect


def test_inspect_shows_every_section_and_no_escape_sequence(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path)]) == 0
    out = capsys.readouterr().out
    bundle = read_bundle(path.read_bytes())
    assert all(section.name in out and section.sha256.hex()[:16] in out for section in bundle.sections)
    assert bundle.id in out
    assert KID.hex() in out
    assert "\x1b" not in out
    assert not any(line.endswith(" ") for line in out.splitlines())


@pytest.mark.parametrize(("strength", "shown"), [(12, "strength 12\n"), ((31, 9), "strength 31, 9\n")])
def test_inspect_says_how_strongly_weights_are_held(
    strength: int | tuple[int, ...], shown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = EProp(layer="hidden", readout="out", rates=RATES, chunk_steps=20)
    plan = LearningPlan(rule=rule, intelligence=Intelligence(strength=strength, damping=16))
    (tmp_path / "own.edgb").write_bytes(built(structs.replace(SPIKING, learning=plan)))
    assert main(["inspect", str(tmp_path / "own.edgb")]) == 0
    assert f"synaptic intelligence, {shown}" in capsys.readouterr().out


def test_inspect_speaks_json(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(path), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    data = path.read_bytes()
    assert shown["id"] == read_bundle(data).id
    assert shown["bytes"] == len(data)
    assert shown["manifest"]["name"] in ("spiking", "dense")
    assert shown["sections"][0]["kind"] == "manifest"
    assert len(shown["sections"]) == struct.unpack_from("<H", data, 8)[0]
    assert [section["name"] for section in shown["sections"] if section["dtype"]] == [
        record["name"] for record in shown["manifest"]["tensors"]
    ]
