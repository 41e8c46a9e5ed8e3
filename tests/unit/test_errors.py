"""A message is one printable line, whatever the names in it."""

from __future__ import annotations

import pytest

from edgerun.errors import WORD_MAX, BundleError, CheckFailed, EdgeRunError, SpecError
from edgerun.spec import decode_manifest


@pytest.mark.parametrize("kind", [EdgeRunError, CheckFailed, BundleError])
def test_names_from_a_file_cannot_write_on_a_terminal(kind: type[EdgeRunError]) -> None:
    assert str(kind("layer a\nb\x1b[2J\u202e is wrong")) == "layer a?b?[2J? is wrong"


def test_of_a_long_name_the_beginning_is_told() -> None:
    text = str(SpecError(f"layer {'n' * 5000} has width {'9' * WORD_MAX}"))
    assert text == f"layer {'n' * WORD_MAX}... has width {'9' * WORD_MAX}"


@pytest.mark.parametrize("opener", [b"[", b'{"layers":[', b'{"a":'])
def test_a_manifest_nested_without_end_is_refused(opener: bytes) -> None:
    with pytest.raises(SpecError, match=r"^manifest: "):
        decode_manifest(opener * 100_000)
