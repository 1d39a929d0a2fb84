"""The page's data about each job, and about the run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import msgspec

from batcher.dataset.metadata_rows import ColumnTypes, Rows
from batcher.jobs.identity import prompt_of
from batcher.jobs.job import Probed
from batcher.jobs.lifecycle import State
from batcher.ledger.finished import JobRecord
from batcher.ledger.summary import REFUSED
from batcher.media.file_types import MEDIA_TYPES
from batcher.options.command import as_path, command
from batcher.options.given import Given
from batcher.options.record import given_of
from batcher.report.history import Life, TimedSnapshot
from batcher.store.bucket_outputs import bucket_url_of

_LOOK_ABOVE = 4
_WEB = ("http://", "https://")


class Jobs:
    """Each job of a history, with the data that only the ledger's lines hold."""

    def __init__(self, run_dir: Path, history: TimedSnapshot) -> None:
        self._root = run_dir
        self._rows = Rows(history, ColumnTypes())
        self._history = history
        self._manifest_dir = self._find_manifest_dir()
        self._bucket_url = bucket_url_of(run_dir)

    def all(self) -> Iterator[dict[str, Any]]:
        """Every job in the ledger, in its order; keys without a value are left out."""
        records = dict(self._history.items())
        for job_id in self._history.lives:
            record = records[job_id]
            yield {k: v for k, v in self._job(job_id, record).items() if v not in (None, (), [], {})}

    def run(self) -> dict[str, Any]:
        """The last run's opening line, and when the first began and the last ended."""
        runs = self._history.course
        last = self._history.last_run
        return {
            "manifest": last.manifest if last is not None else None,
            "api": last.api if last is not None else None,
            "runs": sum(not event.ended for _, event in runs),
            "began_ms": runs[0][0] if runs else None,
            "ended_ms": runs[-1][0] if runs and runs[-1][1].ended else None,
        }

    def commands(self) -> dict[str, str]:
        """The commands that the page offers, by their purpose.

        Commands that repeat the run's command are left out if the ledger doesn't record it.
        """
        last, root = self._history.last_run, as_path(self._root)
        given = given_of(last.asked if last is not None else None, self._root, self._bucket_url)
        commands = {
            "resolve": command("resolve", root),
            "export": command("export", root, "--format", "webdataset", "-o"),
        }
        if given is not None:
            every = partial(given.resume_command, limit=None, shard=None)
            again = partial(_again, given, str(self._root))
            commands |= {
                "resume": again("pending"),
                "download": again("failed"),
                "retry_failed": again("failed,cancelled", retry_failed=True),
                "retry_refused": again(REFUSED, retry_refused=True),
                "retry_unknown": again("unknown", retry_unknown=True),
                "redo_poor": every(only="@poor.txt", redo=True),
                "redo_rejects": every(only="@rejects.txt", redo=True),
            }
        return commands

    def _job(self, job_id: str, record: JobRecord) -> dict[str, Any]:
        inputs, meta, variables, _ = self._rows.made_of(record)
        life = self._history.lives.get(job_id, Life())
        done = record.done_offset if record.state is State.DONE else None
        return {
            "job": job_id,
            "state": record.state,
            "model": record.model,
            "prompt": _text(prompt_of(inputs) or inputs.get("text")),
            "input": {name: _plain(v) for name, v in inputs.items() if name != "prompt"},
            "meta": {name: _plain(v) for name, v in meta.items()},
            "vars": {name: _plain(v) for name, v in variables.items()},
            "media": list(self._input_media(inputs)),
            "files": self._files(done) if done is not None else None,
            "quality": record.quality,
            "cost_usd": record.charge_usd,
            "attempt": record.attempt,
            "request_id": record.request_id,
            "source": self._source_line(record),
            "submitted_ms": life.submitted_ms,
            "completed_ms": life.completed_ms,
            "finished_ms": life.finished_ms,
            "stage": record.stage,
            "code": record.code,
            "message": record.message,
            "refused": record.is_refused or None,
            "orphaned": record.orphaned or None,
        }

    def _files(self, done_offset: int) -> list[dict[str, Any]]:
        return [self._file(file) for file in self._history.line_at(done_offset).files or ()]

    def _file(self, file: Probed) -> dict[str, Any]:
        facts = {
            **self._place(file.path),
            "bytes": file.bytes,
            "type": file.media_type or MEDIA_TYPES.get(PurePosixPath(file.path).suffix),
            "width": file.width,
            "height": file.height,
            "duration_s": file.duration_s,
            "fps": file.fps,
        }
        return {name: value for name, value in facts.items() if value is not None}

    def _place(self, path: str) -> dict[str, str]:
        """A file's path for the page; ``away`` is its location for people if the page can't show it."""
        if self._bucket_url is None:
            return {"path": quote(path)}
        url = f"{self._bucket_url}/{path}"
        if url.startswith("file://"):
            return {"path": quote(url, safe=":/")}
        return {"path": quote(path), "away": url}

    def _source_line(self, record: JobRecord) -> str | None:
        if record.submitting_offset < 0:
            return None
        return self._history.line_at(record.submitting_offset).source

    def _input_media(self, inputs: dict[str, Any]) -> Iterator[dict[str, str]]:
        """An input's media: a local file as a path relative to the page, a remote one as its URL."""
        for name, value in inputs.items():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and item.startswith(_WEB) and _names_media(name):
                    yield {"field": name, "url": item}
                elif isinstance(item, dict) and item.keys() == {"path", "sha256"}:
                    hashed = {"field": name, "sha256": str(item["sha256"])}
                    yield hashed | self._local(str(item["path"]))

    def _local(self, shown: str) -> dict[str, str]:
        found = {"name": PurePosixPath(shown).name if not shown.startswith("data:") else "inline"}
        if self._manifest_dir is not None and not shown.startswith("data:"):
            path = self._manifest_dir / shown
            if path.is_file():
                there = os.path.relpath(path.resolve(), self._root.resolve())
                found["path"] = quote(Path(there).as_posix())
        return found

    def _find_manifest_dir(self) -> Path | None:
        last = self._history.last_run
        if last is None or not last.manifest:
            return None
        # Recorded as the user named it, so relative to a folder that we don't know: here, or above.
        nearby = self._root.resolve().parents[:_LOOK_ABOVE]
        found = (base / last.manifest for base in (Path(), *nearby))
        return next((path.parent for path in found if path.is_file()), None)


def _again(given: Given, run_dir: str, states: str, **more: Any) -> str:
    """The command that resumes the jobs in ``states``, also those that the last run did not select."""
    if given.chosen:
        return given.resume_listed(run_dir, states, **more, shard=None)
    return given.resume_command(**more)


def _names_media(field: str) -> bool:
    return any(word in field.lower() for word in ("image", "video", "audio", "url", "mask"))


def _plain(value: Any) -> Any:
    """A value as the page shows and compares it: scalars unchanged, everything else as text."""
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if isinstance(value, dict) and value.keys() == {"path", "sha256"}:
        return value["path"]
    if isinstance(value, list):
        return ", ".join(str(_plain(item)) for item in value)
    return msgspec.json.encode(value).decode()


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) or value is None else str(_plain(value))
