"""`python tests/fuzz`: see `driver.py`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from edgerun.cli import THREADS

os.environ |= {name: "1" for name in THREADS}  # before numpy is loaded
sys.path.append(str(Path(__file__).parents[1]))

from fuzz.driver import main

if __name__ == "__main__":
    sys.exit(main())
