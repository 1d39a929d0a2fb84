"""``marks.jsonl``: users' judgements of outputs, one line for each mark.

A line is ``{"job": ..., "mark": "keep"|"reject"|"star"|null, "note": ..., "at": ...}``. The last line of
a job counts; a mark of null removes it. The file only grows, beside the ledger, and nothing depends
on it: a line that can't be read (torn by a crash, edited by hand) is skipped.
"""

from __future__ import annotations

from collections.abc import Container
from contextlib import suppress
from pathlib import Path

import msgspec

from batcher.errors import RunDirError
from batcher.jobs.lifecycle import State
from batcher.jobs.marks import JobMark
from batcher.layout import MARKS_NAME
from batcher.ledger.snapshot import Snapshot

_decode = msgspec.json.Decoder(JobMark).decode


def read_marks(run_dir: Path) -> dict[str, JobMark]:
    """The mark of each job that has a mark or a note, in the order of their first lines.

    Accepts byte-order marks and CRLF; skips blank and unreadable lines. Raises RunDirError.
    """
    path = run_dir / MARKS_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise RunDirError(f"{path}: can't be read: {error.strerror or error}") from None
    marks: dict[str, JobMark] = {}
    for line in content.removeprefix(b"\xef\xbb\xbf").splitlines():
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            mark = _decode(line)
            marks[mark.job] = mark
    return {job: mark for job, mark in marks.items() if mark.mark is not None or mark.note}


def append_mark(run_dir: Path, mark: JobMark) -> None:
    """Append a whole line, on its own line even after a torn one. Raises OSError."""
    with (run_dir / MARKS_NAME).open("ab+", buffering=0) as file:
        torn = False
        if file.seek(0, 2):
            file.seek(-1, 2)
            torn = file.read(1) != b"\n"
        file.write((b"\n" if torn else b"") + msgspec.json.encode(mark) + b"\n")


def current_marks(run_dir: Path, snapshot: Snapshot) -> dict[str, JobMark]:
    """Marks of the current outputs.

    A job that was submitted again after it was marked has new, unmarked outputs: so
    ``--only @marks:reject --redo`` buys each reject once, however often it is run.
    """
    return {job: mark for job, mark in read_marks(run_dir).items() if not _is_outdated(mark, snapshot)}


def _is_outdated(mark: JobMark, snapshot: Snapshot) -> bool:
    record = snapshot.get(mark.job)
    if record is None or record.state is not State.DONE or not mark.at:
        return False
    return (record.submitting_at or "") > mark.at


def marked(run_dir: Path, names: Container[str | None], snapshot: Snapshot) -> frozenset[str]:
    """The jobs whose current mark is one of ``names``. Raises RunDirError."""
    found = current_marks(run_dir, snapshot)
    return frozenset(job for job, mark in found.items() if mark.mark in names)
