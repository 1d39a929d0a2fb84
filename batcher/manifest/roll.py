"""Which jobs the first pass over a manifest counted: what a later pass adds is never bought."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from batcher.jobs.job import Job

_MASK = (1 << 64) - 1


@dataclass(slots=True)
class Roll:
    """The jobs that a plan counted, eight bytes each, in their order.

    ``added`` counts the additional jobs that the last pass over the manifest found.
    """

    added: int = 0
    _keys: array[int] = field(default_factory=lambda: array("Q"))

    def note(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """The first pass: ``jobs``, all of which count."""
        for job in jobs:
            self._keys.append(_key(job))
            yield job

    def keep(self, jobs: Iterable[Job]) -> Iterator[Job]:
        """A later pass: those of ``jobs`` that were counted, each once."""
        self.added = position = 0
        left: set[int] | None = None
        for job in jobs:
            key = _key(job)
            if left is None:
                if position < len(self._keys) and self._keys[position] == key:
                    position += 1
                    yield job
                    continue
                left = set(self._keys[position:])  # the manifest has changed
            if key in left:
                left.discard(key)
                yield job
            else:
                self.added += 1


def _key(job: Job) -> int:
    return hash((job.id, job.digest)) & _MASK
