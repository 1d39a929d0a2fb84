"""Commands as processes that are forked from one which has imported batcher already.

Most of what a short command costs is imports. Each test process keeps one such process, a *host*, and asks
it for a child per command: a real process, with its own descriptors, environment, directory, signals and
exit code, 0.6 s cheaper. What depends on the start of an interpreter is started in the plain way: see
``can_fork``.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).parent.parent)
PLAIN_LOOP = Path(__file__).parent / "plain_loop"
"""First on the path of a process, it hides uvloop: most tests are for the loop that everybody has."""
AT_START = {"PYTHONPATH": os.pathsep.join((str(PLAIN_LOOP), ROOT)), "LC_ALL": "C.UTF-8"}
"""What the interpreter, or a library while it is imported, takes from the environment."""
READ_AT_START = ("PYTHON", "LC_", "LANG", "TZ", "TQDM_", "SSL_", "AIOHTTP_", "COVERAGE_", "LD_")
BATCHER = ["-m", "batcher"]
MESSAGE_BYTES = 1 << 20


def can_fork(words: list[str], env: dict[str, str]) -> bool:
    """Whether a forked process does the same as one that is started: ``words`` are a plain ``batcher`` command
    in the environment that all share. Dask starts interpreters of its own, by what it finds in the first one."""
    told_at_start = {name: value for name, value in env.items() if name.startswith(READ_AT_START)}
    plain = words[:3] == [sys.executable, *BATCHER] and "--dask" not in words
    return plain and told_at_start == AT_START and hasattr(os, "pidfd_open")


def popen(words: list[str], *, env: dict[str, str], **options: Any) -> subprocess.Popen[Any]:
    """``subprocess.Popen``, by way of the host where that makes no difference."""
    if can_fork(words, env) and "preexec_fn" not in options:
        return Forked(words, env=env, **options)
    return subprocess.Popen(words, env=env, **options)


def run(words: list[str], *, timeout: float, **options: Any) -> subprocess.CompletedProcess[Any]:
    """``subprocess.run`` that captures the output, likewise."""
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    with popen(words, **piped) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


class Forked(subprocess.Popen[Any]):
    """A command that the host forks, waits for, and tells the status of."""

    def _execute_child(self, args: list[str], *given: Any) -> None:
        names = ("executable", "preexec_fn", "close_fds", "pass_fds", "cwd", "env", "startupinfo")
        names += ("creationflags", "shell", "p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread")
        names += ("errwrite", "restore_signals", "gid", "gids", "uid", "umask", "start_new_session")
        how = dict(zip(names, given, strict=False))
        standard = [how["p2cread"], how["c2pwrite"], how["errwrite"]]
        place = {"args": args[1 + len(BATCHER) :], "cwd": str(how["cwd"]), "env": how["env"]}
        order = place | {"session": how["start_new_session"]}
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            fds = [own if own != -1 else number for number, own in enumerate(standard)]
            _host().send(order, [*fds, theirs.fileno()])
        self.pid = int(self._status.recv(32))
        self._child_created = True
        self._close_pipe_fds(*given[9:15])  # type: ignore[attr-defined]

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if wait_flags == os.WNOHANG and not select.select([self._status], [], [], 0)[0]:
            return 0, 0
        told = self._status.recv(32)
        self._status.close()
        return self.pid, int(told) if told else signal.SIGKILL

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        with self._waitpid_lock:  # type: ignore[attr-defined]
            if self.returncode is None:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
        return self.returncode


class Host:
    """The process that forks the others, from the side of the tests."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        with theirs:
            kept = {"PATH": os.environ.get("PATH", os.defpath), "HOME": "/nonexistent"}
            words = [sys.executable, "-m", "tests.forked", str(theirs.fileno())]
            self._process = subprocess.Popen(
                words, env=kept | AT_START, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )
        atexit.register(self.close)

    def send(self, order: dict[str, Any], fds: list[int]) -> None:
        with self._one_at_a_time:
            socket.send_fds(self._socket, [json.dumps(order).encode()], fds)

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


_hosts: list[Host] = []


def _host() -> Host:
    if not _hosts:
        _hosts.append(Host())
    return _hosts[0]


# From here on, what happens in the host.


def _import_all() -> None:
    """Everything that commands import, but for what only Dask and buckets need."""
    import importlib
    import pkgutil

    import batcher

    for room in pkgutil.walk_packages(batcher.__path__, "batcher."):
        if not room.name.startswith(("batcher.distributed", "batcher.__main__")):
            importlib.import_module(room.name)


def _serve(orders: socket.socket) -> None:
    """Fork a child for each order until the tests go. Returns in the children."""
    poll = select.poll()
    poll.register(orders, select.POLLIN)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                poll.unregister(fd)
                pid, told = running.pop(fd)
                with contextlib.suppress(BrokenPipeError):  # nobody waits for it any more
                    os.write(told, str(os.waitpid(pid, 0)[1]).encode())
                os.close(told)
                os.close(fd)
                continue
            message, fds, *_ = socket.recv_fds(orders, MESSAGE_BYTES, 4)
            if not message:
                os._exit(0)
            pid = os.fork()
            if not pid:
                _become(json.loads(message), fds)
                return
            os.write(fds[3], str(pid).encode())
            for standard in fds[:3]:
                os.close(standard)
            ended = os.pidfd_open(pid)
            running[ended] = (pid, fds[3])
            poll.register(ended, select.POLLIN)


def _become(order: dict[str, Any], fds: list[int]) -> None:
    """Be the process that was asked for, up to where ``main`` begins."""
    for standard, fd in enumerate(fds[:3]):
        os.dup2(fd, standard)
    os.closerange(3, max(fds) + 64)
    if order["session"]:
        os.setsid()
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    sys.modules["__main__"].__package__ = "batcher"  # click calls the program by it
    sys.argv = [str(Path(ROOT, "batcher", "__main__.py")), *order["args"]]


if __name__ == "__main__":
    _import_all()
    gc.freeze()
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would not survive the fork"
    _serve(socket.socket(fileno=int(sys.argv[1])))
    from batcher.__main__ import main

    main()
