"""What holds for every test: no deadline on a busy machine, a profile that searches for hours (`make fuzz`), and the
slow references of `tests/reference` as the package `reference`."""

import sys
from pathlib import Path

from hypothesis import settings

sys.path.append(str(Path(__file__).parent))

settings.register_profile("everyday", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=100_000)
settings.load_profile("everyday")
