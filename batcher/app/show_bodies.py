"""``plan --show N``: the exact bodies that a run would POST, with facts about their jobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from batcher.errors import InputError
from batcher.jobs.job import Job, recorded
from batcher.planning.plan import Decision
from batcher.ports import Provider

SHAPES_MAX = 100


class ShownJob(msgspec.Struct, frozen=True):
    """A job as it would be sent: ``body`` is the JSON of its POST, ``action`` the run's decision."""

    id: str
    model: str
    source: str
    action: str
    meta: dict[str, Any]
    body: bytes


async def shown_jobs(
    work: Iterable[tuple[Job, Decision]], count: int, providers: Callable[[str], Provider]
) -> tuple[ShownJob, ...]:
    """The first ``count`` jobs of each model and set of inputs. Reads local media.

    Raises InputError if a file can't be read or differs from the planned one.
    """
    shown: list[ShownJob] = []
    if not count:
        return ()
    seen: Counter[tuple[str, frozenset[str]]] = Counter()
    for job, decision in work:
        shape = (job.model, frozenset(job.input))
        if seen[shape] >= count or (shape not in seen and len(seen) >= SHAPES_MAX):
            continue
        seen[shape] += 1
        try:
            body = await providers(job.model).prepare(job)
        except (OSError, ValueError) as error:
            raise InputError(f"{job.source}: {error}") from error
        action = decision.bucket.value
        shown.append(ShownJob(job.id, job.model, str(job.source), action, recorded(job.meta), body))
    return tuple(shown)
