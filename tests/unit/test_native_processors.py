"""Sums of weights on every processor that has a way of its own, and on its neighbours that do without, emulated."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("dense.c", "dense_dot.c", "dense_vnni.c")
ARM64, ARM32 = "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"
PROCESSORS = {
    "this one": ("gcc", (), ()),
    "this one, plainly": ("gcc", ("-DER_PORTABLE",), ()),
    "64-bit Arm with dot products": (ARM64, (), ("qemu-aarch64-static", "-cpu", "max")),
    "64-bit Arm without": (ARM64, (), ("qemu-aarch64-static", "-cpu", "cortex-a72")),
    "32-bit Arm with pairs of products": (ARM32, ("-march=armv7-a", "-mfpu=neon"), ("qemu-arm-static",)),
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_sums_are_those_of_their_definition(name: str, tmp_path: Path) -> None:
    compiler, flags, machine = PROCESSORS[name]
    for needed in (compiler, *machine[:1]):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed: make system-deps")
    folder, program = ROOT / "edgerun/csrc", tmp_path / "sums"
    files = [*(str(folder / source) for source in SOURCES), str(ROOT / "tests/kernels/layer_sums.c")]
    warnings = ("-Wall", "-Wextra", "-Werror")
    subprocess.run(
        [compiler, "-std=c99", "-O2", "-static", *warnings, *flags, f"-I{folder}", *files, "-o", program], check=True
    )
    done = subprocess.run([*machine, program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0\n"
