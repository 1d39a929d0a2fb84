"""``--notify``: a message when a run starts, and when it ends, to a webhook or to people.

``http://`` and ``https://`` get a JSON object by POST, addresses of healthchecks.io its pings; all other
addresses that ``apprise`` supports (Slack, Discord, e-mail, ...) get a text. A failure is a warning.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Mapping
from queue import SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import msgspec

from batcher.app.observers import Ending, Reporter
from batcher.clock import Clock, iso
from batcher.http.webhook import post
from batcher.jobs.signatures import public_address
from batcher.ledger.summary import Summary
from batcher.ports import RunView
from batcher.terminal import counted

EVENTS = ("start", "success", "failure", "attention")
PATIENCE_S = 15.0
HEALTHCHECKS = "hc-ping.com"
CHAT_HOSTS = ("hooks.slack.com", "discord.com", "discordapp.com")
_FOR_A_HUMAN = frozenset({3, 64, 65, 73, 77})
Message = dict[str, Any]


def event_of(ending: Ending) -> str:
    """``attention`` if a human is needed, ``failure`` if another run may succeed."""
    if not ending.exit_code:
        return "success"
    unknown = ending.summary.unknown if ending.summary is not None else 0
    return "attention" if unknown or ending.exit_code in _FOR_A_HUMAN else "failure"


class Notifier(Reporter):
    """Sends messages to one address from its own thread: a slow one can only delay the end of a run."""

    def __init__(
        self,
        url: str,
        events: frozenset[str],
        facts: Mapping[str, Any],
        clock: Clock,
        warn: Callable[[str], None],
    ) -> None:
        self._url = url
        self._events = events
        self._facts = {**facts, "host": socket.gethostname(), "pid": os.getpid()}
        self._clock = clock
        self._warn = warn
        self._queue: SimpleQueue[Message | None] = SimpleQueue()
        self._problems: list[str] = []
        self._thread = threading.Thread(target=self._work, daemon=True, name="batcher-notify")
        self._begun = False

    def started(self, view: RunView) -> None:
        if not self._begun:
            text = f"{self._facts['batch']}: started, {counted(view.selected, 'job', 'jobs')}"
            self._put("start", text, {"selected": view.selected, "run": view.run})

    def ended(self, ending: Ending) -> None:
        more: Message = {"exit_code": ending.exit_code, "reason": ending.reason}
        if ending.summary is not None:
            more["summary"] = msgspec.to_builtins(ending.summary)
        self._put(event_of(ending), _in_words(self._facts["batch"], ending), more)
        self._queue.put(None)
        if self._begun:
            self._thread.join(PATIENCE_S)
            if self._thread.is_alive():
                self._problems.append("no answer in time")
        for problem in dict.fromkeys(self._problems):
            self._warn(f"--notify {public_address(self._url)}: {problem}")

    def _put(self, event: str, text: str, more: Message) -> None:
        if event not in self._events:
            return
        if not self._begun:
            self._begun = True
            self._thread.start()
        at = iso(self._clock.now())
        self._queue.put({"event": event, "at": at, "text": text, **self._facts, **more})

    def _work(self) -> None:
        while (message := self._queue.get()) is not None:
            try:
                problem = send(self._url, message)
            except Exception as error:  # noqa: BLE001 - a library's trouble must not reach the run
                problem = type(error).__name__
            if problem is not None:
                self._problems.append(problem)


def send(url: str, message: Message) -> str | None:
    """Deliver ``message``. Returns the problem, or None. Blocks for seconds at most."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if host == HEALTHCHECKS or parts.scheme == "healthchecks":
        return asyncio.run(post(_ping(url, message), message["text"].encode(), "text/plain"))
    if parts.scheme in ("http", "https") and host not in CHAT_HOSTS:
        return asyncio.run(post(url, msgspec.json.encode(message), "application/json"))
    return _by_apprise(url, message)


def _ping(url: str, message: Message) -> str:
    """``/start`` when a run begins, else ``/EXIT_CODE``: 0 means success, any other number failure."""
    base = url.replace("healthchecks://", "https://", 1).rstrip("/")
    return f"{base}/start" if message["event"] == "start" else f"{base}/{message['exit_code']}"


def _by_apprise(url: str, message: Message) -> str | None:
    try:
        import apprise
    except ImportError:
        return "needs apprise: pip install apprise"
    service = apprise.Apprise()
    if not service.add(url):
        return "apprise knows no such address"
    kinds = {"start": "info", "success": "success", "failure": "failure", "attention": "warning"}
    title = f"batcher: {message['event']}"
    sent = service.notify(body=message["text"], title=title, notify_type=kinds[message["event"]])
    return None if sent else "it was not delivered"


def _in_words(batch: str, ending: Ending) -> str:
    told = f"{batch}: exit {ending.exit_code}"
    if ending.summary is not None:
        told += f", {_counts(ending.summary)}"
    return told if ending.reason is None else f"{told}: {ending.reason}"


def _counts(summary: Summary) -> str:
    told = f"{summary.done} of {summary.total} jobs done"
    for count, what in ((summary.failed_now, "newly failed"), (summary.unknown_now, "newly unknown")):
        told += f", {count} {what}" if count else ""
    return told
