"""edgerun: models that keep learning on small devices, in fixed point, inside a power budget.

This package is what runs on the device: numpy, paho-mqtt, msgspec and the standard library, nothing else.
`docs/architecture.md` walks one sample through it.
"""

__version__ = "0.1.0"
