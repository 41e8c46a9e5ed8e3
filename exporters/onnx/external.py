"""Weights that lie in files beside the model, as `torch.onnx.export` writes them unless told otherwise.

Only names of plain files in the model's own folder are read: a model must not reach for anything else on the machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from edgerun.errors import ModelError


def fetch(path: Path, model: Any, limit: int) -> None:
    """Put the bytes of every tensor that lies beside the model into the model itself; all together at most `limit`.

    Raises ModelError naming the tensor, and the file that is missing, elsewhere or too short.
    """
    room = limit
    for tensor in outside(model):
        data = content(path, tensor, room)
        room -= len(data)
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def files(path: Path) -> tuple[Path, ...]:
    """The files beside a sound model that hold weights of it, by name."""
    entries = (
        entry for tensor in outside(onnx.load_model(path, load_external_data=False)) for entry in tensor.external_data
    )
    return tuple(path.with_name(name) for name in sorted({entry.value for entry in entries if entry.key == "location"}))


def outside(model: Any) -> Iterator[Any]:
    """The tensors that lie in other files."""
    constants = (item.t for node in model.graph.node for item in node.attribute if item.HasField("t"))
    for tensor in (*model.graph.initializer, *constants):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            yield tensor


def content(path: Path, tensor: Any, room: int) -> bytes:
    """The bytes of one tensor: `length` (else all that follow) from `offset` (else the beginning) of `location`."""
    info = {entry.key: entry.value for entry in tensor.external_data}
    name = info.get("location", "")
    said = f"{path.name}: tensor {tensor.name!r} lies in {name!r}"
    if not name.isprintable() or Path(name).name != name:
        raise ModelError(f"{said}, must be the name of a file beside the model; save the model as one file")
    file = path.with_name(name)
    if not file.is_file():
        raise ModelError(f"{said}, which is not there: put that file beside the model, or save the model as one file")
    size = file.stat().st_size
    first = place(said, "offset", info.get("offset", "0"))
    count = place(said, "length", info.get("length", str(max(size - first, 0))))
    if first + count > size:
        raise ModelError(f"{said}, bytes {first} to {first + count}, but that file ends at {size}")
    if count > room:
        raise ModelError(f"{said}, {count} bytes, and only {room} are left of what a model may take")
    with file.open("rb") as data:
        data.seek(first)
        return data.read(count)


def place(said: str, key: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 15:
        raise ModelError(f"{said}, {key} {text[:20]!r}, must be a whole number")
    return int(text)
