"""The engine in virtual time against an API whose jobs take a while that differs."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from statistics import fmean

from batcher.ports import Handle, Result
from tests.support.engine import Api, Batch, some_jobs, virtual_loop

WARM_UP_JOBS = 66


class SlowApi(Api):
    """Jobs take what ``takes`` draws; notes how late each was seen finished."""

    def __init__(self, takes, rng):
        super().__init__(post_takes_s=0.0)
        self._draw, self._rng = takes, rng
        self._takes_s: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        self.stale_s: dict[str, float] = {}

    async def result(self, asked: Handle) -> Result:
        request_id = asked.id
        drawn_s = self._draw(self._rng, len(self._takes_s)) if request_id not in self._takes_s else 0.0
        self.takes_s = self._takes_s.setdefault(request_id, drawn_s)
        self.calls[request_id] += 1
        result = await super().result(asked)
        if result.phase.terminal:
            age_s = asyncio.get_running_loop().time() - self.requests[request_id].at_s
            self.stale_s.setdefault(request_id, age_s - self.takes_s)
        return result


class EnginePolls:
    """Polls a job and mean staleness of real runs."""

    loop = staticmethod(virtual_loop)

    def __init__(self, path: Path, takes, rng) -> None:
        self.api = SlowApi(takes, rng)
        self.batch = Batch(path, api=self.api)

    async def run(
        self, jobs: int, concurrency: int, interval_s: float | None, warm_up_jobs: int = WARM_UP_JOBS
    ) -> tuple[float, float]:
        """Of all jobs but the first, which had nothing to learn from."""
        ended = await self.batch.run(
            some_jobs(jobs), concurrency=concurrency, poll_interval_s=interval_s
        )
        assert ended.states == {"done": jobs}
        counted = list(self.api.stale_s)[warm_up_jobs:]
        calls = fmean(self.api.calls[request_id] for request_id in counted)
        return calls, fmean(self.api.stale_s[request_id] for request_id in counted)
