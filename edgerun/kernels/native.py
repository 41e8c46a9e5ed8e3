"""The C kernels, where they were built: which backend runs, and why not the other.

    auto     C where the extension is there and has every part of the bundle, numpy otherwise: the same bits
    numpy    numpy
    native   C, or an error that says what is missing

The environment variable EDGERUN_BACKEND decides where neither a command nor a configuration does.
"""

from __future__ import annotations

import logging
import os
from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import Final, Literal, TypeAlias, get_args

from edgerun.errors import ConfigError, SpecError

Backend: TypeAlias = Literal["auto", "numpy", "native"]
BACKENDS: Final[tuple[Backend, ...]] = get_args(Backend)
VARIABLE: Final = "EDGERUN_BACKEND"

log = logging.getLogger(__name__)


@lru_cache(maxsize=1)
def library() -> ModuleType | None:
    """The extension, or None and one line in the log where it was not built or does not load here."""
    try:
        return import_module("edgerun._native")
    except ImportError as err:
        log.info("the C kernels are not there, numpy computes the same bits", extra={"reason": str(err)})
        return None


def required() -> ModuleType:
    """The extension. Raises SpecError where it was not built."""
    found = library()
    if found is None:
        raise SpecError("the C kernels are not built")
    return found


def chosen(asked: Backend | None = None) -> Backend:
    """What a command or configuration asks for; where that is nothing or `auto`, the environment's word, else `auto`.

    Raises ConfigError for a word of the environment that is none, and for C where it was not built.
    """
    word = os.environ.get(VARIABLE) or "auto"
    if word not in BACKENDS:
        raise ConfigError(f"{VARIABLE} is {word!r}, not one of {', '.join(BACKENDS)}")
    found = word if asked in (None, "auto") else asked
    if found == "native" and library() is None:
        raise ConfigError(
            "backend native: the C kernels are not built here; numpy computes the same bits (backend numpy), "
            "a C compiler at installation brings them"
        )
    return found
