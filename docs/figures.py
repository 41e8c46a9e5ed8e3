"""Exports a ResNet-8 with chosen bits and photographs the top of its report: `docs/images/export-report.png`.

Needs chromium, and EDGERUN_DATA for the samples that the model is exported with. About a minute.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from screenshots import IMAGES, chromium, photograph

BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "export"
MODEL = "resnet8"
HEIGHT = 1500  # as far as the bits of its layers
WRITE_DATA = "import data, pathlib, sys; data.write_npz(sys.argv[1], pathlib.Path(sys.argv[2]))"


def main() -> int:
    browser = shutil.which("chromium")
    if browser is None:
        print("figures need chromium: make system-deps", file=sys.stderr)
        return 2
    if not os.environ.get("EDGERUN_DATA"):
        print("EDGERUN_DATA is not set, must name the folder of the recordings", file=sys.stderr)
        return 2
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        page = report(Path(folder))
        with chromium(browser) as port:
            photograph(port, page.as_uri(), IMAGES / "export-report.png", height=HEIGHT, settle_s=1.0)
    return 0


def report(folder: Path) -> Path:
    """The page that an export writes, in a folder."""
    page = folder / "report.html"
    subprocess.run([sys.executable, "-c", WRITE_DATA, MODEL, str(folder)], cwd=BENCHMARKS, check=True)
    command = [str(Path(sys.executable).with_name("edgerun")), "export", str(BENCHMARKS / "models" / f"{MODEL}.onnx")]
    command += ["--calibrate", str(folder / "calibration.npz"), "--test", str(folder / "test.npz")]
    command += ["--bits", "auto", "--finetune", "0", "--report", str(page), "-o", str(folder / "model.edgb")]
    subprocess.run(command, check=True)
    return page


if __name__ == "__main__":
    sys.exit(main())
