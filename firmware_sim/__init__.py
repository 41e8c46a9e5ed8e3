"""A pretend device: the real agent on a virtual clock, with energy, sensors and flash that go wrong from one seed."""
