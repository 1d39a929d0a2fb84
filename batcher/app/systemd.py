"""sd_notify: a service of ``Type=notify`` tells systemd that it is ready, and how far it is.

With ``WatchdogSec`` it also reports regularly that its event loop is running.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from contextlib import suppress

from batcher.app.observers import Ending, Reporter
from batcher.clock import Clock
from batcher.ports import RunView

SAY_EVERY_S = 5.0
VARIABLE = "NOTIFY_SOCKET"
WATCHDOG_VARIABLE = "WATCHDOG_USEC"


class Systemd(Reporter):
    """Writes to the socket that systemd named."""

    def __init__(self, env: Mapping[str, str], clock: Clock) -> None:
        name = env[VARIABLE]
        self._address = "\0" + name[1:] if name.startswith("@") else name
        self._clock = clock
        self._said_s = clock.monotonic()
        microseconds = env.get(WATCHDOG_VARIABLE, "")
        self._beat_s = int(microseconds) / 2e6 if microseconds.isdecimal() else 0.0

    def started(self, view: RunView) -> None:
        self._say(f"READY=1\nSTATUS={view.done} of {view.selected} jobs done")
        if self._beat_s:
            self._beat()

    def _beat(self) -> None:
        """Until the loop ends."""
        self._say("WATCHDOG=1")
        asyncio.get_running_loop().call_later(self._beat_s, self._beat)

    def changed(self, view: RunView) -> None:
        if self._clock.monotonic() - self._said_s >= SAY_EVERY_S:
            self._say(f"STATUS={view.done} of {view.selected} jobs done")

    def ended(self, ending: Ending) -> None:
        self._say(f"STOPPING=1\nSTATUS=exit {ending.exit_code}")

    def _say(self, text: str) -> None:
        self._said_s = self._clock.monotonic()
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to:
            to.setblocking(False)
            to.sendto(text.encode(), self._address)
