"""The invariants: what must hold at each call, and after each run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from batcher.engine.unwatched import LEAST_HOLD_S
from batcher.errors import InputError, RunDirError
from batcher.jobs.job import Artifact
from batcher.jobs.lifecycle import IllegalTransition, Record, Stage, State
from batcher.layout import LEDGER_NAME, MEDIA_NAME, METADATA_NAME
from batcher.ledger.finished import JobRecord
from batcher.ledger.ledger import read_ledger
from batcher.ledger.lines import LineReader
from batcher.ledger.segments import segments_in
from batcher.ledger.snapshot import Snapshot

from .disk import SimDisk
from .money import overspent
from .process import ROOT, Process
from .server import PRICE_USD, Posting

TOLERANCE_S = 1e-4
DISK_SLACK_S = 0.5
_RUNTIME_FIELDS = ("listed",)
_PLACES = tuple(name for name in Record.__struct_fields__ if name.endswith("_offset"))


def ledger_of(disk: SimDisk) -> dict[str, bytes]:
    """The segments of the ledger, by name."""
    return {name: disk.content(ROOT / name) or b"" for name in segments_in(ROOT, disk)}


def ledger_lines(disk: SimDisk) -> list[dict[str, Any]]:
    """The whole, readable lines of all segments."""
    return [line for content in ledger_of(disk).values() for line in lines_in(content)]


def lines_in(content: bytes | None) -> list[dict[str, Any]]:
    """The whole, readable lines of a file."""
    lines = []
    for raw in (content or b"").splitlines():
        try:
            lines.append(json.loads(raw))
        except ValueError:
            break
    return lines


class Refolded(Snapshot):
    """The whole ledger folded, whatever a checkpoint says."""

    may_restore = False


class Checks:
    """Watches one process; see :class:`.server.Watch`."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._world, self._server, self._disk = process.world, process.server, process.disk
        self.start: dict[str, JobRecord] = {}
        self._planned = {(job.id, job.digest) for job in process.spec.jobs}
        self._known_lines = len(lines_in(self._disk.content(ROOT / LEDGER_NAME)))

    def before(self) -> None:
        """Note where everything stands as the process begins."""
        snapshot = self._replayed()
        self.start = snapshot.records if snapshot is not None else {}

    # As calls leave

    def call_leaves(self) -> None:
        """No call leaves before the end of a wait that the API named."""
        early_s = self._server.closed_until_s - self._world.now_s()
        if early_s > TOLERANCE_S:
            self._world.violate(f"a call left {early_s:.3f} s before the end of a Retry-After")

    def poll_leaves(self, request_id: str) -> None:
        """Nobody counts on a request that a crash could make us forget."""
        if self._process.asks_first:
            return
        known = f'"request_id":"{request_id}"'.encode()
        surely = known in self._segment(self._disk.durable_content)
        seen_by_process = any(known in content for content in ledger_of(self._disk).values())
        if not seen_by_process or (not surely and self._posted_here(request_id)):
            self._world.violate(f"{request_id} was polled before its id was durable")

    def _posted_here(self, request_id: str) -> bool:
        posted = self._server.postings[self._server.requests[request_id].job]
        return any(
            p.run == self._process.spec.number
            for p in posted
            if p.request is not None and p.request.id == request_id
        )

    def post_leaves(self, job_id: str) -> int:
        """Intent is durable, permission given, and there is a slot."""
        assert self._process.ledger is not None
        record = self._process.ledger.snapshot.records[job_id]
        attempt = record.attempt
        if (job_id, record.digest) not in self._planned:
            self._world.violate(f"{job_id} was POSTed, which nobody planned")
            return attempt
        self._check_intent(job_id, attempt)
        self._check_permission(job_id, attempt)
        self._check_slots(job_id)
        self._check_canary(job_id)
        return attempt

    def created(self) -> None:
        """What was charged stays within --max-cost."""
        limit_usd, charged_usd = self._process.spec.max_cost_usd, self._server.charged_usd()
        as_priced = self._server.price_usd == PRICE_USD
        if as_priced and limit_usd is not None and charged_usd > limit_usd + 1e-6:
            self._world.violate(f"charged {charged_usd} with --max-cost {limit_usd}")

    def _check_budget(self) -> None:
        """Each job that was let in fitted, by what the ledger knew then."""
        limit_usd = self._process.spec.max_cost_usd
        if limit_usd is not None and len(ledger_of(self._disk)) == 1:
            lines = lines_in(self._disk.content(ROOT / LEDGER_NAME))
            for wrong in overspent(lines, self._known_lines, limit_usd):
                self._world.violate(wrong)

    def _segment(self, content: Callable[[Path], bytes | None]) -> bytes:
        """What the process wrote to its ledger, as ``content`` has it."""
        assert self._process.ledger is not None
        return content(self._process.ledger.path) or b""

    def _check_intent(self, job_id: str, attempt: int) -> None:
        lines = [
            x for x in lines_in(self._segment(self._disk.durable_content)) if x.get("job") == job_id
        ]
        last = lines[-1] if lines else {}
        if (last.get("event"), last.get("attempt")) != ("submitting", attempt):
            self._world.violate(f"POST of {job_id} left without a durable intent (last line: {last})")

    def _check_permission(self, job_id: str, attempt: int) -> None:
        asked = {
            x.get("attempt")
            for x in ledger_lines(self._disk)
            if x["event"] == "cancelling" and x["job"] == job_id
        }
        postings = [p for p in self._server.postings[job_id] if p.may_have_created and not _undone(p)]
        before = [p for p in postings if not (p.attempt in asked and _came_to_nothing(p))]
        if not before:
            return
        last = before[-1]
        unowed = self._not_retried(job_id, attempt, before)
        if unowed is None:
            return
        if last.run == self._process.spec.number:
            self._world.violate(f"{job_id} was POSTed twice within one run: {unowed}")
        elif attempt <= last.attempt:
            self._world.violate(f"{job_id} was POSTed twice as attempt {attempt}")
        elif wrong := self._not_permitted(job_id, attempt):
            self._world.violate(f"{job_id} was bought again: {wrong}")

    def _not_retried(self, job_id: str, attempt: int, before: list[Posting]) -> str | None:
        """Why ``--retries`` does not cover another attempt; None if it does."""
        policy = self._process.spec.policy
        ours = {posting.attempt for posting in before if posting.run == self._process.spec.number}
        failed = [
            x
            for x in ledger_lines(self._disk)
            if x["event"] == "failed" and x["job"] == job_id and x["attempt"] == attempt - 1
        ]
        if attempt in ours or not failed or not failed[-1].get("retry_due"):
            return "no attempt was owed"
        if len(ours) > policy.retries or attempt > policy.max_attempts:
            return f"attempt {attempt} with --retries {policy.retries}"
        request = before[-1].request
        if request is not None and not request.final_no(self._world.now_s()):
            return f"its request {request.id} ({request.fate}) is still good"
        return None

    def _not_permitted(self, job_id: str, attempt: int) -> str | None:
        """Why the user's word does not cover another attempt; None where it does."""
        spec, start = self._process.spec, self.start.get(job_id)
        job = next(job for job in spec.jobs if job.id == job_id)
        if start is None:
            return "the ledger has forgotten it"
        if spec.policy.redo or (start.state is State.PENDING and start.attempt == attempt):
            return None
        over = start.state in (State.PENDING, State.FAILED, State.CANCELLED)
        if start.digest != job.digest and over and start.stage != "download":
            return None
        if start.state is State.UNKNOWN:
            told_nothing = self._server.told_nothing.get(job_id) == spec.number
            return None if spec.policy.retry_unknown or told_nothing else "it is unknown"
        owed = start.retry_due and start.retry < spec.policy.retries
        again = spec.policy.retry_failed or (spec.policy.retry_refused and start.is_refused)
        if start.state not in (State.FAILED, State.CANCELLED) or not (again or owed):
            return f"it was {start.state}"
        request = self._server.requests.get(start.request_id or "")
        if request is not None and not request.final_no(self._world.now_s()):
            return f"its request {request.id} ({request.fate}) is still good"
        return None

    def _check_slots(self, job_id: str) -> None:
        process, now_s = self._process, self._world.now_s()
        assert process.ledger is not None
        assert process.control is not None
        assert process.shown.view is not None
        assert process.plan is not None
        if process.control.draining:
            return
        ours = {job for job, posted in self._server.postings.items() if self._posted_now(posted)}
        busy = 0
        for job in ours | set(process.plan.resumed):
            record = process.ledger.snapshot.records[job]
            if job == job_id or job in process.shown.view.timed_out:
                continue
            busy += self._holds_slot(job, record, now_s)
        limit = process.spec.pace.concurrency
        if busy >= limit:
            self._world.violate(f"POST of {job_id} left with {busy} unfinished of at most {limit}")

    def _check_canary(self, job_id: str) -> None:
        """The others wait until the first jobs went well."""
        assert self._process.ledger is not None
        canary = self._process.canary
        for one in sorted(canary) if job_id not in canary else ():
            record = self._process.ledger.snapshot.get(one)
            well = record is not None and (
                record.state in (State.COMPLETED, State.DONE) or record.stage == Stage.DOWNLOAD
            )
            if not well:
                state = record.state if record is not None else "pending"
                self._world.violate(f"POST of {job_id} left, and of the canary {one} is {state}")

    def _posted_now(self, posted: list[Posting]) -> bool:
        return bool(posted) and posted[-1].run == self._process.spec.number

    def _holds_slot(self, job: str, record: Record, now_s: float) -> bool:
        if record.state is State.SUBMITTED:
            request = self._server.requests.get(record.request_id or "")
            return request is not None and request.unfinished(now_s) and not request.is_gone(now_s)
        posted = self._server.postings[job]
        if record.state is not State.UNKNOWN or not self._posted_now(posted):
            return False
        last = posted[-1]
        recent = now_s - last.told_s < LEAST_HOLD_S - TOLERANCE_S
        return last.told in ("flying", "acked") or (last.told == "unknown" and recent)

    # After a run

    def after(self, died: bool) -> None:
        """What must hold on disk once the process is gone."""
        process = self._process
        snapshot = self._replayed()
        if snapshot is None:
            return
        self._check_answers(snapshot)
        self._check_files(snapshot)
        self._check_budget()
        if died or self._disk.errors:
            self._note_unclaimed(snapshot)
        if died:
            return
        self._check_error()
        if process.ledger is not None and not self._disk.errors:
            self._check_replay(snapshot, process.ledger.snapshot)
        if process.finished and not self._disk.errors:
            self._check_metadata(snapshot)
            self._check_grace()

    def _replayed(self) -> Snapshot | None:
        if not segments_in(ROOT, self._disk):
            return Snapshot()
        try:
            lines = LineReader(ROOT, self._disk)
            return read_ledger(Refolded(lines.at), ROOT, lines, self._disk)
        except InputError as error:
            self._world.violate(f"the ledger can't be read: {error}")
            return None

    def _check_answers(self, snapshot: Snapshot) -> None:
        """Every POST of this run that may have created something is unknown, or known by its id."""
        lines = ledger_lines(self._disk)
        known = {x["request_id"] for x in lines if x.get("event") == "submitted"}
        for posting in [p for posted in self._server.postings.values() for p in posted]:
            if posting.run != self._process.spec.number or not posting.may_have_created:
                continue
            if posting.request is not None and posting.request.id in known:
                continue
            record = snapshot.get(posting.job)
            if record is None or (record.attempt, record.state) != (posting.attempt, State.UNKNOWN):
                state = record.state if record is not None else "forgotten"
                self._world.violate(f"{posting.job} is {state}, but its POST was {posting.told}")
            elif posting.told == "acked" and self._process.finished and not self._disk.errors:
                self._world.violate(f"the answer to the POST of {posting.job} is not on record")

    def _check_files(self, snapshot: Snapshot) -> None:
        """What is done is there, durable, with its bytes; what was bought before is set aside."""
        for job_id, record in snapshot.items():
            for artifact in record.files if record.state is State.DONE else ():
                whole = _is_whole(
                    self._disk.durable_content(ROOT / artifact.path), artifact.bytes, artifact.sha256
                )
                if not whole and artifact.sha256 not in self._disk.tampered:
                    self._world.violate(f"{job_id} is done, but {artifact.path} is not durable")

    def _note_unclaimed(self, snapshot: Snapshot) -> None:
        names = self._disk.list_dir(ROOT / MEDIA_NAME)
        claimed = {artifact.path for record in snapshot.records.values() for artifact in record.files}
        self._disk.unclaimed |= {f"{MEDIA_NAME}/{name}" for name in names} - claimed

    def _check_error(self) -> None:
        process = self._process
        error = process.error
        if error is None and process.control is not None:
            error = process.control.error
        if isinstance(error, IllegalTransition | InputError):
            self._world.violate(f"the engine tripped over itself: {error!r}")
        if isinstance(error, RunDirError) and not self._disk.errors:
            self._world.violate(f"no disk trouble, and yet: {error!r}")

    def _check_replay(self, replayed: Snapshot, live: Snapshot) -> None:
        differing = [
            f"{job_id}.{name}: {getattr(live.records[job_id], name)!r} became {getattr(record, name)!r}"
            for job_id, record in replayed.items()
            for name in Record.__struct_fields__
            if name not in _RUNTIME_FIELDS + _PLACES  # segments are numbered as they are met
            and _value(live.records[job_id], name) != _value(record, name)
        ]
        same_sums = (
            replayed.counts == live.counts
            and (replayed.bytes, replayed.orphaned) == (live.bytes, live.orphaned)
            and abs(replayed.spent_usd - live.spent_usd) < 1e-6
        )
        if differing or not same_sums or replayed.records.keys() != live.records.keys():
            self._world.violate(
                f"a replay of the ledger differs from what the run believed: {differing}"
            )
        listed = sum(not record.orphaned for record in replayed.records.values())
        if sum(replayed.counts.values()) != listed:
            self._world.violate("the states do not add up to the jobs")

    def _check_metadata(self, snapshot: Snapshot) -> None:
        there = lines_in(self._disk.content(ROOT / METADATA_NAME))
        postings = [posting for posted in self._server.postings.values() for posting in posted]
        sent = {posting.request.id: posting.input for posting in postings if posting.request is not None}
        expected = [
            {
                "file_name": artifact.path,
                "job": job_id,
                "prompt": sent[record.request_id]["prompt"],
                "request_id": record.request_id,
                "attempt": record.attempt,
                "cost_usd": record.charge_usd,
                "sha256": artifact.sha256,
                "orphaned": record.orphaned,
                "input.seed": sent[record.request_id]["seed"],
            }
            for job_id, record in snapshot.items()
            if record.state is State.DONE
            for artifact in record.files
        ]
        found = [{key: row.get(key) for key in expected[0]} for row in there] if expected else there
        if sorted(map(str, found)) != sorted(map(str, expected)):
            self._world.violate(f"metadata.jsonl holds {found}, bought was {expected}")

    def _check_grace(self) -> None:
        process = self._process
        if process.halted_s is not None:
            over_s = process.let_go_s - process.halted_s - process.spec.pace.grace_s
            if over_s > DISK_SLACK_S:
                self._world.violate(f"the run ended {over_s:.3f} s after its grace")


def _value(record: JobRecord, name: str) -> object:
    """A field, with files as no more than what they are told apart by."""
    value = getattr(record, name)
    if name == "replaced" and value is not None:
        return value.attempt, _told_apart(value.files)
    return _told_apart(value) if name == "files" else value


def _told_apart(files: tuple[Artifact, ...]) -> list[tuple[str, int, str]]:
    return [(file.path, file.bytes, file.sha256) for file in files]


def _undone(posting: Posting) -> bool:
    """Whether the client knows that what the POST created was cancelled before it cost anything."""
    return posting.request is not None and posting.request.cancel_told


def _came_to_nothing(posting: Posting) -> bool:
    """Whether what the POST created was cancelled, at a word of ours or by itself: it cost nothing."""
    request = posting.request
    return request is not None and (request.cancelled or request.fate == "cancelled")


def _is_whole(content: bytes | None, size_bytes: int, sha256: str) -> bool:
    return (
        content is not None
        and len(content) == size_bytes
        and hashlib.sha256(content).hexdigest() == sha256
    )
