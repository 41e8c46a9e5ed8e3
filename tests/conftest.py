"""What holds for every test: no deadline on a busy machine, and a profile that searches for hours (`make fuzz`)."""

from hypothesis import settings

settings.register_profile("everyday", deadline=None)
settings.register_profile("fuzz", deadline=None, max_examples=100_000)
settings.load_profile("everyday")
