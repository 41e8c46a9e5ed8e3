"""What a device has to carry: numpy, paho-mqtt, msgspec and the standard library, whatever else is installed."""

import subprocess
import sys

import pytest

DEVICE = {"edgerun", "numpy", "paho", "msgspec"}
TAKEN_WHERE_THERE = {"typing_extensions", "socks", "dns", "org"}  # by msgspec, paho, paho, and on Java; all do without
ENTRANCES = ["edgerun.agent", "edgerun.cli", "edgerun.config"]

# Imports a module while nothing but DEVICE and the standard library can be found, then prints who asked for more.
BARE = """
import importlib.abc, sys

class Bare(importlib.abc.MetaPathFinder):
    asked = set()

    def find_spec(self, name, path=None, target=None):
        root = name.partition(".")[0]
        if root in sys.stdlib_module_names or root in {device!r}:
            return None
        self.asked.add(root)
        raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Bare())
import {module}
print(*Bare.asked)
"""


def asked_for(module: str) -> set[str]:
    """The libraries beyond the device's own that a module tries to import and does without. Fails if it cannot."""
    code = BARE.format(device=DEVICE, module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ENTRANCES)
def test_the_device_needs_nothing_else(module: str) -> None:
    assert asked_for(module) - TAKEN_WHERE_THERE == set()


def test_the_command_line_imports_no_library_at_all() -> None:
    code = "import sys, edgerun.cli; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"numpy", "paho", "msgspec"} == set()


def test_a_library_of_the_workstation_would_be_seen() -> None:
    with pytest.raises(AssertionError, match="No module named 'onnx'"):
        asked_for("onnx")
