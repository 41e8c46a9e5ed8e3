"""Emulated Raspberry Pis: Debian's root file systems of 64 and 32 bits under QEMU's user mode, which run the agent."""
