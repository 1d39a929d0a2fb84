"""What holds for every test."""

import os
import shutil

from hypothesis import settings

settings.register_profile("suite", deadline=None, max_examples=50)  # no failure for a loaded machine
settings.load_profile("suite")

MOST_WORKERS = 16
IN_MEMORY, NEEDED_BYTES = "/dev/shm", 4 << 30

# On a disk that is busy, a third of the suite's time is waiting for fsync. Another place: PYTEST_DEBUG_TEMPROOT.
if os.path.isdir(IN_MEMORY) and shutil.disk_usage(IN_MEMORY).free >= NEEDED_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)


def pytest_xdist_auto_num_workers() -> int:
    """Two per core: half of the time of a test that starts processes is waiting for them."""
    return min(2 * (os.cpu_count() or 1), MOST_WORKERS)
