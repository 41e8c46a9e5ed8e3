"""What a library weighs, in new processes: seconds of its import, memory while it works, bytes that it installs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).parents[2]
BUNDLE: Final = ROOT / "examples/spoken_digits/model.edgb"
TFLITE: Final = ROOT / "benchmarks/export/tflite/mnist_mlp_int8.tflite"
TIMES: Final = 5

EDGERUN: Final = f"""
import numpy as np
from pathlib import Path
from edgerun.bundle import read_bundle
from edgerun.lifetime import new_learner
bundle = read_bundle(Path({str(BUNDLE)!r}).read_bytes())
"""
EDGERUN_LEARNS: Final = """
learner = new_learner(bundle)
q = bundle.selftest.x[0].reshape(-1).astype(np.int16)
for _ in range(20): learner.apply(learner.plan_lesson(q, 1, "full"))
"""
EDGERUN_INFERS: Final = """
from edgerun.native import network_of
network_of(bundle.manifest, bundle.tensors).infer(bundle.selftest.x[0].reshape(-1).astype(np.int16))
"""
LITERT: Final = f"""
from ai_edge_litert.interpreter import Interpreter
held = Interpreter(model_path={str(TFLITE)!r}, num_threads=1)
held.allocate_tensors(); held.invoke()
"""
ONNX: Final = f"""
import onnxruntime
onnxruntime.InferenceSession({str(ROOT / "benchmarks/export/models/mnist_mlp.onnx")!r})
"""
TORCH: Final = """
import torch
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
step = torch.optim.SGD(net.parameters(), 0.1)
for _ in range(20):
    step.zero_grad()
    torch.nn.functional.cross_entropy(net(torch.randn(1, 64)), torch.tensor([1])).backward()
    step.step()
"""
MEASURED: Final = """
import re, time
began = time.perf_counter()
{program}
took = time.perf_counter() - began
status = open("/proc/self/status").read()
print("RESULT", took, re.search(r"VmHWM:\\s+(\\d+)", status)[1])
"""


class Weight(NamedTuple):
    """What a process took: seconds to the end of its work, least of some; the most resident memory, megabytes."""

    seconds: float
    megabytes: float


def weigh(program: str, times: int = TIMES) -> Weight:
    """Run a program in new interpreters on one thread. Raises CalledProcessError where it fails."""
    alone = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(times):
        command = [sys.executable, "-W", "ignore", "-c", MEASURED.format(program=program)]
        told = subprocess.run(command, capture_output=True, text=True, check=True, env=alone).stdout
        words = next(line for line in told.splitlines() if line.startswith("RESULT")).split()
        found.append((float(words[1]), int(words[2]) / 1024))
    return Weight(min(seconds for seconds, _ in found), min(size for _, size in found))


def installed_mb(names: tuple[str, ...]) -> float | None:
    """Megabytes of the files of these distributions; None where one is missing."""
    try:
        files = [each for name in names for each in metadata.files(name) or []]
    except metadata.PackageNotFoundError:
        return None
    return sum(path.stat().st_size for each in files if (path := Path(str(each.locate()))).is_file()) / 1e6


def own_mb() -> float:
    """Megabytes of the package that a device needs: `edgerun/` alone, sources of the kernels and extension included."""
    package = ROOT / "edgerun"
    kept = (path for path in package.rglob("*") if path.is_file() and not re.search(r"__pycache__", str(path)))
    return sum(path.stat().st_size for path in kept) / 1e6


ROWS: Final = (
    ("edgerun, first answer", EDGERUN + EDGERUN_INFERS, ("numpy", "msgspec", "paho-mqtt")),
    ("edgerun, learning", EDGERUN + EDGERUN_LEARNS, ("numpy", "msgspec", "paho-mqtt")),
    ("LiteRT, first answer", LITERT, ("ai-edge-litert", "numpy", "flatbuffers", "backports.strenum")),
    ("ONNX Runtime, session", ONNX, ("onnxruntime", "numpy", "flatbuffers", "protobuf", "packaging")),
    ("torch, learning", TORCH, ("torch", "sympy", "networkx", "jinja2", "filelock", "fsspec", "mpmath", "MarkupSafe")),
)
