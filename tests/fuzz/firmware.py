"""Hostile streams and hostile checkpoints for the firmware, built for this machine under sanitisers.

python tests/fuzz/firmware.py [--cases 100000] [--first 0]      `tests/firmware/fuzz_host.c` makes the cases
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import host_firmware
import msgspec
import numpy as np
from pretend import sample, tiny_bundle

from edgerun.bundle import Bundle
from edgerun.spec import Doubt, Drift, Rewiring
from firmware_sim.qemu import stream


def full(bundle: Bundle) -> Bundle:
    """The same with a watch for drift, books of doubt and masks of synapses."""
    plan = msgspec.structs.replace(
        bundle.manifest.learning, drift=Drift(samples=8), doubt=Doubt(margins=8, votes=3),
        rewiring=Rewiring(share=9000, every=3),
    )  # fmt: skip
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, learning=plan))


def harness(folder: Path) -> list[str]:
    """The command of a harness built in a folder, but for the first case and their count."""
    bundle = full(tiny_bundle())
    device = host_firmware.host(bundle, folder, ())
    lessons = [stream.sample(sample(k % 4, k).astype(np.uint8).tobytes(), k % 4) for k in range(4)]
    lessons += [stream.feedback(sample(k % 4, k).astype(np.uint8).tobytes(), k % 3) for k in range(4)]
    asked = stream.sample(sample(1, 9).astype(np.uint8).tobytes())
    commands = [
        stream.frame(kind, 3)
        for kind in (
            stream.NEW_CLASS, stream.SETTLE, stream.BOUNDARY, stream.SAVE, stream.PRINT, stream.JUDGE, stream.GUARD,
        )
    ]  # fmt: skip
    device.run(folder, b"".join([*lessons, stream.frame(stream.SAVE), *lessons, stream.frame(stream.SAVE)]))
    told = [lessons[0], *commands, lessons[1], asked, *lessons[2:], stream.frame(stream.FACTORY)]
    seed = b"".join([asked, *told, asked])
    (folder / "seed.bin").write_bytes(seed)
    (folder / "seed_flash.bin").write_bytes((folder / "flash.bin").read_bytes())
    inner = folder / "fuzz"
    inner.mkdir()
    flags = (*host_firmware.SANITISED, "-Dmain=firmware_main")
    fuzz = host_firmware.host(bundle, inner, flags, port=host_firmware.FUZZ.read_text("utf-8"))
    return [str(fuzz.program), str(folder / "seed.bin"), str(folder / "seed_flash.bin")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--first", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run([*harness(Path(folder)), str(args.first), str(args.cases)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
