"""What a user does between two runs with ``cancel`` and ``resolve``."""

from __future__ import annotations

from random import Random
from unittest.mock import patch

import batcher.app.resolve as app
from batcher.app.resolve import cancel, resolve
from batcher.errors import BatcherError, InputError
from batcher.jobs.lifecycle import State
from batcher.ledger.ledger import read_snapshot

from .checks import ledger_lines
from .process import ROOT, Process
from .server import Posting


class ByHand(Process):
    """A process in which a user cancels what is queued, or settles an unknown job."""

    rng: Random

    async def main(self) -> None:
        try:
            with (
                patch.object(app, "connect", self._connect),
                patch.object(app, "Ledger", self._open_ledger),
            ):
                await self._settle_one()
        except BatcherError as error:
            self.error = None if isinstance(error, InputError) else error
        except OSError:
            if not self.world.dead:
                raise

    async def _settle_one(self) -> None:
        known = read_snapshot(ROOT, self.disk).unfinished()
        unknown = [(job, record.attempt) for job, record in known if record.state is State.UNKNOWN]
        if not unknown or self.rng.random() < 0.3:
            self.world.seen["by hand: cancel"] += 1
            await cancel(ROOT, self._host())
            return
        job, attempt = self.rng.choice(unknown)
        postings = [p for p in self.server.postings[job] if p.attempt == attempt]
        if self.rng.random() < 0.4:
            await self._resolve_wrongly(job)
        await self._resolve(job, postings[-1] if postings else None)

    async def _resolve(self, job: str, posting: Posting | None) -> None:
        """As it is: the user has looked it up."""
        if posting is not None and posting.request is not None:
            self.world.seen["by hand: resolved"] += 1
            self.asks_first = True
            await resolve(ROOT, job, posting.request.id, self._host())
            return
        self.world.seen["by hand: was not created"] += 1
        if posting is not None:
            posting.told = "no"
        await resolve(ROOT, job, None, self._host())

    async def _resolve_wrongly(self, job: str) -> None:
        """By a slip: with the id of another job's request, or of an earlier one of its own."""
        taken = sorted({x["request_id"] for x in ledger_lines(self.disk) if x["event"] == "submitted"})
        if not taken:
            return
        request_id = self.rng.choice(taken)
        self.world.seen["by hand: a slip"] += 1
        try:
            await resolve(ROOT, job, request_id, self._host())
        except BatcherError:
            return
        self.world.violate(f"{job} was resolved to {request_id}, which is known already")
