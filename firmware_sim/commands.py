"""The emulator's commands, found through the entry-point group `edgerun.commands`."""

from edgerun.cli import Row

ROWS = (Row("emulate", "run the real agent on a pretend board", "firmware_sim.emulate"),)
