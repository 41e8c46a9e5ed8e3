"""Key files as openssl knows them; the private one is for its owner only."""

from __future__ import annotations

import os
import shutil
import subprocess
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from edgerun.bundle import open_bundle, read_bundle
from edgerun.errors import BundleError, Refused
from edgerun.keys import key_id, read_private_key, read_public_key, trusted_keys
from exporters import keys
from exporters.commands import keys as command


@pytest.fixture
def open_umask() -> Iterator[None]:
    """The most permissive umask, which must not matter."""
    before = os.umask(0)
    yield
    os.umask(before)


def keys_command(*words: str) -> int:
    parser = ArgumentParser()
    command.configure(parser)
    return command.run(parser.parse_args(words))


@pytest.mark.usefixtures("open_umask")
def test_new_keys_are_a_pair_and_the_private_one_is_private(tmp_path: Path) -> None:
    key_file, public_file = keys.new_key(tmp_path / "v1.2")
    assert (key_file.name, public_file.name) == ("v1.2.key", "v1.2.pub")
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert public_file.stat().st_mode & 0o777 == 0o644
    kid, signature = keys.file_signer(key_file)(b"message")
    public = read_public_key(public_file)
    Ed25519PublicKey.from_public_bytes(public).verify(signature, b"message")
    assert trusted_keys([public_file]) == {kid: public}


def test_two_new_keys_differ(tmp_path: Path) -> None:
    first, second = (keys.new_key(tmp_path / name)[0] for name in "ab")
    assert read_private_key(first) != read_private_key(second)


@pytest.mark.parametrize("existing", ["mine.key", "mine.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(Refused, match=f"{existing} exists already"):
        keys.new_key(tmp_path / "mine")
    assert [file.name for file in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_the_command_shows_the_same_id_for_both_halves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys_command("new", str(tmp_path / "me")) == 0
    kid = capsys.readouterr().out.split()[0]
    assert keys_command("show", str(tmp_path / "me.key"), str(tmp_path / "me.pub")) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [kid, kid]
    assert kid == key_id(read_public_key(tmp_path / "me.pub")).hex()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_and_edgerun_read_each_other(tmp_path: Path) -> None:
    made = tmp_path / "made.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", made], check=True, capture_output=True)
    public = tmp_path / "made.pub"
    subprocess.run(["openssl", "pkey", "-in", made, "-pubout", "-out", public], check=True, capture_output=True)
    assert keys.file_signer(made)(b"")[0] == key_id(read_public_key(public))
    ours, _ = keys.new_key(tmp_path / "ours")
    subprocess.run(["openssl", "pkey", "-in", ours, "-noout", "-check"], check=True, capture_output=True)


def test_files_that_hold_no_such_key_are_refused(tmp_path: Path) -> None:
    key_file, public_file = keys.new_key(tmp_path / "me")
    other = tmp_path / "x25519.pub"
    other.write_bytes(
        X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    cut, junk = tmp_path / "cut.pub", tmp_path / "junk.pub"
    cut.write_bytes(public_file.read_bytes().replace(b"=", b""))
    junk.write_bytes(bytes(range(256)) * 4000)
    for file in (key_file, other, cut, junk):
        with pytest.raises(Refused, match=f"{file.name} holds no Ed25519 public key in PEM"):
            read_public_key(file)
    with pytest.raises(Refused, match=r"me.pub holds no Ed25519 private key in PEM"):
        read_private_key(public_file)


@pytest.mark.parametrize("name", ["", ".", "a/.."])
def test_a_key_needs_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="is no name of a file"):
        keys.new_key(Path(name))
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------ more signatures


def test_what_is_no_bundle_is_named_where_it_is_to_be_signed(tmp_path: Path) -> None:
    keys.new_key(tmp_path / "release")
    (tmp_path / "model.edgb").write_bytes(b"PK" * 99)
    with pytest.raises(BundleError, match=r"model.edgb: magic .* this is no bundle"):
        keys_command("sign", str(tmp_path / "model.edgb"), str(tmp_path / "release.key"))


def test_a_second_signature_changes_neither_id_nor_content(tmp_path: Path, mlp_bundle: Path) -> None:
    bundle, before = tmp_path / "model.edgb", mlp_bundle.read_bytes()
    bundle.write_bytes(before)
    for name in ("release", "safety"):
        keys.new_key(tmp_path / name)
    assert keys_command("sign", str(bundle), str(tmp_path / "release.key")) == 0
    assert keys_command("sign", str(bundle), str(tmp_path / "safety.key")) == 0
    for name in ("release", "safety"):
        trusted = open_bundle(bundle, trust=trusted_keys([tmp_path / f"{name}.pub"]))
        assert len(trusted.signed_by) == 1
        assert trusted.id == read_bundle(before).id
    assert bundle.read_bytes()[: len(before) - 2] == before[:-2]  # all but the signature count, which was 0


def test_a_key_signs_once_and_a_damaged_bundle_not_at_all(tmp_path: Path, mlp_bundle: Path) -> None:
    bundle = tmp_path / "model.edgb"
    bundle.write_bytes(mlp_bundle.read_bytes())
    keys.new_key(tmp_path / "release")
    keys_command("sign", str(bundle), str(tmp_path / "release.key"))
    signed = bundle.read_bytes()
    with pytest.raises(BundleError, match="has signed it already"):
        keys_command("sign", str(bundle), str(tmp_path / "release.key"))
    assert bundle.read_bytes() == signed
    bundle.write_bytes(signed[:500] + bytes([signed[500] ^ 1]) + signed[501:])
    keys.new_key(tmp_path / "other")
    with pytest.raises(BundleError):
        keys_command("sign", str(bundle), str(tmp_path / "other.key"))
