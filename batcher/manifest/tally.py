"""What a pass over a manifest found, besides its jobs."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field

from batcher.errors import PROBLEMS_SHOWN, ManifestError
from batcher.jobs.job import Source
from batcher.manifest.rows import RowProblem

REPEATED_SHOWN = 3


@dataclass(slots=True)
class ManifestTally:
    """Counts of one pass over a manifest; pass a fresh one to each.

    ``problems`` are the first lines ``file:line: field: what is wrong``, ``problem_count`` counts all.
    ``rows`` are the entries read, ``invalid`` those with a problem, ``duplicates`` the jobs that were
    listed before, ``repeated`` where the first of them stand. ``warnings`` are lines for the user that
    stop nothing. ``dropped`` are the numbers of the drafts that are no jobs, in order: what a later pass
    leaves out without a table of all ids, also where a file has come meanwhile that was missing.
    """

    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    rows: int = 0
    invalid: int = 0
    duplicates: int = 0
    repeated: list[Source] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    dropped: array[int] = field(default_factory=lambda: array("Q"))

    def repeat(self, source: Source) -> None:
        """Count a job at ``source`` that was listed before."""
        self.duplicates += 1
        if len(self.repeated) < REPEATED_SHOWN:
            self.repeated.append(source)

    def reject(self, file: str, problems: Iterable[RowProblem]) -> None:
        """Count one row of ``file`` as invalid, with what is wrong with it."""
        self.invalid += 1
        self.extend(problem_line(file, *problem) for problem in problems)

    def extend(self, lines: Iterable[str]) -> None:
        """Count problems; the first of them are kept."""
        for line in lines:
            self.problem_count += 1
            if len(self.problems) < PROBLEMS_SHOWN:
                self.problems.append(line)

    def raise_if_invalid(self) -> None:
        """Raises ManifestError with what was found, if anything was."""
        if self.problem_count:
            raise ManifestError(self.problems, self.problem_count)


def problem_line(file: str, line: int, field_name: str, what: str) -> str:
    """``file:line: field: what``, on one line whatever the field is called."""
    text = f"{file}:{line}: {field_name}: {what}" if field_name else f"{file}:{line}: {what}"
    return " ".join(text.splitlines())
