"""What holds for every test."""

import os

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=50)  # no failure for a loaded machine
settings.load_profile("suite")

MOST_WORKERS = 16


def pytest_xdist_auto_num_workers() -> int:
    """Two per core: half of the time of a test that starts processes is waiting for them."""
    return min(2 * (os.cpu_count() or 1), MOST_WORKERS)
