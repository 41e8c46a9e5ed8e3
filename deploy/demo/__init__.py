"""`edgerun demo` and what only it needs: the one place that may import every package. See `command.py`."""
