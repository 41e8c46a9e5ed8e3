"""A bundle as a small C project for a microcontroller: model.c from the bundle, the rest as it stands in `c/`."""
