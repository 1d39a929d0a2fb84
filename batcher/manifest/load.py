"""A manifest as the engine sees it: a name, models, and jobs that can be read repeatedly."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from batcher.errors import ManifestError
from batcher.jobs.column_rules import ColumnRules
from batcher.jobs.identity import RULE
from batcher.jobs.job import Job, Source
from batcher.manifest.check import Checker, FittedRow, Rejects
from batcher.manifest.columns import fitted_rows
from batcher.manifest.expand import ExpandError, FieldProblem, Setting, expanded
from batcher.manifest.media import LocalFiles
from batcher.manifest.rows import Head, ManifestChanged, Row
from batcher.manifest.sources import listing, open_source
from batcher.manifest.tally import ManifestTally, problem_line
from batcher.manifest.templates import TemplateError, filled, names_in
from batcher.manifest.walk import Block, Found, Tree
from batcher.options.facts import Overrides
from batcher.options.given import is_stream
from batcher.schema.problems import shown
from batcher.schema.spec import ModelSpec
from batcher.terminal import legible

NAME_MAX_BYTES = 200
ROWS_PER_STEP = 128
JOBS_PER_BLOCK = 64
SHORT_CHARS = 4096
_NUMBERS = frozenset({int, float, bool})

_SAFE_NAME = re.compile(r'(?![.~ -])[^/\\<>:"|?*\x00-\x1f\x7f\ud800-\udfff]{1,100}(?<![. ])')


NO_OVERRIDES = Overrides()


def open_manifest(
    path: Path, overrides: Overrides = NO_OVERRIDES, also: Sequence[Path] = ()
) -> Manifest:
    """Open a manifest and those to be read after it, and check everything except the rows.

    Raises ManifestError if they can't be read.
    """
    path = Path(path)
    columns = ColumnRules(overrides.columns)
    if also:
        document = listing((path, *also), legible(path), overrides.reading)
    else:
        document = open_source(path, legible(path), columns, overrides.reading)
    name = _own_name(path, document.head, overrides.vars)
    name = batch_name(path, *also) if name is None else name
    if not _SAFE_NAME.fullmatch(name) or len(name.encode()) > NAME_MAX_BYTES:
        what = f"{name!r:.120} can't name a folder; try letters, digits, '.', '_', '-'"
        raise _about_name(path, document.head, what)
    setting = Setting(
        {columns.input_named(name): text or None for name, text in overrides.set.items()},
        overrides.model,
        Path() if also else path.parent,
        variables=overrides.vars,
        extra=frozenset(map(columns.input_named, overrides.extra)),
        per_row=overrides.per_row,
        spelled=columns.spelled,
    )
    return Manifest(name, path, Tree(document, columns, setting))


def _own_name(path: Path, head: Head, given: Mapping[str, str]) -> str | None:
    """The name in the manifest, its templates filled from ``--var`` and the manifest's ``vars``."""
    if head.name is None:
        return None
    variables = {**(head.layer.vars or {}), **given}
    for used in names_in(head.name):
        if used.partition(".")[0] not in variables:
            what = f"{used!r} is not defined: add --var {used}=VALUE, or vars: {{{used}: VALUE}}"
            raise _about_name(path, head, what)
    try:
        return str(filled(head.name, variables))
    except TemplateError as error:
        raise _about_name(path, head, str(error)) from None


def _about_name(path: Path, head: Head, what: str) -> ManifestError:
    return ManifestError([problem_line(legible(path), head.layer.line_of("name"), "name", what)])


def batch_name(*paths: Path) -> str:
    """The name of a batch without its own: that of its file or folder, or of the folder of several.

    ``pairs`` of ``pairs.csv.gz``, ``photos`` of ``photos/*.jpg``, ``stdin`` of ``-`` and ``<(command)``.
    """
    path = paths[0]
    if is_stream(str(path)):
        return "stdin"
    if len(paths) > 1 or glob.has_magic(path.name) or path.name in ("", ".."):
        return Path(os.path.commonpath([_folder_of(each) for each in paths])).name
    return path.name if os.path.isdir(path) else _stem(path)  # noqa: PTH112 (false for no path)


def _folder_of(path: Path) -> Path:
    """The absolute folder of ``path``, or ``path`` if it is one; of a pattern, the part before it."""
    parts = (path if path.name in ("", "..") else path.parent).absolute().parts
    fixed = itertools.takewhile(lambda part: not glob.has_magic(part), parts)
    return Path(os.path.normpath(Path(*fixed)))


def _stem(path: Path) -> str:
    """The name of a file without the suffixes of its format."""
    return Path(path.stem).stem if path.suffix.lower() == ".gz" else path.stem


class Manifest:
    """One manifest with the files that it includes. Each pass reads them again, with the same result.

    ``path`` is the manifest's own, the first of several.

    A pass raises ManifestError if a file can't be read, or has changed since an earlier pass.
    """

    def __init__(self, name: str, path: Path, tree: Tree) -> None:
        self.name = name
        self.path = path
        self._tree = tree
        self.rule = RULE
        self._media = LocalFiles()

    def leave_out(self, run_dir: Path) -> None:
        """Take no file of ``run_dir`` for an input because a pattern or a folder lists it.

        Else each run would buy jobs made from the results of the run before.
        """
        self._tree.leave_out(run_dir)

    def keep_rule(self, rule: int) -> None:
        """Make ids by ``rule``: that of the ledger of this run directory."""
        self.rule = rule
        self._tree.keep_rule(rule)

    def models(self) -> Generator[None, None, set[str]]:
        """Every model that the manifest names. Reads the rows, in steps, only if rows can name models.

        Rows with problems are left for :meth:`jobs` to report. Raises ManifestChanged.
        """
        top = self._tree.top
        scope = self._tree.scope(top)
        if scope.setting.model is not None or not top.row_keys & {"model", "matrix", "from"}:
            return scope.models_of(Row(1, {}))
        models: set[str] = set()
        try:
            for number, (scope, row, _) in enumerate(self._tree.rows(ManifestTally()), 1):
                models |= scope.models_of(row)
                if number % ROWS_PER_STEP == 0:
                    yield
        except ManifestChanged:
            raise
        except ManifestError:
            pass
        return models

    def jobs(
        self, specs: Mapping[str, ModelSpec], tally: ManifestTally, earlier: ManifestTally | None = None
    ) -> Iterator[Job]:
        """Each valid job in manifest order, once: see :meth:`blocks`."""
        return itertools.chain.from_iterable(self.blocks(specs, tally, earlier))

    def blocks(
        self, specs: Mapping[str, ModelSpec], tally: ManifestTally, earlier: ManifestTally | None = None
    ) -> Iterator[Sequence[Job]]:
        """The same, many at a time; ``tally`` collects everything else during the pass.

        The inputs of a model without a spec are sent unchanged, except media. ``earlier`` is the tally
        of an earlier complete pass: then the ids need not be kept, and the pass takes less memory.
        Raises ManifestError, with all problems so far, if a file can't be read any further.
        """
        return _gathered(self._parts(specs, tally, earlier))

    def _parts(
        self, specs: Mapping[str, ModelSpec], tally: ManifestTally, earlier: ManifestTally | None
    ) -> Iterator[Job | list[Job]]:
        seen = earlier.dropped if earlier is not None else None
        checker = Checker(specs, self._media, tally, seen)
        try:
            for part in self._tree.parts(tally):
                if isinstance(part, Block):
                    yield from _blocks_in(part, checker, tally)
                else:
                    yield from _jobs_of(part, checker, tally)
            if tally.rows:
                tally.extend(self._tree.unnamed())
            else:
                tally.warnings.append(f"{self.path}: no jobs")
            tally.warnings += self._media.warnings()
        except ManifestChanged:
            raise
        except ManifestError as error:
            tally.extend(error.problems)
            raise tally.error() from None


def _gathered(parts: Iterable[Job | list[Job]]) -> Iterator[list[Job]]:
    """Blocks of jobs, and single jobs put together unless they are large.

    A ManifestError is raised after the jobs before it.
    """
    single: list[Job] = []
    try:
        for part in parts:
            if isinstance(part, Job):
                single.append(part)
                if len(single) < JOBS_PER_BLOCK and _is_small(part):
                    continue
            if single:
                yield single
                single = []
            if isinstance(part, list):
                yield part
    except ManifestError:
        if single:
            yield single
        raise
    if single:
        yield single


def _is_small(job: Job) -> bool:
    """Whether all its inputs and metadata are numbers and short texts."""
    for value in itertools.chain(job.input.values(), job.meta.values()):
        if type(value) is str:
            if len(value) > SHORT_CHARS:
                return False
        elif type(value) not in _NUMBERS:
            return False
    return True


def _blocks_in(block: Block, checker: Checker, tally: ManifestTally) -> Iterator[Job | list[Job]]:
    """The valid jobs of a block: of most rows by column, of the others row by row, in their order."""
    records = iter(block.records)
    for fits, group in itertools.groupby(fitted_rows(block, checker), bool):
        rows = [*group]
        run = block._replace(records=[*itertools.islice(records, len(rows))])
        if fits:
            yield _fitted_jobs(run, rows, checker, tally)
            continue
        for record in run.records:
            if (found := block.found(record, tally)) is not None:
                yield from _jobs_of(found, checker, tally)


def _fitted_jobs(
    block: Block, rows: Sequence[FittedRow | None], checker: Checker, tally: ManifestTally
) -> list[Job]:
    """The jobs of a block, all of whose rows fit: made at once, if all are new."""
    fitted = [row for row in rows if row is not None]
    lines = [line for line, _ in block.records]
    tally.rows += len(lines)
    jobs = checker.fitted_jobs(fitted, lines, block.document.file.shown, block.scope)
    return [*_jobs_one_by_one(block, fitted, checker, tally)] if jobs is None else jobs


def _jobs_one_by_one(
    block: Block, rows: Sequence[FittedRow], checker: Checker, tally: ManifestTally
) -> Iterator[Job]:
    for record, fitted in zip(block.records, rows, strict=True):
        source = Source(block.document.file.shown, record[0])
        try:
            job = checker.fitted_job(fitted, source, block.scope)
        except Rejects as rejects:
            _reject(block.table.row(*record), source, rejects.problems, tally)
        else:
            if job is not None:
                yield job


def _jobs_of(found: Found, checker: Checker, tally: ManifestTally) -> Iterable[Job]:
    """The valid jobs of one row. Most rows have one job, for which no generator is created."""
    scope, row, document = found
    source = Source(document.file.shown, row.line)
    if scope.overridden or row.model is not None or row.matrix is not None:
        other = scope.other_model(row)
        if other is not None:
            tally.override(source, other)
    draft = scope.only_draft(row)
    if draft is None:
        return _expanded_jobs(found, source, checker, tally)
    try:
        job = checker.job(draft, source, scope)
    except Rejects as rejects:
        _reject(row, source, dict.fromkeys(rejects.problems), tally)
        return ()
    return (job,) if job is not None else ()


def _expanded_jobs(
    found: Found, source: Source, checker: Checker, tally: ManifestTally
) -> Iterator[Job]:
    """The jobs of a row that may have many. A problem of all of them is reported once."""
    scope, row, _ = found
    problems: dict[FieldProblem, None] = {}
    try:
        for draft in expanded(row, scope):
            try:
                job = checker.job(draft, source, scope)
            except Rejects as rejects:
                problems.update(dict.fromkeys(rejects.problems))
            else:
                if job is not None:
                    yield job
    except ExpandError as error:
        problems[error.field, str(error)] = None
    if problems:
        _reject(row, source, problems, tally)


def _reject(row: Row, source: Source, problems: Iterable[FieldProblem], tally: ManifestTally) -> None:
    file = row.vars.get("file") if row.vars else None
    path = shown(str(file.get("path", ""))) if isinstance(file, dict) else ""
    tally.reject(source.file, ((row.line_of(name), name, what) for name, what in problems), path)
