"""Sums of weights, recurrent layers and learning on every processor with a way of its own, neighbours emulated."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    "dense.c", "dense_dot.c", "dense_vnni.c", "recurrent.c", "plasticity.c", "plasticity_avx512.c", "eprop.c",
    "noise.c", "learn.c",
)  # fmt: skip
BUILD = (
    "-std=c99", "-O2", "-static", "-ffunction-sections", "-Wl,--gc-sections", "-Wall", "-Wextra", "-Werror",
    "-fsanitize=signed-integer-overflow", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
ARM64, ARM32 = "aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc"
PROCESSORS = {
    "this one": ("gcc", (), ()),
    "this one, plainly": ("gcc", ("-DER_PORTABLE",), ()),
    "64-bit Arm with dot products": (ARM64, (), ("qemu-aarch64-static", "-cpu", "max")),
    "64-bit Arm without": (ARM64, (), ("qemu-aarch64-static", "-cpu", "cortex-a72")),
    "32-bit Arm with pairs of products": (ARM32, ("-march=armv7-a", "-mfpu=neon"), ("qemu-arm-static",)),
}


def said(name: str, source: str, folder: Path) -> str:
    """What a program of tests/kernels prints on a processor."""
    compiler, flags, machine = PROCESSORS[name]
    for needed in (compiler, *machine[:1]):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed: make system-deps")
    kernels, program = ROOT / "edgerun/csrc", folder / "program"
    files = [*(str(kernels / kernel) for kernel in SOURCES), str(ROOT / "tests/kernels" / source)]
    subprocess.run([compiler, *BUILD, *flags, f"-I{kernels}", *files, "-o", program], check=True)
    return subprocess.run([*machine, program], capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.parametrize("name", PROCESSORS)
def test_sums_are_those_of_their_definition(name: str, tmp_path: Path) -> None:
    assert said(name, "layer_sums.c", tmp_path) == "0\n"


@pytest.mark.parametrize("name", PROCESSORS)
def test_errors_below_are_those_of_their_definition(name: str, tmp_path: Path) -> None:
    assert said(name, "error_below.c", tmp_path) == "0\n"


@pytest.mark.parametrize("name", PROCESSORS)
def test_recurrent_layers_give_the_same_bits(name: str, tmp_path: Path) -> None:
    """Those that the plain scalar C gave before any of it was made fast."""
    assert said(name, "recurrent_layers.c", tmp_path) == "8e5b4b20f151102d\n"


@pytest.mark.parametrize("name", PROCESSORS)
def test_updates_give_the_same_bits_and_stay_within_their_arrays(name: str, tmp_path: Path) -> None:
    """Those of the portable C, which is held to numpy; the arrays end where memory does."""
    assert said(name, "update_pages.c", tmp_path) == "b7c1a9a32f71b8e2\n"
