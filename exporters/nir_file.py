"""A .nir file as nodes in memory: read with limits on time and memory, and what older writers left out put in.

Files are HDF5 trees of plain fields. Since NIR 0.1 nodes have gained fields and checks, so that its own reader refuses
some files that its earlier versions wrote. Here a node takes what a file says of it, shapes are worked out anew, and
nothing is checked that the import does not need.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import h5py
import nir
import numpy as np

from edgerun.arrays import AnyArray
from edgerun.errors import ModelError
from exporters.data import first_line

MAX_BYTES: Final = 1 << 30
READ_SECONDS: Final = 10  # of processor time
READ_BYTES: Final = 8 << 30
REHEARSAL: Final = """
import resource, sys
path, seconds, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
resource.setrlimit(resource.RLIMIT_AS, (size, size))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from exporters.nir_file import read
read(path)
"""
HDF5: Final = b"\x89HDF\r\n\x1a\n"
FOREIGN: Final = (
    OSError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
ONE_SHAPE: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        "I": ("r",),
        "IF": ("r", "v_threshold", "v_reset"),
        "LI": ("tau", "r", "v_leak"),
        "LIF": ("tau", "r", "v_leak", "v_threshold", "v_reset"),
        "CubaLI": ("tau_syn", "tau_mem", "r", "v_leak", "w_in"),
        "CubaLIF": ("tau_syn", "tau_mem", "r", "v_leak", "w_in", "v_threshold", "v_reset"),
    }
)
"""The fields of neurons that must have one shape, by type."""
UNSAID: Final[Mapping[str, str]] = MappingProxyType(
    {"Conv1d": "input_shape", "Conv2d": "input_shape", "Flatten": "input_type"}
)
"""What a node says of its input, by type: missing in old files, and worked out anew in any case."""

Tree: TypeAlias = dict[str, Any]


def parse(path: Path) -> Any:
    """The graph of a file. Raises ModelError where it is no sound NIR file, or reading it does not end."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ModelError(f"{path.name}: {size} bytes, the limit is {MAX_BYTES}")
    with path.open("rb") as file:
        if file.read(len(HDF5)) != HDF5:
            raise ModelError(f"{path.name}: is no NIR file (no HDF5 signature)")
    rehearse(path)
    try:
        graph = read(path)
    except FOREIGN as err:
        raise ModelError(f"{path.name}: is no sound NIR file ({first_line(err)})") from None
    if not isinstance(graph, nir.NIRGraph) or not graph.nodes:
        raise ModelError(f"{path.name}: holds no graph")
    return graph


def rehearse(path: Path) -> None:
    """Read the file once in a child process: over damaged bytes the HDF5 library can hang, crash or eat all memory.

    Raises ModelError if that happens; what the library merely refuses is left to the real reading.
    """
    command = [sys.executable, "-c", REHEARSAL, str(path), str(READ_SECONDS), str(READ_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=2 * READ_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise ModelError(f"{path.name}: is no sound NIR file (reading it does not end)") from None
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        raise ModelError(f"{path.name}: is no sound NIR file (reading it ends in {name} within {READ_SECONDS} s)")


def read(path: Path | str) -> Any:
    """The outermost node. Raises one of `FOREIGN` where the file is damaged, or a node lacks what NIR asks of it."""
    with h5py.File(path, "r") as file:
        tree = contents(file["node"])
    return nir.dict2NIRNode(mended(tree))


def contents(group: Any) -> Tree:
    """A group's fields by name, groups in it as trees of their own, bytes as text."""
    found: Tree = {}
    for name, item in group.items():
        value = contents(item) if isinstance(item, h5py.Group) else item[()]
        found[name] = value.decode("utf-8") if isinstance(value, bytes) else value
    return found


def mended(tree: Tree) -> Tree:
    """A node's fields as NIR wants them today."""
    node, kind = dict(tree), tree["type"]
    if kind == "NIRGraph":
        inner = {name: mended(child) for name, child in node["nodes"].items()}
        return node | {"nodes": inner, "type_check": False}
    if kind in UNSAID:
        node[UNSAID[kind]] = None
    if kind in ("Input", "Output"):
        node["shape"] = np.atleast_1d(node["shape"])
    return node | of_one_shape({name: node[name] for name in ONE_SHAPE.get(kind, ()) if name in node})


def of_one_shape(fields: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Single values repeated, where all other fields of a neuron agree in shape."""
    arrays = {name: np.asarray(value) for name, value in fields.items()}
    shapes = {value.shape for value in arrays.values() if value.size > 1}
    if len(shapes) != 1:
        shapes = {(1,)} if arrays and not shapes else set()
    if len(shapes) != 1:
        return arrays
    (shape,) = shapes
    return {name: np.full(shape, value.reshape(-1)[0]) if value.size == 1 else value for name, value in arrays.items()}
