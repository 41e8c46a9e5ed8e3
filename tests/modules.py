"""Modules that no package holds: scripts, examples, benchmarks, and tests' own files beside other tests."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

LEARNING = Path(__file__).parents[1] / "benchmarks" / "learning"


def load(path: Path, name: str | None = None) -> ModuleType:
    """The module in a file, by its own name or another one."""
    spec = importlib.util.spec_from_file_location(name or path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def load_native() -> None:
    """Have the kernels that EDGERUN_TEST_NATIVE names, where it does (`tests/variants.py`), not the package's own."""
    if "EDGERUN_TEST_NATIVE" not in os.environ:
        return
    loader = importlib.machinery.ExtensionFileLoader("edgerun._native", os.environ["EDGERUN_TEST_NATIVE"])
    spec = importlib.util.spec_from_loader(loader.name, loader)
    if spec is None:
        raise ImportError(loader.path)
    sys.modules[loader.name] = importlib.util.module_from_spec(spec)
    loader.exec_module(sys.modules[loader.name])


def scenario(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A benchmark of `benchmarks/learning`, which finds its neighbours for as long as the test runs."""
    monkeypatch.syspath_prepend(LEARNING)
    return importlib.import_module(name)
