"""What holds for every test."""

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=50)  # no failure for a loaded machine
settings.load_profile("suite")
