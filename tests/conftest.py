"""What holds for every test."""

from hypothesis import settings

settings.register_profile("suite", deadline=None)  # a loaded machine is no reason to fail
settings.load_profile("suite")
