"""The C firmware on emulated Cortex-M processors: built once, run in QEMU, every instruction counted."""
