"""Shards of a batch: jobs divided by their ids alone, so that several machines can work on them.

The shards are disjoint, together they are the whole batch, and a job's shard depends neither on the
manifest's format, nor on the order of the jobs, nor on the other jobs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from batcher.errors import UsageError

_HASH_BYTES = 8
_DIGITS_MAX = 9


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """Shard ``number`` (from 1) of ``count``."""

    count: int
    number: int

    def has(self, job_id: str) -> bool:
        """Whether a job belongs to this shard."""
        return shard_number(job_id, self.count) == self.number

    def __str__(self) -> str:
        return f"{self.number}-of-{self.count}"


def shard_number(job_id: str, count: int) -> int:
    """Which of ``count`` shards (from 1) a job belongs to."""
    digest = hashlib.blake2b(job_id.encode(), digest_size=_HASH_BYTES).digest()
    return int.from_bytes(digest, "big") % count + 1


def shard_of_environment(environ: Mapping[str, str]) -> Shard:
    """The shard that a cluster's scheduler gave this process. Raises UsageError if it gave none.

    Slurm's job arrays: ``SLURM_ARRAY_TASK_ID`` among those from ``_MIN`` to ``_MAX``. Kubernetes'
    indexed Jobs: ``JOB_COMPLETION_INDEX`` (from 0), and ``JOB_COMPLETIONS``, which the pod's template
    has to set.
    """
    if "SLURM_ARRAY_TASK_ID" in environ:
        count = _whole(environ, "SLURM_ARRAY_TASK_COUNT")
        first, last = (_whole(environ, f"SLURM_ARRAY_TASK_{end}") for end in ("MIN", "MAX"))
        step = max((last - first) // max(count - 1, 1), 1)
        position, rest = divmod(_whole(environ, "SLURM_ARRAY_TASK_ID") - first, step)
        if rest or first + step * (count - 1) != last:
            raise UsageError("--shard auto: the tasks of this Slurm array are not evenly numbered")
        return _checked(position + 1, count)
    if "JOB_COMPLETION_INDEX" in environ:
        index = _whole(environ, "JOB_COMPLETION_INDEX")
        return _checked(index + 1, _whole(environ, "JOB_COMPLETIONS"))
    raise UsageError(
        "--shard auto: neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; write --shard I/N"
    )


def _checked(number: int, count: int) -> Shard:
    if not 1 <= number <= count:
        raise UsageError(f"--shard auto: the environment says part {number} of {count}")
    return Shard(count, number)


def _whole(environ: Mapping[str, str], name: str) -> int:
    text = environ.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > _DIGITS_MAX:
        raise UsageError(f"--shard auto: {name} is {text!r}, not a whole number")
    return int(text)
