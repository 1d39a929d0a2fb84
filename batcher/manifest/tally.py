"""The findings of a pass over a manifest, besides its jobs."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from batcher.errors import PROBLEMS_SHOWN, ManifestError
from batcher.jobs.job import Source
from batcher.manifest.rows import RowProblem

REPEATED_SHOWN = 3
KINDS_MAX = 4096
ALIKE_SHOWN = 5
SAMPLE_CHARS = 200

_VALUES = re.compile(r"""'[^']*'|"[^"]*"|-?[0-9][0-9.]*""")


class Repeated(NamedTuple):
    """A row that is the same job as another. ``inputs_differ``: in parts that ids ignore."""

    source: Source
    first: str
    meta_differs: bool
    inputs_differ: bool

    def __str__(self) -> str:
        notes = ["other metadata"] * self.meta_differs
        notes += ["sent differently, in what an id leaves out"] * self.inputs_differ
        return f"{self.source} is {self.first}" + (f" ({', '.join(notes)})" if notes else "")


@dataclass(slots=True)
class Unfit:
    """Columns that are not inputs of their model, each with a value, and missing inputs of rows."""

    unknown: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    """The model that requires it, by field."""

    count: int = 0
    """The number of problems of names, in all rows."""

    def explains(self, problem_count: int) -> bool:
        """Whether there are no other problems."""
        return self.count == problem_count

    def add_missing(self, name: str, model: str) -> None:
        """Add an input that a row of ``model`` lacks."""
        self.count += 1
        self.missing.setdefault(name, model)

    def add_unknown(self, name: str, value: Any) -> None:
        """Add a column with its first value."""
        self.count += 1
        if name not in self.unknown:
            self.unknown[name] = value[:SAMPLE_CHARS] if isinstance(value, str) else ""


@dataclass(slots=True)
class _ProblemKind:
    """A problem of one row or many; ``line`` and ``path`` (of a folder's row) are the first row's."""

    line: int
    rows: int = 1
    path: str = ""

    def told(self, what: str) -> str:
        """``what``, with the number of rows, and the first one's path if ``what`` doesn't have it."""
        of_path = f" ({self.path})" if self.path and self.path[1:] not in what else ""
        if self.rows == 1:
            return f"{what}{of_path}"
        return f"{what}, in {self.rows} rows{of_path.replace('(', '(first: ', 1)}"


@dataclass(slots=True)
class Problems:
    """Problems grouped by their text: a million rows with the same mistake are one line."""

    count: int = 0
    _kinds: dict[tuple[str, str, str], _ProblemKind] = field(default_factory=dict)
    _lines: list[str] = field(default_factory=list)

    def add(self, file: str, problems: Iterable[RowProblem], path: str = "") -> None:
        """Add the problems of one row of ``file``; ``path`` is the row's, in a folder."""
        for line, name, what in problems:
            self.count += 1
            kind = self._kinds.get((file, name, what))
            if kind is None:
                shape = what if len(self._kinds) < KINDS_MAX else _VALUES.sub("...", what)
                kind = self._kinds.setdefault((file, name, shape), _ProblemKind(line, 0, path))
            kind.rows += 1

    def add_lines(self, lines: Iterable[str]) -> None:
        """Add problems of whole files."""
        more = [*lines]
        self.count += len(more)
        self._lines += more

    def lines(self) -> list[str]:
        """One line for each distinct problem: first those of single rows, then those of many."""
        once: list[str] = []
        often: list[str] = []
        alike: dict[tuple[str, str, str], list[tuple[str, _ProblemKind]]] = {}
        for (file, name, what), kind in self._kinds.items():
            if kind.rows > 1:
                often.append(problem_line(file, kind.line, name, kind.told(what)))
            else:
                shape = _VALUES.sub("...", what)
                alike.setdefault((file, name, shape), []).append((what, kind))
        for (file, name, _), kinds in alike.items():
            shown = kinds if len(kinds) <= ALIKE_SHOWN + 1 else kinds[:ALIKE_SHOWN]
            once += [problem_line(file, kind.line, name, kind.told(what)) for what, kind in shown]
            if len(shown) < len(kinds):
                what = f"the same with other values, in {len(kinds) - len(shown)} rows"
                often.append(problem_line(file, kinds[ALIKE_SHOWN][1].line, name, what))
        return once + self._lines + often


@dataclass(slots=True)
class ManifestTally:
    """Counts of one pass over a manifest; use a new one for each pass.

    ``found`` holds the problems of rows. ``rows`` are the entries read, ``invalid`` those with a
    problem, ``duplicates`` the repeated jobs, ``repeated`` the first of them, ``meta_differs`` those
    whose metadata differ from the first row's. ``overridden`` are the rows whose model ``--model``
    overrides. ``warnings`` are lines for the user that don't stop the run. ``dropped`` are the numbers
    of the rejected drafts, in order: a later pass skips them without a table of all ids, even if a
    missing file exists by then.
    """

    found: Problems = field(default_factory=Problems)
    unfit: Unfit = field(default_factory=Unfit)
    rows: int = 0
    invalid: int = 0
    duplicates: int = 0
    meta_differs: int = 0
    repeated: list[Repeated] = field(default_factory=list)
    overridden: int = 0
    overridden_first: str = ""
    warnings: list[str] = field(default_factory=list)
    dropped: array[int] = field(default_factory=lambda: array("Q"))

    @property
    def problems(self) -> list[str]:
        """The first lines ``file:line: field: what is wrong``, one for each distinct problem."""
        return self.found.lines()[:PROBLEMS_SHOWN]

    @property
    def problem_count(self) -> int:
        """The number of problems in all rows."""
        return self.found.count

    def repeat(self, repeated: Repeated) -> None:
        """Count a repeated job."""
        self.duplicates += 1
        self.meta_differs += repeated.meta_differs
        if len(self.repeated) < REPEATED_SHOWN:
            self.repeated.append(repeated)
        elif repeated.meta_differs or repeated.inputs_differ:
            plain = (n for n, r in enumerate(self.repeated) if not (r.meta_differs or r.inputs_differ))
            if (place := next(plain, None)) is not None:
                self.repeated[place] = repeated

    def override(self, source: Source, model: str) -> None:
        """Count a row that names ``model``, but gets the model of ``--model``."""
        self.overridden += 1
        if self.overridden == 1:
            self.overridden_first = f"{source} names {model}"

    def reject(self, file: str, problems: Iterable[RowProblem], path: str = "") -> None:
        """Count a row of ``file`` as invalid, with its problems; in a folder, ``path`` is its file's."""
        self.invalid += 1
        self.found.add(file, problems, path)

    def extend(self, lines: Iterable[str]) -> None:
        """Count problems that are lines already."""
        self.found.add_lines(lines)

    def left_out(self) -> list[str]:
        """The problems of the rows that ``--skip-invalid`` leaves out."""
        return str(self.error()).split("\n") if self.invalid else []

    def notices(self) -> Iterator[str]:
        """Warnings about rows that are jobs, but perhaps not as intended."""
        yield from self.warnings
        if self.overridden:
            rows = "1 row names" if self.overridden == 1 else f"{self.overridden} rows name"
            yield f"{rows} another model, overridden by --model (first: {self.overridden_first})"
        if self.meta_differs:
            first = next((r for r in self.repeated if r.meta_differs), None)
            where = f" (first: {first.source} and {first.first})" if first else ""
            yield (
                f"{self.meta_differs} of the duplicates have other metadata than the row that is run, "
                f"and lose it{where}; --per-row makes each row its own job"
            )

    def error(self, advice: str | None = None) -> ManifestError:
        """The problems as an error, with the remedy."""
        lines = self.found.lines()
        return ManifestError(lines[:PROBLEMS_SHOWN], len(lines), advice)

    def raise_if_invalid(self) -> None:
        """Raises ManifestError if there are any problems."""
        if self.problem_count:
            raise self.error()


def problem_line(file: str, line: int, field_name: str, what: str) -> str:
    """``file:line: field: what``, on one line for any field name."""
    text = f"{file}:{line}: {field_name}: {what}" if field_name else f"{file}:{line}: {what}"
    return " ".join(text.splitlines())
