"""The commands of this package, found through the entry-point group `edgerun.commands`."""

from __future__ import annotations

from typing import Final

from edgerun.cli import Row

ROWS: Final = (
    Row("export", "turn a trained model into a bundle", "exporters.commands.export", "export"),
    Row("export-firmware", "write a bundle as a C project for a microcontroller", "exporters.commands.export_firmware"),
    Row("report", "show what a run of learning came to, as a web page", "exporters.commands.report"),
    Row("keys", "make and show signing keys", "exporters.commands.keys", "sign"),
)
