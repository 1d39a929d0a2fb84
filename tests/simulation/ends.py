"""What must hold once nothing goes wrong any more and nothing changes any more."""

from __future__ import annotations

import hashlib

from batcher.jobs.lifecycle import State
from batcher.layout import MEDIA_NAME, SUPERSEDED_NAME
from batcher.ledger.ledger import read_snapshot
from batcher.ledger.snapshot import Snapshot
from batcher.ports import Tracing

from .checks import ledger_lines
from .process import ROOT, Process
from .server import Request


def check_end(process: Process) -> None:
    """After calm runs until nothing changed: every result that was paid for is where it belongs."""
    world, server, disk = process.world, process.server, process.disk
    snapshot = read_snapshot(ROOT, disk)
    now_s = world.now_s()
    for job_id, record in snapshot.items():
        request = server.requests.get(record.request_id or "")
        if request is not None and _deliverable(request, now_s) and record.state is not State.DONE:
            hidden = request.fate == "hides" and record.state is State.FAILED
            if not hidden:
                world.violate(f"{request.id} is finished, but {job_id} is {record.state}")
        lists = record.state is State.UNKNOWN and server.traits.traces is Tracing.BY_LIST
        if lists and not _given_up_as_well(process, job_id):
            world.violate(f"{job_id} is unknown, and the provider could tell")
    _check_folders(process, snapshot)


def check_all_done(process: Process) -> None:
    """After calm runs with both retries allowed, nothing is left over."""
    snapshot = read_snapshot(ROOT, process.disk)
    for job in process.spec.jobs:
        record = snapshot.get(job.id)
        exhausted = record is not None and record.attempt >= process.spec.policy.max_attempts
        if (record is None or record.state is not State.DONE) and not exhausted:
            state = record.state if record is not None else "forgotten"
            process.world.violate(f"{job.id} is {state} after calm runs with every retry")


def _check_folders(process: Process, snapshot: Snapshot) -> None:
    """In media/ lies what the ledger lists and nothing else; older results lie beside it.

    What the user damaged is not fetched again for a job that left the manifest, or that has expired. A
    file that was published just before a crash stays where its job is bought again instead of fetched.
    """
    disk, world = process.disk, process.world
    records = snapshot.records.values()
    listed = {a.path for r in records for a in r.files}
    due = {a.path for r in records if r.state is State.DONE and not r.orphaned for a in r.files}
    there = {f"{MEDIA_NAME}/{name}" for name in disk.list_dir(ROOT / MEDIA_NAME)}
    if not due <= there <= listed | disk.unclaimed:
        world.violate(f"media/ holds {sorted(there)}, the ledger lists {sorted(listed)}")
    kept = {
        hashlib.sha256(disk.content(ROOT / folder / name) or b"").hexdigest()
        for folder in (MEDIA_NAME, SUPERSEDED_NAME)
        for name in disk.list_dir(ROOT / folder)
    }
    for line in ledger_lines(disk):
        for artifact in line.get("files", ()) if line.get("event") == "done" else ():
            if artifact["sha256"] not in kept and artifact["sha256"] not in disk.tampered:
                world.violate(f"a result of {line['job']}, attempt {line['attempt']}, is lost")


def _given_up_as_well(process: Process, job_id: str) -> bool:
    """Whether a request of an earlier attempt, given up by --retry-unknown, may be taken for the last one's.

    The provider lists both, with the same inputs and at about the same time.
    """
    named = {line.get("request_id") for line in ledger_lines(process.disk)}
    posted = process.server.postings[job_id]
    lost = [p.request for p in posted if p.request is not None and p.request.id not in named]
    return len(lost) > 1


def _deliverable(request: Request, now_s: float) -> bool:
    good = request.fate in ("fine", "strange", "hides", "expires")
    return good and not request.cancelled and not request.is_gone(now_s)
