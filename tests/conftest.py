"""What holds for every test."""

import itertools
import os
import shutil
import signal

import pytest
from hypothesis import settings

# Without a deadline, which a loaded machine would miss; with the same examples in each run, so that what failed
# fails again, and what passed passes again. New examples: pytest --hypothesis-profile=search
settings.register_profile("suite", deadline=None, max_examples=50, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=500)
settings.load_profile("suite")

# A shell ignores these in what it runs in the background, and what a test starts would inherit that.
for _number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(
            _number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL
        )

MOST_WORKERS = 16
IN_MEMORY, NEEDED_BYTES = "/dev/shm", 4 << 30

# On a disk that is busy, a third of the suite's time is waiting for fsync. Another place: PYTEST_DEBUG_TEMPROOT.
if os.path.isdir(IN_MEMORY) and shutil.disk_usage(IN_MEMORY).free >= NEEDED_BYTES:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", IN_MEMORY)


def pytest_xdist_auto_num_workers() -> int:
    """Two per core: half of the time of a test that starts processes is waiting for them."""
    return min(2 * (os.cpu_count() or 1), MOST_WORKERS)


@pytest.fixture(scope="session", autouse=True)
def _homes(tmp_path_factory):
    """Home directories of the tests' own, and none of this machine's user."""
    root = tmp_path_factory.mktemp("homes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(root))
        for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            patch.delenv(name, raising=False)
        yield (root / str(number) for number in itertools.count())


@pytest.fixture(autouse=True)
def _home(monkeypatch, _homes):
    """One for each test: another test's server may have had the same port, and its catalogue would be
    found in the cache."""
    home = next(_homes)
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
