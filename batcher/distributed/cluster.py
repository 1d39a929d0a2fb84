"""Which cluster to use: a scheduler's address, or worker processes started on this machine."""

from __future__ import annotations

import logging
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batcher.errors import UnreachableError, UsageError

CONNECT_S = 5.0
FIRST_WORKER_S = 30.0
DEATHS_ALLOWED = 20
_ADDRESS = re.compile(r"(tcp|tls)://[^\s/@]+:[0-9]{1,5}")
_LOCAL = re.compile(r"local:([1-9][0-9]{0,2})")
_LOCAL_CONFIG = {
    "distributed.scheduler.allowed-failures": DEATHS_ALLOWED,
    "distributed.worker.memory.terminate": False,
    "distributed.worker.preload": ["batcher.distributed.cluster"],
}


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """A scheduler's address or, without one, how many processes to start here."""

    address: str | None
    processes: int = 0

    def __str__(self) -> str:
        return self.address or f"local:{self.processes}"


def place_of(text: str) -> ClusterAddress:
    """Parse the value of ``--dask``. Raises UsageError."""
    if (local := _LOCAL.fullmatch(text)) is not None:
        return ClusterAddress(None, int(local[1]))
    if _ADDRESS.fullmatch(text):
        return ClusterAddress(text)
    raise UsageError(
        f"--dask {text!r}: write a scheduler's tcp://HOST:PORT, or local:N for processes here"
    )


def check_installed() -> None:
    """Raises UsageError if the ``dask`` extra is not installed."""
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--dask needs a library that is not installed ({error.name}): pip install distributed"
        ) from None


@asynccontextmanager
async def connected(place: ClusterAddress) -> AsyncIterator[Any]:
    """A ``distributed.Client`` with at least one worker. Raises UnreachableError, UsageError."""
    check_installed()
    with _hushed():
        async with _own(place) if place.address is None else _theirs(place.address) as client:
            yield client


@contextmanager
def _hushed() -> Iterator[None]:
    """Silence Dask's log of workers that join and leave: we report that ourselves."""
    names = ("distributed", "tornado")
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.partition(".")[0] in names
    ]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


@asynccontextmanager
async def _theirs(address: str) -> AsyncIterator[Any]:
    from distributed import Client

    client = Client(address, asynchronous=True, timeout=CONNECT_S, set_as_default=False)
    try:
        try:
            await client
        except (OSError, TimeoutError, ValueError) as error:
            raise UnreachableError(f"--dask {address}: no Dask scheduler answers: {error}") from error
        try:
            await client.wait_for_workers(1, timeout=FIRST_WORKER_S)
        except TimeoutError:
            raise UnreachableError(
                f"--dask {address}: no worker in {FIRST_WORKER_S:.0f} s; start some with "
                f"`dask worker {address}`"
            ) from None
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def _own(place: ClusterAddress) -> AsyncIterator[Any]:
    """Processes of one thread each, on loopback only; they end with this process, however it ends."""
    import dask
    from distributed import Client, LocalCluster

    with dask.config.set(_LOCAL_CONFIG):
        async with AsyncExitStack() as stack:
            try:
                cluster = await stack.enter_async_context(
                    LocalCluster(
                        n_workers=place.processes,
                        threads_per_worker=1,
                        host="127.0.0.1",
                        dashboard_address="127.0.0.1:0",
                        silence_logs=logging.CRITICAL,
                        memory_limit=0,
                        asynchronous=True,
                    )
                )
                client = await stack.enter_async_context(
                    Client(cluster, asynchronous=True, set_as_default=False)
                )
            except (OSError, RuntimeError, TimeoutError) as error:
                raise UnreachableError(
                    f"--dask {place}: a process died or did not start, nothing was submitted: {error}"
                    f"{_missing_guard()}"
                ) from error
            yield client


def _missing_guard() -> str:
    """A hint at the most common cause, if this is a script: each process imports it from the top."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    if script is None or Path(script).parent.name == "bin":
        return ""
    return (
        f". Each process imports {Path(script).name}: what starts the run must stand below "
        '`if __name__ == "__main__":`'
    )


def dask_setup(worker: object) -> None:
    """Called by Dask in each process that we start: only the caller handles Ctrl-C."""
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
