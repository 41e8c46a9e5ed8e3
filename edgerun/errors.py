"""Everything that edgerun raises on purpose.

    EdgeRunError              exit code 1: the work failed, or a check said no
    ├── CheckFailed           a verification ran and its answer is no
    ├── StoreError            the storage directory cannot be used
    └── Refused               exit code 2: input or arguments were refused, nothing was changed
        ├── SpecError         a layer, learning rule or budget that contradicts itself
        ├── BundleError       bytes that are not a whole, sound bundle
        ├── ModelError        a model file that cannot be exported
        ├── DataError         samples of the wrong shape, type or range
        ├── ConfigError       a configuration file with a wrong key or value
        ├── CommandError      an operator command that is malformed, replayed, expired or not allowed
        ├── BudgetError       a budget that the board cannot keep
        └── MissingExtra      an optional library is not installed

A message names the field, the value and the bound, on one line, whatever a hostile file calls its parts.
"""

from __future__ import annotations

import re
from typing import Final

WORD_MAX: Final = 256  # longer than most paths
LONG_WORD: Final = re.compile(rf"\S{{{WORD_MAX + 1},}}")


def one_line(text: str) -> str:
    """Text from a file, safe for a terminal: unprintable characters become question marks."""
    return "".join(char if char.isprintable() else "?" for char in text)


class EdgeRunError(Exception):
    """The base of the tree; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        """One printable line; of a word of more than `WORD_MAX` characters the beginning."""
        return LONG_WORD.sub(lambda word: f"{word[0][:WORD_MAX]}...", one_line(super().__str__()))


class CheckFailed(EdgeRunError):
    """A verification ran to its end and the answer is no."""


class StoreError(EdgeRunError):
    """The storage directory cannot be read or written."""


class Refused(EdgeRunError, ValueError):
    """Input or arguments were refused; nothing was changed. Also a ValueError, so msgspec reports its path."""

    exit_code = 2


class SpecError(Refused):
    """A description that contradicts itself."""


class BundleError(Refused):
    """Bytes that are not a whole, sound bundle for this device."""


class ModelError(Refused):
    """A model file that cannot be exported."""


class DataError(Refused):
    """Samples of the wrong shape, type or range."""


class ConfigError(Refused):
    """A configuration file with an unknown key or a value out of bounds."""


class CommandError(Refused):
    """An operator command that is malformed, replayed, expired or not allowed."""


class BudgetError(Refused):
    """A budget that the board cannot keep, such as one under its sleep power."""


class MissingExtra(Refused):
    """An optional library is not installed."""

    def __init__(self, command: str, extra: str, missing: str) -> None:
        super().__init__(f"{command} needs {missing}: pip install 'edgerun[{extra}]'")
