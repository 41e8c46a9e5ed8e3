"""How long an import takes in a fresh interpreter, beyond the start of Python: best of five, in seconds."""

import subprocess
import sys

TIMED = "import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"


def import_time(module: str) -> float:
    """Seconds of one import in a new process."""
    return float(
        subprocess.run([sys.executable, "-c", TIMED.format(module=module)], capture_output=True, check=True).stdout
    )


for module in sys.argv[1:] or ["edgerun.agent", "edgerun.cli"]:
    print(f"{module:<28}{min(import_time(module) for _ in range(5)):.3f} s")
