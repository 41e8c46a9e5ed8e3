"""Modules that no package holds: scripts, examples, benchmarks, and tests' own files beside other tests."""

from __future__ import annotations

import importlib
import importlib.util
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


def scenario(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    """A benchmark of `benchmarks/learning`, which finds its neighbours for as long as the test runs."""
    monkeypatch.syspath_prepend(LEARNING)
    return importlib.import_module(name)
